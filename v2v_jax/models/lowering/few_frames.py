"""A few frames at a time, with all that follows: how CPUs compute the network's large layers.

What a program writes to memory that it has just been given costs a CPU more than what is computed
on it: every run gets new pages. Here a loop goes over the frames, and what lies between two
layers, such as a convolution's output before it is pooled, is no larger than a few frames of it.
The functions are the ones of the other modules, without gradients of their own.

Arrays are (B,T,H,W,C), kernels (T,H,W,in,out).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim

from v2v_jax.models.kernels.block_layout import BlockLayout
from v2v_jax.models.lowering import winograd
from v2v_jax.models.lowering.forms import Form, Padding, convolve, depth_to_space

FEW_VOXELS = 16384  # of the output that lies between, at a time
Then = Callable[[jax.Array], Any]


def conv_then(
    x: jax.Array, kernel: jax.Array, padding: Padding, form: Form, then: Then, multiple: int
) -> Any:
    """then(conv3d(x, kernel)), where `then` makes one frame of every `multiple` frames.

    Args:
      x: (B,T,H,W,Cin).
      kernel: (kt,kh,kw,Cin,Cout), the same dtype.
      padding: see `convolution.conv3d`.
      form: of the convolution.
      then: (B,T',H',W',Cout) → a pytree of (B,T'//multiple,…), each frame of `multiple` frames.
      multiple: at least 1.
    """
    if form == "winograd":
        f32 = jnp.float32
        return winograd.conv3d_then(
            x.astype(f32), kernel.astype(f32), padding, lambda y: then(y.astype(x.dtype)), multiple
        )
    kt = kernel.shape[0]
    t, h, w = (n + lo + hi - k + 1 for n, k, (lo, hi) in zip(x.shape[1:4], kernel.shape, padding))
    if t < multiple:
        return then(convolve(padding, form, x, kernel))
    voxels = _known(x.shape[0]) * multiple * h * w
    frames = multiple * _divisor(t // multiple, FEW_VOXELS // voxels)
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))

    def some(_, start):
        part = lax.dynamic_slice_in_dim(x, start, frames + kt - 1, axis=1)
        return None, then(convolve(((0, 0), *padding[1:]), form, part, kernel))

    _, y = lax.scan(some, None, frames * jnp.arange(t // frames))
    return jax.tree.map(winograd.chunks_in_one, y)


def conv_of_relu_of_transpose(
    x: jax.Array,
    blocks_kernel: jax.Array,
    bias: jax.Array,
    layout: BlockLayout,
    form: Form,
    kernel: jax.Array,
    padding: Padding,
) -> jax.Array:
    """conv3d of relu(voxels + bias), where the voxels are those of a transposed convolution.

    Args:
      x: (B,T,H,W,I), the transposed convolution's input.
      blocks_kernel: (mt,mh,mw,I,st·sh·sw·C), by which it becomes blocks.
      bias: (C,), x's dtype.
      layout: of the blocks.
      form: of the convolution to blocks.
      kernel: (kt,kh,kw,C,K), x's dtype.
      padding: see `convolution.conv3d`.

    Returns:
      (B,T',H',W',K) float32.
    """
    mt, *mhw = blocks_kernel.shape[:3]
    pads = [(m - 1, m - 1) for m in mhw]
    num, (st, _, _) = layout.blocks[0], layout.strides
    count = _divisor(num, FEW_VOXELS // (_known(x.shape[0]) * math.prod(layout.padded[1:]) * st))
    # By planes all frames would have to lie there at once: what that takes, the products save.
    form = "taps_in_input" if form == "winograd_planes" else form
    x = jnp.pad(x, ((0, 0), (mt - 1, mt - 1), (0, 0), (0, 0), (0, 0)))
    biases = jnp.tile(bias, math.prod(layout.strides))

    def voxels(first: jax.Array) -> jax.Array:
        part = lax.dynamic_slice_in_dim(x, first, count + mt - 1, 1)
        y = convolve(((0, 0), *pads), form, part, blocks_kernel)
        return depth_to_space(nn.relu(y + biases), layout.strides)

    return _conv_of_voxels(voxels, x.shape[0], count, layout, kernel, padding)


def _conv_of_voxels(voxels, batch, count, layout, kernel, padding):
    """conv3d, its taps in T in the output, of what voxels(first block) gives `count` blocks of.

    Frame v adds its product with tap k to frame v + before - k of the output, if v is none of the
    layout's margin.
    """
    (before, after), *pads = padding
    kt, kh, kw, cin, cout = kernel.shape
    (st, _, _), (crop, *crop_hw), (length, h, w) = layout.strides, layout.crop, layout.size
    flat = kernel.transpose(1, 2, 3, 0, 4).reshape(1, kh, kw, cin, kt * cout)
    frames = count * st

    def add(total, first):
        y = voxels(first)
        for axis, (start, side) in enumerate(zip(crop_hw, (h, w)), 2):
            y = lax.slice_in_dim(y, start, start + side, axis=axis)
        places = first * st - crop + jnp.arange(frames)
        inside = ((places >= 0) & (places < length))[:, None, None, None]
        y = jnp.where(inside, y, jnp.zeros((), y.dtype))
        taps = convolve(((0, 0), *pads), "per_tap", y, flat).astype(jnp.float32)
        part = lax.dynamic_slice_in_dim(total, first * st, frames + kt - 1, 1)
        for k in range(kt):
            at = kt - 1 - k
            tap = lax.slice_in_dim(taps, k * cout, (k + 1) * cout, axis=4)
            part += jnp.pad(tap, ((0, 0), (at, kt - 1 - at), (0, 0), (0, 0), (0, 0)))
        return lax.dynamic_update_slice_in_dim(total, part, first * st, 1), None

    out_h, out_w = (n + lo + hi - k + 1 for n, k, (lo, hi) in zip((h, w), (kh, kw), pads))
    margin = crop + kt - 1 - before  # frames of the sum before the output's first one
    num, out_t = layout.blocks[0], length + before + after - kt + 1
    total = jnp.zeros((batch, num * st + kt - 1, out_h, out_w, cout), jnp.float32)
    total, _ = lax.scan(add, total, count * jnp.arange(num // count))
    cut = (-margin, margin + out_t - total.shape[1], 0)
    return lax.pad(total, jnp.zeros((), total.dtype), [(0, 0, 0), cut, *[(0, 0, 0)] * 3])


def _known(batch: Any) -> int:
    """Of an exported program the batch is not known: taken for one clip."""
    return 1 if is_symbolic_dim(batch) else batch


def _divisor(number: int, most: int) -> int:
    """The largest divisor up to `most`, at least 1."""
    return max((n for n in range(1, min(number, most) + 1) if number % n == 0), default=1)
