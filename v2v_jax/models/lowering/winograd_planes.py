"""Winograd's method in H and W alone, for convolutions to very many channels: transposed ones.

What a transposed convolution computes is a convolution of 2×2×2 taps to the 32 times as many
channels of its blocks. Tiles of 5×5 outputs need windows of 6×6 voxels, so that there are 36
products where there were 100; the taps in T stand beside each other in the product. (With tiles in
T, too, there would be fewer products still, but more to read and write, which then takes longer.)
See winograd.py for the method.

The work goes over some output channels at a time: what lies between the products and the result is
36/25 of it, and large temporaries cost a CPU more than what is computed on them, as every run gets
new pages for them. The gradients of both arguments take the same steps backwards, and share the
output gradient's points.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

from v2v_jax.models.lowering.winograd import Padding, combine, matrices

_WINDOW = 6  # voxels along H and W, the largest kernel: beyond, rounding errors grow quickly
_FEW_PRODUCTS = 2**22  # at a time


def conv3d(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """As `convolution.conv3d`: (B,T,H,W,I) and (kt,kh,kw,I,O) → (B,T',H',W',O)."""
    planes = _Planes(x.shape, kernel.shape, padding)
    taps, kernels = planes.input_to_points(x), planes.kernel_in_groups(kernel)

    def group(y: jax.Array, of_group: Any) -> tuple[jax.Array, None]:
        n, kernel = of_group
        products = _batched(taps, planes.kernel_to_points(kernel), (2, 1))
        part = planes.points_to_output(products)
        return lax.dynamic_update_slice_in_dim(y, part, n * planes.channels, axis=4), None

    y = jnp.zeros((x.shape[0], *planes.size, kernel.shape[4]), x.dtype)
    return lax.scan(group, y, (jnp.arange(planes.groups), kernels))[0]


def gradients(
    x: jax.Array, kernel: jax.Array, padding: Padding, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Those of `conv3d`'s input and kernel, from its output's gradient dy (B,T',H',W',O)."""
    planes = _Planes(x.shape, kernel.shape, padding)
    to_points = planes.input_to_points
    taps, kernels = to_points(x), planes.kernel_in_groups(kernel)

    def group(total: jax.Array, of_group: Any) -> tuple[jax.Array, jax.Array]:
        n, kernel = of_group
        part = lax.dynamic_slice_in_dim(dy, n * planes.channels, planes.channels, axis=4)
        points = planes.output_to_points(part)
        total = total + _batched(points, planes.kernel_to_points(kernel), (2, 2))
        return total, planes.points_to_kernel(_batched(taps, points, (1, 1)))

    parts = jnp.arange(planes.groups), kernels
    total, dkernels = lax.scan(group, jnp.zeros_like(taps), parts)
    (dx,) = jax.linear_transpose(to_points, jax.ShapeDtypeStruct(x.shape, x.dtype))(total)
    return dx, planes.kernel_of_groups(dkernels)


def _batched(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    return lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((0,), (0,))))


class _Planes:
    """Tile sizes, and the linear maps between voxels and points.

    Attributes:
      size: (T',H',W') of the output.
      groups, channels: of the output's channels, how many parts of how many.
    """

    def __init__(self, x_shape: Sequence[int], kernel_shape: Sequence[int], padding: Padding):
        batch, *sides, _ = x_shape
        kt, *kernel_size, _, cout = kernel_shape
        self.size = tuple(
            n + lo + hi - k + 1 for n, k, (lo, hi) in zip(sides, kernel_shape, padding)
        )
        self._batch, self._kernel_shape, self._padding = batch, tuple(kernel_shape), padding
        self._tile = [_WINDOW + 1 - k for k in kernel_size]
        self._tiles = [-(-n // m) for n, m in zip(self.size[1:], self._tile)]
        g, self._b, a = zip(*map(matrices, self._tile, kernel_size))
        # H and W at once: (points,taps) and (voxels of a tile,points).
        self._g, self._a = (functools.reduce(np.kron, m).astype(np.float32) for m in (g, a))
        tiles = self.size[0] * self._tiles[0] * self._tiles[1]
        tiles *= 1 if is_symbolic_dim(batch) else batch
        most = max(1, _FEW_PRODUCTS // (_WINDOW**2 * tiles))
        self.channels = max(n for n in range(1, min(most, cout) + 1) if cout % n == 0)
        self.groups = cout // self.channels

    def input_to_points(self, x: jax.Array) -> jax.Array:
        """(B,T,H,W,I) → (points, B·T'·tiles, kt·I)."""
        in_time, *pads = self._padding
        pads = [
            (lo, count * m + k - 1 - lo - n)
            for (lo, _), count, m, k, n in zip(
                pads, self._tiles, self._tile, self._kernel_shape[1:], x.shape[2:4]
            )
        ]
        x = jnp.pad(x, ((0, 0), in_time, *pads, (0, 0)))
        for axis, b, m, count in reversed([*zip((-3, -2), self._b, self._tile, self._tiles)]):
            last, axis = (count - 1) * m + 1, axis % x.ndim
            x = combine(b, [lax.slice_in_dim(x, i, i + last, m, axis) for i in range(_WINDOW)])
        frames = [x[:, :, :, i : i + self.size[0]] for i in range(self._kernel_shape[0])]
        x = jnp.concatenate(frames, axis=-1)
        return x.reshape(_WINDOW**2, -1, x.shape[-1])

    def points_to_output(self, points: jax.Array) -> jax.Array:
        """(points, B·T'·tiles, c) → (B,T',H',W',c)."""
        (th, tw), (mh, mw), c = self._tiles, self._tile, points.shape[-1]
        y = jnp.dot(self._a, points.reshape(_WINDOW**2, -1))
        y = y.reshape(mh, mw, -1, self.size[0], th, tw, c).transpose(2, 3, 4, 0, 5, 1, 6)
        y = y.reshape(-1, self.size[0], th * mh, tw * mw, c)
        return y[:, :, : self.size[1], : self.size[2]]

    def output_to_points(self, dy: jax.Array) -> jax.Array:
        """The transpose of `points_to_output`."""
        (th, tw), (mh, mw), c = self._tiles, self._tile, dy.shape[-1]
        rest = [(0, th * mh - dy.shape[2]), (0, tw * mw - dy.shape[3])]
        dy = jnp.pad(dy, ((0, 0), (0, 0), *rest, (0, 0)))
        dy = dy.reshape(-1, self.size[0], th, mh, tw, mw, c).transpose(3, 5, 0, 1, 2, 4, 6)
        points = jnp.dot(self._a.T, dy.reshape(mh * mw, -1))
        return points.reshape(_WINDOW**2, -1, c)

    def kernel_in_groups(self, kernel: jax.Array) -> jax.Array:
        """(kt,kh,kw,I,O) → (groups, kh·kw, kt·I, c)."""
        kt, kh, kw, cin, _ = self._kernel_shape
        kernel = kernel.reshape(kt, kh * kw, cin, self.groups, self.channels)
        return kernel.transpose(3, 1, 0, 2, 4).reshape(self.groups, kh * kw, kt * cin, -1)

    def kernel_of_groups(self, groups: jax.Array) -> jax.Array:
        """The inverse of `kernel_in_groups`."""
        kt, kh, kw, cin, _ = self._kernel_shape
        groups = groups.reshape(self.groups, kh * kw, kt, cin, self.channels)
        return groups.transpose(2, 1, 3, 0, 4).reshape(self._kernel_shape)

    def kernel_to_points(self, kernel: jax.Array) -> jax.Array:
        """(kh·kw, kt·I, c) → (points, kt·I, c)."""
        points = jnp.dot(self._g, kernel.reshape(kernel.shape[0], -1))
        return points.reshape(-1, *kernel.shape[1:])

    def points_to_kernel(self, points: jax.Array) -> jax.Array:
        """The transpose of `kernel_to_points`."""
        kernel = jnp.dot(self._g.T, points.reshape(points.shape[0], -1))
        return kernel.reshape(-1, *points.shape[1:])
