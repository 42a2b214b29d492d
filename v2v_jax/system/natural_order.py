"""The order of names that people expect: `clip2` before `clip10`."""

from __future__ import annotations

import re


def natural_key(name: str) -> list[str | int]:
    """A sort key that puts `clip2` before `clip10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
