"""Where a network's windows lie in a video of any size, and how their answers are blended.

Everything is separable: a window's weight at a voxel is a product of one Gaussian each for T, H and
W, and the windows form a grid. So each axis can be planned, and normalised, alone. In H and W
blending and scaling back to the video's size are linear, and one matrix a window does both. In T
the length is not known beforehand: `time_windows` plans as the frames come.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

# Standard deviation of the Gaussian, as a share of the window. At a window's edge it weighs 3e-4 of
# its middle, so that a window begins and ends without a step: a neighbour that overlaps by a
# quarter has 400 times that weight there.
_SIGMA = 1 / 8


def gaussian(window: int) -> np.ndarray:
    """(window,) float64: the weight of a window's voxels along one axis, 1 in the middle."""
    place = np.arange(window) - (window - 1) / 2
    return np.exp(-0.5 * (place / (_SIGMA * window)) ** 2)


def stride_of(window: int, overlap: float) -> int:
    """Voxels from one window's start to the next one's, at least 1.

    Raises:
      ValueError: overlap is not in 0 <= overlap < 1.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}; expected a share of the window, 0 <= overlap < 1.")
    return max(1, round(window * (1 - overlap)))


def window_starts(length: int, window: int, overlap: float) -> np.ndarray:
    """The starts of as few windows as cover an axis, evenly spaced; neighbours share `overlap`.

    Args:
      length: of the axis, at least `window`.
      window: voxels.
      overlap: least share of a window that the next one covers too, 0 <= overlap < 1.

    Returns:
      (N,) int64, ascending, the first 0 and the last length - window.
    """
    steps = -(-(length - window) // stride_of(window, overlap))
    return np.linspace(0, length - window, steps + 1).round().astype(np.int64)


def nearest_multiple(side: int, multiple: int) -> int:
    """The multiple next to `side`, the smaller of two; `side` itself if it is over a tenth away."""
    nearest = max(1, -(-(2 * side - multiple) // (2 * multiple))) * multiple
    return nearest if abs(nearest - side) <= side / 10 else side


def window_sides(
    size: tuple[int, int],
    clip: tuple[int, int],
    multiples: tuple[int, int],
    overlap: float,
    most: int,
) -> tuple[int, int]:
    """(H,W) of the windows by which a network computes a frame with the fewest voxels.

    Tiles of the training clip compute a frame that is a little larger several times over; one
    window that is as large as the frame computes it once. Where that would be too large, it is the
    grid of larger windows that costs least.

    Args:
      size: (H,W) of the frames.
      clip: (H,W) of the training clip. Windows are smaller only where one covers the frame.
      multiples: of H and W that the network takes.
      overlap: see `window_starts`.
      most: voxels of a window, at least the clip's.
    """
    axes = [_window_counts(*axis, overlap) for axis in zip(size, clip, multiples)]
    grids = [
        (h * rows * w * columns, rows * columns, (h, w))
        for (h, rows), (w, columns) in itertools.product(*axes)
        if h * w <= most
    ]
    return min(grids)[2]


def _window_counts(length: int, clip: int, multiple: int, overlap: float) -> list[tuple[int, int]]:
    """(side, windows) along an axis: one window that covers it, then ever more and smaller ones."""
    side = -(-length // multiple) * multiple
    found = [(side, 1)]
    while side > clip:
        side = max(clip, side - multiple)
        count = len(window_starts(max(length, side), side, overlap))
        if count == found[-1][1]:  # as many windows, but smaller ones
            found[-1] = (side, count)
        else:
            found.append((side, count))
    return found


def blending_weights(starts: np.ndarray, window: int, length: int) -> np.ndarray:
    """(N,window) float64: the windows' weights; over the windows they sum to 1 at every voxel."""
    weights = np.tile(gaussian(window), (len(starts), 1))
    places = starts[:, None] + np.arange(window)
    total = np.bincount(places.ravel(), weights.ravel(), minlength=length)
    return weights / total[places]


