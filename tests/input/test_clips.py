"""The clip plan: a pure function of (seed, step), every clip once an epoch, frozen for ever."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v2v_jax.errors import ConfigError, DataError
from v2v_jax.input.clips import Clips, ClipSampler, evaluation_windows
from v2v_jax.input.preprocess import Preprocessing

PAPER = Preprocessing()
LENGTHS = (18, 16, 7, 24)  # 3, 1, 0 and 9 clips
CLIPS = [(0, 0), (0, 1), (0, 2), (1, 0), *((3, start) for start in range(9))]
FIELDS = [field.name for field in dataclasses.fields(Clips)]
few = settings(max_examples=20, deadline=None)


def sampler(lengths=LENGTHS, preprocessing=PAPER, *, batch_size=4, stride=1, seed=0, mirror=True):
    return ClipSampler(
        lengths, preprocessing, batch_size=batch_size, stride=stride, seed=seed, mirror=mirror
    )


def equal(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


def clips_of(plans):
    return [(int(v), int(s)) for plan in plans for v, s in zip(plan.video, plan.start)]


@few
@given(st.integers(0, 2**40), st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
def test_a_plan_depends_on_seed_and_step_alone(seed, steps):
    """Whatever was planned before, and in whichever order."""
    used = sampler(seed=seed)
    plans = {step: used.plan(step) for step in steps}
    for step in reversed(steps):
        assert equal(sampler(seed=seed).plan(step), plans[step])
        assert equal(used.plan(step), plans[step])


@pytest.mark.parametrize("batch_size", [1, 4, 5, 30])
def test_every_clip_comes_once_an_epoch(batch_size):
    """Also where batches span the border of epochs, or a batch holds several epochs."""
    plans = sampler(batch_size=batch_size)
    assert plans.clips_per_epoch == len(CLIPS) == 13
    clips = clips_of(plans.plan(step) for step in range(-(-3 * 13 // batch_size)))
    epochs = [clips[i : i + 13] for i in (0, 13, 26)]
    for epoch in epochs:
        assert sorted(epoch) == CLIPS
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_stride_thins_the_clips_out():
    plans = sampler(stride=4, batch_size=1)
    clips = clips_of(plans.plan(step) for step in range(plans.clips_per_epoch))
    assert sorted(clips) == [(0, 0), (1, 0), (3, 0), (3, 4), (3, 8)]


def test_crops_reach_every_offset_and_half_the_clips_are_mirrored():
    plan = sampler(batch_size=20_000).plan(3)
    assert set(plan.top) == set(range(17))  # 128 - 112 = 16
    assert set(plan.left) == set(range(60))  # 171 - 112 = 59
    counts = np.bincount(plan.left)
    assert counts.min() > 0.6 * 20_000 / 60 and counts.max() < 1.4 * 20_000 / 60
    assert 0.48 < plan.mirror.mean() < 0.52
    for a, b in ((plan.top, plan.left), (plan.top, plan.mirror), (plan.left, plan.mirror)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert plan.mask.all()


def test_crops_and_mirrors_differ_from_step_to_step():
    plans = [sampler(batch_size=50).plan(step) for step in range(3)]
    for name in ("top", "left", "mirror"):
        first, second, third = (getattr(plan, name) for plan in plans)
        assert (first != second).any() and (second != third).any()


def test_without_mirror_nothing_else_changes():
    plain, mirrored = sampler(mirror=False).plan(5), sampler().plan(5)
    assert not plain.mirror.any() and plain.mirror.dtype == bool
    assert equal(dataclasses.replace(mirrored, mirror=plain.mirror), plain)


def test_types_and_shapes():
    evaluation = next(evaluation_windows(LENGTHS, PAPER, batch_size=4))
    for plan in (sampler().plan(0), evaluation):
        for name in FIELDS:
            value = getattr(plan, name)
            assert value.shape == (4,)
            assert value.dtype == (bool if name in ("mirror", "mask") else np.int32)


def test_seeds_give_different_plans():
    seeds = (0, 1, 2, -1, 2**63, 2**64 - 2, 12345678901234567)
    plans = [sampler(seed=seed, batch_size=13).plan(0) for seed in seeds]
    for i, a in enumerate(plans):
        for b in plans[:i]:
            assert not np.array_equal(a.top, b.top)
            assert clips_of([a]) != clips_of([b])


def test_far_steps_can_be_planned():
    far = sampler(seed=2**63 + 5, batch_size=32).plan(10**12)
    assert set(clips_of([far])) == set(CLIPS)
    assert far.top.min() >= 0 and far.top.max() <= 16


def test_the_plan_is_frozen():
    """Another value here means that no earlier run can be resumed: change the code back."""
    plan = sampler(seed=42, batch_size=6).plan(7)
    found = {name: getattr(plan, name).astype(int).tolist() for name in FIELDS}
    assert found == FROZEN


FROZEN = {
    "video": [3, 0, 0, 3, 3, 3],
    "start": [4, 1, 0, 0, 7, 1],
    "top": [16, 8, 8, 11, 2, 9],
    "left": [18, 55, 49, 10, 43, 37],
    "mirror": [0, 1, 1, 0, 1, 1],
    "mask": [1, 1, 1, 1, 1, 1],
}


@few
@given(st.integers(1, 4), st.integers(1, 5))
def test_the_shares_of_the_hosts_make_up_the_batch(hosts, share):
    plan = sampler(batch_size=hosts * share).plan(1)
    shares = [plan.rows(i * share, (i + 1) * share) for i in range(hosts)]
    for name in FIELDS:
        parts = [getattr(part, name) for part in shares]
        assert all(len(part) == share for part in parts)
        np.testing.assert_array_equal(np.concatenate(parts), getattr(plan, name))


def test_evaluation_takes_the_centre_of_every_whole_window():
    lengths = (16, 33, 50, 64, 15)
    plans = list(evaluation_windows(lengths, PAPER, batch_size=4))
    expected = [(0, 0), (1, 0), (1, 16), (2, 0), (2, 16), (2, 32)]
    expected += [(3, 0), (3, 16), (3, 32), (3, 48)]
    counted = [(int(v), int(s)) for p in plans for v, s, m in zip(p.video, p.start, p.mask) if m]
    assert counted == expected
    assert [plan.mask.tolist() for plan in plans] == [
        [True] * 4,
        [True] * 4,
        [True, True, False, False],
    ]
    for plan in plans:
        assert (plan.top == 8).all() and (plan.left == 29).all() and not plan.mirror.any()


@few
@given(
    st.lists(st.integers(1, 80), min_size=1, max_size=6).filter(lambda n: max(n) >= 16),
    st.integers(1, 7),
    st.integers(1, 20),
)
def test_evaluation_counts_every_window_once_and_pads_with_what_can_be_read(lengths, size, stride):
    plans = list(evaluation_windows(lengths, PAPER, batch_size=size, stride=stride))
    assert all(len(plan.video) == size for plan in plans)
    mask = np.concatenate([plan.mask for plan in plans])
    clips = clips_of(plans)
    windows = [(v, s) for v, n in enumerate(lengths) for s in range(0, n - 15, stride)]
    assert mask.sum() == len(windows) and mask[: len(windows)].all()
    assert clips[: len(windows)] == windows
    assert len(clips) - len(windows) < size
    assert all(start + 16 <= lengths[video] for video, start in clips)


def test_other_sizes_are_centred_too():
    rules = Preprocessing(frame_size=(64, 86), crop_size=(64, 64), clip_length=8)
    (plan,) = evaluation_windows((8, 15, 7), rules, batch_size=3, stride=8)
    assert clips_of([plan]) == [(0, 0), (1, 0), (0, 0)]
    assert plan.mask.tolist() == [True, True, False]
    assert (plan.top == 0).all() and (plan.left == 11).all()


def make_training(lengths, rules, batch_size=2, stride=1):
    sampler(lengths, rules, batch_size=batch_size, stride=stride)


def make_evaluation(lengths, rules, batch_size=2, stride=16):
    list(evaluation_windows(lengths, rules, batch_size=batch_size, stride=stride))


@pytest.mark.parametrize("make", [make_training, make_evaluation])
def test_what_cannot_be_planned_is_said_clearly(make):
    with pytest.raises(DataError, match="None of the 3 videos has the 16 frames"):
        make((15, 3, 1), PAPER)
    with pytest.raises(DataError, match="None of the 0 videos"):
        make((), PAPER)
    for crop in ((129, 112), (112, 172), (0, 112)):
        with pytest.raises(ConfigError, match=r"crop_size .* does not fit frame_size \(128, 171\)"):
            make(LENGTHS, Preprocessing(crop_size=crop))
    with pytest.raises(ConfigError, match="batch_size is 2 and stride 0; both must be at least 1"):
        make(LENGTHS, PAPER, stride=0)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        make(LENGTHS, PAPER, batch_size=0)
