"""Transposed kernels without a grid: what is balanced, what interpolates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2v_jax.models.lowering.transposed import conv3d_transpose
from v2v_jax.models.transposed_kernels import balanced, interpolating_normal, strides_of

SIZES = {"deconv3": (4, 8, 8), "deconv4": (4, 4, 4), "2D": (1, 8, 8)}


def upsampled(x, kernel):
    strides = strides_of(kernel.shape[:3])
    padding = tuple(s // 2 for s in strides)
    return np.asarray(conv3d_transpose(jnp.asarray(x), jnp.asarray(kernel), strides, padding))


def inner(y, margin=(2, 4, 4)):
    t, h, w = (n if y.shape[1] > 1 or axis else 0 for axis, n in enumerate(margin))
    t = t if y.shape[1] > 2 * margin[0] else 0
    return y[:, t : y.shape[1] - t, h:-h, w:-w]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_balanced_kernel_draws_no_grid_on_an_even_input(size):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((*size, 3, 2)).astype(np.float32)
    even = np.broadcast_to(rng.standard_normal(3), (1, 4, 5, 5, 3)).astype(np.float32)
    grid = inner(upsampled(even, kernel))
    assert grid.std((1, 2, 3)).min() > 0.5  # or the test would show nothing
    flat = inner(upsampled(even, balanced(kernel)))
    np.testing.assert_allclose(flat, flat.mean((1, 2, 3), keepdims=True) + 0 * flat, atol=2e-5)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_balanced_is_a_projection_that_keeps_the_kernels_sum(size):
    kernel = jax.random.normal(jax.random.key(1), (*size, 3, 2))
    once = balanced(kernel)
    np.testing.assert_allclose(balanced(once), once, atol=1e-5)
    np.testing.assert_allclose(once.sum((0, 1, 2)), kernel.sum((0, 1, 2)), atol=1e-4)
    # Orthogonal: what was taken away has nothing in common with what is left.
    assert abs(float(((kernel - once) * once).sum())) < 1e-2


def test_interpolating_kernels_interpolate():
    kernel = interpolating_normal((2, 4, 4))(jax.random.key(2), (4, 8, 8, 5, 3))
    ramp = np.zeros((1, 5, 6, 7, 5), np.float32)
    ramp += np.arange(5)[:, None, None, None] + 2.0 * np.arange(6)[:, None, None]
    ramp += 3.0 * np.arange(7)[:, None]
    y = inner(upsampled(ramp, kernel), (2, 4, 4))
    for axis in (1, 2, 3):  # a ramp becomes a ramp
        np.testing.assert_allclose(np.diff(y, 2, axis), 0, atol=2e-4)
    assert np.abs(np.diff(y, 1, 2)).min() > 1e-4


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_interpolating_kernels_are_balanced_and_of_hes_variance(size):
    strides = strides_of(size)
    kernel = interpolating_normal(strides)(jax.random.key(3), (*size, 200, 100))
    np.testing.assert_allclose(balanced(kernel), kernel, atol=1e-6)
    fan_in = np.prod(size) * 200 / np.prod(strides)
    assert abs(fan_in * float(jnp.square(kernel).mean()) - 2) < 0.1


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match="cannot interpolate"):
        interpolating_normal((2, 2, 2))(jax.random.key(0), (3, 3, 3, 2, 2))
