"""Windows cut, blended and scaled back on the device, whole frames at a time.

Meant for accelerators, where many small calls may keep the host busier than the device. Table 2
(experiments.table2) is made with it; elsewhere `Predictor(…, blend="frames")` has to ask for it,
as nobody has measured it there by itself (docs/records/inference.md). Frames go there once, as the
network sees them, and results come back once, of several windows in time together; in between are
three programs (those of `blending` take some forty calls a window). The price is that two of them
are compiled for every size of video. A CPU takes this way where one window covers a frame: two
programs are loaded or compiled in half the time of tiles' eight, and nothing beyond the frame is
computed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from v2v_jax.inference.blending import on_device, product
from v2v_jax.inference.plans import Frame, Plan
from v2v_jax.inference.windows import Axis, TimeWindow, gaussian, reflected, stride_of

_MOST_BYTES = 2**30  # of the answers for a window in time, and of these at the video's size
# What goes at once, at least a window in time: more frames would make short videos pay for what
# they do not have, and what waits to be written takes about 12 bytes a pixel several times over.
_FRAMES = 96
_FRAME_BYTES = 2**27


class Windows(NamedTuple):
    """Consecutive windows in time, over F frames; those beyond the video's end repeat the last.

    Attributes:
      order: (N,T) int32, each window's frames among the F.
      starts: (N,) int32, its first frame.
      shifts: (N,) int32, by how much it begins later than the window before.
      live: (N,) float32, 0 for those that only fill up.
      scale: (N,T) float32, see `TimeWindow`.
    """

    order: np.ndarray
    starts: np.ndarray
    shifts: np.ndarray
    live: np.ndarray
    scale: np.ndarray


class Layout(NamedTuple):
    """Where the windows of frames of one size lie, on the device.

    Attributes:
      rows, columns: (R,H) and (C,W) int32, each window's rows and columns in a frame without
        padding: reflected beyond its borders.
      row_matrices, column_matrices: (R,Y,H) and (C,X,W) float32, see `Axis`.
      scale: (2,) float32, pixels of the video a pixel that the network sees, (x, y).
    """

    rows: jax.Array
    columns: jax.Array
    row_matrices: jax.Array
    column_matrices: jax.Array
    scale: jax.Array

    @property
    def grid(self) -> tuple[int, int]:
        """(R,C), windows along H and W."""
        return self.rows.shape[0], self.columns.shape[0]


def _layout(plan: Plan) -> Layout:
    axes = (plan.rows, plan.columns)
    places = (_places(axis, side) for axis, side in zip(axes, plan.window[1:]))
    return Layout(*on_device((*places, *(axis.matrices for axis in axes), plan.scale)))


def _places(axis: Axis, window: int) -> np.ndarray:
    padded = np.pad(np.arange(axis.length), (axis.before, axis.after), mode="reflect")
    return padded[axis.starts[:, None] + np.arange(window)].astype(np.int32)


def fits(plan: Plan, num_values: int) -> bool:
    """Whether whole frames, with K values a voxel, leave room in an ordinary device's memory."""
    windows = math.prod(plan.window) * plan.num_windows
    video = plan.window[0] * plan.rows.target * plan.columns.target
    return 4 * num_values * max(windows, video) <= _MOST_BYTES


@dataclasses.dataclass
class FramesResult:
    """Whole frames that the device is computing.

    Attributes:
      frames: that the result is of.
      result: a pytree of (F,…), of which the first are theirs.
    """

    frames: list[Frame]
    result: Any

    def fetch(self) -> Any:
        """Waits for the device."""
        return jax.tree.map(lambda x: np.asarray(x)[: len(self.frames)], self.result)


