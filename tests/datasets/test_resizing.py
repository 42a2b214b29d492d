"""Resizing of targets against a slow reference, and what must never be averaged."""

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


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"expected \(H,W,2\)"):
        resize_flow(np.zeros((4, 8, 3)), np.ones((4, 8), bool), (2, 4))
