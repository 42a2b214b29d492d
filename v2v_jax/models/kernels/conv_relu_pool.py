"""Convolution of few input channels, bias, ReLU and (1,2,2) max pooling in one kernel: conv1a.

A `winner` (uint8) says which voxel of a pooling window was the largest, in row-major order, the
first one of equals; NO_WINNER where ReLU answers 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from v2v_jax.models.kernels.coverage import is_same_convolution
from v2v_jax.system import triton

NO_WINNER = 255
_PATCH = 4  # voxels along W in a row of an input patch


def can_pool(x_shape: Sequence[int], kernel_shape: Sequence[int], window, padding, dtype) -> bool:
    """Whether `conv_relu_pool` covers a convolution: conv1a's in V2V and its narrow versions."""
    cin, cout = kernel_shape[3:]
    return (
        is_same_convolution(kernel_shape, padding, dtype)
        and tuple(window) == (1, 2, 2)
        and x_shape[2] % 2 == x_shape[3] % 2 == 0
        and cin <= 4
        and cout in (16, 32, 64)
    )


def conv_relu_pool(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    with_winner: bool = True,
    interpret: bool = False,
) -> tuple[jax.Array, ...]:
    """max_pool(relu(conv3d(x, kernel) + bias), (1,2,2)), zero padding "same".

    A program computes 64 pooled voxels at a time: four products, one a voxel of the window, of the
    same (kt,4,4,4) patches with the kernel at four places. Kernels stay in shared memory.

    Args:
      x: (B,T,H,W,C) bfloat16, C at most 4, H and W even.
      kernel: (kt,3,3,C,O), kt 1 or 3.
      bias: (O,).
      with_winner: whether the winners are wanted too.

    Returns:
      (B,T,H/2,W/2,O) in x's dtype, and its winners, a tuple of two, or of the first alone.
    """
    elements = math.prod(x.shape[1:4]) * 4
    parts = triton.in_parts(
        functools.partial(
            _conv_relu_pool,
            kernel=kernel,
            bias=bias,
            with_winner=with_winner,
            interpret=interpret,
        ),
        max(elements, elements * kernel.shape[-1] // 16),
        x,
    )
    return tuple(jnp.concatenate(part) if len(parts) > 1 else part[0] for part in zip(*parts))


def _conv_relu_pool(x, kernel, bias, with_winner, interpret, tile=64, programs=264):
    b, t, h, w, _ = x.shape
    kt, _, _, _, cout = kernel.shape
    patches = _Patches(x.shape, kt)
    weights = _window_kernels(kernel).astype(x.dtype)
    n = patches.count

    def conv_relu_pool(x_ref, w_ref, b_ref, y_ref, *winner_ref):
        program = pl.program_id(0)
        weight = [[w_ref[i, j] for j in range(4)] for i in range(kt)]
        bias = b_ref[...][None, :]
        columns = jnp.arange(cout)[None, :]

        def step(i, _):
            p = (program + i * programs) * tile + jnp.arange(tile)
            sums = [jnp.zeros((tile, cout), jnp.float32) for _ in range(4)]
            for dt in range(kt):
                patch = patches.load(x_ref, p, dt)
                sums = [s + triton.product(patch, weight[dt][j]) for j, s in enumerate(sums)]
            largest = functools.reduce(jnp.maximum, sums)
            y = largest + bias
            mask, at = triton.each(p < n, cout), (p[:, None], columns)
            triton.store(y_ref.at[at], jnp.maximum(y, 0).astype(y_ref.dtype), mask=mask)
            for ref in winner_ref:
                winner = jnp.full((tile, cout), 3)
                for j in (2, 1, 0):
                    winner = jnp.where(sums[j] == largest, j, winner)
                winner = jnp.where(y > 0, winner, NO_WINNER).astype(jnp.uint8)
                triton.store(ref.at[at], winner, mask=mask)
            return 0

        lax.fori_loop(0, -(-n // (tile * programs)), step, 0)

    results = triton.call(
        conv_relu_pool,
        grid=(programs,),
        out_shape=[
            jax.ShapeDtypeStruct((n, cout), dtype)
            for dtype in (x.dtype, jnp.uint8)[: 1 + with_winner]
        ],
        interpret=interpret,
    )(patches.pad(x), weights, bias.astype(jnp.float32))
    return tuple(y.reshape(b, t, h // 2, w // 2, cout) for y in results)


def conv_relu_pool_weight_gradient(
    x: jax.Array, dy: jax.Array, winner: jax.Array, kt: int, interpret: bool = False
) -> jax.Array:
    """Gradient of `conv_relu_pool` with respect to its kernel, float32.

    Args:
      x: (B,T,H,W,C), its input.
      dy, winner: (B,T,H/2,W/2,O), its output's gradient, and its winners.
      kt: the kernel's size in T.

    Returns:
      (kt,3,3,C,O).
    """
    elements = max(math.prod(x.shape[1:4]) * 4, math.prod(dy.shape[1:]))
    gradient = functools.partial(_conv_relu_pool_weight_gradient, kt=kt, interpret=interpret)
    return sum(triton.in_parts(gradient, elements, x, dy, winner))


def _conv_relu_pool_weight_gradient(x, dy, winner, kt, interpret, tile=64, splits=88):
    cin, cout = x.shape[-1], dy.shape[-1]
    patches = _Patches(x.shape, kt)
    n = patches.count
    steps = -(-n // (tile * splits))

    def conv_relu_pool_weight_gradient(x_ref, dy_ref, winner_ref, out_ref):
        dt, split = pl.program_id(0), pl.program_id(1)
        columns = jnp.arange(cout)[None, :]

        def step(i, sums):
            p = (split * steps + i) * tile + jnp.arange(tile)
            mask, at = triton.each(p < n, cout), (p[:, None], columns)
            patch = patches.load(x_ref, p, dt)
            dy = triton.load(dy_ref.at[at], mask=mask, other=0.0)
            winner = triton.load(winner_ref.at[at], mask=mask, other=NO_WINNER)
            zero = jnp.zeros((), dy.dtype)
            won = [jnp.where(winner == j, dy, zero) for j in range(4)]
            return tuple(s + triton.product_transposed(patch, d) for s, d in zip(sums, won))

        start = tuple(jnp.zeros((patches.columns, cout), jnp.float32) for _ in range(4))
        for j, total in enumerate(lax.fori_loop(0, steps, step, start)):
            out_ref[split, dt, j] = total

    sums = triton.call(
        conv_relu_pool_weight_gradient,
        grid=(kt, splits),
        out_shape=jax.ShapeDtypeStruct((splits, kt, 4, patches.columns, cout), jnp.float32),
        interpret=interpret,
    )(patches.pad(x), dy.reshape(n, cout), winner.reshape(n, cout))
    sums = sums.sum(0).reshape(kt, 2, 2, _PATCH, _PATCH, 4, cout)
    places = [sums[:, i, j, i : i + 3, j : j + 3] for i in range(2) for j in range(2)]
    return sum(places)[:, :, :, :cin]


def _window_kernels(kernel: jax.Array) -> jax.Array:
    """(kt,3,3,C,O) → (kt,4,64,O): for each voxel of a (2,2) window, over its (4,4,4) patch."""
    kt, _, _, cin, cout = kernel.shape
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, 4 - cin), (0, 0)))
    places = [
        jnp.pad(kernel, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
        for i in range(2)
        for j in range(2)
    ]
    return jnp.stack(places, 1).reshape(kt, 4, _PATCH * _PATCH * 4, cout)


class _Patches:
    """The (4,4) voxels of 4 channels that a (2,2) pooling window's convolutions see in a frame."""

    columns = _PATCH * _PATCH * 4

    def __init__(self, x_shape: Sequence[int], kt: int):
        b, t, h, w, _ = x_shape
        self._shape = (t, h // 2, w // 2)
        self._margin = kt // 2
        self._frames = t + 2 * self._margin
        self._row = (w + 2) * 4
        self._frame = (h + 2) * self._row
        self.count = b * math.prod(self._shape)

    def pad(self, x: jax.Array) -> jax.Array:
        """(B,T,H,W,C) → flat, with margins and 4 channels, so that a patch's rows are aligned."""
        m = self._margin
        return jnp.pad(x, ((0, 0), (m, m), (1, 1), (1, 1), (0, 4 - x.shape[-1]))).reshape(-1)

    def load(self, x_ref, p: jax.Array, dt: int) -> jax.Array:
        """(len(p),64): patches of the pooled voxels p in the frame `dt` of the kernel's."""
        b, t, h, w = triton.unravel(p, *self._shape)
        start = (b * self._frames + t + dt) * self._frame + 2 * h * self._row + 8 * w
        row, rest = triton.divide(jnp.arange(self.columns), _PATCH * 4)
        at = start[:, None] + (row * self._row + rest)[None, :]
        return triton.load(x_ref.at[at], mask=triton.each(p < self.count, self.columns), other=0.0)
