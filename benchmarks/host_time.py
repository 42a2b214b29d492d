"""Where the host's time goes: processor time by process, and where threads stand in Python."""

from __future__ import annotations

import collections
import os
import pathlib
import resource
import sys
import threading
import time
from types import FrameType
from typing import Any, NamedTuple, Self

_EVERY = 0.005  # seconds between samples
_TOP = 15  # lines of code that are shown
_ROOT = str(pathlib.Path(__file__).resolve().parents[1]) + os.sep
# Where a thread stands that waits for another one or for work.
_WAITING = ("threading.py", "queue.py", "thread.py", "_base.py", "selectors.py", "subprocess.py")
_WAITING += ("connection.py",)


class ProcessorTime(NamedTuple):
    """Seconds of processor time: of this process, and of all that it has started."""

    here: float
    others: float

    def since(self, before: ProcessorTime) -> ProcessorTime:
        """What was taken since then."""
        return ProcessorTime(self.here - before.here, self.others - before.others)


def processor_time() -> ProcessorTime:
    """So far; of those that are alive only where there is /proc, as on Linux."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    others = ended.ru_utime + ended.ru_stime
    ticks = os.sysconf("SC_CLK_TCK")
    parents, taken = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(path.parent.name)
        parents[pid], taken[pid] = int(fields[1]), sum(map(int, fields[11:15])) / ticks
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    others += sum(taken[pid] for pid in family - {os.getpid()})
    return ProcessorTime(time.process_time(), others)


class Sampler:
    """Looks every 5 ms at which line of Python every thread of this process stands.

    A thread that waits in C (for a codec, NumPy, a pipe, the device) stands at the line that called
    it, and looks as if it held Python's lock (the GIL). What tells of the lock is how late this
    thread wakes: it gets the lock last, after up to 5 ms for every thread that wants it, too.

        with Sampler() as sampler:
            ...
        print(sampler.text())
    """

    def __init__(self) -> None:
        self._lines: collections.Counter[str] = collections.Counter()
        self._samples = self._standing = 0
        self._late: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        own = threading.get_ident()
        while not self._stop.is_set():
            due = time.perf_counter() + _EVERY
            time.sleep(_EVERY)
            self._late.append(time.perf_counter() - due)
            self._samples += 1
            for ident, frame in sys._current_frames().items():
                if ident != own and not frame.f_code.co_filename.endswith(_WAITING):
                    self._standing += 1
                    self._lines[_place(frame)] += 1

    def result(self) -> dict[str, Any]:
        """For JSON.

        Returns:
          samples; threads: the mean number that did not wait for another one; late_ms: the mean
          time that the sampler waited for Python's lock; lines: (share of the samples, line).
        """
        samples = max(1, self._samples)
        return {
            "samples": self._samples,
            "threads": self._standing / samples,
            "late_ms": 1e3 * sum(self._late) / samples,
            "lines": [(n / samples, line) for line, n in self._lines.most_common(_TOP)],
        }

    def text(self) -> str:
        """`result` in lines."""
        found = self.result()
        head = (
            f"{found['samples']} samples: {found['threads']:.1f} threads not waiting for another "
            f"one; {found['late_ms']:.1f} ms until the sampler had Python's lock"
        )
        return "\n".join([head, *(f"  {share:7.1%}  {line}" for share, line in found["lines"])])


def _place(frame: FrameType) -> str:
    """The line of this repository that a thread is at, and the function below it that it called."""
    leaf = frame
    inner = frame
    while not inner.f_code.co_filename.startswith(_ROOT) or ".venv" in inner.f_code.co_filename:
        if inner.f_back is None:
            inner = leaf
            break
        inner = inner.f_back
    name = inner.f_code.co_filename.removeprefix(_ROOT)
    place = f"{name}:{inner.f_lineno} {inner.f_code.co_name}"
    return place if inner is leaf else f"{place} → {leaf.f_code.co_name}"
