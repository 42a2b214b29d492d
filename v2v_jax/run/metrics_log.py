"""metrics.jsonl and TensorBoard's events: what a run measured, step by step."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from v2v_jax.system.json_files import parse_object
from v2v_jax.system.whole_files import sync_folder, write_text

EVALUATION = "eval"  # prefix of an evaluation's values


class MetricsLog:
    """Appends to workdir/metrics.jsonl and workdir/tensorboard; only the first process writes.

    On a full disk lines wait in memory until there is room again; TensorBoard's events stop.

    Args:
      workdir: the run's folder.
      first_step: lines of later steps, which a killed run left behind, are dropped.
      evaluated: whether that step's evaluation is done; else lines of it are dropped, too.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        first_step: int,
        active: bool = True,
        *,
        evaluated: bool = True,
    ):
        self._active = active
        if not active:
            return
        workdir.mkdir(parents=True, exist_ok=True)
        self._path = workdir / "metrics.jsonl"
        _drop_later_lines(self._path, first_step, evaluated)
        self._file = self._path.open("ab", buffering=0)
        with contextlib.suppress(OSError):
            sync_folder(workdir)  # else a power cut may lose a new file with all of its lines
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


def _drop_later_lines(path: pathlib.Path, first_step: int, evaluated: bool) -> None:
    if not path.exists():
        return
    kept = []
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = parse_object(text)
            again = line["step"] == first_step and not evaluated and f"{EVALUATION}/" in text
            if line["step"] <= first_step and not again:
                kept.append(text + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the half line of a killed run, or what somebody else has written
    write_text(path, "".join(kept))
