"""What a person sees of a run in the terminal: progress lines, bars, tables."""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping

import rich.console
import rich.progress
import rich.table

LINE_EVERY = 30.0  # seconds between lines of progress where there is no terminal

console = rich.console.Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def progress(items: Iterable, total: int, description: str) -> Iterator:
    """Passes `items` on and shows how many of `total` went by (in a terminal as a bar)."""
    start = time.perf_counter()
    yield from rich.progress.track(
        items, description, total, console=console, disable=not console.is_terminal, transient=True
    )
    console.print(f"{description}: {total} done in {time.perf_counter() - start:.1f} s")


class InterruptedJob(BaseException):
    """Ends the work of a thread after Ctrl-C in the main one."""


class JobsBar:
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
        self._start = self._shown = time.perf_counter()

    def start(self, ended: int) -> None:
        """Begins to measure the speed; `ended` jobs were done before."""
        self._ended = ended
        self._bar.update(self._task, completed=ended)
        self._start = self._shown = time.perf_counter()

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
        now = time.perf_counter()
        if not console.is_terminal and now - self._shown > LINE_EVERY:
            self._shown = now
            console.print(
                f"{self._description}: {self._ended}/{self._total}, {self._failed} failed, "
                f"{self._speed():.1f} frames/s"
            )

    def _speed(self) -> float:
        return self.frames / max(time.perf_counter() - self._start, 1e-9)

    def __enter__(self) -> JobsBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


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
