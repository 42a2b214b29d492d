"""Transposed 3D convolution, alone and between ReLU and the convolution that reads it.

A transposed convolution is a stride-1 convolution to blocks of stride³·C channels followed by a
depth-to-space, for any kernel, stride and padding. Arrays are (B,T,H,W,C), kernels (T,H,W,in,out).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from v2v_jax.models.kernels import conv_of_blocks as kernels
from v2v_jax.models.kernels.block_layout import BlockLayout
from v2v_jax.models.kernels.block_lines import can_read_lines
from v2v_jax.models.kernels.conv_of_lines import conv_of_lines
from v2v_jax.models.kernels.gradients_of_lines import can_take_gradients, gradients_of_lines
from v2v_jax.models.lowering import choice, convolution, few_frames
from v2v_jax.models.lowering.forms import (
    Form,
    Padding,
    block_kernel,
    convolve,
    depth_to_space,
    space_to_depth,
    transpose_native,
)
from v2v_jax.system import triton
from v2v_jax.system.platforms import by_platform


def conv3d_transpose(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[int],
    form: Form | None = None,
) -> jax.Array:
    """Transposed 3D convolution ("deconvolution", paper section 3), as depth-to-space.

    Input voxel n adds `kernel[t,h,w,i,o]` times its channel i to channel o of the output voxel
    n·stride + (t,h,w) - padding: PyTorch's ConvTranspose3d and Caffe's Deconvolution.

    Args:
      x: (B,T,H,W,Cin), floating point.
      kernel: (kt,kh,kw,Cin,Cout), the same dtype.
      strides: of the output, for T, H, W.
      padding: voxels cut from both ends of the output, for T, H, W.
      form: see `conv3d`.

    Returns:
      (B,T',H',W',Cout) with T' = (T-1)·stride + kt - 2·padding, likewise H', W'.
    """
    strides, padding = tuple(strides), tuple(padding)
    if form == "native":
        return transpose_native(strides, padding, x, kernel)
    if form is not None:
        return _voxels(*_transpose_to_blocks(x, kernel, strides, padding, form))
    return _conv3d_transpose(strides, padding, x, kernel)


def _transpose_by_blocks(strides, padding, x, kernel):
    return _voxels(*_transpose_to_blocks(x, kernel, strides, padding))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv3d_transpose(strides, padding, x, kernel):
    return by_platform(
        x,
        kernel,
        tpu=functools.partial(transpose_native, strides, padding),
        default=functools.partial(_transpose_by_blocks, strides, padding),
    )


def _conv3d_transpose_forward(strides, padding, x, kernel):
    return _conv3d_transpose(strides, padding, x, kernel), (x, kernel)


def _conv3d_transpose_backward(strides, padding, args, dy):
    by_blocks = functools.partial(_transpose_by_blocks, strides, padding)  # linear in each
    backward = lambda _, args, dy: jax.vjp(by_blocks, *args)[1](dy)
    native = functools.partial(transpose_native, strides, padding)
    return choice.gradient_unless_tpu(native, backward, (), args, dy)


_conv3d_transpose.defvjp(_conv3d_transpose_forward, _conv3d_transpose_backward)


def _transpose_to_blocks(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[int],
    form: Form | None = None,
) -> tuple[jax.Array, BlockLayout]:
    """`conv3d_transpose` before depth-to-space and crop: (B,T*,H*,W*,st·sh·sw·C) and its layout."""
    taps, pads = _taps(kernel, strides)
    blocks = convolution.conv3d(x, block_kernel(kernel, strides, taps), pads, form)
    return blocks, _layout(x.shape, kernel.shape, strides, padding)


def _layout(x_shape, kernel_shape, strides, padding) -> BlockLayout:
    """Where the voxels of a transposed convolution lie in its blocks."""
    sizes = list(zip(x_shape[1:4], kernel_shape[:3], strides, padding))
    return BlockLayout(
        blocks=tuple(n + -(-k // s) - 1 for n, k, s, _ in sizes),
        strides=tuple(strides),
        crop=tuple(padding),
        size=tuple((n - 1) * s + k - 2 * p for n, k, s, p in sizes),
        channels=kernel_shape[-1],
    )


def _voxels(blocks: jax.Array, layout: BlockLayout) -> jax.Array:
    """Blocks → (B,T,H,W,C)."""
    y = depth_to_space(blocks, layout.strides)
    for axis, (start, length) in enumerate(zip(layout.crop, layout.size), 1):
        y = lax.slice_in_dim(y, start, start + length, axis=axis)
    return y


def _blocks(voxels: jax.Array, layout: BlockLayout) -> jax.Array:
    """(B,T,H,W,C) → blocks with zeros in the margins; the transpose of `_voxels`."""
    sizes = zip(layout.crop, layout.size, layout.padded)
    margins = [(start, whole - start - length) for start, length, whole in sizes]
    return space_to_depth(jnp.pad(voxels, ((0, 0), *margins, (0, 0))), layout.strides)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "kernel", "bias"],
    meta_fields=["strides", "padding"],
)
@dataclasses.dataclass(frozen=True)
class ReluOfTranspose:
    """relu(conv3d_transpose(x, kernel) + bias), not yet computed, for the Conv3D that reads it.

    Attributes:
      x, kernel, strides, padding: see `conv3d_transpose`.
      bias: (C,) float32.
    """

    x: jax.Array
    kernel: jax.Array
    bias: jax.Array
    strides: tuple[int, int, int]
    padding: tuple[int, int, int]


def conv_of_relu(x: ReluOfTranspose, kernel: jax.Array, padding: Padding) -> jax.Array:
    """conv3d of what `x` stands for, without putting it in voxel order where that is slow.

    Args:
      kernel: (kt,kh,kw,C,Cout), x's dtype.
      padding: see `conv3d`.

    Returns:
      (B,T',H',W',Cout) float32.
    """
    return _conv_of_transpose((x.strides, x.padding, padding), x.x, x.kernel, x.bias, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv_of_transpose(static, x, deconv_kernel, bias, kernel):
    strides, cut, padding = static

    def whole(*args):
        return _conv_of_transpose_forward(static, *args)[0]

    def few_at_a_time(x, deconv_kernel, bias, kernel):
        taps, _ = _taps(deconv_kernel, strides)
        blocks_kernel = block_kernel(deconv_kernel, strides, taps)
        form = choice.convolution_forms(x, blocks_kernel.shape)["cpu"]
        layout = _layout(x.shape, deconv_kernel.shape, strides, cut)
        return few_frames.conv_of_relu_of_transpose(
            x, blocks_kernel, bias.astype(x.dtype), layout, form, kernel, padding
        )

    return by_platform(*(x, deconv_kernel, bias, kernel), cpu=few_at_a_time, default=whole)


def _taps(kernel, strides):
    """Input voxels that an output voxel sees, and the padding of the convolution to blocks."""
    taps = [-(-k // s) for k, s in zip(kernel.shape[:3], strides)]
    return taps, tuple((m - 1, m - 1) for m in taps)


def _conv_of_transpose_native(static, x, deconv_kernel, bias, kernel):
    strides, cut, padding = static
    y = nn.relu(transpose_native(strides, cut, x, deconv_kernel) + bias.astype(x.dtype))
    return convolve(padding, "native", y, kernel).astype(jnp.float32)


def _conv_of_transpose_forward(static, *args):
    strides, cut, padding = static

    def by_blocks(x, deconv_kernel, bias, kernel):
        blocks, layout = _transpose_to_blocks(x, deconv_kernel, strides, cut)
        return _conv_of_relu_forward(layout, padding, blocks, bias, kernel)

    native = functools.partial(_conv_of_transpose_native, static)
    out, y = choice.unless_tpu(native, by_blocks, *args)
    return out, (args, y)


def _conv_of_transpose_backward(static, residuals, dy):
    strides, cut, padding = static
    args, y = residuals

    def by_blocks(y, args, dy):
        x, deconv_kernel, _, kernel = args
        layout = _layout(x.shape, deconv_kernel.shape, strides, cut)
        dblocks, dbias, dkernel = _conv_of_relu_backward(layout, padding, (y, kernel), dy)
        to_blocks = lambda x, k: _transpose_to_blocks(x, k, strides, cut)[0]  # linear in each
        return *jax.vjp(to_blocks, x, deconv_kernel)[1](dblocks), dbias, dkernel

    native = functools.partial(_conv_of_transpose_native, static)
    return choice.gradient_unless_tpu(native, by_blocks, y, args, dy)


_conv_of_transpose.defvjp(_conv_of_transpose_forward, _conv_of_transpose_backward)


def _conv_of_relu_forward(layout, padding, blocks, bias, kernel):
    y = nn.relu(blocks + jnp.tile(bias.astype(blocks.dtype), math.prod(layout.strides)))

    def by_forms(y, kernel):
        return convolution.forward(padding, None, _voxels(y, layout), kernel).astype(jnp.float32)

    def by_kernel(y, kernel):
        convolve = conv_of_lines if by_lines else kernels.conv_of_blocks
        return triton.per_device(functools.partial(convolve, layout=layout), y, whole=(kernel,))

    by_lines = can_read_lines(layout, kernel.shape, padding, y.dtype)
    covered = kernels.can_read_blocks(layout, kernel.shape, padding, y.dtype)
    return choice.by_kernel_on_cuda(covered, by_kernel, by_forms, y, kernel), y


def _conv_of_relu_backward(layout, padding, residuals, dy):
    y, kernel = residuals
    dy = dy.astype(y.dtype)

    def by_forms(dy, y, kernel):
        dx = _blocks(convolution.input_gradient(padding, None, dy, kernel), layout)
        dx = jnp.where(y > 0, dx, jnp.zeros((), dx.dtype))
        dbias = dx.sum((0, 1, 2, 3), dtype=jnp.float32).reshape(-1, layout.channels).sum(0)
        x = _voxels(y, layout)
        dkernel = convolution.weight_gradient(padding, None, x, dy, kernel.shape[:3])
        return dx, dbias, dkernel

    def by_kernel(dy, y, kernel):
        if can_take_gradients(layout, kernel.shape, padding, y.dtype):
            gradients = functools.partial(gradients_of_lines, layout=layout)
            summed = (False, True, True)
            dx, dbias, dkernel = triton.per_device(gradients, dy, y, whole=(kernel,), summed=summed)
        else:
            to_input = functools.partial(kernels.conv_of_blocks_input_gradient, layout=layout)
            to_kernel = functools.partial(
                kernels.conv_of_blocks_weight_gradient, kt=kernel.shape[0], layout=layout
            )
            dx, dbias = triton.per_device(to_input, dy, y, whole=(kernel,), summed=(False, True))
            dkernel = triton.per_device(to_kernel, dy, y, summed=True)
        return dx, dbias, dkernel.astype(kernel.dtype)

    covered = kernels.can_read_blocks(layout, kernel.shape, padding, y.dtype)
    return choice.by_kernel_on_cuda(covered, by_kernel, by_forms, dy, y, kernel)
