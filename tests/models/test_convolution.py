"""The convolution in every form, and its gradients, against the float64 reference."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from v2v_jax.models.lowering import choice, forms, winograd, winograd_planes
from v2v_jax.models.lowering.convolution import conv3d

FORMS = (None, *forms.FORMS)
few = settings(max_examples=4, deadline=None)  # a program is compiled for each


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
def test_equals_the_reference_and_its_finite_differences(form, shapes, seed):
    """Linear in each argument, so that central differences are exact but for rounding."""
    x_shape, kernel_shape, padding = shapes
    rng = np.random.default_rng(seed)
    x, kernel = random(rng, *x_shape), random(rng, *kernel_shape)
    expected = reference.conv3d(x, kernel, padding)
    dy = random(rng, *expected.shape)

    @jax.jit
    def output_and_gradients(x, kernel, dy):
        y, backward = jax.vjp(lambda x, k: conv3d(x, k, padding, form), x, kernel)
        return y, *backward(dy)

    y, dx, dkernel = output_and_gradients(x, kernel, dy)
    assert y.shape == expected.shape
    assert relative(y, expected) < 1e-5
    for gradient, function, at in (
        (dx, lambda x: (reference.conv3d(x, kernel, padding) * dy).sum(), x),
        (dkernel, lambda k: (reference.conv3d(x, k, padding) * dy).sum(), kernel),
    ):
        assert gradient.shape == at.shape
        direction = rng.standard_normal(at.shape)
        slope = reference.derivative(function, at, direction, step=1.0)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert abs((np.asarray(gradient) * direction).sum() - slope) < 1e-5 * max(scale, 1e-6)


@pytest.mark.parametrize("form", (None, "product", "winograd"))
@pytest.mark.parametrize("cin,cout", ((3, 40), (40, 3), (33, 32)))
def test_cpu_forms_on_large_frames_in_several_chunks(monkeypatch, form, cin, cout):
    """A few frames at a time, the last chunk not full, a width that is no multiple of a tile."""
    monkeypatch.setattr(forms, "FEW_VOXELS", 2 * 21 * 22)
    monkeypatch.setattr(winograd, "FEW_VOXELS", 2 * 21 * 22)
    rng = np.random.default_rng(4)
    x, kernel = random(rng, 1, 5, 21, 22, cin), random(rng, 3, 3, 3, cin, cout)
    padding = ((1, 1),) * 3
    expected = reference.conv3d(x, kernel, padding)
    dy = random(rng, *expected.shape)

    @jax.jit
    def output_and_gradients(x, kernel, dy):
        y, backward = jax.vjp(lambda x, k: conv3d(x, k, padding, form), x, kernel)
        return y, *backward(dy)

    y, dx, dkernel = output_and_gradients(x, kernel, dy)
    assert relative(y, expected) < 1e-5
    flipped = np.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    assert relative(dx, reference.conv3d(dy, flipped, padding)) < 1e-5
    direction = rng.standard_normal(kernel.shape)
    slope = (reference.conv3d(x, direction, padding) * dy).sum()
    scale = np.linalg.norm(dkernel) * np.linalg.norm(direction)
    assert abs((np.asarray(dkernel) * direction).sum() - slope) < 1e-5 * scale


def test_form_on_cpu():
    def form(size, kernel, cin, cout, dtype=jnp.float32):
        return choice._cpu_form(jnp.zeros((1, *size, cin), dtype), (*kernel, cin, cout))

    assert form((8, 28, 28), (3, 3, 3), 256, 256) == "winograd"
    assert form((8, 28, 28), (3, 3, 3), 256, 256, jnp.bfloat16) == "per_tap"
    assert form((8, 28, 40), (3, 3, 3), 64, 128) == "per_tap"
    assert form((16, 56, 56), (3, 3, 3), 64, 128) == "winograd"
    assert form((4, 14, 14), (3, 3, 3), 512, 512) == "per_tap"
    assert form((2, 7, 7), (3, 3, 3), 512, 512) == "gathered_by_axis"
    assert form((16, 128, 176), (3, 3, 3), 32, 12) == "taps_in_output"
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


@few
@given(convolutions(), st.sampled_from([1, 500, 2**22]), st.integers(0, 2**31))
def test_winograd_planes_gradients_are_the_transposes(shapes, products, seed):
    """Both at once, however many output channels go together: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ in float64."""
    x_shape, (*kernel_size, cin, cout), padding = shapes
    rng = np.random.default_rng(seed)
    x, kernel = random(rng, *x_shape), random(rng, *kernel_size, cin, 2 * cout)
    expected = reference.conv3d(x, kernel, padding)
    dy = random(rng, *expected.shape)
    with mock.patch.object(winograd_planes, "_FEW_PRODUCTS", products):
        y = jax.jit(lambda x, k: winograd_planes.conv3d(x, k, padding))(x, kernel)
        dx, dkernel = jax.jit(lambda *args: winograd_planes.gradients(*args[:2], padding, args[2]))(
            x, kernel, dy
        )
    assert relative(y, expected) < 1e-5
    assert (dx.shape, dkernel.shape) == (x.shape, kernel.shape)
    for gradient, moved in (
        (dx, lambda by: reference.conv3d(by, kernel, padding)),
        (dkernel, lambda by: reference.conv3d(x, by, padding)),
    ):
        by = rng.standard_normal(gradient.shape)
        change = np.asarray(gradient, np.float64)
        scale = np.linalg.norm(change) * np.linalg.norm(by)
        assert abs((change * by).sum() - (moved(by) * dy).sum()) < 1e-5 * max(scale, 1e-6)


def test_a_cpu_computes_large_transposed_convolutions_by_winograd_planes():
    rng = np.random.default_rng(3)
    x, kernel = random(rng, 1, 2, 20, 21, 96), random(rng, 2, 2, 2, 96, 768)
    padding = ((1, 1), (1, 1), (1, 1))
    assert choice.convolution_forms(x, kernel.shape)["cpu"] == "winograd_planes"
    dy = random(rng, 1, 3, 21, 22, 768)
    run = lambda form: jax.jit(
        lambda x, k, dy: jax.vjp(lambda x, k: conv3d(x, k, padding, form), x, k)[1](dy)
    )(x, kernel, dy)
    for found, expected in zip(run(None), run("product")):
        assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("form", forms.FORMS)
def test_forms_agree_in_float32_and_bfloat16(form):
    rng = np.random.default_rng(2)
    x, kernel = random(rng, 1, 6, 9, 7, 16), random(rng, 3, 3, 3, 16, 8)
    padding = ((1, 1),) * 3
    expected = reference.conv3d(x, kernel, padding)
    assert relative(conv3d(x, kernel, padding, form), expected) < 1e-5
    half = conv3d(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), padding, form)
    assert half.dtype == jnp.bfloat16
    assert relative(half.astype(jnp.float32), expected) < 0.02


def test_unknown_form():
    x, kernel = jnp.zeros((1, 3, 3, 3, 1)), jnp.zeros((3, 3, 3, 1, 1))
    with pytest.raises(ValueError, match="Unknown form 'nope'"):
        conv3d(x, kernel, ((1, 1),) * 3, "nope")
