import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from v2v_jax.models import layers
from v2v_jax.models.lowering import forms, winograd

FORMS = (None, *layers.FORMS)
few = settings(max_examples=10, deadline=None)
fewer = settings(max_examples=3, deadline=None)  # of what takes seconds to compile


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / max(np.linalg.norm(b), 1e-12)


def random(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@st.composite
def convolutions(draw):
    """(input shape, kernel shape, padding), odd sizes and uneven padding included."""
    kernel = draw(st.tuples(*[st.integers(1, 4)] * 3))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 3))
    size = tuple(draw(st.integers(max(1, k - lo - hi), 7)) for k, (lo, hi) in zip(kernel, padding))
    b, cin, cout = draw(st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5)))
    return (b, *size, cin), (*kernel, cin, cout), padding


@pytest.mark.parametrize("form", FORMS)
@few
@given(convolutions(), st.integers(0, 2**31))
def test_conv3d_equals_reference(form, shapes, seed):
    x_shape, kernel_shape, padding = shapes
    rng = np.random.default_rng(seed)
    x, kernel = random(rng, *x_shape), random(rng, *kernel_shape)
    y = jax.jit(lambda x, k: layers.conv3d(x, k, padding, form))(x, kernel)
    expected = reference.conv3d(x, kernel, padding)
    assert y.shape == expected.shape
    assert relative(y, expected) < 1e-5


@pytest.mark.parametrize("form", FORMS)
@few
@given(convolutions(), st.integers(0, 2**31))
def test_conv3d_gradients_equal_finite_differences(form, shapes, seed):
    """Linear in each argument, so that central differences are exact but for rounding."""
    x_shape, kernel_shape, padding = shapes
    rng = np.random.default_rng(seed)
    x, kernel = random(rng, *x_shape), random(rng, *kernel_shape)
    convolve = lambda x, k: layers.conv3d(x, k, padding, form)
    dy = random(rng, *jax.eval_shape(convolve, x, kernel).shape)
    dx, dkernel = jax.jit(lambda x, k, dy: jax.vjp(convolve, x, k)[1](dy))(x, kernel, dy)
    for gradient, function, at in (
        (dx, lambda x: (reference.conv3d(x, kernel, padding) * dy).sum(), x),
        (dkernel, lambda k: (reference.conv3d(x, k, padding) * dy).sum(), kernel),
    ):
        assert gradient.shape == at.shape
        direction = rng.standard_normal(at.shape)
        expected = reference.derivative(function, at, direction, step=1.0)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs((np.asarray(gradient) * direction).sum() - expected) < 1e-5 * max(scale, 1e-6)


