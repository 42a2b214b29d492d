"""sessions.jsonl: on what a run was trained, and for how long.

A session is one process's part of the training, from its start, or from a checkpoint, to its end.
The file is apart from metrics.jsonl, which is the same however often a run was interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import pathlib
import time
from typing import Any

import jax

import v2v_jax
from v2v_jax.system import hardware
from v2v_jax.system.json_files import parse_object

_NAME = "sessions.jsonl"


class Session:
    """Appends to workdir/sessions.jsonl; what the disk refuses is left out: training goes on.

    The first line says what trains; one at every checkpoint says how long that took.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, params: Any, active: bool = True):
        """params: the network's, to be counted; active: False, and nothing is written."""
        self._path = workdir / _NAME if active else None
        self._start = time.monotonic()
        if active:
            now = datetime.datetime.now(datetime.UTC)
            self._append(
                {
                    "first_step": first_step,
                    "began": now.isoformat(timespec="seconds"),
                    "hardware": hardware.describe(),
                    "parameters": count_parameters(params),
                    "version": v2v_jax.__version__,
                    "jax": jax.__version__,
                }
            )

    def note(self, step: int) -> None:
        """Writes how long this session has taken up to that step, which is going to be saved."""
        self._append({"step": step, "seconds": round(time.monotonic() - self._start, 1)})

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError), self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def count_parameters(params: Any) -> int:
    """How many numbers the network has learned."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@dataclasses.dataclass(frozen=True)
class Training:
    """How a run was trained, as far as that is known.

    Attributes:
      hardware: each that it was trained on, in order.
      parameters: of the network.
      seconds: from the start to the last checkpoint, compiling and evaluations included. What was
        done after a checkpoint and lost, and done once more, counts once.
    """

    hardware: tuple[str, ...]
    parameters: int | None
    seconds: float | None


def read_training(workdir: pathlib.Path) -> Training | None:
    """What sessions.jsonl says; None where there is none: an older run, or copied weights."""
    path = workdir / _NAME
    begins: list[dict[str, Any]] = []
    noted: list[list[tuple[int, float]]] = []  # (step, seconds) of each session
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line of a killed run
            line = parse_object(text)
            if "first_step" in line:
                begins.append({"first_step": int(line["first_step"]), **line})
                noted.append([(int(line["first_step"]), 0.0)])
            elif noted:
                noted[-1].append((int(line["step"]), float(line["seconds"])))
    if not begins:
        return None
    seconds, end = 0.0, max(noted[-1])[0]
    # Of a session only what later ones went on from; a run begun anew has nothing before.
    for begin, lines in zip(reversed(begins), reversed(noted), strict=True):
        seconds += max((s for step, s in lines if step <= end), default=0.0)
        end = min(end, begin["first_step"])
    parameters = begins[-1].get("parameters")
    return Training(
        hardware=tuple(dict.fromkeys(str(begin.get("hardware", "?")) for begin in begins)),
        parameters=parameters if type(parameters) is int else None,
        seconds=seconds or None,
    )
