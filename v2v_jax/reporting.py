"""What a person sees of a run: the progress line, metrics.jsonl, TensorBoard events, the table."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import rich.console
import rich.progress
import rich.table
from absl import logging

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


class MetricsLog:
    """Appends to workdir/metrics.jsonl and workdir/tensorboard; only the first process writes.

    On a full disk lines wait in memory until there is room again; TensorBoard's events stop.

    Args:
      workdir: the run's folder.
      first_step: lines of later steps, which a killed run left behind, are dropped.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, active: bool = True):
        self._active = active
        if not active:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / "metrics.jsonl"
        _drop_later_lines(self._path, first_step)
        self._file = self._path.open("ab", buffering=0)
        self._waiting = b""
        self._full = False
        self._events = _Events(workdir / "tensorboard", first_step)

    def write(self, step: int, prefix: str, values: Mapping[str, float]) -> None:
        """Writes {"step": step, "prefix/name": value, …}; what is not finite becomes null."""
        if not self._active:
            return
        line: dict[str, float | int | None] = {"step": step}
        for name, value in values.items():
            line[f"{prefix}/{name}"] = float(value) if np.isfinite(value) else None
        self._append(line)
        self._events.add(step, {name: value for name, value in line.items() if name != "step"})

    def write_event(self, step: int, name: str, values: Mapping[str, Any]) -> None:
        """Writes {"step": step, "name/key": value, …} of any JSON-ready values."""
        if self._active:
            self._append({"step": step, **{f"{name}/{key}": v for key, v in values.items()}})

    def _append(self, line: Mapping[str, Any]) -> None:
        self._waiting += json.dumps(line).encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not self._full:
                logging.error(
                    "Cannot write %s (%s); its lines wait in memory until there is room.",
                    *(self._path, error.strerror),
                )
            self._full = True
        else:
            self._full = False

    def sync(self) -> None:
        """Puts the lines on the disk: before a checkpoint that stands for their steps."""
        if self._active:
            with contextlib.suppress(OSError):  # the next line will say what is wrong
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes both files."""
        if self._active:
            self._file.close()
            self._events.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Events:
    """TensorBoard's event file, written at once: SummaryWriter would hang when its disk is full."""

    def __init__(self, folder: pathlib.Path, first_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event = Event
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._writer: EventsWriter | None = EventsWriter(
            str(folder / "events"), f".{os.getpid()}.{first_step}"
        )
        # TensorBoard drops what earlier files say of the steps from this one on.
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=first_step + 1, session_log=start))

    def add(self, step: int, values: Mapping[str, float | None]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            if value is not None:
                summary = scalar(name, value)
                self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            logging.error("Cannot write to %s (%s); it ends here.", self._folder, error.strerror)
            self._writer = None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _drop_later_lines(path: pathlib.Path, first_step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= first_step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # the half line of a killed run
    write_text(path, "".join(kept))


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


class ProgressLine:
    """Loss, metric, speed and time left: a live line in a terminal, else one a log interval."""

    def __init__(self, first_step: int, num_steps: int):
        self._num_steps = num_steps
        self._live = console.is_terminal
        self._shown = False  # a live line is on the screen
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
        if self._shown:
            console.print()
            self._shown = False

    def update(self, step: int, batch_size: int, values: Mapping[str, float]) -> float | None:
        """Shows the state after `step` steps; returns clips/s since the last update, if known."""
        now = time.perf_counter()
        steps, seconds = step - self._last_step, now - self._last_time
        self.restart(step)
        line = f"step {step:>{len(str(self._num_steps))}}/{self._num_steps}"
        line += "".join(f"  {name} {value:.4f}" for name, value in values.items())
        if not steps:  # the first step: it compiled
            self._show(line)
            return None
        left = datetime.timedelta(seconds=round((self._num_steps - step) * seconds / steps))
        speed = steps * batch_size / max(seconds, 1e-9)
        self._show(f"{line}  {speed:.1f} clips/s  {left} left")
        return speed

    def _show(self, line: str) -> None:
        if self._live:
            # Cut to the terminal's width: a line that wraps could not be cleared.
            console.file.write(f"\r\x1b[K{line[: console.width - 1]}")
            console.file.flush()
            self._shown = True
        else:
            console.print(line)


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Prints a table; the first column is left-aligned, the others right-aligned."""
    table = rich.table.Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
