"""Time stamps as they are to be shown: ascending, whatever a file says."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

# Lengths of a frame that a stamp may slip back, by a fault of the file's writer. Further back
# another clock begins, as in files that were joined, and so it does this many seconds ahead.
_SLIP = 4
_LONGEST = Fraction(3600)
_SLACK = 1.5  # how much longer than the shortest frame of an even video the longest may be


class Shown(NamedTuple):
    """When something is shown or heard.

    Attributes:
      begin: seconds on the clock of its file.
      length: seconds.
    """

    begin: Fraction
    length: Fraction


class Clock:
    """Gives the pictures of a stream, or the packets of its sound, times that ascend.

    A stamp that is missing follows from the one before; one that slipped back becomes the next
    possible one. Where another clock begins, the stream goes on without a gap.
    """

    def __init__(self, tick: Fraction, usual: Fraction) -> None:
        """tick: seconds of the stream's unit of time. usual: length of what does not tell its."""
        self._tick, self._usual = tick, usual
        self._offset = Fraction(0)
        self._last: Shown | None = None

    def __call__(self, stamp: int | None, length: int | None = None) -> Shown:
        """The time for the stream's next stamp, with its length where that is known, in ticks."""
        last = self._last
        if stamp is None:
            begin = last.begin + last.length if last else Fraction(0)
        else:
            begin = stamp * self._tick + self._offset
        if last is not None and not last.begin < begin <= last.begin + _LONGEST:
            if last.begin - _SLIP * last.length <= begin <= last.begin:
                begin = last.begin + self._tick
            else:
                self._offset += last.begin + last.length - begin
                begin = last.begin + last.length
        if length:
            lasts = length * self._tick
        elif last is not None:
            lasts = begin - last.begin
        else:
            lasts = self._usual
        self._last = Shown(begin, lasts)
        return self._last


def mean_rate(claimed: Fraction | None, stamps: np.ndarray, tick: Fraction) -> float:
    """Frames a second: what a file claims, if its frames' times agree with it, else theirs.

    Args:
      claimed: by the file's header, which may be a bound on it, or the unit of time.
      stamps: (N,) int64, when frames are shown, ascending, in ticks.
      tick: seconds.
    """
    lengths = _lengths(stamps, tick)
    if not len(lengths):
        return float(claimed or 25)
    seconds = float(lengths.sum() * tick)
    if claimed and abs(len(lengths) / claimed - seconds) <= 2 * tick + seconds / 100:
        return float(claimed)
    return len(lengths) / seconds


def is_even(stamps: np.ndarray, tick: Fraction) -> bool:
    """Whether all frames are shown about as long; see `mean_rate` for the arguments."""
    lengths = _lengths(stamps, tick)
    # Times that were rounded to ticks: a frame may seem one shorter, and another one longer.
    return not len(lengths) or lengths.max() - 1 <= _SLACK * (lengths.min() + 1)


def _lengths(stamps: np.ndarray, tick: Fraction) -> np.ndarray:
    """(N-1,) ticks from each frame to the next; where a clock jumps, the usual length."""
    lengths = np.diff(stamps)
    jumps = lengths > float(_LONGEST / tick)
    return np.where(jumps, np.median(lengths), lengths) if jumps.any() else lengths
