"""JSON that somebody else may have written: an object, or a ValueError that says what it is."""

from __future__ import annotations

import json
from typing import Any


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
    if not isinstance(found, dict):
        raise ValueError(f"it is JSON of another type ({type(found).__name__})")
    return found
