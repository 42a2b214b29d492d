"""Resizing of targets against a slow reference, and what must never be averaged."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v2v_jax.datasets.base.resizing import resize_flow, resize_mask, resize_nearest

sides = st.integers(1, 9)


def weights(old: int, new: int) -> np.ndarray:
    """(new,old) float64: the share of every old cell in every new one's footprint."""
    edges = np.arange(new + 1) * old / new
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(old)
    overlap = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None)
    return overlap / overlap.sum(1, keepdims=True)


def slow_resize(flow, valid, size):
    """The definition, in float64."""
    rows, columns = weights(valid.shape[0], size[0]), weights(valid.shape[1], size[1])
    share = rows @ valid.astype(np.float64) @ columns.T
    total = [rows @ np.where(valid, flow[..., c], 0).astype(np.float64) @ columns.T for c in (0, 1)]
    scale = np.array([size[1] / valid.shape[1], size[0] / valid.shape[0]])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack(total, -1) / share[..., None] * scale, share


# Factors of two and more are exact in Pillow's fixed footprints; others nearly so.
@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_flow_equals_the_mean_over_footprints(h, w, by_h, by_w, seed):
    rng = np.random.default_rng(seed)
    flow = rng.normal(0, 20, (h * by_h, w * by_w, 2)).astype(np.float32)
    valid = rng.random(flow.shape[:2]) < 0.6
    flow[~valid] = rng.choice([np.nan, np.inf, 1e10])
    found, kept = resize_flow(flow, valid, (h, w))
    expected, share = slow_resize(flow, valid, (h, w))
    assert (found.dtype, kept.dtype) == (np.float32, np.bool_)
    np.testing.assert_array_equal(kept, share >= 0.5 - 1e-9)
    np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-4, atol=1e-4)
    assert not found[~kept].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), sides, sides)
def test_a_constant_flow_is_scaled_with_the_frame(h, w, new_h, new_w):
    flow = np.broadcast_to(np.float32([12.0, -7.0]), (h, w, 2))
    found, kept = resize_flow(flow, np.ones((h, w), bool), (new_h, new_w))
    assert kept.all()
    np.testing.assert_allclose(found[..., 0], 12 * new_w / w, rtol=1e-5)
    np.testing.assert_allclose(found[..., 1], -7 * new_h / h, rtol=1e-5)


def test_invalid_vectors_are_not_averaged():
    flow = np.full((4, 8, 2), 1e9, np.float32)
    valid = np.zeros((4, 8), bool)
    flow[:, :3], valid[:, :3] = 4.0, True
    found, kept = resize_flow(flow, valid, (2, 4))
    np.testing.assert_array_equal(kept, [[True, True, False, False]] * 2)
    np.testing.assert_array_equal(found, np.where(kept[..., None], [2.0, 2.0], 0.0))


def test_masks_and_nearest_values():
    mask = np.zeros((4, 8), bool)
    mask[:2, :3] = True
    np.testing.assert_array_equal(resize_mask(mask, (2, 4)), [[True, True, 0, 0], [0] * 4])
    np.testing.assert_array_equal(resize_mask(mask, (4, 8)), mask)
    depth = np.arange(32, dtype=np.float32).reshape(4, 8)
    depth[0, 0] = np.inf
    found = resize_nearest(depth, (3, 5))
    assert found.dtype == np.float32 and set(found.ravel()) <= set(depth.ravel())
    assert resize_nearest(np.zeros((4, 8), np.uint8), (8, 3)).dtype == np.uint8


def nearest(values, size):
    """The values in which the new centres lie, in exact arithmetic; a set where between two."""
    axes = []
    for old, new in zip(values.shape, size):
        twice = [Fraction((2 * i + 1) * old, 2 * new) for i in range(new)]
        axes.append([{int(x), int(x) - 1} if x.denominator == 1 else {int(x)} for x in twice])
    return [[{values[r, c] for r in rows for c in cols} for cols in axes[1]] for rows in axes[0]]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_nearest_neighbour_equals_exact_arithmetic(h, w, new_h, new_w):
    # Every voxel differs, so that a wrong one is seen.
    values = np.arange(h * w, dtype=np.float32).reshape(h, w)
    found = resize_nearest(values, (new_h, new_w))
    for row, expected_row in zip(found, nearest(values, (new_h, new_w)), strict=True):
        for value, expected in zip(row, expected_row, strict=True):
            assert value in expected
    labels = (values % 251).astype(np.uint8)
    np.testing.assert_array_equal(resize_nearest(labels, (new_h, new_w)), found % 251)


def test_the_sizes_of_real_data():
    """DAVIS at 480p and Sintel to the networks' input, by the formula in float64."""
    for h, w in ((480, 854), (436, 1024), (720, 960)):
        values = np.arange(h * w, dtype=np.float32).reshape(h, w)
        found = resize_nearest(values, (128, 171))
        rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in ((128, h), (171, w)))
        clear = lambda x: np.abs(x - np.round(x)) > 1e-6  # not between two voxels
        expected = values[np.floor(rows).astype(int)][:, np.floor(columns).astype(int)]
        kept = np.ix_(clear(rows), clear(columns))
        np.testing.assert_array_equal(found[kept], expected[kept])
        assert clear(rows).sum() >= 120 and clear(columns).sum() >= 168


def test_nearest_neighbour_refuses_what_pillow_would_change():
    for values in (np.zeros((4, 4), np.int32), np.zeros((4, 4), bool), np.zeros((4, 4, 3), "u1")):
        with pytest.raises(ValueError, match="expected .H,W. uint8 or float"):
            resize_nearest(values, (2, 2))


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"expected \(H,W,2\)"):
        resize_flow(np.zeros((4, 8, 3)), np.ones((4, 8), bool), (2, 4))
