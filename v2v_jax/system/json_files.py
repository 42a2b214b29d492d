"""JSON that somebody else may have written: an object, or a ValueError that says what it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

_DEEPEST = 100  # levels: who walks through what was read must get to its end


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object that a text holds.

    Raises:
      ValueError: it is not JSON, JSON of another type, or nested too deeply; in one line.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:  # also of bytes that are no text
        raise ValueError(f"it is not JSON: {str(error)[:200]}") from error
    if _is_deep(text, found):
        raise ValueError("it is nested too deeply")
    if not isinstance(found, dict):
        raise ValueError(f"it is JSON of another type ({type(found).__name__})")
    return found


def _is_deep(text: str | bytes, found: Any) -> bool:
    """Whether it has more levels than _DEEPEST; looked at only where it has as many brackets."""
    opening = sum(map(text.count, (b"[", b"{") if isinstance(text, bytes) else ("[", "{")))
    level = [found] if opening > _DEEPEST else []
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
    return any(isinstance(value, list | dict) for value in level)


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
