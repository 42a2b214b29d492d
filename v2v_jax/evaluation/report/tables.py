"""Tables of a page: what the template `parts.html` makes HTML of, and how numbers are written."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
      name: what it is about.
      cells: the rest of it.
      note: said beside the name of the row to look at.
      color: RGB of a patch before the name.
      key: the name in files, where `name` is for people.
      best: the number of the cell that is the best one; None: none is.
    """

    name: str
    cells: Sequence[str]
    note: str = ""
    color: tuple[int, ...] | None = None
    key: str = ""
    best: int | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A caption, the titles of all columns, and the rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]


def number(value: float | None) -> str:
    """Four decimals; empty for what does not exist, a dash for what is not known."""
    if value is None:
        return ""
    return f"{value:.4f}" if math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """ "42 s", "3 min 5 s", "2 h 7 min", "3 d 4 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    left = datetime.timedelta(seconds=round(seconds))
    minutes, rest = divmod(left.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if left.days:
        return f"{left.days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