class FramePrograms:
    """The compiled programs for windows (T,H,W) with K values a voxel."""

    def __init__(self, window: tuple[int, int, int], num_values: int, overlap: float):
        """overlap: share of a window that the next one covers too, in T."""
        self._window, self._num_values = window, num_values
        self._stride = stride_of(window[0], overlap)
        weight = gaussian(window[0]).astype(np.float32)[:, None, None, None]
        self._cut = jax.jit(_cut, static_argnums=0)
        blend = functools.partial(_blend, weight)
        self._blend = jax.jit(blend, static_argnums=(0, 1), donate_argnums=2)

    def dispatch(
        self,
        windows: Iterator[TimeWindow],
        plan: Plan,
        forward: Callable[[jax.Array], jax.Array],
    ) -> Iterator[FramesResult]:
        """Gives the device its work, several windows in time at once.

        Args:
          windows: in time, of `Frame`s.
          forward: (B,T,H,W,3) uint8 → (B,T,H,W,K) float32.

        Yields:
          What it will have computed of consecutive frames.
        """
        layout = _layout(plan)
        most = min(_FRAMES, _FRAME_BYTES // (12 * plan.rows.target * plan.columns.target))
        count = max(1, min(plan.batch_size // plan.num_windows, -(-most // self._stride)))
        batch_size = min(plan.batch_size, count * plan.num_windows)
        length = (count - 1) * self._stride + self._window[0]
        state = np.zeros((*layout.grid, *self._window, self._num_values), np.float32)
        state = on_device(state)
        while some := list(itertools.islice(windows, count)):
            frames, num_final, placed = _gathered(some, count)
            scaled = _stacked([frame.scaled for frame in frames], length)
            video = _stacked([f.whole for f in frames], length) if plan.reads_video else None
            batches = self._cut(batch_size, scaled, placed.order, layout.rows, layout.columns)
            predictions = [forward(batch) for batch in batches]
            state, result = self._blend(
                plan.finish, length, state, predictions, video, placed, layout
            )
            for leaf in jax.tree.leaves(result):
                leaf.copy_to_host_async()
            yield FramesResult(frames[:num_final], result)


def _gathered(some: list[TimeWindow], count: int) -> tuple[list[Frame], int, Windows]:
    """The frames that the windows cover, how many became final, and where the windows lie."""
    t = len(some[0].items)
    items: list[Frame] = []
    starts, start = [], 0
    for number, window in enumerate(some):
        start += window.shift if number else 0
        starts.append(start)
        items += window.items[len(items) - start : window.num_items]
    num_final = start + some[-1].num_final
    filled = [*some, *[some[-1]] * (count - len(some))]
    starts += [start] * (count - len(some))
    live = np.arange(count) < len(some)
    order = [begin + reflected(window.num_items, t) for begin, window in zip(starts, filled)]
    return (
        items,
        num_final,
        Windows(
            np.array(order, np.int32),
            np.array(starts, np.int32),
            np.array([window.shift for window in filled], np.int32) * live,
            live.astype(np.float32),
            np.stack([window.scale for window in filled]),
        ),
    )


def _stacked(frames: list[np.ndarray], length: int) -> np.ndarray:
    """(length,…) of the frames, black after the last one."""
    stacked = np.empty((length, *frames[0].shape), frames[0].dtype)
    np.stack(frames, out=stacked[: len(frames)])
    stacked[len(frames) :] = 0
    return stacked


def _cut(batch_size, frames, order, rows, columns):
    """The windows, row by row, in batches (B,T,H,W,3); the last one is filled up with zeros."""
    take = functools.partial(jnp.take, mode="clip")
    clips = take(frames, order, axis=0)
    cut = take(take(clips, columns, axis=3), rows, axis=2)  # (N,T,R,H,C,W,3)
    n, t, r, h, c, w, _ = cut.shape
    windows = cut.transpose(0, 2, 4, 1, 3, 5, 6).reshape(n * r * c, t, h, w, 3)
    windows = jnp.pad(windows, ((0, -len(windows) % batch_size), *[(0, 0)] * 4))
    return jnp.split(windows, len(windows) // batch_size)


def _blend(weight, finish, length, state, predictions, video, windows, layout):
    """The state after the windows, and what `finish` makes of the F = length frames they cover."""
    (r, c), (n, t) = layout.grid, windows.scale.shape
    predictions = jnp.concatenate(predictions)[: n * r * c]
    predictions = predictions.reshape(n, r, c, *predictions.shape[1:])

    def finished(state, scale, start):
        scaled = state * scale[:, None, None, None]
        strips = product("jxw,ijthwk->ithxk", layout.column_matrices, scaled)
        values = product("iyh,ithxk->tyxk", layout.row_matrices, strips)
        frames = None if video is None else lax.dynamic_slice_in_dim(video, start, t)
        return finish(values, frames, layout.scale)

    def step(carry, window):
        state, result = carry
        answers, start, shift, live, scale = window
        # Beyond the end comes what is 0: the second half of twice the length.
        doubled = jnp.concatenate([state, jnp.zeros_like(state)], axis=2)
        state = lax.dynamic_slice_in_dim(doubled, shift, t, axis=2) + live * weight * answers
        # What is not final yet is written, too, and once more by the window that changes it.
        write = lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, start, 0)
        return (state, jax.tree.map(write, result, finished(state, scale, start))), None

    shapes = jax.eval_shape(finished, state, windows.scale[0], windows.starts[0])
    result = jax.tree.map(lambda x: jnp.zeros((length, *x.shape[1:]), x.dtype), shapes)
    through = (predictions, windows.starts, windows.shifts, windows.live, windows.scale)
    return lax.scan(step, (state, result), through)[0]
