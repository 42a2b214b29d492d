"""Preemption: SIGTERM asks a run to save and end; all its processes stop after the same step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from v2v_jax.errors import Stopped


class StopRequest:
    """Whether SIGTERM has asked the run to end; a context manager around training.

    With one process a handler of its own notes the signal, or ends the run at once (`Stopped`) as
    long as there is nothing to save. With several, JAX's preemption service tells all of them of
    the signal that any of them got, and they agree on the call of `reached` that answers True.
    """

    def __init__(self) -> None:
        self._asked = False
        self._armed = False
        self._calls = 0
        self._several = jax.process_count() > 1
        self._previous: Any = None

    def __enter__(self) -> StopRequest:
        if not self._several and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def arm(self) -> None:
        """From now on there is something to save: the signal is only noted.

        Raises:
          Stopped: it came before, and what it raised then was lost: in a callback of the garbage
            collector, for instance, no exception gets through.
        """
        self._armed = True
        if self._asked:
            raise _nothing_saved()

    def reached(self) -> bool:
        """Whether to save and end now; called by all processes, at the same places of the run."""
        if not self._several:
            return self._asked
        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True  # first: whatever becomes of the exception
        if not self._armed:
            raise _nothing_saved()


def _nothing_saved() -> Stopped:
    return Stopped("Stopped by SIGTERM before the first step; nothing was to be saved.")
