"""Training that begins while videos arrive sees what it would see if all had been there."""

import threading

import jax
import numpy as np
import pytest

from v2v_jax.datasets.base.video_dataset import VideoDataset, VideoInfo
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.input import device_store
from v2v_jax.input.clips import STAGES, ClipSampler
from v2v_jax.input.feeds import make_feed
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.system import processors, sharding
from v2v_jax.system.background import Ahead

RULES = Preprocessing(frame_size=(6, 8), crop_size=(4, 5), clip_length=3)
COUNT = 40


class Gated(VideoDataset):
    """Videos of 3 to 6 frames that can be read up to the one that `let` allows."""

    name = "gated"

    def __init__(self, corrupt=()):
        self.frame_size, self.fields, self.corrupt = RULES.frame_size, ("video",), set(corrupt)
        self.videos = [VideoInfo(f"{i}", 3 + i % 4) for i in range(COUNT)]
        self.changed, self.allowed, self.reads = threading.Condition(), 0, []

    def let(self, count):
        with self.changed:
            self.allowed = count
            self.changed.notify_all()

    def read(self, video, start, stop, fields=("video",)):
        with self.changed:
            self.changed.wait_for(lambda: video < self.allowed)
            self.reads.append(video)
        if video in self.corrupt:
            raise CorruptVideoError(f"{video} is damaged.")
        rng = np.random.default_rng(video)
        whole = rng.integers(0, 255, (self.videos[video].num_frames, *RULES.frame_size, 3))
        return {"video": whole[start:stop].astype(np.uint8)}


@pytest.fixture(autouse=True)
def two_readers(monkeypatch):
    monkeypatch.setattr(processors, "count", lambda: 2)


def sampler_of(dataset, grow_steps):
    lengths = [video.num_frames for video in dataset.videos]
    return ClipSampler(lengths, RULES, batch_size=4, stride=1, seed=3, grow_steps=grow_steps)


def batches(feed, plans):
    prepare = jax.jit(feed.prepare)
    return [
        {name: np.asarray(value) for name, value in prepare(feed.store, batch).items()}
        for batch in feed.batches(plans)
    ]


@pytest.mark.parametrize("corrupt", [(), (1,)])
def test_growing_and_whole_stores_give_the_same_batches(corrupt):
    dataset = Gated(corrupt)
    plans = [sampler_of(dataset, 32).plan(step) for step in range(48)]
    dataset.let(COUNT)
    whole = make_feed("device", dataset, ("video",), RULES, sharding.make_mesh())
    slow = Gated(corrupt)
    growing = make_feed("device", slow, ("video",), RULES, sharding.make_mesh(), grows=True)
    found = []
    for step, plan in enumerate(plans):
        slow.let(min(COUNT, int(plan.video.max()) + 2))  # the next after one that is unreadable
        found += batches(growing, [plan])
        assert step > 16 or max(slow.reads) < COUNT - 1  # these steps came before the last videos
    for ours, theirs in zip(found, batches(whole, plans), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert len(growing.skipped) == len(whole.skipped) == len(corrupt)


def test_stages_widen_to_the_whole_set_and_each_goes_through_all_its_clips():
    dataset = Gated()
    sampler = sampler_of(dataset, 16 * 30)
    seen = [set() for _ in range(STAGES + 1)]
    for step in range(16 * 30 + 60):
        plan = sampler.plan(step)
        seen[min(step // 30, STAGES)] |= set(zip(plan.video.tolist(), plan.start.tolist()))
    for stage, clips in enumerate(seen):
        videos = -(-COUNT * min(stage + 1, STAGES) // STAGES)
        expected = {(v, s) for v in range(videos) for s in range(dataset.videos[v].num_frames - 2)}
        assert clips == expected


def test_without_growth_plans_are_what_they_always_were():
    sampler = sampler_of(Gated(), 0)
    plan = sampler.plan(7)
    assert plan.video.tolist() == EXPECTED_VIDEOS and plan.start.tolist() == EXPECTED_STARTS
    late, early = sampler_of(Gated(), 5).plan(5 + 7), plan  # after growth: the same order
    np.testing.assert_array_equal(late.video, early.video)


EXPECTED_VIDEOS, EXPECTED_STARTS = [2, 39, 10, 27], [2, 1, 1, 1]  # before sets could grow


def test_a_step_that_needs_a_video_waits_for_it():
    dataset = Gated()
    feed = make_feed("device", dataset, ("video",), RULES, sharding.make_mesh(), grows=True)
    plan = sampler_of(dataset, 32).plan(0)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (next(feed.batches([plan])), done.set()))
    thread.start()
    assert not done.wait(0.2)
    dataset.let(COUNT)
    thread.join(10)
    assert done.is_set()


def test_what_is_wrong_with_the_data_ends_the_run_in_time():
    dataset = Gated(corrupt=range(10, 20))
    feed = make_feed("device", dataset, ("video",), RULES, sharding.make_mesh(), grows=True)
    dataset.let(COUNT)
    with pytest.raises(DataError, match="2 of 40 videos cannot be read"):
        batches(feed, [sampler_of(dataset, 16).plan(step) for step in range(32)])


def test_store_writes_in_place_on_every_device():
    devices = jax.devices()
    dataset = Gated()
    dataset.let(COUNT)
    mesh = sharding.make_mesh()
    store = device_store.DeviceStore(dataset, ("video",), mesh, lambda *_: None, 3)
    pointers = [copy["video"].unsafe_buffer_pointer() for copy in store._copies]
    list(store.fill())
    assert [copy["video"].unsafe_buffer_pointer() for copy in store._copies] == pointers
    video = store.arrays()["video"]
    assert video.sharding.is_equivalent_to(sharding.replicated(mesh), video.ndim)
    assert len(video.addressable_shards) == len(devices)
    whole = [dataset.read(v, 0, dataset.videos[v].num_frames)["video"] for v in range(COUNT)]
    for shard in video.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), np.concatenate(whole))


def test_ahead_says_whether_it_would_wait_and_ends_its_thread():
    gate, closed = threading.Event(), threading.Event()

    def items():
        try:
            yield 1
            gate.wait(10)
            yield 2
            yield 3
        finally:
            closed.set()

    ahead = Ahead(items(), 1)
    assert next(ahead) == 1
    assert not ahead.ready()
    gate.set()
    assert next(ahead) == 2
    ahead.close()
    assert closed.is_set()
