"""What a person sees of a run in the terminal: progress lines, bars, tables."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self, TypeVar

import rich.console
import rich.progress
import rich.table

T = TypeVar("T")
LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal
_SOON = 2.0  # seconds after which a wait is spoken of there; a shorter one is not

console = rich.console.Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


class Lines:
    """Where there is no terminal, prints a line now and then: whatever the work inside does.

    A context manager. In a terminal it does nothing, a bar or a spinner stands there.
    """

    def __init__(self, line: Callable[[], str], first: float | None = None) -> None:
        """line: says how far the work is; first: seconds until it does, default `LINE_EVERY`."""
        self._line = line
        self._first = LINE_EVERY if first is None else first
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._print, name="lines", daemon=True)

    def _print(self) -> None:
        wait = self._first
        # Who listens may be gone, or their disk full: the work's own lines will say so.
        with contextlib.suppress(OSError):
            while not self._ended.wait(wait):
                console.print(self._line())
                wait = LINE_EVERY

    def __enter__(self) -> Lines:
        if not console.is_terminal:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says what a person waits for, and how long it took if that was more than a moment."""
    start = time.perf_counter()
    elapsed = lambda: time.perf_counter() - start
    spinner = rich.progress.Progress(
        rich.progress.SpinnerColumn(),
        rich.progress.TimeElapsedColumn(),  # first, as it must be seen in narrow terminals, too
        rich.progress.TextColumn("{task.description}", markup=False),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with Lines(lambda: f"{what} … {elapsed():.0f} s", first=_SOON), spinner:
        spinner.add_task(what, total=None)
        yield
    if elapsed() > _SOON:
        console.print(f"{what}: {elapsed():.0f} s")


def waiting_for_first(items: Iterable[T], what: str) -> Iterator[T]:
    """Passes `items` on; shows that the first one is waited for."""
    iterator = iter(items)
    with waiting(what):
        found = list(itertools.islice(iterator, 1))
    yield from found
    yield from iterator


def progress(
    items: Iterable[T], total: int, description: str, *, summary: bool = True
) -> Iterator[T]:
    """Passes `items` on and shows how many of `total` went by; at the end a line, if `summary`."""
    start, done = time.perf_counter(), 0
    elapsed = lambda: time.perf_counter() - start
    tracked = rich.progress.track(
        items, description, total, console=console, disable=not console.is_terminal, transient=True
    )
    with Lines(lambda: f"{description}: {done} of {total}, {elapsed():.0f} s"):
        for item in tracked:
            yield item
            done += 1
    if summary:
        console.print(f"{description}: {total} done in {elapsed():.1f} s")


class _Shown:
    """A bar in a terminal, lines elsewhere, for as long as the context lasts."""

    _bar: rich.progress.Progress
    _lines: Lines

    def __enter__(self) -> Self:
        self._bar.start()
        self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()
        self._bar.stop()


class FramesBar(_Shown):
    """Frames of one video and frames/s: a bar in a terminal, else a line now and then."""

    def __init__(self, name: str, total: int | None, before: str) -> None:
        """total: frames, None where that is not known; before: what the first of them waits for."""
        self._total, self._before, self._frames = total, before, 0
        self._start = time.perf_counter()
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[state]}", markup=False),
            rich.progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=total, state=self._state())
        self._lines = Lines(lambda: f"{name}: {self._state()}", first=_SOON)

    def tick(self, frames: int) -> None:
        """Counts frames that are done."""
        self._frames += frames
        self._bar.update(self._task, completed=self._frames, state=self._state())

    def _state(self) -> str:
        seconds = time.perf_counter() - self._start
        if not self._frames:
            return f"{self._before} … {seconds:.0f} s"
        total = f" of {self._total}" if self._total else ""
        return f"{self._frames}{total} frames, {self._frames / seconds:.1f} frames/s"


class InterruptedJob(BaseException):
    """Ends the work of a thread after Ctrl-C in the main one."""


class JobsBar(_Shown):
    """Videos done and frames/s: a bar in a terminal, else a line now and then.

    Attributes:
      frames: counted so far.
      interrupted: set it, and the next `tick` of every thread raises InterruptedJob.
    """

    def __init__(self, description: str, total: int) -> None:
        self.frames = 0
        self.interrupted = False
        self._lock = threading.Lock()
        self._description, self._total = description, total
        self._ended = self._failed = 0
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[speed]:.1f} frames/s"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(description, total=total, speed=0.0)
        self._start = time.perf_counter()
        self._lines = Lines(self._line)

    def start(self, ended: int) -> None:
        """Begins to measure the speed; `ended` jobs were done before."""
        self._ended = ended
        self._bar.update(self._task, completed=ended)
        self._start = time.perf_counter()

    def tick(self, frames: int) -> None:
        """Counts frames; called by several threads."""
        if self.interrupted:
            raise InterruptedJob
        with self._lock:
            self.frames += int(frames)
        self._bar.update(self._task, speed=self._speed())

    def finish_one(self, failed: bool) -> None:
        """Counts a job that ended."""
        self._ended += 1
        self._failed += failed
        self._bar.advance(self._task)

    def _speed(self) -> float:
        return self.frames / max(time.perf_counter() - self._start, 1e-9)

    def _line(self) -> str:
        return (
            f"{self._description}: {self._ended} of {self._total}, {self._failed} failed, "
            f"{self._speed():.1f} frames/s"
        )


class ProgressLine:
    """Loss, metric, speed and time left: a live bar in a terminal, else a line a log interval."""

    def __init__(self, first_step: int, num_steps: int):
        self._num_steps = num_steps
        self._bar: rich.progress.Progress | None = None  # while it is on the screen
        self.restart(first_step)

    def restart(self, step: int) -> None:
        """Begins to measure the speed, after `step` steps."""
        self._last_step, self._last_time = step, time.perf_counter()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Ends the line; what happens inside counts neither for clips/s nor for the time left."""
        self.end()
        start = time.perf_counter()
        yield
        self._last_time += time.perf_counter() - start

    def end(self) -> None:
        """Leaves a live line as it is, so that something else can be printed below."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, step: int, batch_size: int, values: Mapping[str, float]) -> float | None:
        """Shows the state after `step` steps; returns clips/s since the last update, if known."""
        now = time.perf_counter()
        steps, seconds = step - self._last_step, now - self._last_time
        self.restart(step)
        line = f"step {step:>{len(str(self._num_steps))}}/{self._num_steps}"
        line += "".join(f"  {name} {value:.4f}" for name, value in values.items())
        if not steps:  # the first step: it compiled
            self._show(step, line)
            return None
        left = datetime.timedelta(seconds=round((self._num_steps - step) * seconds / steps))
        speed = steps * batch_size / max(seconds, 1e-9)
        self._show(step, f"{line}  {speed:.1f} clips/s  {left} left")
        return speed

    def _show(self, step: int, line: str) -> None:
        if not console.is_terminal:
            console.print(line)
            return
        if self._bar is None:
            one_line = rich.table.Column(no_wrap=True, overflow="ellipsis")
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn(
                    "{task.fields[line]}", markup=False, table_column=one_line
                ),
                rich.progress.BarColumn(bar_width=20),
                console=console,
                auto_refresh=False,
                redirect_stderr=sys.stderr.isatty(),  # else warnings stay where they are sent
            )
            self._bar.add_task("", total=self._num_steps, line=line)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=step, line=line, refresh=True)


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Prints a table; the first column is left-aligned, the others right-aligned."""
    table = rich.table.Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
