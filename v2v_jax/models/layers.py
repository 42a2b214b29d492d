"""Conv3D, ConvTranspose3D and max pooling; the only file that decides how they are lowered.

What is computed never depends on the platform, how it is does:

* CPU: Winograd's method where frames are large, otherwise what `convolution_forms` is quickest in.
* NVIDIA GPU: the form that copies fewer channels; in bfloat16 the network's first and last
  convolution are kernels of their own (`gpu_kernels`).
* TPU: XLA's own convolutions and pooling (docs/scaling.md).
* elsewhere: the GPU's forms.

The gradient with respect to a convolution's input is again a stride-1 convolution, with the flipped
kernel, and picks its own form. A transposed convolution is a stride-1 convolution to blocks of
stride³·C channels followed by a depth-to-space, for any kernel, stride and padding. Pooling keeps
for its gradient only which voxel won, one byte a window.

Arrays are (B,T,H,W,C), kernels (T,H,W,in,out). Convolution means cross-correlation, as in Caffe.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim

from v2v_jax.models.kernels import gpu_kernels
from v2v_jax.models.kernels.gpu_kernels import NO_WINNER, BlockLayout, per_device
from v2v_jax.models.lowering.forms import (
    FORMS,
    Form,
    Padding,
    block_kernel,
    convolve,
    depth_to_space,
    max_pool_native,
    space_to_depth,
    transpose_native,
    weight_gradient,
    weight_gradient_of_taps,
)
from v2v_jax.models.standardization import kernel_of

__all__ = [
    "FORMS",
    "Conv3D",
    "ConvTranspose3D",
    "Form",
    "Padding",
    "ReluOfTranspose",
    "conv3d",
    "conv3d_transpose",
    "conv_of_relu",
    "conv_relu_pool",
    "fan_in_normal",
    "max_pool3d",
    "normal",
]
Initializer = Callable[..., jax.Array]


# ------------------------------------------------------------------------------------------------
# The choice


def _forward(padding: Padding, form: Form | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if form is not None:
        return convolve(padding, form, x, kernel)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(convolve, padding, _cpu_form(x, kernel.shape)),
        tpu=functools.partial(convolve, padding, "native"),
        default=functools.partial(convolve, padding, _by_channels(*kernel.shape[3:])),
    )


def _weight_gradient(
    padding: Padding, form: Form | None, x: jax.Array, dy: jax.Array, kernel_size: Sequence[int]
) -> jax.Array:
    if form is not None:
        return weight_gradient(padding, form, x, dy)
    accelerator = _by_channels(x.shape[-1], dy.shape[-1])
    if math.prod(kernel_size) <= 8:
        # A transposed convolution's: cuDNN has no quick one for kernels of two taps.
        accelerator = "gathered"
    cpu = "product"
    if _pays_winograd(x, (*kernel_size, x.shape[-1], dy.shape[-1])):
        cpu = "winograd"
    on = dict(
        cpu=functools.partial(weight_gradient, padding, cpu),
        tpu=functools.partial(weight_gradient, padding, "native"),
        default=functools.partial(weight_gradient, padding, accelerator),
    )
    if accelerator == "gathered" and gpu_kernels.can_gather(x.shape):

        def by_kernel(x, dy):
            gather = functools.partial(
                gpu_kernels.gather_taps, kernel_size=tuple(kernel_size), padding=padding
            )
            return weight_gradient_of_taps(per_device(gather, x), dy, kernel_size)

        on["cuda"] = by_kernel
    return lax.platform_dependent(x, dy, **on)


def _cpu_form(x: jax.Array, kernel_shape: Sequence[int]) -> Form:
    """By measurement on two AVX-512 cores in float32, batch 1 (docs/performance.md)."""
    *kernel_size, cin, cout = kernel_shape
    if _pays_winograd(x, kernel_shape):
        return "winograd"
    if cin >= 1024 and math.prod(kernel_size) * cout <= cin:
        return "product"  # XLA's convolutions are ten times too slow there
    if 4 * cin <= cout:
        return "taps_in_input"
    if 4 * cout <= cin:
        return "taps_in_output"
    # Of an exported program the batch is not known: taken for a clip alone, as CPUs mostly have it.
    batch = 1 if is_symbolic_dim(x.shape[0]) else x.shape[0]
    return "gathered" if batch * math.prod(x.shape[1:4]) < 1024 else "per_tap"


def _pays_winograd(x: jax.Array, kernel_shape: Sequence[int]) -> bool:
    _, kh, kw, cin, cout = kernel_shape
    large = min(cin, cout) >= 32 and x.shape[2] * x.shape[3] >= 400
    return x.dtype == jnp.float32 and (kh, kw) == (3, 3) and large


def _by_channels(cin: int, cout: int) -> Form:
    """Stacks the taps on the side with fewer channels, since they are copied kt times there."""
    return "taps_in_output" if 2 * cout <= cin else "taps_in_input"


def _input_gradient(
    padding: Padding, form: Form | None, dy: jax.Array, kernel: jax.Array
) -> jax.Array:
    flipped = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    full = tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(kernel.shape[:3], padding))
    # An input padded by more than its kernel has a gradient of which the padding's part is cropped.
    at_least_zero = tuple((max(lo, 0), max(hi, 0)) for lo, hi in full)
    cut = [(min(lo, 0), min(hi, 0), 0) for lo, hi in full]
    dx = _forward(at_least_zero, form, dy, flipped)
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *cut, (0, 0, 0)])


def _unless_tpu(native, forward, *args):
    """forward(*args) → (y, residuals), or on TPUs native(*args) and residuals that nobody reads."""
    kept = jax.eval_shape(forward, *args)[1]
    nothing = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kept)
    return lax.platform_dependent(
        *args, tpu=lambda *args: (native(*args), nothing()), default=forward
    )


def _gradient_unless_tpu(native, backward, residuals, args, dy):
    """backward(residuals, args, dy) → gradients of args, or on TPUs those of native(*args).

    What native computes a second time here is XLA's to find and to merge.
    """
    return lax.platform_dependent(
        residuals,
        args,
        dy,
        tpu=lambda residuals, args, dy: jax.vjp(native, *args)[1](dy),
        default=backward,
    )


# ------------------------------------------------------------------------------------------------
# The convolution and its gradient


def conv3d(
    x: jax.Array, kernel: jax.Array, padding: Padding, form: Form | None = None
) -> jax.Array:
    """Stride-1 3D convolution (cross-correlation).

    Args:
      x: (B,T,H,W,Cin), floating point.
      kernel: (kt,kh,kw,Cin,Cout), the same dtype.
      padding: zeros added (before, after) each of T, H, W.
      form: how it is lowered, also for the gradients; None chooses by platform and shape.

    Returns:
      (B,T',H',W',Cout) with T' = T + before + after - kt + 1, likewise H', W'.
    """
    return _conv3d(padding, form, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv3d(padding: Padding, form: Form | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _forward(padding, form, x, kernel)


def _conv3d_forward(padding, form, x, kernel):
    return _forward(padding, form, x, kernel), (x, kernel)


def _conv3d_backward(padding, form, residuals, dy):
    x, kernel = residuals
    dx = _input_gradient(padding, form, dy, kernel)
    return dx, _weight_gradient(padding, form, x, dy, kernel.shape[:3])


_conv3d.defvjp(_conv3d_forward, _conv3d_backward)


# ------------------------------------------------------------------------------------------------
# Max pooling, alone and after convolution, bias and ReLU


def max_pool3d(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Max pooling with stride = window; a remainder that fills no window is left out.

    Where several voxels of a window are the largest, the first gets the gradient (as in Caffe).

    Args:
      x: (B,T,H,W,C).
      window: sizes in T, H, W.

    Returns:
      (B,T//wt,H//wh,W//ww,C).
    """
    return _max_pool3d(tuple(window), x.shape[1:4], x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _max_pool3d(window, size, x):
    return _max_pool3d_forward(window, size, x)[0]


def _max_pool3d_forward(window, size, x):
    forward = functools.partial(_pool_with_winner, window=window)
    y, winner = _unless_tpu(functools.partial(max_pool_native, window), forward, x)
    return y, (x, winner)


def _max_pool3d_backward(window, size, residuals, dy):
    x, winner = residuals
    backward = lambda winner, args, dy: (_unpool(dy, winner, window, size),)
    return _gradient_unless_tpu(
        functools.partial(max_pool_native, window), backward, winner, (x,), dy
    )


_max_pool3d.defvjp(_max_pool3d_forward, _max_pool3d_backward)


def conv_relu_pool(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: Padding, window: Sequence[int]
) -> jax.Array:
    """max_pool3d(relu(conv3d(x, kernel, padding) + bias), window).

    Apart from the shorter way that some platforms have, the gradient needs less memory: nothing of
    the size before pooling is kept for it.

    Args:
      x: (B,T,H,W,Cin), floating point.
      kernel: (kt,kh,kw,Cin,Cout), the same dtype.
      bias: (Cout,) float32.
      padding, window: see `conv3d` and `max_pool3d`.

    Returns:
      (B,T'//wt,H'//wh,W'//ww,Cout) in x's dtype.
    """
    return _conv_relu_pool(padding, tuple(window), x, kernel, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv_relu_pool(padding, window, x, kernel, bias):
    forward = functools.partial(_compute_conv_relu_pool, padding, window, False)
    native = functools.partial(_conv_relu_pool_native, padding, window)
    return _unless_tpu(native, lambda *args: (forward(*args)[0], ()), x, kernel, bias)[0]


def _conv_relu_pool_native(padding, window, x, kernel, bias):
    y = convolve(padding, "native", x, kernel) + bias.astype(x.dtype)
    return max_pool_native(window, nn.relu(y))


def _conv_relu_pool_forward(padding, window, x, kernel, bias):
    forward = functools.partial(_compute_conv_relu_pool, padding, window, True)
    native = functools.partial(_conv_relu_pool_native, padding, window)
    pooled, winner = _unless_tpu(native, lambda *args: tuple(forward(*args)), x, kernel, bias)
    return pooled, (x, kernel, bias, winner)


def _compute_conv_relu_pool(padding, window, with_winner, x, kernel, bias):
    """[pooled, winner] or [pooled]."""

    def by_forms(x, kernel, bias):
        y = _forward(padding, None, x, kernel) + bias.astype(x.dtype)
        return _pool_with_winner(y, window, relu=True)[: 1 + with_winner]

    def by_kernel(x, kernel, bias):
        convolution = functools.partial(gpu_kernels.conv_relu_pool, with_winner=with_winner)
        return per_device(convolution, x, whole=(kernel, bias))

    if gpu_kernels.can_pool(x.shape, kernel.shape, window, padding, x.dtype):
        return lax.platform_dependent(x, kernel, bias, cuda=by_kernel, default=by_forms)
    return by_forms(x, kernel, bias)


def _conv_relu_pool_backward(padding, window, residuals, dy):
    *args, winner = residuals
    return _gradient_unless_tpu(
        functools.partial(_conv_relu_pool_native, padding, window),
        functools.partial(_conv_relu_pool_backward_by_winner, padding, window),
        winner,
        tuple(args),
        dy,
    )


def _conv_relu_pool_backward_by_winner(padding, window, winner, args, dy):
    x, kernel, _ = args
    size = [n + lo + hi - k + 1 for n, k, (lo, hi) in zip(x.shape[1:4], kernel.shape, padding)]
    dz = _unpool(dy, winner, window, size)
    dbias = jnp.where(winner == jnp.iinfo(winner.dtype).max, 0, dy).sum(
        (0, 1, 2, 3), dtype=jnp.float32
    )
    dx = _input_gradient(padding, None, dz, kernel)

    def by_forms(x, dy, winner, dz):
        return _weight_gradient(padding, None, x, dz, kernel.shape[:3])

    def by_kernel(x, dy, winner, dz):
        gradient = functools.partial(gpu_kernels.conv_relu_pool_weight_gradient, kt=kernel.shape[0])
        return per_device(gradient, x, dy, winner, summed=True).astype(kernel.dtype)

    if gpu_kernels.can_pool(x.shape, kernel.shape, window, padding, x.dtype):
        dkernel = lax.platform_dependent(x, dy, winner, dz, cuda=by_kernel, default=by_forms)
    else:
        dkernel = by_forms(x, dy, winner, dz)
    return dx, dkernel, dbias


_conv_relu_pool.defvjp(_conv_relu_pool_forward, _conv_relu_pool_backward)


def _pool_with_winner(
    x: jax.Array, window: Sequence[int], relu: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The maximum of every window, after ReLU if wanted, and which voxel it was; see gpu_kernels.

    The winner is uint8, or uint32 for windows of more than 255 voxels; its largest value: none.
    """
    b, t, h, w, c = x.shape
    wt, wh, ww = window
    dtype = jnp.uint8 if wt * wh * ww <= NO_WINNER else jnp.uint32
    t, h, w = t // wt, h // wh, w // ww
    x = x[:, : t * wt, : h * wh, : w * ww].reshape(b, t, wt, h, wh, w, ww, c)
    places = itertools.product(range(wt), range(wh), range(ww))
    largest = winner = None
    for index, (i, j, l) in enumerate(places):
        candidate = x[:, :, i, :, j, :, l]
        if largest is None:
            largest, winner = candidate, jnp.zeros(candidate.shape, dtype)
        else:
            winner = jnp.where(candidate > largest, dtype(index), winner)
            largest = jnp.maximum(largest, candidate)
    if relu:
        winner = jnp.where(largest > 0, winner, dtype(jnp.iinfo(dtype).max))
        largest = jnp.maximum(largest, 0)
    return largest, winner


def _unpool(
    dy: jax.Array, winner: jax.Array, window: Sequence[int], size: Sequence[int]
) -> jax.Array:
    """Gradients (B,T,H,W,C) of pooled voxels, put where the winner was in an input of `size`."""
    b, t, h, w, c = dy.shape
    wt, wh, ww = window
    place = jnp.arange(wt * wh * ww, dtype=winner.dtype).reshape(1, 1, wt, 1, wh, 1, ww, 1)
    spread = lambda x: x[:, :, None, :, None, :, None]
    dx = jnp.where(spread(winner) == place, spread(dy), jnp.zeros((), dy.dtype))
    dx = dx.reshape(b, t * wt, h * wh, w * ww, c)
    rest = [(0, n - m) for n, m in zip(size, dx.shape[1:4])]
    return jnp.pad(dx, ((0, 0), *rest, (0, 0))) if any(map(any, rest)) else dx


# ------------------------------------------------------------------------------------------------
# Transposed convolution


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
    return lax.platform_dependent(
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
    return _gradient_unless_tpu(native, backward, (), args, dy)


_conv3d_transpose.defvjp(_conv3d_transpose_forward, _conv3d_transpose_backward)


def _transpose_to_blocks(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[int],
    form: Form | None = None,
) -> tuple[jax.Array, BlockLayout]:
    """`conv3d_transpose` before depth-to-space and crop: (B,T*,H*,W*,st·sh·sw·C) and its layout."""
    taps = [-(-k // s) for k, s in zip(kernel.shape[:3], strides)]  # input voxels a output one sees
    blocks = conv3d(
        x, block_kernel(kernel, strides, taps), tuple((m - 1, m - 1) for m in taps), form
    )
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
    return _conv_of_transpose_forward(static, x, deconv_kernel, bias, kernel)[0]


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
    out, y = _unless_tpu(native, by_blocks, *args)
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
    return _gradient_unless_tpu(native, by_blocks, y, args, dy)


_conv_of_transpose.defvjp(_conv_of_transpose_forward, _conv_of_transpose_backward)


def _conv_of_relu_forward(layout, padding, blocks, bias, kernel):
    y = nn.relu(blocks + jnp.tile(bias.astype(blocks.dtype), math.prod(layout.strides)))

    def by_forms(y, kernel):
        return _forward(padding, None, _voxels(y, layout), kernel).astype(jnp.float32)

    def by_kernel(y, kernel):
        convolution = functools.partial(gpu_kernels.conv_of_blocks, layout=layout)
        return per_device(convolution, y, whole=(kernel,))

    if gpu_kernels.can_read_blocks(layout, kernel.shape, padding, y.dtype):
        out = lax.platform_dependent(y, kernel, cuda=by_kernel, default=by_forms)
    else:
        out = by_forms(y, kernel)
    return out, y


def _conv_of_relu_backward(layout, padding, residuals, dy):
    y, kernel = residuals
    dy = dy.astype(y.dtype)

    def by_forms(dy, y, kernel):
        dx = _blocks(_input_gradient(padding, None, dy, kernel), layout)
        dx = jnp.where(y > 0, dx, jnp.zeros((), dx.dtype))
        dbias = dx.sum((0, 1, 2, 3), dtype=jnp.float32).reshape(-1, layout.channels).sum(0)
        dkernel = _weight_gradient(padding, None, _voxels(y, layout), dy, kernel.shape[:3])
        return dx, dbias, dkernel

    def by_kernel(dy, y, kernel):
        to_input = functools.partial(gpu_kernels.conv_of_blocks_input_gradient, layout=layout)
        to_kernel = functools.partial(
            gpu_kernels.conv_of_blocks_weight_gradient, kt=kernel.shape[0], layout=layout
        )
        dx, dbias = per_device(to_input, dy, y, whole=(kernel,), summed=(False, True))
        dkernel = per_device(to_kernel, dy, y, summed=True)
        return dx, dbias, dkernel.astype(kernel.dtype)

    if gpu_kernels.can_read_blocks(layout, kernel.shape, padding, y.dtype):
        return lax.platform_dependent(dy, y, kernel, cuda=by_kernel, default=by_forms)
    return by_forms(dy, y, kernel)


# ------------------------------------------------------------------------------------------------
# Linen layers


class Conv3D(nn.Module):
    """A stride-1 3D convolution with bias, and what follows it.

    Attributes:
      features: output channels.
      kernel_size: (T,H,W); "same" zero padding of k//2 on both sides, so sizes must be odd.
      relu: whether a ReLU follows.
      pool: window of the max pooling that follows the ReLU; None for none.
      kernel_init, bias_init: parameters are float32, kernel (T,H,W,in,out), bias (out,); by default
        He et al. 2015 and zeros.
      dtype: of the computation and the output.
      standardized: whether a new layer's kernel is, see `standardization`.
    """

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    relu: bool = False
    pool: tuple[int, int, int] | None = None
    kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = jnp.float32
    standardized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array | ReluOfTranspose) -> jax.Array:
        """(B,T,H,W,in) → (B,T,H,W,features), or the pooled size; float32 of ReluOfTranspose."""
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"Conv3D {self.name}: kernel size {self.kernel_size} must be odd.")
        if self.pool is not None and not self.relu:
            raise ValueError(f"Conv3D {self.name}: pool without relu is not supported.")
        channels = x.kernel.shape[-1] if isinstance(x, ReluOfTranspose) else x.shape[-1]
        shape = (*self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init or fan_in_normal(), shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        kernel = kernel_of(self, kernel, self.standardized, relu=self.relu).astype(self.dtype)
        padding = tuple((k // 2, k // 2) for k in self.kernel_size)
        if isinstance(x, ReluOfTranspose):
            y = conv_of_relu(x, kernel, padding) + bias
        elif self.pool is not None:
            return conv_relu_pool(x.astype(self.dtype), kernel, bias, padding, self.pool)
        else:
            y = conv3d(x.astype(self.dtype), kernel, padding) + bias.astype(self.dtype)
        return nn.relu(y) if self.relu else y


class ConvTranspose3D(nn.Module):
    """A transposed 3D convolution with bias and ReLU; see `conv3d_transpose` for its exact meaning.

    Attributes:
      features: output channels.
      kernel_size, strides, padding: for (T,H,W).
      relu: whether a ReLU follows.
      for_conv: whether a single Conv3D is all that reads the output, which then comes as the
        ReluOfTranspose that this Conv3D takes; only with relu.
      kernel_init, bias_init: parameters are float32, kernel (T,H,W,in,out), bias (out,); by default
        He et al. 2015 and zeros.
      dtype: of the computation and the output.
      standardized: whether a new layer's kernel is, see `standardization`.
    """

    features: int
    kernel_size: tuple[int, int, int]
    strides: tuple[int, int, int]
    padding: tuple[int, int, int]
    relu: bool = False
    for_conv: bool = False
    kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = jnp.float32
    standardized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | ReluOfTranspose:
        """(B,T,H,W,in) → (B,T',H',W',features), T' = (T-1)·stride + kernel - 2·padding."""
        if self.for_conv and not self.relu:
            raise ValueError(f"ConvTranspose3D {self.name}: for_conv needs relu.")
        shape = (*self.kernel_size, x.shape[-1], self.features)
        init = self.kernel_init or fan_in_normal(strides=self.strides)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        kernel = kernel_of(
            self, kernel, self.standardized, relu=self.relu, strides=self.strides
        )
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.for_conv:
            return ReluOfTranspose(x, kernel, bias, tuple(self.strides), tuple(self.padding))
        y = conv3d_transpose(x, kernel, self.strides, self.padding) + bias.astype(self.dtype)
        return nn.relu(y) if self.relu else y


def normal(stddev: float) -> Initializer:
    """Gaussian with mean 0, drawn flat: XLA's CPU compiler takes five times longer in 5-D."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return stddev * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return init


def fan_in_normal(gain: float = 2.0, strides: Sequence[int] = (1, 1, 1)) -> Initializer:
    """Gaussian with variance gain / fan-in, for kernels (T,H,W,in,out).

    A gain of 2 is He et al. 2015's for a ReLU; 1 keeps the variance where there is none.

    Args:
      strides: of a transposed convolution: an output voxel is reached by kernel/stride taps an
        axis, so the fan-in is smaller than a convolution's by the product of the strides.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        fan_in = math.prod(shape[:4]) / math.prod(strides)
        return normal(math.sqrt(gain / fan_in))(key, shape, dtype)

    return init