@few
@given(
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.integers(0, 2**31),
)
def test_conv3d_transpose_equals_reference(size, kernel_size, strides, seed):
    rng = np.random.default_rng(seed)
    full = [(n - 1) * s + k for n, s, k in zip(size, strides, kernel_size)]
    padding = [int(rng.integers(0, (n + 1) // 2)) for n in full]
    x, kernel = random(rng, 2, *size, 3), random(rng, *kernel_size, 3, 4)
    apply = lambda x, k: layers.conv3d_transpose(x, k, strides, padding)
    expected = reference.conv3d_transpose(x, kernel, strides, padding)
    y = jax.jit(apply)(x, kernel)
    assert y.shape == expected.shape
    assert relative(y, expected) < 1e-5
    dy = random(rng, *y.shape)
    gradients = jax.jit(lambda x, k, dy: jax.vjp(apply, x, k)[1](dy))(x, kernel, dy)
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
    y = layers.conv3d_transpose(x, k, strides, padding)
    assert y.shape[1:4] == tuple(n * s for n, s in zip(x.shape[1:4], strides))
    assert relative(y, reference.conv3d_transpose(x, k, strides, padding)) < 1e-5


def test_transposed_convolution_is_the_gradient_of_the_strided_one():
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

    y = layers.conv3d_transpose(x, kernel, (2, 2, 2), (1, 1, 1))
    _, pullback = jax.vjp(strided, jnp.zeros(y.shape))
    assert relative(y, np.asarray(pullback(jnp.asarray(x))[0], np.float64)) < 1e-5


@few
@given(
    st.tuples(*[st.integers(1, 7)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(0, 2**31)
)
def test_max_pool_and_its_gradient(size, window, seed):
    window = tuple(min(k, n) for k, n in zip(window, size))
    rng = np.random.default_rng(seed)
    x = random(rng, 2, *size, 3)
    pool = lambda x: layers.max_pool3d(x, window)
    y = jax.jit(pool)(x)
    np.testing.assert_array_equal(y, reference.max_pool3d(x, window))
    dy = random(rng, *y.shape)
    (dx,) = jax.jit(lambda x, dy: jax.vjp(pool, x)[1](dy))(x, dy)
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
    (dx,) = jax.vjp(lambda x: layers.max_pool3d(x, (1, 2, 2)), jnp.ones((1, 1, 2, 2, 1)))[1](
        jnp.ones((1, 1, 1, 1, 1))
    )
    np.testing.assert_array_equal(dx.ravel(), [1, 0, 0, 0])


@pytest.mark.parametrize("form", (None, "product", "winograd"))
@pytest.mark.parametrize("cin,cout", ((3, 40), (40, 3), (33, 32)))
def test_cpu_forms_on_large_frames_in_several_chunks(monkeypatch, form, cin, cout):
    """A few frames at a time, the last chunk not full, a width that is no multiple of a tile."""
    monkeypatch.setattr(forms, "FEW_VOXELS", 2 * 21 * 22)
    monkeypatch.setattr(winograd, "FEW_VOXELS", 2 * 21 * 22)
    rng = np.random.default_rng(4)
    x, kernel = random(rng, 1, 5, 21, 22, cin), random(rng, 3, 3, 3, cin, cout)
    padding = ((1, 1),) * 3
    convolve = lambda x, k: layers.conv3d(x, k, padding, form)
    expected = reference.conv3d(x, kernel, padding)
    y, pullback = jax.vjp(convolve, x, kernel)
    assert relative(y, expected) < 1e-5
    dy = random(rng, *y.shape)
    dx, dkernel = pullback(dy)
    flipped = np.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    assert relative(dx, reference.conv3d(dy, flipped, padding)) < 1e-5
    direction = rng.standard_normal(kernel.shape)
    slope = (reference.conv3d(x, direction, padding) * dy).sum()
    scale = np.linalg.norm(dkernel) * np.linalg.norm(direction)
    assert abs((np.asarray(dkernel) * direction).sum() - slope) < 1e-5 * scale


def test_form_on_cpu():
    def form(size, kernel, cin, cout, dtype=jnp.float32):
        return layers._cpu_form(jnp.zeros((1, *size, cin), dtype), (*kernel, cin, cout))

    assert form((8, 28, 28), (3, 3, 3), 256, 256) == "winograd"
    assert form((8, 28, 28), (3, 3, 3), 256, 256, jnp.bfloat16) == "per_tap"
    assert form((4, 14, 14), (3, 3, 3), 512, 512) == "gathered"
    assert form((16, 112, 112), (3, 3, 3), 3, 64) == "taps_in_input"
    assert form((16, 112, 112), (3, 3, 3), 64, 8) == "taps_in_output"
    assert form((9, 29, 29), (2, 2, 2), 2048, 128) == "product"


@pytest.mark.parametrize("tile", range(1, 6))
@pytest.mark.parametrize("kernel", range(1, 7))
def test_winograd_matrices(tile, kernel):
    if tile + kernel - 1 > 6 and tile > 1:
        pytest.skip("windows have at most 6 voxels")
    g, b, a = winograd.matrices(tile, kernel)
    rng = np.random.default_rng(5)
    weights, x = rng.standard_normal(kernel), rng.standard_normal(tile + kernel - 1)
    expected = np.correlate(x, weights, "valid")
    np.testing.assert_allclose(a @ ((g @ weights) * (b @ x)), expected, atol=1e-12)


def test_max_pool_of_large_windows():
    x = jnp.arange(8 * 8 * 8, dtype=jnp.float32).reshape(1, 8, 8, 8, 1)
    y, pullback = jax.vjp(lambda x: layers.max_pool3d(x, (8, 8, 8)), x)
    assert y.item() == 511
    (dx,) = pullback(jnp.ones_like(y))
    np.testing.assert_array_equal(np.flatnonzero(dx), [511])


@fewer
@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.integers(0, 2**31),
)
def test_conv_relu_pool_equals_its_parts(size, window, seed):
    rng = np.random.default_rng(seed)
    x, kernel, bias = random(rng, 2, *size, 3), random(rng, 3, 3, 3, 3, 4), random(rng, 4)
    padding = ((1, 1),) * 3

    def parts(x, kernel, bias):
        y = layers.conv3d(x, kernel, padding, "taps_in_input") + bias
        return layers.max_pool3d(jax.nn.relu(y), window)

    whole = lambda x, kernel, bias: layers.conv_relu_pool(x, kernel, bias, padding, window)
    expected, expected_gradients = jax.vjp(parts, x, kernel, bias)
    y, gradients = jax.vjp(whole, x, kernel, bias)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    dy = random(rng, *y.shape)
    for a, b in zip(gradients(dy), expected_gradients(dy)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@fewer
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
        y = jax.nn.relu(layers.conv3d_transpose(x, first, strides, cut) + bias)
        return layers.conv3d(y, second, padding, "taps_in_input")

    def whole(x, first, bias, second):
        y = layers.ReluOfTranspose(x, first, bias, strides, cut)
        return layers.conv_of_relu(y, second, padding)

    expected, expected_gradients = jax.vjp(parts, x, first, bias, second)
    y, gradients = jax.vjp(whole, x, first, bias, second)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)
    dy = random(rng, *y.shape)
    for a, b in zip(gradients(dy), expected_gradients(dy)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", layers.FORMS)
def test_forms_agree_in_float32_and_bfloat16(form):
    rng = np.random.default_rng(2)
    x, kernel = random(rng, 1, 6, 9, 7, 16), random(rng, 3, 3, 3, 16, 8)
    padding = ((1, 1),) * 3
    expected = reference.conv3d(x, kernel, padding)
    assert relative(layers.conv3d(x, kernel, padding, form), expected) < 1e-5
    half = layers.conv3d(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), padding, form)
    assert half.dtype == jnp.bfloat16
    assert relative(half.astype(jnp.float32), expected) < 0.02


def test_unknown_form_and_even_kernel_are_errors():
    x, kernel = jnp.zeros((1, 3, 3, 3, 1)), jnp.zeros((3, 3, 3, 1, 1))
    with pytest.raises(ValueError, match="Unknown form 'nope'"):
        layers.conv3d(x, kernel, ((1, 1),) * 3, "nope")
    with pytest.raises(ValueError, match="must be odd"):
        layers.Conv3D(4, (2, 3, 3)).init(jax.random.key(0), x)


def test_conv3d_layer_adds_its_bias():
    layer = layers.Conv3D(2, bias_init=jax.nn.initializers.constant(3.0))
    x = jnp.zeros((1, 2, 3, 3, 1))
    y = layer.apply(layer.init(jax.random.key(0), x), x)
    np.testing.assert_array_equal(y, 3 * np.ones((1, 2, 3, 3, 2)))


def test_fan_in_of_a_transposed_convolution_keeps_the_variance():
    """With He's fan-in an upsampled unit-variance ReLU input keeps its second moment, here ×2/2."""
    rng = np.random.default_rng(3)
    x = np.maximum(random(rng, 1, 4, 8, 8, 64), 0) * np.sqrt(2)  # second moment 1
    layer = layers.ConvTranspose3D(64, (4, 4, 4), (2, 2, 2), (1, 1, 1))
    y = layer.apply(layer.init(jax.random.key(0), x), x)
    inside = np.asarray(y)[:, 2:-2, 2:-2, 2:-2]
    assert 1.6 < (inside**2).mean() < 2.4
