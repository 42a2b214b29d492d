"""The kernels for Hopper GPUs: written for one anywhere, and on one against plain convolutions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cuda import lowered_for_cuda
from v2v_jax.models import V2V
from v2v_jax.models.kernels.block_layout import BlockLayout
from v2v_jax.models.kernels.block_lines import can_read_lines
from v2v_jax.models.kernels.conv_of_lines import conv_of_lines
from v2v_jax.models.kernels.gradients_of_lines import can_take_gradients, gradients_of_lines
from v2v_jax.models.lowering import transposed
from v2v_jax.system import hopper, triton

pytestmark = pytest.mark.skipif(not hopper.installed(), reason="JAX without Mosaic GPU")
SAME = ((1, 1),) * 3
on_hopper = pytest.mark.skipif(
    jax.default_backend() != "gpu" or not hopper.available(), reason="no Hopper GPU"
)


@pytest.fixture
def pretend_that_there_is_a_hopper_gpu(monkeypatch):
    monkeypatch.setattr(triton, "available", lambda shared_memory=0: True)
    monkeypatch.setattr(hopper, "available", lambda: True)


def layout_of(*blocks):
    """deconv3's, of kernels of 4x8x8."""
    strides, crop = (2, 4, 4), (1, 2, 2)
    size = tuple((n - 1) * s for n, s in zip(blocks, strides))
    return BlockLayout(blocks, strides, crop, size, 64)


def example(layout, clips, outputs):
    """(dy, blocks after ReLU, kernel)."""
    keys = jax.random.split(jax.random.key(outputs + clips), 3)
    shape = (clips, *layout.blocks, math.prod(layout.strides) * layout.channels)
    blocks = jax.nn.relu(jax.random.normal(keys[0], shape, jnp.bfloat16))
    kernel = 0.05 * jax.random.normal(keys[1], (3, 3, 3, 64, outputs), jnp.bfloat16)
    dy = jax.random.normal(keys[2], (clips, *layout.size, outputs), jnp.bfloat16)
    return dy, blocks, kernel


def plain(layout, dy, blocks, kernel):
    """(y, dz, its sum, dkernel) in float32, by XLA's convolution of voxels."""

    def convolve(z, kernel):
        voxels = transposed._voxels(jax.nn.relu(z), layout)
        return jax.lax.conv_general_dilated(
            voxels,
            kernel,
            (1, 1, 1),
            "SAME",
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
            precision="highest",
        )

    wide = [a.astype(jnp.float32) for a in (blocks, kernel, dy)]
    y, backward = jax.vjp(convolve, *wide[:2])
    dz, dkernel = backward(wide[2])
    return y, dz, dz.reshape(-1, 64).sum(0), dkernel


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@on_hopper
@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(
    "blocks, clips, outputs",
    [
        ((9, 29, 29), 2, 8),  # V2V's
        ((9, 29, 29), 1, 2),
        ((2, 2, 5), 3, 1),
        ((6, 7, 13), 2, 3),  # ten frames, which two warp groups of two do not divide
        ((4, 12, 21), 5, 5),
    ],
)
def test_kernels_equal_plain_convolutions(monkeypatch, in_parts, blocks, clips, outputs):
    if in_parts:
        monkeypatch.setattr(triton, "MAX_ELEMENTS", 1)
    layout = layout_of(*blocks)
    dy, z, kernel = example(layout, clips, outputs)
    assert can_take_gradients(layout, kernel.shape, SAME, jnp.bfloat16)
    y = jax.jit(functools.partial(conv_of_lines, layout=layout))(z, kernel)
    gradients = jax.jit(functools.partial(gradients_of_lines, layout=layout))(dy, z, kernel)
    expected = jax.jit(functools.partial(plain, layout))(dy, z, kernel)
    assert y.dtype == jnp.float32 and gradients[0].dtype == jnp.bfloat16
    assert relative(y, expected[0]) < 1e-5
    assert relative(gradients[0], expected[1]) < 3e-3  # rounded to bfloat16
    assert relative(gradients[1], expected[2]) < 1e-4
    assert relative(gradients[2], expected[3]) < 1e-4


