"""The transposed convolution, and ReLU and convolution after it, against the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from v2v_jax.models.lowering import few_frames
from v2v_jax.models.lowering.convolution import conv3d
from v2v_jax.models.lowering.forms import block_kernel
from v2v_jax.models.lowering.transposed import (
    ReluOfTranspose,
    _layout,
    conv3d_transpose,
    conv_of_relu,
)

few = settings(max_examples=3, deadline=None)  # a program is compiled for each


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / max(np.linalg.norm(b), 1e-12)


def random(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@few
@given(
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.integers(0, 2**31),
)
def test_equals_the_reference_and_its_finite_differences(size, kernel_size, strides, seed):
    rng = np.random.default_rng(seed)
    full = [(n - 1) * s + k for n, s, k in zip(size, strides, kernel_size)]
    padding = [int(rng.integers(0, (n + 1) // 2)) for n in full]
    x, kernel = random(rng, 2, *size, 3), random(rng, *kernel_size, 3, 4)
    apply = lambda x, k: conv3d_transpose(x, k, strides, padding)
    expected = reference.conv3d_transpose(x, kernel, strides, padding)
    dy = random(rng, *expected.shape)

    @jax.jit
    def output_and_gradients(x, kernel, dy):
        y, backward = jax.vjp(apply, x, kernel)
        return y, *backward(dy)

    y, *gradients = output_and_gradients(x, kernel, dy)
    assert y.shape == expected.shape
    assert relative(y, expected) < 1e-5
    for i, gradient in enumerate(gradients):
        direction = rng.standard_normal(gradient.shape)

        def loss(value, i=i):
            at = [x, kernel]
            at[i] = value
            return (reference.conv3d_transpose(*at, strides, padding) * dy).sum()

        expected_slope = reference.derivative(loss, (x, kernel)[i], direction, step=1.0)
        slope = (np.asarray(gradient) * direction).sum()
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs(slope - expected_slope) < 1e-5 * max(scale, 1e-6)


@pytest.mark.parametrize(
    "kernel,strides,padding",
    [
        ((4, 4, 4), (2, 2, 2), (1, 1, 1)),
        ((4, 8, 8), (2, 4, 4), (1, 2, 2)),
        ((1, 8, 8), (1, 4, 4), (0, 2, 2)),
    ],
)
def test_v2v_deconvolutions_upsample_exactly(kernel, strides, padding):
    rng = np.random.default_rng(0)
    x, k = random(rng, 1, 3, 5, 4, 6), random(rng, *kernel, 6, 5)
    y = jax.jit(lambda x, k: conv3d_transpose(x, k, strides, padding))(x, k)
    assert y.shape[1:4] == tuple(n * s for n, s in zip(x.shape[1:4], strides))
    assert relative(y, reference.conv3d_transpose(x, k, strides, padding)) < 1e-5


def test_is_the_gradient_of_the_strided_one():
    """Caffe's and PyTorch's definition, checked against XLA's own strided convolution."""
    rng = np.random.default_rng(1)
    x, kernel = random(rng, 2, 3, 4, 5, 3), random(rng, 4, 4, 4, 3, 2)

    def strided(y):  # reads the output's 2 channels, gives the input's 3
        return jax.lax.conv_general_dilated(
            y,
            kernel.swapaxes(3, 4),
            (2, 2, 2),
            [(1, 1)] * 3,
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )

    y = conv3d_transpose(x, kernel, (2, 2, 2), (1, 1, 1))
    _, pullback = jax.vjp(strided, jnp.zeros(y.shape))
    assert relative(y, np.asarray(pullback(jnp.asarray(x))[0], np.float64)) < 1e-5


@few
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([((4, 4, 4), (2, 2, 2), (1, 1, 1)), ((1, 3, 5), (1, 2, 3), (0, 0, 1))]),
    st.integers(0, 2**31),
)
def test_conv_of_relu_equals_its_parts(size, deconv, seed):
    kernel_size, strides, cut = deconv
    rng = np.random.default_rng(seed)
    x, first = random(rng, 2, *size, 3), random(rng, *kernel_size, 3, 4)
    bias, second = random(rng, 4), random(rng, 3, 3, 3, 4, 2)
    padding = ((1, 1),) * 3

    def parts(x, first, bias, second):
        y = jax.nn.relu(conv3d_transpose(x, first, strides, cut) + bias)
        return conv3d(y, second, padding, "taps_in_input")

    def whole(x, first, bias, second):
        y = ReluOfTranspose(x, first, bias, strides, cut)
        return conv_of_relu(y, second, padding)

    @jax.jit
    def both(*args):
        (y, backward), (expected, expected_backward) = jax.vjp(whole, *args), jax.vjp(parts, *args)
        dy = jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return y, expected, backward(dy), expected_backward(dy)

    y, expected, gradients, expected_gradients = both(x, first, bias, second)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)
    for a, b in zip(gradients, expected_gradients):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", ("taps_in_input", "product", "winograd_planes"))
@pytest.mark.parametrize("before,after", ((1, 1), (0, 2), (4, 0), (0, 5)))
@pytest.mark.parametrize("voxels", (1, 2**20))
def test_conv_of_relu_a_few_frames_at_a_time(monkeypatch, form, before, after, voxels):
    """With one block at a time and with all, and paddings that reach beyond the margins."""
    monkeypatch.setattr(few_frames, "FEW_VOXELS", voxels)
    strides, cut, padding = (2, 4, 4), (1, 2, 2), ((before, after), (1, 1), (2, 0))
    rng = np.random.default_rng(7)
    x, first = random(rng, 2, 3, 4, 5, 3), random(rng, 4, 8, 8, 3, 4)
    bias, second = random(rng, 4), random(rng, 3, 3, 3, 4, 2)

    @jax.jit
    def run(x, first, bias, second):
        to_blocks = block_kernel(first, strides, (2, 2, 2))
        layout = _layout(x.shape, first.shape, strides, cut)
        return few_frames.conv_of_relu_of_transpose(
            *(x, to_blocks, bias, layout, form, second, padding)
        )

    voxels = np.maximum(reference.conv3d_transpose(x, first, strides, cut) + bias, 0)
    assert relative(run(x, first, bias, second), reference.conv3d(voxels, second, padding)) < 1e-5


def test_conv_of_relu_without_a_gradient():
    """Not the way that the gradient's forward pass goes."""
    rng = np.random.default_rng(8)
    x, first = random(rng, 2, 2, 3, 2, 3), random(rng, 4, 8, 8, 3, 4)
    bias, second = random(rng, 4), random(rng, 3, 3, 3, 4, 5)
    strides, cut, padding = (2, 4, 4), (1, 2, 2), ((1, 1),) * 3

    @jax.jit
    def whole(x, first, bias, second):
        return conv_of_relu(ReluOfTranspose(x, first, bias, strides, cut), second, padding)

    y = whole(x, first, bias, second)
    voxels = np.maximum(reference.conv3d_transpose(x, first, strides, cut) + bias, 0)
    assert relative(y, reference.conv3d(voxels, second, padding)) < 1e-5
