"""Windows: every voxel covered, weights that sum to one, reflection, no seams."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v2v_jax.inference import windows

overlaps = st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.9])


@given(st.integers(1, 70), st.integers(1, 32), overlaps)
def test_windows_cover_an_axis_and_overlap_enough(extra, window, overlap):
    length = window + extra - 1
    starts = windows.window_starts(length, window, overlap)
    assert starts[0] == 0 and starts[-1] == length - window
    assert (np.diff(starts) <= max(1, round(window * (1 - overlap)))).all()
    assert (np.diff(starts) > 0).all()
    weights = windows.blending_weights(starts, window, length)
    total = np.zeros(length)
    for start, weight in zip(starts, weights):  # slowly
        assert (weight > 0).all()
        total[start : start + window] += weight
    np.testing.assert_allclose(total, 1, atol=1e-12)


@given(st.integers(1, 3000), st.integers(1, 64))
def test_the_nearest_multiple_is_within_a_tenth(side, multiple):
    found = windows.nearest_multiple(side, multiple)
    distances = {n * multiple: abs(n * multiple - side) for n in range(1, side // multiple + 2)}
    least = min(distances.values())
    if 10 * least <= side:
        assert found == min(n for n, distance in distances.items() if distance == least)
    else:
        assert found == side


def test_the_sizes_of_usual_videos():
    sides = {120: 112, 213: 208, 128: 128, 171: 176, 160: 160, 72: 72, 24: 24, 9: 9}
    assert {side: windows.nearest_multiple(side, 16) for side in sides} == sides


def grid(size, window, overlap):
    """Windows along H and W, slowly: as many as reach the end."""
    counts = []
    for length, side in zip(size, window):
        counts.append(1)
        while side + (counts[-1] - 1) * max(1, round(side * (1 - overlap))) < length:
            counts[-1] += 1
    return counts


lengths = st.integers(1, 700)


@given(lengths, lengths, st.tuples(*[st.integers(1, 8)] * 2), st.integers(1, 9), overlaps)
def test_window_sides_cost_least(height, width, blocks, times, overlap):
    size, multiples = (height, width), (16, 8)
    clip = tuple(n * m for n, m in zip(blocks, multiples))
    most = times * clip[0] * clip[1]
    window = windows.window_sides(size, clip, multiples, overlap, most)
    assert all(side % m == 0 for side, m in zip(window, multiples))
    assert np.prod(window) <= most
    rounded = tuple(-(-n // m) * m for n, m in zip(size, multiples))
    cost = lambda window: np.prod(window) * np.prod(grid(size, window, overlap))
    assert cost(window) <= cost(clip)
    if np.prod(rounded) <= most:
        assert window == rounded  # the whole frame
    for side, whole, least in zip(window, rounded, clip):
        assert side == whole or side >= least  # never less of a frame than in training
    for h in range(clip[0], rounded[0] + 1, 16):  # no other grid of windows costs less
        for w in range(clip[1], rounded[1] + 1, 8):
            assert h * w > most or cost(window) <= cost((h, w))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 20), overlaps)
def test_matrices_of_an_axis_keep_constants(length, target, window, overlap):
    axis = windows.plan_axis(length, target, window, overlap)
    assert axis.matrices.shape == (len(axis.starts), target, window)
    assert axis.before + axis.after == max(0, window - length)
    np.testing.assert_allclose(axis.matrices.sum((0, 2)), 1, atol=1e-5)
    # What is blended and resized is what resizing alone gives.
    signal = np.random.default_rng(0).normal(size=length)
    padded = np.pad(signal, (axis.before, axis.after), constant_values=1e6)  # never looked at
    blended = sum(
        matrix.astype(np.float64) @ padded[start : start + window]
        for start, matrix in zip(axis.starts, axis.matrices)
    )
    np.testing.assert_allclose(blended, windows.resize_matrix(length, target) @ signal, atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40))
def test_resizing_is_linear_interpolation_between_centres(size, target):
    matrix = windows.resize_matrix(size, target)
    np.testing.assert_allclose(matrix.sum(1), 1)
    if size == target:
        np.testing.assert_array_equal(matrix, np.eye(size))
    if target >= size:
        centres = (np.arange(target) + 0.5) * size / target - 0.5
        expected = np.interp(centres, np.arange(size), np.arange(size))
        np.testing.assert_allclose(matrix @ np.arange(size), expected, atol=1e-9)


@settings(deadline=None)
@given(st.integers(0, 70), st.sampled_from([1, 4, 8, 16]), overlaps)
def test_time_windows_cover_a_video_of_any_length(length, window, overlap):
    weight = windows.gaussian(window)
    state, finals, start = np.zeros(window), [], 0
    for plan in windows.time_windows(iter(range(length)), window, overlap):
        start += plan.shift
        assert len(plan.items) == window and 1 <= plan.num_final <= plan.num_items
        assert plan.items[: plan.num_items] == list(range(start, start + plan.num_items))
        assert start == len(finals)
        # The network that copies its input.
        moved = np.concatenate([state[plan.shift :], np.zeros(plan.shift)])
        state = moved + weight * np.array(plan.items)
        finals += list((state * plan.scale)[: plan.num_final])
    np.testing.assert_allclose(finals, np.arange(length), atol=1e-4)


def test_short_videos_are_reflected_over_and_over():
    (plan,) = windows.time_windows("abc", 8, 0.25)
    assert "".join(plan.items) == "abcbabcb" and (plan.num_items, plan.num_final) == (3, 3)
    (plan,) = windows.time_windows("a", 4, 0.25)
    assert "".join(plan.items) == "aaaa" and plan.num_final == 1


def test_time_windows_read_no_further_than_they_must():
    drawn = []

    def frames():
        for number in range(1000):
            drawn.append(number)
            yield number

    plans = windows.time_windows(frames(), 16, 0.25)
    for count in range(1, 20):
        next(plans)
        assert len(drawn) <= 16 + 12 * count


def test_windows_begin_and_end_without_a_step():
    # Two neighbours that disagree by 1: the blend passes from one to the other in small steps.
    starts = windows.window_starts(196, 112, 0.25)
    assert list(starts) == [0, 84]
    weights = windows.blending_weights(starts, 112, 196)
    share = np.zeros(196)
    share[84:] = weights[1]
    assert np.abs(np.diff(share)).max() < 0.15 and share[84] < 0.01 and share[-85] > 0.99


@pytest.mark.parametrize("overlap", [-0.1, 1.0])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(ValueError, match="0 <= overlap < 1"):
        windows.window_starts(20, 10, overlap)
