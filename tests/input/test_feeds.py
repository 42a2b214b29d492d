"""Feeds: both deliver the same bytes for the same plan, skip what cannot be read, and say so."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.memory_dataset import (
    KINDS,
    LENGTHS,
    RULES,
    Memory,
    assert_same,
    batches_of,
    both,
    plans_for,
    warnings_of,
)
from tests.reference import crop_and_mirror
from v2v_jax.datasets import Scenes
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.errors import ConfigError, CorruptVideoError, DataError
from v2v_jax.input.base_feed import CorruptVideos
from v2v_jax.input.clips import Clips, evaluation_windows
from v2v_jax.input.device_feed import _check_memory
from v2v_jax.input.feeds import make_feed
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.input.tf_data_feed import _BatchMemory
from v2v_jax.system import sharding

ROOT = pathlib.Path(__file__).parents[2]


def cut_by_hand(dataset, plans):
    """The batches of the plans straight from the dataset's arrays."""
    result = []
    for plan in plans:
        clips = []
        for i in range(len(plan.video)):
            start = plan.start[i]
            whole = dataset.arrays[plan.video[i]]
            window = {name: value[start : start + 3] for name, value in whole.items()}
            clips.append(crop_and_mirror(window, plan.top[i], plan.left[i], plan.mirror[i], (4, 5)))
        result.append({n: np.stack([c[n] for c in clips]) for n in FIELDS} | {"mask": plan.mask})
    return result


@both
def test_every_field_arrives_byte_for_byte(kind):
    dataset = Memory()
    plans = plans_for(dataset)
    found, feed = batches_of(kind, dataset, plans)
    assert_same(found, cut_by_hand(dataset, plans))
    assert len(feed.skipped) == 0


def test_both_feeds_render_the_same_scenes():
    rules = Preprocessing(frame_size=(32, 43), crop_size=(16, 32), clip_length=4)
    dataset = Scenes("train", num_videos=2, num_frames=6, frame_size=rules.frame_size)
    plans = plans_for(dataset, range(2), batch_size=3, rules=rules)
    fields = tuple(name for name in FIELDS if name in dataset.fields)
    (streamed, _), (stored, _) = (
        batches_of(kind, dataset, plans, fields, rules=rules) for kind in ("tf_data", "device")
    )
    assert_same(streamed, stored)
    assert stored[0]["video"].shape == (3, 4, 16, 32, 3)


@both
def test_clips_one_at_a_time_come_in_order(kind):
    """Batches smaller than the number of threads: more of them are read at once."""
    dataset = Memory()
    plans = plans_for(dataset, range(40), batch_size=1)
    assert_same(batches_of(kind, dataset, plans)[0], cut_by_hand(dataset, plans))


def test_batches_that_are_kept_stay_as_they_are():
    """Their memory is used again, but only when nothing refers to them."""
    dataset = Memory()
    plans = plans_for(dataset, range(12))
    feed = make_feed("tf_data", dataset, tuple(FIELDS), RULES, sharding.make_mesh())
    batches = list(feed.batches(plans))
    prepare = jax.jit(feed.prepare)
    found = [jax.tree.map(np.asarray, prepare((), batch)) for batch in batches]
    assert_same(found, cut_by_hand(dataset, plans))


def test_memory_is_used_again_when_no_view_of_it_is_left():
    memory, size = _BatchMemory(), ((4, 1000), np.dtype(np.float16))
    first = memory.empty(*size)
    address, view = first.ctypes.data, first[1:, ::2]
    assert first.shape == (4, 1000) and first.dtype == np.float16 and address % 64 == 0
    del first
    assert memory.empty(*size).ctypes.data != address
    del view
    kept = [memory.empty(*size) for _ in range(2)]
    assert address in [array.ctypes.data for array in kept]
    assert memory.empty((0, 5), np.dtype(bool)).shape == (0, 5)


@both
def test_only_the_fields_asked_for_arrive(kind):
    dataset = Memory()
    (batch,), _ = batches_of(kind, dataset, plans_for(dataset, [0]), ("video", "depth"))
    assert set(batch) == {"video", "depth", "mask"}


