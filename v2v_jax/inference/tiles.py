"""Windows cut on the host, and blended on the device tile by tile: no size of video compiles anew.

See `blending` for the programs, and `whole_frames` for the other way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from v2v_jax.inference import blending
from v2v_jax.inference.blending import TILE, Blender, Tiles, cut_tiles
from v2v_jax.inference.plans import Frame, Plan
from v2v_jax.inference.windows import TimeWindow


def dispatch(
    windows: Iterator[TimeWindow],
    plan: Plan,
    blender: Blender,
    forward: Callable[[np.ndarray], jax.Array],
) -> Iterator[TilesResult]:
    """Gives the device its work, batch by batch of windows.

    Args:
      windows: in time, of `Frame`s.
      blender: for the plan's windows.
      forward: (B,T,H,W,3) uint8 → (B,T,H,W,K) float32.

    Yields:
      What it will have computed of one window in time after the other.
    """
    tiles = cut_tiles(plan.rows), cut_tiles(plan.columns)
    states = [[blender.empty_state() for _ in plan.columns.starts] for _ in plan.rows.starts]
    for batch, cuts in _batches(windows, plan):
        predictions = forward(batch)
        for index, (window, i, j) in enumerate(cuts):
            states[i][j] = blender.accumulate(
                states[i][j], predictions, np.int32(index), np.int32(window.shift)
            )
            if (i + 1, j + 1) == (len(states), len(states[0])):
                yield _result(window, states, plan, blender, *tiles)


@dataclasses.dataclass
class TilesResult:
    """Tiles that the device is computing.

    Attributes:
      frames: that the result is of.
      size: (H,W) of the video.
      tiles: (top, left, a pytree of (T,TILE,TILE,…)).
    """

    frames: list[Frame]
    size: tuple[int, int]
    tiles: list[tuple[int, int, Any]]

    def fetch(self) -> Any:
        """Waits for the device and puts the tiles together."""
        tops, lefts, tiles = zip(*self.tiles)
        return jax.tree.map(lambda *parts: self._together(tops, lefts, parts), *tiles)

    def _together(
        self, tops: tuple[int, ...], lefts: tuple[int, ...], tiles: tuple[jax.Array, ...]
    ) -> np.ndarray:
        count = len(self.frames)
        values = np.empty((count, *self.size, *tiles[0].shape[3:]), tiles[0].dtype)
        for top, left, tile in zip(tops, lefts, tiles):
            part = values[:, top : top + TILE, left : left + TILE]
            part[...] = np.asarray(tile)[:count, : part.shape[1], : part.shape[2]]
        return values


_Cut = tuple[TimeWindow, int, int]  # and the numbers of the window along H and W


def _batches(windows: Iterator[TimeWindow], plan: Plan) -> Iterator[tuple[np.ndarray, list[_Cut]]]:
    """Cuts the windows out of the frames, row by row: (B,T,H,W,3) uint8 and what they are.

    The last batch is filled up with zeros.
    """
    t, h, w = plan.window
    margins = [(axis.before, axis.after) for axis in (plan.rows, plan.columns)]
    batch, cuts = None, []
    for window in windows:
        clip = np.stack([frame.scaled for frame in window.items])
        clip = np.pad(clip, [(0, 0), *margins, (0, 0)], mode="reflect")
        for i, top in enumerate(plan.rows.starts):
            for j, left in enumerate(plan.columns.starts):
                if batch is None:  # a new one each time: the device may still read the last one
                    batch = np.zeros((plan.batch_size, t, h, w, 3), np.uint8)
                batch[len(cuts)] = clip[:, top : top + h, left : left + w]
                cuts.append((window, i, j))
                if len(cuts) == plan.batch_size:
                    yield batch, cuts
                    batch, cuts = None, []
    if cuts:
        yield batch, cuts


def _result(
    window: TimeWindow,
    states: list[list[jax.Array]],
    plan: Plan,
    blender: Blender,
    row_tiles: Tiles,
    column_tiles: Tiles,
) -> TilesResult:
    frames = window.items[: window.num_final]
    scale = blending.on_device(window.scale)
    tiles = []
    for left, columns in zip(column_tiles.starts, column_tiles.matrices):
        strips = [blender.strip(row, scale, columns) for row in states]
        for top, rows in zip(row_tiles.starts, row_tiles.matrices):
            video = None
            if plan.reads_video:
                video = _tile_of_frames(
                    [frame.whole for frame in frames], top, left, len(window.items)
                )
            tile = blender.tile(strips, rows, plan.finish, video, plan.scale)
            for leaf in jax.tree.leaves(tile):
                leaf.copy_to_host_async()
            tiles.append((top, left, tile))
    return TilesResult(frames, (row_tiles.target, column_tiles.target), tiles)


def _tile_of_frames(frames: list[np.ndarray], top: int, left: int, length: int) -> np.ndarray:
    """(length,TILE,TILE,3) uint8, black beyond the frames' borders."""
    tile = np.zeros((length, TILE, TILE, 3), np.uint8)
    for place, frame in zip(tile, frames):
        part = frame[top : top + TILE, left : left + TILE]
        place[: part.shape[0], : part.shape[1]] = part
    return tile
