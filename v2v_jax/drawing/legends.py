"""Legends: what the colours of a picture mean, to be drawn at any width, or set as text on a page.

A legend knows what it says; `picture` draws it on white. `strip` puts some of them into a strip as
wide as a video, to be shown below it.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from v2v_jax.drawing.layout import GAP, INK, TEXT_SIZE, center, join, text_picture

_PER_LINE = 5  # chips, where there is no width to fit
_TICK_WIDTH = 5  # of a number on a bar, in heights of the text
_LEAST_TEXT, _MOST_TEXT = 11, 40  # px
LEAST_WIDTH = 64  # px; in a narrower strip nothing could be read


class Legend(abc.ABC):
    """What the colours of a picture mean."""

    @abc.abstractmethod
    def picture(self, width: int | None = None, text_size: int = TEXT_SIZE) -> np.ndarray:
        """Draws it on white.

        Args:
          width: pixels that it may take, at least `LEAST_WIDTH`; None: as many as it wants.
          text_size: of letters, in pixels.

        Returns:
          (h,w,3) uint8 RGB, w at most `width`.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Chips(Legend):
    """A patch of its colour before each name.

    Attributes:
      names: K names.
      chips: (K,n,n,3) uint8 RGB; what is larger is filled with copies.
      left_out: how many more names there are that do not fit.
    """

    names: Sequence[str]
    chips: np.ndarray
    left_out: int = 0

    def picture(self, width: int | None = None, text_size: int = TEXT_SIZE) -> np.ndarray:
        names = [*self.names, *([f"… {self.left_out} more"] if self.left_out else [])]
        widest = max(text_picture(name, size=text_size).shape[1] for name in names)
        if width is not None:
            widest = min(widest, width - text_size - 2 - 2 * GAP)
        entries = [
            join([self._chip(i, text_size), text_picture(n, widest, text_size, left=True)], axis=1)
            for i, n in enumerate(names)
        ]
        per_line = _PER_LINE if width is None else max(1, width // entries[0].shape[1])
        per_line = min(per_line, len(entries))
        height = max(entry.shape[0] for entry in entries)
        blank = np.full_like(entries[0], 255)
        entries += [blank] * (-len(entries) % per_line)
        entries = [center(entry, height, entry.shape[1]) for entry in entries]
        lines = [entries[i : i + per_line] for i in range(0, len(entries), per_line)]
        return np.concatenate([np.concatenate(line, axis=1) for line in lines], axis=0)

    def _chip(self, index: int, size: int) -> np.ndarray:
        if index == len(self.names):
            return np.full((size + 2, size + 2, 3), 255, np.uint8)
        copies = -(-size // self.chips.shape[1])
        chip = np.tile(self.chips[index], (copies, copies, 1))[:size, :size]
        return np.pad(chip, ((1, 1), (1, 1), (0, 0)), constant_values=INK)


@dataclasses.dataclass(frozen=True, eq=False)
class ColorBar(Legend):
    """A bar of colours with numbers below its ends and evenly between.

    Attributes:
      table: (N,3) uint8 RGB, from the first number to the last.
      ticks: two numbers or more, with their unit, as text.
    """

    table: np.ndarray
    ticks: Sequence[str]

    def picture(self, width: int | None = None, text_size: int = TEXT_SIZE) -> np.ndarray:
        ticks, cell = list(self.ticks), _TICK_WIDTH * text_size
        if width is not None:
            while len(ticks) > 2 and (cell + GAP) * len(ticks) > width:
                ticks = ticks[::2] if len(ticks) % 2 else [ticks[0], ticks[-1]]
            cell = width // len(ticks) - GAP
        numbers = [text_picture(tick, cell, text_size) for tick in ticks]
        # From the middle of the first number to that of the last.
        length = (cell + GAP) * (len(ticks) - 1)
        bar = self.table[np.linspace(0, len(self.table) - 1, length).round().astype(int)][None]
        return join([np.repeat(bar, text_size, axis=0), join(numbers, axis=1)], axis=0)


@dataclasses.dataclass(frozen=True, eq=False)
class Wheel(Legend):
    """A disc whose colour at an offset from the centre is the colour of that motion.

    Attributes:
      disc: (n,n,3) uint8 RGB on white.
      text: what the edge stands for; "": nothing is said.
    """

    disc: np.ndarray
    text: str = ""

    def picture(self, width: int | None = None, text_size: int = TEXT_SIZE) -> np.ndarray:
        if not self.text:
            return self.disc
        if width is None:
            text = text_picture(self.text, size=text_size)
            return join([self.disc, text], axis=0)
        side = max(1, min(len(self.disc), 4 * text_size, width - GAP))
        shown = Image.fromarray(self.disc).resize((side, side), Image.Resampling.BOX)
        room = width - side - 2 * GAP
        if room < 6 * text_size:  # below the disc
            text = text_picture(self.text, width - GAP, text_size)
            return join([np.asarray(shown), text], axis=0)
        wanted = text_picture(self.text, size=text_size).shape[1]
        text = text_picture(self.text, min(room, wanted), text_size, left=True)
        return join([np.asarray(shown), text], axis=1)


@dataclasses.dataclass(frozen=True)
class Words(Legend):
    """Lines of text, the first one bold."""

    lines: Sequence[str]
    width: int = 400

    def picture(self, width: int | None = None, text_size: int = TEXT_SIZE) -> np.ndarray:
        room = self.width if width is None else min(self.width, width - GAP)
        pictures = [
            text_picture(line, room, text_size, bold=i == 0, left=True)
            for i, line in enumerate(self.lines)
        ]
        return join(pictures, axis=0)


def strip(legends: Sequence[Legend | np.ndarray], size: tuple[int, int]) -> np.ndarray | None:
    """Legends one below the other, to be put below a video.

    Letters are a 24th of the video's shorter side, 11 to 40 pixels. Of many classes as many are
    named as fit into the video's own height.

    Args:
      legends: also (h,w,3) uint8 pictures, which are shrunk to fit.
      size: (H,W) of the video.

    Returns:
      (h,W,3) uint8 RGB on white, h even; None where there is nothing to say, or the video is
      narrower than `LEAST_WIDTH`.
    """
    height, width = size
    if not legends or width < LEAST_WIDTH:
        return None
    text_size = int(np.clip(round(min(size) / 24), _LEAST_TEXT, _MOST_TEXT))
    room = max(height, 12 * text_size)
    parts = [_fitted(legend, room, width, text_size) for legend in legends]
    whole = np.concatenate([center(part, part.shape[0], width) for part in parts], axis=0)
    return center(whole, whole.shape[0] + GAP + whole.shape[0] % 2, width)


def _fitted(legend: Legend | np.ndarray, height: int, width: int, text_size: int) -> np.ndarray:
    if not isinstance(legend, Legend):
        factor = min(1.0, width / legend.shape[1], height / legend.shape[0])
        h, w = (max(1, round(side * factor)) for side in legend.shape[:2])
        return np.asarray(Image.fromarray(legend).resize((w, h), Image.Resampling.BOX))
    picture = legend.picture(width, text_size)
    while isinstance(legend, Chips) and picture.shape[0] > height and len(legend.names) > 1:
        shown = max(1, min(len(legend.names) - 1, len(legend.names) * height // picture.shape[0]))
        rest = legend.left_out + len(legend.names) - shown
        legend = Chips(legend.names[:shown], legend.chips[:shown], rest)
        picture = legend.picture(width, text_size)
    return picture