@both
def test_a_resumed_run_sees_the_rest_of_the_batches(kind):
    dataset = Memory()
    whole, _ = batches_of(kind, dataset, plans_for(dataset, range(6)))
    tail, _ = batches_of(kind, dataset, plans_for(dataset, range(4, 6)))
    assert_same(tail, whole[4:])


@both
def test_evaluation_batches_keep_their_mask_and_need_no_first_video(kind):
    """The first video is too short for a clip: padding must not try to read one from it."""
    dataset = Memory((2, 7, 3))
    lengths = [video.num_frames for video in dataset.videos]
    plans = list(evaluation_windows(lengths, RULES, batch_size=2, stride=3))
    found, _ = batches_of(kind, dataset, plans)
    assert [batch["mask"].tolist() for batch in found] == [[True, True], [True, False]]
    assert_same(found, cut_by_hand(dataset, plans))


@both
def test_no_plans_no_batches(kind):
    assert batches_of(kind, Memory(), [])[0] == []


# ------------------------------------------------------------------------------------------------
# Videos that cannot be read


@both
@pytest.mark.parametrize("bad", [0, 2, 4])
def test_an_unreadable_video_gives_way_to_the_next_and_is_counted_once(kind, bad, monkeypatch):
    dataset = Memory(corrupt=[bad])
    warnings = warnings_of(monkeypatch)
    plans = plans_for(dataset, range(8))
    assert sum((plan.video == bad).sum() for plan in plans) > 1
    replaced = []
    following = {0: 2, 2: 3, 4: 0}[bad]  # video 1 is too short
    for plan in plans:
        other = plan.video == bad
        starts = LENGTHS[following] - 2
        replaced.append(
            Clips(
                np.where(other, following, plan.video),
                np.where(other, plan.start % starts, plan.start),
                plan.top,
                plan.left,
                plan.mirror,
                plan.mask,
            )
        )
    found, feed = batches_of(kind, dataset, plans)
    assert_same(found, cut_by_hand(dataset, replaced))
    assert len(feed.skipped) == 1
    assert warnings == [
        f"Skipping a video that cannot be read: clip{bad}.avi cannot be decoded: bad header."
    ]


@both
def test_evaluation_does_not_count_what_stands_for_an_unreadable_clip(kind):
    dataset = Memory(corrupt=[2])
    plans = plans_for(dataset)
    found, _ = batches_of(kind, dataset, plans, count_replacements=False)
    assert any((plan.video == 2).any() for plan in plans)
    for batch, plan in zip(found, plans):
        np.testing.assert_array_equal(batch["mask"], plan.mask & (plan.video != 2))


@both
def test_too_many_unreadable_videos_end_the_run_with_a_name(kind):
    dataset = Memory(corrupt=[2, 3])
    with pytest.raises(DataError, match=r"^2 of 5 videos cannot be read.*clip[23]\.avi") as caught:
        batches_of(kind, dataset, plans_for(dataset, range(20)))
    assert type(caught.value) is DataError


@both
@pytest.mark.parametrize("lengths", [(7,), (7, 2)])
def test_nothing_left_to_read_is_an_error(kind, lengths):
    """One corrupt video is tolerated, but there is no other to take a clip from."""
    dataset = Memory(lengths, corrupt=[0])
    with pytest.raises(DataError, match="No video of memory that is long enough"):
        batches_of(kind, dataset, plans_for(dataset, [0]))


@both
def test_other_errors_come_out_as_they_are(kind):
    dataset = Memory(wrong=[2])
    with pytest.raises(DataError, match=r"^clip2\.avi has a mask of another size\.$"):
        batches_of(kind, dataset, plans_for(dataset))


@both
def test_errors_of_the_plan_come_out_as_they_are(kind):
    dataset = Memory()

    def plans():
        yield from plans_for(dataset, range(2))
        raise ConfigError("no more plans")

    with pytest.raises(ConfigError, match="^no more plans$"):
        batches_of(kind, dataset, plans())


@both
def test_a_label_without_a_name_is_an_error(kind):
    dataset = Memory()
    dataset.label_names = ("sky", "ground")
    with pytest.raises(DataError, match=r"clip\d\.avi of memory has the label \d+; its 2 classes"):
        batches_of(kind, dataset, plans_for(dataset))


