"""Convolution with few outputs that reads the blocks of a transposed convolution: conv_pre."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from v2v_jax.models.kernels.block_layout import BlockLayout
from v2v_jax.models.kernels.coverage import is_same_convolution
from v2v_jax.system import triton

_PATCH = 4  # voxels along W in a row of a patch of the output's gradient
_CHANNELS = 8  # that conv_pre's gradient is padded to


def can_read_blocks(layout: BlockLayout, kernel_shape: Sequence[int], padding, dtype) -> bool:
    """Whether `conv_of_blocks` covers a convolution: conv_pre's in V2V and its narrow versions."""
    cin, cout = kernel_shape[3:]
    return (
        is_same_convolution(kernel_shape, padding, dtype)
        and cin == layout.channels
        and cin in (16, 32, 64)
        and cout <= _CHANNELS
        and layout.size[1] % 2 == 0
        # Pairs of voxels along W lie side by side in a block.
        and layout.size[2] % 2 == layout.strides[2] % 2 == layout.crop[2] % 2 == 0
    )


def conv_of_blocks(
    blocks: jax.Array, kernel: jax.Array, layout: BlockLayout, interpret: bool = False
) -> jax.Array:
    """conv3d with zero padding "same" over the voxels of blocks, float32.

    A program holds a row of 2 frames x 2 lines of output; every line of input that it loads is
    multiplied for all of these that it touches. The three taps along W are separate outputs, which
    the compiler adds up afterwards.

    Args:
      blocks: (B,T',H',W',…), bfloat16.
      kernel: (kt,3,3,C,K), K at most 8.

    Returns:
      (B,T,H,W,K) float32.
    """
    convolve = functools.partial(_conv_of_blocks, kernel=kernel, layout=layout, interpret=interpret)
    parts = triton.in_parts(convolve, math.prod(blocks.shape[1:]), blocks)
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _conv_of_blocks(blocks, kernel, layout, interpret, lines=2):
    (kt, _, _, c, k), (t, h, w) = kernel.shape, layout.size
    frames = 2 if t % 2 == 0 else 1
    columns = max(16, pl.next_power_of_2(3 * k))
    tile = min(128, max(16, pl.next_power_of_2(w)))
    tiles = -(-w // tile)
    weights = kernel.transpose(0, 1, 3, 2, 4).reshape(kt, 3, c, 3 * k)
    weights = jnp.pad(weights, ((0, 0),) * 3 + ((0, columns - 3 * k),))
    margin = kt // 2

    def conv_of_blocks(x_ref, w_ref, z_ref):
        b, t0, h0, w0 = triton.unravel(pl.program_id(0), t // frames, h // lines, tiles)
        t0, h0, ws = t0 * frames, h0 * lines, w0 * tile + jnp.arange(tile)
        channels = jnp.arange(c)[None, :]
        out = [(i, j) for i in range(frames) for j in range(lines)]
        sums = {key: jnp.zeros((tile, columns), jnp.float32) for key in out}
        for f in range(-margin, frames + margin):
            for g in range(-1, lines + 1):
                inside = (t0 + f >= 0) & (t0 + f < t) & (h0 + g >= 0) & (h0 + g < h)
                voxel = (layout.crop[0] + t0 + f, layout.crop[1] + h0 + g, layout.crop[2] + ws)
                x = triton.load(
                    x_ref.at[layout.offset(b, *voxel)[:, None] + channels],
                    mask=triton.each(inside & (ws < w), c),
                    other=0.0,
                )
                for i, j in out:
                    dt, dh = f - i + margin, g - j + 1
                    if 0 <= dt < kt and 0 <= dh < 3:
                        sums[i, j] += triton.product(x, w_ref[dt, dh])
        column = jnp.arange(columns)[None, :]
        for i, j in out:
            at = (((b * t + t0 + i) * h + h0 + j) * w + ws) * (3 * k)
            mask = (ws < w)[:, None] & (column < 3 * k)
            triton.store(z_ref.at[at[:, None] + column], sums[i, j].astype(z_ref.dtype), mask=mask)

    b = blocks.shape[0]
    z = triton.call(
        conv_of_blocks,
        grid=(b * (t // frames) * (h // lines) * tiles,),
        out_shape=jax.ShapeDtypeStruct((b * t * h * w * 3 * k,), blocks.dtype),
        stages=2,
        interpret=interpret,
    )(blocks.reshape(-1), weights)
    z = z.reshape(b, t, h, w, 3, k).astype(jnp.float32)
    z = jnp.pad(z, ((0, 0),) * 3 + ((1, 1), (0, 0), (0, 0)))
    return z[:, :, :, :-2, 0] + z[:, :, :, 1:-1, 1] + z[:, :, :, 2:, 2]


def conv_of_blocks_input_gradient(
    dy: jax.Array,
    blocks: jax.Array,
    kernel: jax.Array,
    layout: BlockLayout,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gradient of conv_of_blocks(relu(z), kernel) with respect to z, and its sum over all voxels.

    A program computes 64 pairs of voxels along W, 2·C outputs each, from patches of 4 voxels.

    Args:
      dy: (B,T,H,W,K), the convolution's output's gradient.
      blocks: relu(z), of which the sign is used.
      kernel: (kt,3,3,C,K).

    Returns:
      The gradient in the blocks' shape and dtype, 0 in the margins, and its sum, (C,) float32.
    """
    gradient = functools.partial(
        _conv_of_blocks_input_gradient, kernel=kernel, layout=layout, interpret=interpret
    )
    parts = triton.in_parts(gradient, math.prod(blocks.shape[1:]), dy, blocks)
    gradients, sums = zip(*parts)
    return (jnp.concatenate(gradients) if len(parts) > 1 else gradients[0]), sum(sums)


def _conv_of_blocks_input_gradient(dy, blocks, kernel, layout, interpret, tile=64):
    kt, _, _, c, _ = kernel.shape
    (pt, ph, pw), (t, h, w), crop = layout.padded, layout.size, layout.crop
    patches = _PairPatches(layout, kt)
    weights = _pair_kernels(kernel).astype(dy.dtype)
    n = dy.shape[0] * pt * ph * (pw // 2)
    programs = -(-n // tile)

    def conv_of_blocks_input_gradient(dy_ref, x_ref, w_ref, dx_ref, sum_ref):
        program = pl.program_id(0)
        p = program * tile + jnp.arange(tile)
        b, i, j, l = triton.unravel(p, pt, ph, pw // 2)
        l = 2 * l
        inside = (p < n) & (i >= crop[0]) & (i < crop[0] + t) & (j >= crop[1])
        inside &= (j < crop[1] + h) & (l >= crop[2]) & (l < crop[2] + w)
        at = layout.offset(b, i, j, l)[:, None] + jnp.arange(2 * c)[None, :]
        x = triton.load(x_ref.at[at], mask=triton.each(inside, 2 * c), other=0.0)
        start = patches.start(b, i, j, l)

        def tap(k, total):
            dt, dh = triton.divide(k, 3)
            return total + triton.product(patches.load(dy_ref, start, dt, dh, p < n), w_ref[k])

        total = lax.fori_loop(0, 3 * kt, tap, jnp.zeros((tile, 2 * c), jnp.float32))
        total = jnp.where(x > 0, total, 0.0)
        triton.store(dx_ref.at[at], total.astype(dx_ref.dtype), mask=triton.each(p < n, 2 * c))
        sum_ref[program] = total.sum(0)

    dx, sums = triton.call(
        conv_of_blocks_input_gradient,
        grid=(programs,),
        out_shape=[
            jax.ShapeDtypeStruct((blocks.size,), blocks.dtype),
            jax.ShapeDtypeStruct((programs, 2 * c), jnp.float32),
        ],
        stages=3,
        interpret=interpret,
    )(patches.pad(dy), blocks.reshape(-1), weights)
    return dx.reshape(blocks.shape), sums.reshape(programs, 2, c).sum((0, 1))


def conv_of_blocks_weight_gradient(
    dy: jax.Array, blocks: jax.Array, kt: int, layout: BlockLayout, interpret: bool = False
) -> jax.Array:
    """Gradient of `conv_of_blocks` with respect to its kernel, float32.

    Arguments as for `conv_of_blocks_input_gradient`. Returns (kt,3,3,C,K).
    """
    gradient = functools.partial(
        _conv_of_blocks_weight_gradient, kt=kt, layout=layout, interpret=interpret
    )
    return sum(triton.in_parts(gradient, math.prod(blocks.shape[1:]), dy, blocks))


def _conv_of_blocks_weight_gradient(dy, blocks, kt, layout, interpret, tile=64, splits=132):
    (t, h, w), c, crop = layout.size, layout.channels, layout.crop
    patches = _PairPatches(layout, kt)
    n = dy.shape[0] * t * h * (w // 2)
    steps = -(-n // (tile * splits))
    taps = 3 * kt
    columns = _PATCH * _CHANNELS

    def conv_of_blocks_weight_gradient(dy_ref, x_ref, out_ref):
        split = pl.program_id(0)
        channels = jnp.arange(2 * c)[None, :]

        def step(s, sums):
            p = (split * steps + s) * tile + jnp.arange(tile)
            b, i, j, l = triton.unravel(p, t, h, w // 2)
            i, j, l = crop[0] + i, crop[1] + j, crop[2] + 2 * l
            at = layout.offset(b, i, j, l)[:, None] + channels
            x = triton.load(x_ref.at[at], mask=triton.each(p < n, 2 * c), other=0.0)
            start = patches.start(b, i, j, l)
            loads = [patches.load(dy_ref, start, *divmod(k, 3), p < n) for k in range(taps)]
            return tuple(total + triton.product_transposed(x, d) for total, d in zip(sums, loads))

        start = tuple(jnp.zeros((2 * c, columns), jnp.float32) for _ in range(taps))
        for k, total in enumerate(lax.fori_loop(0, steps, step, start)):
            out_ref[split, k] = total

    sums = triton.call(
        conv_of_blocks_weight_gradient,
        grid=(splits,),
        out_shape=jax.ShapeDtypeStruct((splits, taps, 2 * c, columns), jnp.float32),
        warps=8,
        stages=3,
        interpret=interpret,
    )(patches.pad(dy), blocks.reshape(-1))
    sums = sums.sum(0).reshape(kt, 3, 2, c, _PATCH, _CHANNELS)[..., : dy.shape[-1]]
    flipped = sums[:, :, 0, :, 0:3] + sums[:, :, 1, :, 1:4]  # the pair's two voxels
    return jnp.flip(flipped.transpose(0, 1, 3, 2, 4), (0, 1, 2))


def _pair_kernels(kernel: jax.Array) -> jax.Array:
    """(kt,3,3,C,K) → (3·kt,32,2·C): from patches (4 voxels, 8 channels) of dy to a pair of dx."""
    kt, _, _, c, k = kernel.shape
    flipped = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    flipped = jnp.pad(flipped, ((0, 0),) * 3 + ((0, _CHANNELS - k), (0, 0)))
    pair = [jnp.pad(flipped, ((0, 0), (0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in range(2)]
    return jnp.stack(pair, 4).reshape(3 * kt, _PATCH * _CHANNELS, 2 * c)


class _PairPatches:
    """The 4 voxels of dy in a line that a pair of voxels along W takes its gradient from."""

    def __init__(self, layout: BlockLayout, kt: int):
        self._layout = layout
        self._margin = (kt // 2, 1, 1)
        t, h, w = layout.padded
        self._frames, self._lines, self._width = t + 2 * (kt // 2), h + 2, w + 4

    def pad(self, dy: jax.Array) -> jax.Array:
        """(B,T,H,W,K) → flat, over the blocks' voxels with a margin around, 8 channels."""
        layout = self._layout
        before = [c + m for c, m in zip(layout.crop, self._margin)]
        whole = (self._frames, self._lines, self._width)
        after = [n - b - s for n, b, s in zip(whole, before, layout.size)]
        pads = ((0, 0), *zip(before, after), (0, _CHANNELS - dy.shape[-1]))
        return jnp.pad(dy, pads).reshape(-1)

    def start(self, b, t, h, w):
        """Element at which the patch for kernel line (0,0) of the pair at (t,h,w) begins."""
        return (((b * self._frames + t) * self._lines + h) * self._width + w) * _CHANNELS

    def load(self, dy_ref, start: jax.Array, dt, dh, mask: jax.Array) -> jax.Array:
        """(len(start),32): the patch for line (dt,dh) of the flipped kernel."""
        line = (dt * self._lines + dh) * self._width * _CHANNELS
        columns = jnp.arange(_PATCH * _CHANNELS)[None, :]
        at = (start + line)[:, None] + columns
        return triton.load(dy_ref.at[at], mask=triton.each(mask, columns.size), other=0.0)
