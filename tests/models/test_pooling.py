"""Max pooling, alone and after convolution, bias and ReLU, against the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import reference
from v2v_jax.models.lowering import few_frames, winograd
from v2v_jax.models.lowering.convolution import conv3d
from v2v_jax.models.lowering.pooling import conv_relu_pool, max_pool3d

few = settings(max_examples=5, deadline=None)  # a program is compiled for each
fewer = settings(max_examples=3, deadline=None)


def random(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@few
@given(
    st.tuples(*[st.integers(1, 7)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(0, 2**31)
)
def test_max_pool_and_its_gradient(size, window, seed):
    window = tuple(min(k, n) for k, n in zip(window, size))
    rng = np.random.default_rng(seed)
    x = random(rng, 2, *size, 3)
    expected = reference.max_pool3d(x, window)
    dy = random(rng, *expected.shape)

    @jax.jit
    def output_and_gradient(x, dy):
        y, backward = jax.vjp(lambda x: max_pool3d(x, window), x)
        return y, *backward(dy)

    y, dx = output_and_gradient(x, dy)
    np.testing.assert_array_equal(y, expected)
    # Values are distinct, so the gradient goes to the one voxel that holds the maximum.
    chosen = np.zeros_like(x)
    for b, t, h, w, c in np.ndindex(*y.shape):
        part = x[
            b,
            t * window[0] : (t + 1) * window[0],
            h * window[1] : (h + 1) * window[1],
            w * window[2] : (w + 1) * window[2],
            c,
        ]
        i = np.unravel_index(part.argmax(), part.shape)
        chosen[(b, *(p * k + j for p, k, j in zip((t, h, w), window, i)), c)] = dy[b, t, h, w, c]
    np.testing.assert_allclose(dx, chosen, rtol=1e-6)


def test_gradient_of_equal_maxima_goes_to_the_first():
    (dx,) = jax.vjp(lambda x: max_pool3d(x, (1, 2, 2)), jnp.ones((1, 1, 2, 2, 1)))[1](
        jnp.ones((1, 1, 1, 1, 1))
    )
    np.testing.assert_array_equal(dx.ravel(), [1, 0, 0, 0])


def test_max_pool_of_windows_whose_winner_takes_more_than_a_byte():
    x = jnp.arange(4 * 8 * 8, dtype=jnp.float32).reshape(1, 4, 8, 8, 1)
    y, dx = jax.jit(jax.value_and_grad(lambda x: max_pool3d(x, (4, 8, 8)).sum()))(x)
    assert y == 255
    np.testing.assert_array_equal(np.flatnonzero(dx), [255])


@fewer
@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.integers(0, 2**31),
)
@example((1, 1, 1), (1, 1, 2), 0)  # nothing is left
@example((1, 3, 3), (2, 1, 1), 0)
def test_conv_relu_pool_equals_its_parts(size, window, seed):
    rng = np.random.default_rng(seed)
    x, kernel, bias = random(rng, 2, *size, 3), random(rng, 3, 3, 3, 3, 4), random(rng, 4)
    padding = ((1, 1),) * 3

    def parts(x, kernel, bias):
        y = conv3d(x, kernel, padding, "taps_in_input") + bias
        return max_pool3d(jax.nn.relu(y), window)

    whole = lambda x, kernel, bias: conv_relu_pool(x, kernel, bias, padding, window)

    @jax.jit
    def both(*args):
        (y, backward), (expected, expected_backward) = jax.vjp(whole, *args), jax.vjp(parts, *args)
        dy = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return y, expected, backward(dy), expected_backward(dy)

    y, expected, gradients, expected_gradients = both(x, kernel, bias)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients, expected_gradients):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ("taps_in_input", "per_tap", "winograd"))
@pytest.mark.parametrize("frames,window", ((6, 2), (7, 2), (5, 1), (9, 3), (1, 2)))
def test_a_few_frames_at_a_time_are_pooled_as_all(monkeypatch, form, frames, window):
    """Frames that fill no window or no chunk, and chunks that are no multiple of a tile."""
    monkeypatch.setattr(few_frames, "FEW_VOXELS", 2 * 9 * 10)
    monkeypatch.setattr(winograd, "FEW_VOXELS", 2 * 9 * 10)
    rng = np.random.default_rng(6)
    x, kernel, bias = random(rng, 2, frames, 9, 10, 5), random(rng, 3, 3, 3, 5, 4), random(rng, 4)
    padding = ((1, 1),) * 3
    pool = lambda y: max_pool3d(jax.nn.relu(y + bias), (window, 2, 2))
    y = jax.jit(lambda x, k: few_frames.conv_then(x, k, padding, form, pool, window))(x, kernel)
    everything = np.maximum(reference.conv3d(x, kernel, padding) + bias, 0)
    expected = reference.max_pool3d(everything, (window, 2, 2))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=2e-5)
