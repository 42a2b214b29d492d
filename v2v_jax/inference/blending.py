"""Blending windows on the device, in programs whose shapes do not depend on the video's size.

A state holds one window's Gaussian-weighted sum over time. What is final goes to tiles of the
output: a tile is the sum over windows of rows · window · columns, with the matrices of
`windows.plan_axis`, which blend and scale to the video's size at once. Tiles have one size, and a
video has as many as it needs: so the same few compiled programs serve every video.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from v2v_jax.inference.windows import Axis, gaussian

TILE = 128  # voxels, H and W, of a part of the output that is computed at once

# What becomes of blended values, see `tasks.Task.finish`: (T,h,w,C) float32, the video's
# (T,h,w,3) uint8 or None, and the (2,) float32 scale → the tile's result.
Finish = Callable[[jax.Array, jax.Array | None, jax.Array], jax.Array]


def unchanged(values: jax.Array, video: jax.Array | None, scale: jax.Array) -> jax.Array:
    """A `Finish`: the blended values themselves, such as the probabilities of classes."""
    return values


def on_device(values: Any) -> Any:
    """Arrays of a pytree on the first device, bound to it.

    Without being bound, programs would be compiled a second time for what is.
    """
    return jax.device_put(values, jax.local_devices()[0])


class Tiles(NamedTuple):
    """One axis of a video, cut into tiles.

    Attributes:
      starts: of the tiles in the output, multiples of TILE.
      target: voxels of the output.
      matrices: for each tile, (window number, (TILE,window) float32) of those that reach it.
    """

    starts: range
    target: int
    matrices: list[list[tuple[int, jax.Array]]]


def cut_tiles(axis: Axis) -> Tiles:
    """Cuts an axis's matrices into tiles and puts them on the device."""
    starts = range(0, axis.target, TILE)
    padded = np.pad(axis.matrices, ((0, 0), (0, len(starts) * TILE - axis.target), (0, 0)))
    matrices = []
    for start in starts:
        parts = padded[:, start : start + TILE]
        matrices.append([(n, on_device(part)) for n, part in enumerate(parts) if part.any()])
    return Tiles(starts, axis.target, matrices)


class Blender:
    """The compiled programs for windows (T,H,W) with K values a voxel.

    Attributes:
      window: (T,H,W).
      num_values: K.
    """

    def __init__(self, window: tuple[int, int, int], num_values: int):
        self.window, self.num_values = window, num_values
        weight = gaussian(window[0]).astype(np.float32)[:, None, None, None]
        self.accumulate = jax.jit(functools.partial(_accumulate, weight), donate_argnums=0)
        self._columns, self._rows = jax.jit(_columns), jax.jit(_rows)
        self._add_columns = jax.jit(_add_columns, donate_argnums=0)
        self._add_rows = jax.jit(_add_rows, donate_argnums=0)
        self._finish = jax.jit(lambda finish, *args: finish(*args), static_argnums=0)
        # Compiled now: not every video has voxels that several windows reach.
        t, h, w = window
        zeros = lambda *size: on_device(np.zeros(size, np.float32))
        rows, columns = ([(0, zeros(TILE, side))] * 2 for side in (h, w))
        strip = self.strip([self.empty_state()], zeros(t), columns)
        self._summed([strip], rows)

    def empty_state(self) -> jax.Array:
        """(T,H,W,K) float32 zeros."""
        # An array of its own each time: `accumulate` reuses its memory.
        return on_device(np.zeros((*self.window, self.num_values), np.float32))

    def strip(
        self, states: list[jax.Array], scale: jax.Array, columns: list[tuple[int, jax.Array]]
    ) -> jax.Array:
        """What the windows of one row add to TILE columns of the result.

        Args:
          states: of the windows along W, (T,H,W,K) each.
          scale: (T,) float32, from the `TimeWindow`.
          columns: the matrices that reach the columns.

        Returns:
          (T,H,TILE,K) float32, H still the window's.
        """
        (first, column), *others = columns
        total = self._columns(states[first], scale, column)
        for j, column in others:
            total = self._add_columns(total, states[j], scale, column)
        return total

    def tile(
        self,
        strips: list[jax.Array],
        rows: list[tuple[int, jax.Array]],
        finish: Finish,
        video: np.ndarray | None,
        scale: np.ndarray,
    ) -> jax.Array:
        """One tile of the result.

        Args:
          strips: of the windows along H, of the tile's columns.
          rows: the matrices that reach the tile.
          finish: see `Finish`.
          video: (T,TILE,TILE,3) uint8, of the video's size; None where `finish` does not read it.
          scale: (2,) float32, pixels of the video a pixel that the network saw, (x, y).

        Returns:
          What `finish` makes of (T,TILE,TILE,K).
        """
        return self._finish(finish, self._summed(strips, rows), video, scale)

    def _summed(self, strips: list[jax.Array], rows: list[tuple[int, jax.Array]]) -> jax.Array:
        (first, row), *others = rows
        total = self._rows(strips[first], row)
        for i, row in others:
            total = self._add_rows(total, strips[i], row)
        return total


def _accumulate(weight, state, predictions, index, shift):
    """The state `shift` frames later, plus window `index` of the batch of predictions."""
    # Beyond the end comes what is 0: the second half of twice the length.
    doubled = jnp.concatenate([state, jnp.zeros_like(state)])
    moved = lax.dynamic_slice_in_dim(doubled, shift, state.shape[0])
    return moved + weight * lax.dynamic_index_in_dim(predictions, index, keepdims=False)


# Highest: an accelerator's default would round what is to come back unchanged.
product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def _columns(state, scale, columns):
    return product("xw,thwk->thxk", columns, state * scale[:, None, None, None])


def _rows(strip, rows):
    return product("yh,thxk->tyxk", rows, strip)


def _add_columns(total, *args):
    return total + _columns(*args)


def _add_rows(total, *args):
    return total + _rows(*args)
