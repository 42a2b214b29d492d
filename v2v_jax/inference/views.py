"""What an MP4 of predictions shows: views, a legend, one scale of colours for all frames."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np

from v2v_jax.drawing.legends import Legend, strip
from v2v_jax.errors import ConfigError, UserError
from v2v_jax.inference.predictor import Chunk, Predictor
from v2v_jax.media.frame_sources import FrameSource
from v2v_jax.system import processors
from v2v_jax.tasks import Task

View = Literal["overlay", "plain", "side_by_side"]
VIEWS: tuple[View, ...] = ("overlay", "plain", "side_by_side")

_GAP = 4  # px between pictures side by side
_BEGINNING = 16  # frames of a video that its scale of colours is taken from
_MOMENTS = 2  # of a video, beside its beginning, that the scale is taken from
_VOXELS = 50_000  # of a frame; more do not change a percentile


class Drawing:
    """Turns predictions into pictures, chunk after chunk, on one scale for the whole video."""

    def __init__(
        self,
        task: Task,
        view: View,
        *,
        legend: bool = False,
        color_scale: tuple[float, ...] | None = None,
        elsewhere: Callable[[], Iterable[np.ndarray]] = tuple,
    ):
        """A drawing of one video.

        Args:
          view: see `draw`.
          legend: whether a strip below the picture says what the colours mean.
          color_scale: what the colours stand for, as `Task.drawing_scale` gives it, so that several
            videos have the same; None: it is taken from the video.
          elsewhere: gives results (n,h,w,…) of other parts of the video, which the scale is taken
            from together with the first chunk. A scale once taken stays: what is beyond it later
            has the colour of its ends, and no frame is drawn on another scale than its neighbour.
        """
        self._task, self._view = task, view
        self._lies_over = task.overlays and view != "plain"
        self._legend, self._elsewhere = legend, elsewhere
        self._scale = color_scale
        self._strip: np.ndarray | None = None

    def draw(self, chunk: Chunk) -> np.ndarray:
        """(n,H',W',3) uint8 RGB; H' is H without a legend, W' is W but for "side_by_side".

        View "plain" is the prediction's colours; "overlay" lays them half transparent over the
        video, but for a background (what cannot lie over it, such as a colouring, is plain);
        "side_by_side" has the input as the network sees it (of a colouring, its grey) on the left
        and the overlay on the right.
        """
        if self._scale is None:
            self._scale = self._scale_for(chunk.values[:_BEGINNING])
        # Frame by frame, which stays in a processor's cache, by threads: NumPy lets them run.
        frames = range(len(chunk.frames))
        colors = np.stack(
            list(_threads().map(lambda k: self._drawn(*(x[k : k + 1] for x in chunk))[0], frames))
        )
        return self._with_legend(colors) if self._legend else colors

    def _drawn(self, frames: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Without the legend."""
        if self._lies_over:
            colors = self._task.overlay(frames, values, *self._scale)
        else:
            colors = self._task.draw(values, *self._scale)
        if self._view == "side_by_side":
            left = self._task.shown_input(frames)
            gap = np.full((*left.shape[:2], _GAP, 3), 255, np.uint8)
            colors = np.concatenate([left, gap, colors], axis=2)
        return colors

    def legends(self) -> tuple[Legend | np.ndarray, ...]:
        """What the colours mean, once something is drawn."""
        assert self._scale is not None
        of_task = self._task.overlay_legends if self._lies_over else self._task.legends
        return of_task(*self._scale)

    def _scale_for(self, values: np.ndarray) -> tuple[float, ...]:
        scale = self._task.drawing_scale(values)
        if not scale:
            return scale
        others = list(self._elsewhere())
        if not others:
            return scale
        # One list of voxels, (N,1,1,…), as moments may differ in length.
        flat = [each.reshape(-1, 1, 1, *each.shape[3:]) for each in (thinned(values), *others)]
        return self._task.drawing_scale(np.concatenate(flat))

    def _with_legend(self, pictures: np.ndarray) -> np.ndarray:
        _, h, w, _ = pictures.shape
        if self._strip is None:
            legends = self.legends()
            # The encoder needs even heights: without a legend it repeats the last row, too.
            self._strip = strip(legends, (h, w)) if legends else None
            if self._strip is None:
                self._legend = False
                return pictures
        even = h + h % 2
        result = np.empty((len(pictures), even + len(self._strip), w, 3), np.uint8)
        result[:, :h], result[:, h:even], result[:, even:] = pictures, pictures[:, -1:], self._strip
        return result


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    """Draw frames, for all videos."""
    return concurrent.futures.ThreadPoolExecutor(min(8, processors.count()), "drawing")


def parse_color_scale(text: str, task: Task) -> tuple[float, ...]:
    """Reads `--color_scale`: the numbers of `Task.drawing_scale`, with commas.

    Raises:
      ConfigError: the task has no such scale, or other numbers.
    """
    names = task.scale_numbers
    if not names:
        raise ConfigError(f"The task {task.name} has no scale of colours; leave --color_scale out.")
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    least = 0.0 if task.scale_is_positive else -math.inf
    growing = all(a < b for a, b in itertools.pairwise((least, *numbers, math.inf)))
    if len(numbers) != len(names) or not growing:  # nan is not, either
        kind = " above 0" if task.scale_is_positive else ""
        order = ", the smaller one first" if len(names) > 1 else ""
        count = f"{len(names)} numbers" if len(names) > 1 else "a number"
        raise ConfigError(
            f"--color_scale={text}; the task {task.name} takes --color_scale={','.join(names)}: "
            f"{count}{kind}{order}."
        )
    return numbers


def other_moments(predictor: Predictor, source: FrameSource) -> Iterator[np.ndarray]:
    """Predicts a clip from the middle and one from the end of a video that can be read again.

    Yields:
      (n,h,w,…) results, thinned out; none of a stream, of a video of one clip, and of what cannot
      be read there.
    """
    length = predictor.network.clip[0]
    if source.read is None or source.num_frames is None or source.num_frames <= length:
        return
    last = source.num_frames - length
    for number in range(1, _MOMENTS + 1):
        start = round(last * number / _MOMENTS)
        try:
            frames = source.read(start, start + length)
        except UserError:  # said when the frames are reached
            return
        for _, values in predictor.chunks(frames):
            yield thinned(values)


def thinned(values: np.ndarray) -> np.ndarray:
    """Every nth row and column of results (n,H,W,…), about 50,000 voxels a frame."""
    _, h, w = values.shape[:3]
    step = max(1, round((h * w / _VOXELS) ** 0.5))
    return values[:, ::step, ::step]
