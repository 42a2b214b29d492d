"""The errors that a person is meant to read.

A program (`train.py`, `eval.py`) prints the message of a `UserError` as one sentence and exits with
status 1; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

INTERRUPTED = 130  # a program's exit status after Ctrl-C, as shells have it


class UserError(Exception):
    """Something outside the program is wrong: the message names what, where and the remedy."""


class ConfigError(UserError):
    """A configuration key or value that the program does not know."""


class DataError(UserError):
    """A dataset is missing, incomplete or inconsistent."""


class CorruptVideoError(DataError):
    """One video cannot be read; training skips it, counts it and goes on."""


class TooManyCorruptError(DataError):
    """More videos of a dataset cannot be read than are passed over.

    Attributes:
      corrupt: (name, reason) of each.
    """

    def __init__(self, message: str, corrupt: Sequence[tuple[str, str]]) -> None:
        super().__init__(message)
        self.corrupt = list(corrupt)


class CheckpointError(UserError):
    """A checkpoint is missing or does not fit the configuration."""


class WeightsError(UserError):
    """A weight file is damaged, unsafe, of an unknown format, or of another network."""


class Stopped(Exception):
    """The run was asked to end, and has saved what there is: no error.

    Attributes:
      status: of the program's exit: 0 after SIGTERM; 130 after Ctrl-C, so that commands which were
        to follow do not.
    """

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status
