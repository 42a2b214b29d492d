"""The GPU kernels, interpreted, against the forms, which other tests hold to the reference."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v2v_jax.models.kernels import conv_of_blocks as blocks_kernels
from v2v_jax.models.kernels import conv_relu_pool as pool_kernels
from v2v_jax.models.kernels.gather_taps import gather_taps
from v2v_jax.models.lowering import forms, transposed
from v2v_jax.models.lowering.convolution import conv3d
from v2v_jax.models.lowering.pooling import max_pool3d
from v2v_jax.system import triton

few = settings(max_examples=3, deadline=None)
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


def interpreted(function, *args, **options):
    return jax.jit(functools.partial(function, **options, interpret=True))(*args)


@few
@given(
    st.sampled_from([1, 3]),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 4),
    st.integers(0, 2**31),
)
def test_conv_relu_pool_equals_the_forms(kt, size, cin, seed):
    rng = np.random.default_rng(seed)
    b, t, h, w = size
    x, kernel = random(rng, b, t, 2 * h, 2 * w, cin), random(rng, kt, 3, 3, cin, 16)
    bias = random(rng, 16)
    assert pool_kernels.can_pool(x.shape, kernel.shape, (1, 2, 2), same(kt), jnp.bfloat16)

    def by_forms(kernel):
        y = conv3d(x, kernel, same(kt), "taps_in_input") + bias
        return max_pool3d(jax.nn.relu(y), (1, 2, 2))

    expected, backward = jax.vjp(by_forms, kernel)
    y, winner = interpreted(pool_kernels.conv_relu_pool, x, kernel, bias)
    assert relative(y, expected) < 1e-5
    np.testing.assert_array_equal(winner == pool_kernels.NO_WINNER, y == 0)
    (alone,) = interpreted(pool_kernels.conv_relu_pool, x, kernel, bias, with_winner=False)
    np.testing.assert_array_equal(alone, y)
    dy = random(rng, *y.shape)
    gradient = pool_kernels.conv_relu_pool_weight_gradient
    assert relative(interpreted(gradient, x, dy, winner, kt=kt), backward(dy)[0]) < 1e-5


def block_layout(kt, blocks):
    """V2V's last transposed convolution: kernel twice the stride, half a stride cut off."""
    strides = (2 if kt == 3 else 1, 4, 4)
    crop = tuple(s // 2 for s in strides)
    size = tuple((n - (s > 1)) * s for n, s in zip(blocks, strides))
    return blocks_kernels.BlockLayout(blocks, strides, crop, size, 16)


@few
@given(
    st.sampled_from([1, 3]),
    st.tuples(st.integers(2, 3), st.integers(2, 4), st.integers(2, 4)),
    st.integers(1, 8),
    st.integers(0, 2**31),
)
def test_conv_of_blocks_equals_the_forms(kt, blocks, outputs, seed):
    rng = np.random.default_rng(seed)
    layout = block_layout(kt, blocks)
    z = random(rng, 2, *blocks, math.prod(layout.strides) * layout.channels)
    kernel = random(rng, kt, 3, 3, layout.channels, outputs)
    assert blocks_kernels.can_read_blocks(layout, kernel.shape, same(kt), jnp.bfloat16)

    def by_forms(z, kernel):
        voxels = transposed._voxels(jax.nn.relu(z), layout)
        return conv3d(voxels, kernel, same(kt), "taps_in_input")

    expected, backward = jax.vjp(by_forms, z, kernel)
    y = jax.nn.relu(z)
    result = interpreted(blocks_kernels.conv_of_blocks, y, kernel, layout=layout)
    assert result.dtype == jnp.float32
    assert relative(result, expected) < 1e-5
    dy = random(rng, *expected.shape)
    dz, dkernel = backward(dy)
    to_input = blocks_kernels.conv_of_blocks_input_gradient
    gradient, total = interpreted(to_input, dy, y, kernel, layout=layout)
    assert relative(gradient, dz) < 1e-5
    assert relative(total, dz.reshape(-1, layout.channels).sum(0)) < 1e-4
    to_kernel = blocks_kernels.conv_of_blocks_weight_gradient
    assert relative(interpreted(to_kernel, dy, y, kt=kt, layout=layout), dkernel) < 1e-5


@few
@given(
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(*[st.integers(1, 2)] * 3),
    st.tuples(*[st.tuples(st.integers(0, 1), st.integers(0, 2))] * 3),
)
def test_gather_taps_equals_the_form(size, kernel_size, padding):
    if any(n + sum(p) < k for n, p, k in zip(size, padding, kernel_size)):
        return
    x = random(np.random.default_rng(0), 2, *size, 16)
    expected = forms.gather_taps(x, kernel_size, padding)
    options = dict(kernel_size=kernel_size, padding=padding)
    np.testing.assert_array_equal(interpreted(gather_taps, x, **options), expected)


def test_large_batches_are_worked_off_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    layout = block_layout(3, (2, 2, 2))
    x, kernel, bias = random(rng, 5, 1, 4, 4, 3), random(rng, 3, 3, 3, 3, 16), random(rng, 16)
    blocks, last = random(rng, 5, 2, 2, 2, 512), random(rng, 3, 3, 3, 16, 2)
    dy = random(rng, 5, *layout.size, 2)

    def everything():
        y, winner = interpreted(pool_kernels.conv_relu_pool, x, kernel, bias)
        return [
            y,
            winner,
            interpreted(pool_kernels.conv_relu_pool_weight_gradient, x, y, winner, kt=3),
            interpreted(blocks_kernels.conv_of_blocks, blocks, last, layout=layout),
            *interpreted(
                blocks_kernels.conv_of_blocks_input_gradient, dy, blocks, last, layout=layout
            ),
            interpreted(
                blocks_kernels.conv_of_blocks_weight_gradient, dy, blocks, kt=3, layout=layout
            ),
            interpreted(
                gather_taps,
                x[..., :1].repeat(16, -1),
                kernel_size=(1, 2, 2),
                padding=((0, 0),) * 3,
            ),
        ]

    whole = everything()
    monkeypatch.setattr(triton, "MAX_ELEMENTS", 2 * 4096)
    assert triton.in_parts(len, 4096, blocks) == [2, 2, 1]
    for a, b in zip(everything(), whole):
        assert relative(a, b) < 1e-5


@pytest.mark.parametrize("temporal", [True, False])
def test_every_kernel_can_be_lowered_for_cuda(temporal):
    """Compiling needs a GPU's toolkit; that the kernels lower shows that Triton takes them."""
    from v2v_jax.models.v2v import V2V

    model = V2V(3, width=0.25, temporal=temporal, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 8, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda p, x: (model.apply(p, x) ** 2).sum()))
    try:
        text = gradient.trace(params, x).lower(lowering_platforms=("cuda",)).as_text()
    except NotImplementedError as error:  # JAX 0.11 compiles Triton kernels while lowering
        pytest.skip(f"needs a GPU: {error}")
    for name in (
        "conv_relu_pool",
        "conv_relu_pool_weight_gradient",
        "conv_of_blocks",
        "conv_of_blocks_input_gradient",
        "conv_of_blocks_weight_gradient",
        "gather_taps",
    ):
        assert f'"{name}"' in text, name
