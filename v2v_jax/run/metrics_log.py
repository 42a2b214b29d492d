"""metrics.jsonl: what a run measured, step by step."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

from v2v_jax.system.json_files import parse_object
from v2v_jax.system.whole_files import sync_folder, write_text

# Prefixes of the values of a logged step and of an evaluation.
TRAINING, EVALUATION = "train", "eval"


class MetricsLog:
    """Appends to workdir/metrics.jsonl; only the first process writes.

    On a full disk lines wait in memory until there is room again.

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

    def write(self, step: int, prefix: str, values: Mapping[str, float]) -> None:
        """Writes {"step": step, "prefix/name": value, …}; what is not finite becomes null."""
        if not self._active:
            return
        line: dict[str, float | int | None] = {"step": step}
        for name, value in values.items():
            line[f"{prefix}/{name}"] = float(value) if np.isfinite(value) else None
        self._append(line)

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
        """Closes the file."""
        if self._active:
            self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
