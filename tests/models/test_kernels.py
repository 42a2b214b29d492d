"""The GPU kernels, interpreted, against the forms, which other tests hold to the reference."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cuda import lowered_for_cuda
from v2v_jax.models.kernels import conv_of_blocks as blocks_kernels
from v2v_jax.models.kernels import conv_relu_pool as pool_kernels
from v2v_jax.models.kernels.gather_taps import gather_taps
from v2v_jax.models.lowering import forms, transposed
from v2v_jax.models.lowering.convolution import conv3d
from v2v_jax.models.lowering.pooling import max_pool3d
from v2v_jax.system import triton

few = settings(  # a program is compiled for each
    max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
pytestmark = pytest.mark.skipif(not triton.installed(), reason="JAX without Pallas' Triton")


@pytest.fixture(autouse=True, scope="module")
def pretend_that_there_is_a_gpu():
    """The kernels are interpreted or only lowered here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "available", lambda shared_memory=0: True)
        yield


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12)


def random(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def same(kt):
    return ((kt // 2, kt // 2), (1, 1), (1, 1))


def interpreted(function, **options):
    return functools.partial(function, **options, interpret=True)


@pytest.fixture(
    params=[
        pytest.param(False, id="whole"),
        pytest.param(True, id="clip by clip", marks=pytest.mark.slow),
    ]
)
def in_parts(request, monkeypatch):
    """Whether a batch is taken for one too large to address, so that it is worked off in parts."""
    if request.param:
        monkeypatch.setattr(triton, "MAX_ELEMENTS", 1)


@pytest.mark.parametrize("kt", [1, 3])
@few
@given(size=st.tuples(*[st.integers(1, 5)] * 3), cin=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_conv_relu_pool_equals_the_forms(in_parts, kt, size, cin, seed):
    rng = np.random.default_rng(seed)
    t, h, w = size
    x, kernel = random(rng, 2, t, 2 * h, 2 * w, cin), random(rng, kt, 3, 3, cin, 16)
    bias, dy = random(rng, 16), random(rng, 2, t, h, w, 16)
    assert pool_kernels.can_pool(x.shape, kernel.shape, (1, 2, 2), same(kt), jnp.bfloat16)

    def by_forms(kernel):
        y = conv3d(x, kernel, same(kt), "taps_in_input") + bias
        return max_pool3d(jax.nn.relu(y), (1, 2, 2))

    @jax.jit
    def both(kernel):
        expected, backward = jax.vjp(by_forms, kernel)
        y, winner = interpreted(pool_kernels.conv_relu_pool)(x, kernel, bias)
        (alone,) = interpreted(pool_kernels.conv_relu_pool, with_winner=False)(x, kernel, bias)
        gradient = interpreted(pool_kernels.conv_relu_pool_weight_gradient, kt=kt)
        return y, winner, alone, gradient(x, dy, winner), expected, *backward(dy)

    y, winner, alone, gradient, expected, expected_gradient = both(kernel)
    assert relative(y, expected) < 1e-5
    np.testing.assert_array_equal(winner == pool_kernels.NO_WINNER, y == 0)
    np.testing.assert_array_equal(alone, y)
    assert relative(gradient, expected_gradient) < 1e-5


def block_layout(kt, blocks):
    """V2V's last transposed convolution: kernel twice the stride, half a stride cut off."""
    strides = (2 if kt == 3 else 1, 4, 4)
    crop = tuple(s // 2 for s in strides)
    size = tuple((n - (s > 1)) * s for n, s in zip(blocks, strides))
    return blocks_kernels.BlockLayout(blocks, strides, crop, size, 16)


@pytest.mark.parametrize("kt", [1, 3])
@few
@given(
    blocks=st.tuples(st.integers(2, 3), st.integers(2, 4), st.integers(2, 4)),
    outputs=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_conv_of_blocks_equals_the_forms(in_parts, kt, blocks, outputs, seed):
    rng = np.random.default_rng(seed)
    layout = block_layout(kt, blocks)
    z = random(rng, 2, *blocks, math.prod(layout.strides) * layout.channels)
    kernel = random(rng, kt, 3, 3, layout.channels, outputs)
    dy = random(rng, 2, *layout.size, outputs)
    assert blocks_kernels.can_read_blocks(layout, kernel.shape, same(kt), jnp.bfloat16)

    def by_forms(z, kernel):
        voxels = transposed._voxels(jax.nn.relu(z), layout)
        return conv3d(voxels, kernel, same(kt), "taps_in_input")

    @jax.jit
    def both(z, kernel, dy):
        expected, backward = jax.vjp(by_forms, z, kernel)
        y = jax.nn.relu(z)
        result = interpreted(blocks_kernels.conv_of_blocks, layout=layout)(y, kernel)
        to_input = interpreted(blocks_kernels.conv_of_blocks_input_gradient, layout=layout)
        to_kernel = interpreted(blocks_kernels.conv_of_blocks_weight_gradient, kt=kt, layout=layout)
        gradients = (*to_input(dy, y, kernel), to_kernel(dy, y))
        return (result, *gradients), (expected, *backward(dy))

    (result, gradient, total, dkernel), (expected, dz, expected_dkernel) = both(z, kernel, dy)
    assert result.dtype == jnp.float32
    assert relative(result, expected) < 1e-5
    assert relative(gradient, dz) < 1e-5
    assert relative(total, dz.reshape(-1, layout.channels).sum(0)) < 1e-4
    assert relative(dkernel, expected_dkernel) < 1e-5


@few
@given(
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.tuples(*[st.tuples(st.integers(0, 1), st.integers(0, 2))] * 3),
)
def test_gather_taps_equals_the_form(in_parts, size, kernel_size, padding):
    if any(n + sum(p) < k for n, p, k in zip(size, padding, kernel_size)):
        return
    x = random(np.random.default_rng(0), 2, *size, 16)
    expected = forms.gather_taps(x, kernel_size, padding)
    gather = interpreted(gather_taps, kernel_size=kernel_size, padding=padding)
    np.testing.assert_array_equal(jax.jit(gather)(x), expected)


@pytest.mark.parametrize("temporal", [True, False])
def test_every_kernel_can_be_lowered_for_cuda(temporal):
    """Compiling needs a GPU's toolkit; that the kernels lower shows that Triton takes them."""
    from v2v_jax.models.v2v import V2V

    model = V2V(3, width=0.25, temporal=temporal, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 8, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda p, x: (model.apply(p, x) ** 2).sum()))
    text = lowered_for_cuda(gradient, params, x)
    for name in (
        "conv_relu_pool",
        "conv_relu_pool_weight_gradient",
        "conv_of_blocks",
        "conv_of_blocks_input_gradient",
        "conv_of_blocks_weight_gradient",
        "gather_taps",
    ):
        assert f'"{name}"' in text, name
