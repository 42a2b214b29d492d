"""Preemption: SIGTERM and Ctrl-C ask a run to save and end; its processes stop after one step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from v2v_jax.errors import INTERRUPTED, Stopped

_SAVING = b"\nInterrupted: the run is saved first. Press Ctrl-C again to end without saving.\n"


class StopRequest:
    """Whether SIGTERM or Ctrl-C has asked the run to end; a context manager around training.

    With one process a handler of its own notes the signal, or ends the run at once as long as there
    is nothing to save. With several, JAX's preemption service tells all of them of the SIGTERM that
    any of them got, and they agree on the call of `reached` that answers True; Ctrl-C becomes a
    SIGTERM. A second Ctrl-C ends the process without saving.
    """

    def __init__(self) -> None:
        self._asked: str | None = None  # what did
        self._interrupts = 0
        self._armed = False
        self._calls = 0
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        if not self._several:
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminated)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """From now on there is something to save: the signal is only noted.

        Raises:
          Stopped, KeyboardInterrupt: it came before, and what it raised then was lost: in a
            callback of the garbage collector, for instance, no exception gets through.
        """
        self._armed = True
        if self._asked == "Ctrl-C":
            raise KeyboardInterrupt
        if self._asked:
            raise _nothing_saved()

    def reached(self) -> bool:
        """Whether to save and end now; called by all processes, at the same places of the run."""
        if not self._several:
            return self._asked is not None
        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)

    def stopped(self, where: str) -> Stopped:
        """What to raise when all is saved."""
        cause = self._asked or "SIGTERM"
        return Stopped(f"Stopped by {cause} {where}", INTERRUPTED if cause == "Ctrl-C" else 0)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        self._asked = self._asked or "SIGTERM"  # first: whatever becomes of the exception
        if not self._armed:
            raise _nothing_saved()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        self._asked = self._asked or "Ctrl-C"
        if self._interrupts > 1 or not self._armed:
            raise KeyboardInterrupt
        os.write(2, _SAVING)  # print would fail where the signal came while something was printed
        if self._several:
            signal.raise_signal(signal.SIGTERM)


def _nothing_saved() -> Stopped:
    return Stopped("Stopped by SIGTERM before the first step; there was nothing to save yet.")