def test_one_percent_of_the_videos_may_be_unreadable():
    counter = CorruptVideos(Memory([3] * 300))
    for video in (7, 8, 9, 9, 8, 7):
        counter.add(video, CorruptVideoError("bad"))
    assert len(counter) == 3
    with pytest.raises(DataError, match="4 of 300 videos .* more than the 3 .* worse"):
        counter.add(10, CorruptVideoError("worse"))


# ------------------------------------------------------------------------------------------------
# What is asked for wrongly


@both
def test_a_field_that_the_dataset_lacks(kind):
    dataset = Memory(fields=("video", "flow"))
    with pytest.raises(DataError, match="memory has no labels, depth: it delivers video, flow"):
        make_feed(kind, dataset, ("video", "labels", "depth"), RULES, sharding.make_mesh())


def test_an_unknown_feed():
    with pytest.raises(ConfigError, match="feed is 'disk'; known: device, tf_data"):
        make_feed("disk", Memory(), ("video",), RULES, sharding.make_mesh())


def test_a_set_larger_than_the_memory():
    dataset = Memory()

    class Device:
        def memory_stats(self):
            return {"bytes_limit": self.limit, "bytes_in_use": self.taken}

    class FakeMesh:
        local_devices = (Device(),)

    device = FakeMesh.local_devices[0]
    needed = sum(LENGTHS) * 6 * 8 * 3
    device.limit, device.taken = int(needed / 0.6) + 2, 0
    _check_memory(dataset, ("video",), FakeMesh)
    device.taken = 2
    with pytest.raises(ConfigError, match="25 frames of memory.*use --config.feed=tf_data"):
        _check_memory(dataset, ("video",), FakeMesh)


def test_progress_sees_every_video():
    seen = []

    def progress(items, total, text):
        seen.append((total, text))
        for item in items:
            seen.append(item)
            yield item

    make_feed("device", Memory(), ("video",), RULES, sharding.make_mesh(), progress)
    assert seen[0] == (5, "reading memory") and sorted(seen[1:]) == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------
# In other processes


def run_python(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def compare_one_device_with_four():
    """Run in a process of its own, with four devices."""
    dataset = Memory()
    plans = plans_for(dataset, range(3), batch_size=8)
    assert len(jax.devices()) == 4
    one, four = sharding.make_mesh(jax.devices()[:1]), sharding.make_mesh()
    for kind in KINDS:
        expected, _ = batches_of(kind, dataset, plans, mesh=one)
        with jax.set_mesh(four):  # as in training
            found, feed = batches_of(kind, dataset, plans, mesh=four)
        assert_same(found, expected)
        batch = next(iter(feed.batches(plans)))
        for value in jax.tree.leaves(batch):
            assert value.sharding == sharding.batch_sharded(four)
            assert [s.data.shape[0] for s in value.addressable_shards] == [2] * 4
        for value in jax.tree.leaves(feed.store):
            assert [s.data.shape for s in value.addressable_shards] == [value.shape] * 4
        try:
            list(feed.batches(plans_for(dataset, [0], batch_size=6)))
        except ConfigError as error:
            assert "6 cannot be divided among 4 devices; choose a multiple of 4" in str(error)
        else:
            raise AssertionError("6 clips were divided among 4 devices")
    print("equal")


def test_four_devices_see_the_batches_of_one():
    out = run_python(
        "from tests.input.test_feeds import *; compare_one_device_with_four()",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert out.strip() == "equal"


def test_training_without_tf_data_imports_no_tensorflow():
    out = run_python(
        """
import importlib, pkgutil, sys
import v2v_jax
for module in pkgutil.walk_packages(v2v_jax.__path__, "v2v_jax."):
    if "_dataset_builder" not in module.name and "prepare_tfds" not in module.name:
        importlib.import_module(module.name)
from tests.input.test_feeds import *
dataset = Memory()
batches_of("device", dataset, plans_for(dataset))
print(sorted({"tensorflow", "tensorflow_datasets", "cv2", "torch"} & set(sys.modules)))
"""
    )
    assert out.strip() == "[]"