@on_hopper
def test_margins_get_no_gradient():
    layout = layout_of(3, 4, 9)
    dy, z, kernel = example(layout, 2, 8)
    dz = jax.jit(functools.partial(gradients_of_lines, layout=layout))(dy, z, kernel)[0]
    inside = transposed._blocks(jnp.ones((2, *layout.size, 64)), layout)
    assert (jnp.where(inside > 0, 0, dz) == 0).all()
    assert jnp.count_nonzero(dz) > 0.4 * jnp.count_nonzero(inside)


@pytest.mark.parametrize("outputs", [1, 8])
def test_kernels_are_written_without_a_gpu(pretend_that_there_is_a_hopper_gpu, outputs):
    model = V2V(num_outputs=outputs, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 16, 112, 112, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda p, x: (model.apply(p, x) ** 2).sum()))
    text = lowered_for_cuda(gradient, params, x)
    assert "conv_of_lines" in text and "gradients_of_lines" in text
    assert '"conv_of_blocks"' not in text and "conv_of_blocks_input_gradient" not in text


@pytest.mark.parametrize(
    "why, layout, kernel_shape, dtype",
    [
        ("float32", layout_of(9, 29, 29), (3, 3, 3, 64, 8), jnp.float32),
        ("frame by frame", layout_of(9, 29, 29), (1, 3, 3, 64, 8), jnp.bfloat16),
        ("more outputs than a product has", layout_of(9, 29, 29), (3, 3, 3, 64, 9), jnp.bfloat16),
        ("lines of 132 voxels", layout_of(9, 29, 33), (3, 3, 3, 64, 8), jnp.bfloat16),
        (
            "no margin",
            BlockLayout((8, 28, 28), (2, 4, 4), (0, 0, 0), (16, 112, 112), 64),
            (3, 3, 3, 64, 8),
            jnp.bfloat16,
        ),
    ],
)
def test_other_convolutions_are_not_covered(
    pretend_that_there_is_a_hopper_gpu, why, layout, kernel_shape, dtype
):
    padding = tuple((k // 2, k // 2) for k in kernel_shape[:3])
    assert not can_read_lines(layout, kernel_shape, padding, dtype), why


def test_gradients_need_lines_of_whole_products(pretend_that_there_is_a_hopper_gpu):
    layout = layout_of(9, 29, 28)  # 108 voxels
    assert can_read_lines(layout, (3, 3, 3, 64, 8), SAME, jnp.bfloat16)
    assert not can_take_gradients(layout, (3, 3, 3, 64, 8), SAME, jnp.bfloat16)


@pytest.mark.parametrize(
    "capability, version, expected",
    [
        ("9.0", (0, 11, 2), True),
        ("8.0", (0, 11, 2), False),  # A100
        ("10.0", (0, 11, 2), False),  # B200
        ("gfx942", (0, 11, 2), False),
        ("9.0", (0, 10, 2), False),  # not tried
    ],
)
def test_they_run_only_where_they_were_tried(monkeypatch, capability, version, expected):
    class Device:
        compute_capability = capability

    monkeypatch.setattr(triton, "available", lambda shared_memory=0: True)
    monkeypatch.setattr(jax, "devices", lambda *_: [Device()])
    monkeypatch.setattr(jax, "__version_info__", version)
    hopper._is_tried.cache_clear()
    try:
        assert hopper.available() is expected
    finally:
        hopper._is_tried.cache_clear()


@pytest.mark.parametrize("cores, expected", [(78, 78), (None, 132)])
def test_work_is_shared_out_to_the_multiprocessors_there_are(monkeypatch, cores, expected):
    class Device:
        core_count = cores

    monkeypatch.setattr(jax, "devices", lambda *_: [Device()])
    assert hopper.multiprocessors() == expected


def test_they_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(triton, "_shared_memory", lambda: 227)
    monkeypatch.setattr(hopper, "_is_tried", lambda: True)
    assert hopper.available()
    with triton.switched_off():
        assert not hopper.available()
