"""Warnings and errors of all libraries as one line each, and lists of names in our own."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import absl.logging

_SHOWN = 5  # names in a message


class OneLineHandler(logging.Handler):
    """Writes `Warning: …` to standard error; above a live line of progress, where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record; its traceback, if it has one, is for developers and left out."""
        try:
            text = " ".join(record.getMessage().splitlines())
            # Looked up now: a live display stands in for it as long as it is shown.
            print(f"{record.levelname.capitalize()}: {text}", file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def install() -> None:
    """Shows warnings and errors by a `OneLineHandler`, and what orbax says of a full disk not.

    orbax tells of a failed write with tracebacks of several threads and of tensorstore's callbacks;
    `Checkpoints` says it once.
    """
    handler = OneLineHandler()
    handler.addFilter(_is_for_people)
    for other in (absl.logging.get_absl_handler(), *logging.root.handlers):
        if isinstance(other, OneLineHandler | absl.logging.ABSLHandler):
            logging.root.removeHandler(other)
    logging.root.addHandler(handler)
    absl.logging.set_verbosity(absl.logging.WARNING)
    sys.unraisablehook = _show_unraisable


@contextlib.contextmanager
def without(message: str) -> Iterator[None]:
    """Keeps the warnings of one message, as it is before its values are put in, off the terminal.

    For who says the same in another way.
    """
    drop = lambda record: record.msg != message
    handlers = list(logging.root.handlers)
    for handler in handlers:
        handler.addFilter(drop)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(drop)


def _is_for_people(record: logging.LogRecord) -> bool:
    if record.name == "asyncio" and "exception was never retrieved" in record.getMessage():
        return False  # one of orbax's writes, of which another one has failed before
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def _show_unraisable(error: Any) -> None:
    """What Python does with an error that nobody can catch, but for those of a write given up."""
    if isinstance(error.exc_value, RuntimeError) and "loop is closed" in str(error.exc_value):
        return  # tensorstore, which goes on writing for an event loop that orbax has left
    sys.__unraisablehook__(error)


def some_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are, for a message."""
    shown = ", ".join(names[:_SHOWN])
    return shown + (f", … {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