def resize_matrix(size: int, target: int) -> np.ndarray:
    """(target,size) float64: linear interpolation, antialiased where it shrinks; rows sum to 1.

    Voxels are areas: the edges of the first and the last one stay where they are.
    """
    scale = size / target
    places = (np.arange(target) + 0.5) * scale - 0.5
    distance = np.abs(places[:, None] - np.arange(size))
    weights = np.maximum(0.0, 1.0 - distance / max(scale, 1.0))
    return weights / weights.sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Axis:
    """The windows along H or W.

    Attributes:
      length: of the frames that the network sees.
      before, after: voxels of padding, where a frame is smaller than the window.
      starts: (N,) int64, in the padded frame.
      matrices: (N,target,window) float32: what each window's voxels add to each voxel of the
        output; over all windows, a row sums to 1.
    """

    length: int
    before: int
    after: int
    starts: np.ndarray
    matrices: np.ndarray

    @property
    def target(self) -> int:
        """Voxels of the output."""
        return self.matrices.shape[1]


def plan_axis(length: int, target: int, window: int, overlap: float) -> Axis:
    """Windows along an axis of `length` voxels, of which the output has `target`.

    A frame smaller than the window is padded on both sides; what the network answers on the padding
    has no weight.
    """
    padded = max(length, window)
    before = (padded - length) // 2
    starts = window_starts(padded, window, overlap)
    weights = blending_weights(starts, window, padded)
    resize = resize_matrix(length, target)
    whole = np.zeros((target, padded))
    whole[:, before : before + length] = resize
    places = starts[:, None] + np.arange(window)
    matrices = whole.T[places] * weights[..., None]  # (N,window,target)
    return Axis(
        length,
        before,
        padded - length - before,
        starts,
        np.ascontiguousarray(matrices.swapaxes(1, 2), dtype=np.float32),
    )


class TimeWindow(NamedTuple):
    """Consecutive frames for the network, and what becomes final with them.

    Attributes:
      items: as many frames as a window has.
      num_items: how many of them the video has; the rest is reflection.
      shift: by how much it begins later than the window before.
      num_final: frames, from the window's first on, which no later window covers.
      scale: (window,) float32: what the sum of Gaussian-weighted answers is multiplied by.
    """

    items: list[Any]
    num_items: int
    shift: int
    num_final: int
    scale: np.ndarray


def time_windows(items: Iterable[Any], window: int, overlap: float) -> Iterator[TimeWindow]:
    """Plans the windows in time as the frames come, keeping less than three windows of frames.

    Windows begin every `stride_of(window, overlap)` frames; the last one ends with the video. A
    video shorter than a window is padded by reflection, over and over if need be.

    Args:
      items: the frames, of any type.
      window: frames.
      overlap: share of a window that the next one covers too, 0 <= overlap < 1.

    Yields:
      Windows whose `num_final` add up to the number of frames; none if there are no frames.
    """
    iterator, stride, weight = iter(items), stride_of(window, overlap), gaussian(window)
    kept: list[Any] = []  # frames from the present window's start on
    total = np.zeros(window)  # the weight that those frames have had
    shift = 0
    while True:
        _fill(kept, iterator, window + stride)
        if not kept:
            return
        count = min(len(kept), window)
        # Fewer frames than the next window would need: the last window ends with them.
        step = min(stride, len(kept) - window) if len(kept) > window else count
        total = total + weight
        order = reflected(count, window)
        yield TimeWindow(
            [kept[i] for i in order], count, shift, step, (1 / total).astype(np.float32)
        )
        if len(kept) <= window:
            return
        del kept[:step]
        total = np.concatenate([total[step:], np.zeros(step)])
        shift = step


def _fill(kept: list[Any], iterator: Iterator[Any], count: int) -> None:
    while len(kept) < count:
        try:
            kept.append(next(iterator))
        except StopIteration:
            return


def reflected(count: int, window: int) -> np.ndarray:
    """(window,) indices 0, 1, … count-1, then back and forth: reflection that repeats no frame."""
    return np.pad(np.arange(count), (0, window - count), mode="reflect")
