"""The checkpoints that a run has: verified before use, the latest, the best, and what they hold."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from v2v_jax.errors import CheckpointError, ConfigError, UserError
from v2v_jax.run import manifest, stored_state
from v2v_jax.system import causes
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.paths import check_array_path
from v2v_jax.tasks import TASKS, stored_options

# What must agree for a checkpoint to continue a run or to be evaluated with a configuration.
_COMPARED = ("task", "task_options", "num_outputs", "label_names", "model", "preprocessing")
METRICS = "metrics.json"
BEST = "best"  # key of `about`: which metric tells the best, and its better direction


class StoredCheckpoints:
    """Reads the checkpoints of one run, in `workdir`/checkpoints/<step>.

    With several processes all of them call every method, in the same order, and see the same
    folder; the first one verifies.

    Attributes:
      directory: the folder with a folder for each step; it need not be there.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        about: Mapping[str, Any],
        *,
        headline: str | None = None,
        better: Literal["max", "min"] = "max",
    ):
        """See `Checkpoints`."""
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        check_array_path(self.directory)
        self._about = dict(about)
        self._headline, self._better = headline, better
        self._good: dict[int, bool] = {}  # steps that were verified

    # --------------------------------------------------------------------------------------------
    # Which there are

    def latest_step(self) -> int | None:
        """The newest good checkpoint's step, or None; damaged ones are reported."""
        return self._first_good(lambda steps: sorted(steps, reverse=True))

    def best_step(self) -> int | None:
        """The step of the good checkpoint with the best headline metric, or None."""
        if self._headline is None:
            latest = self.latest_step()
            if latest is None:
                return None
            self._headline, self._better = _measure(self.read_about(latest))

        def best_first(steps):
            evaluated = [step for step in steps if not math.isinf(self._score(step))]
            return sorted(evaluated, key=lambda step: (self._score(step), step), reverse=True)

        return self._first_good(best_first)

    def metrics(self, step: int) -> dict[str, float]:
        """The evaluation that was saved with a step; empty if there was none."""
        try:
            return parse_object((self.directory / str(step) / METRICS).read_text())
        except (OSError, ValueError):
            return {}  # damaged: `verify` will say so

    def _steps(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        return [int(path.name) for path in self.directory.iterdir() if path.name.isdecimal()]

    def _score(self, step: int) -> float:
        """Larger is better; -inf where there is no number."""
        value = self.metrics(step).get(self._headline)
        if not isinstance(value, int | float) or math.isnan(value):
            return -math.inf
        return value if self._better == "max" else -value

    def _first_good(self, order: Callable[[Iterable[int]], list[int]]) -> int | None:
        good = lambda: next((step for step in order(self._steps()) if self._is_good(step)), -1)
        step = self._first_process(good)
        return None if step < 0 else step

    def _first_process(self, action: Callable[[], int | None]) -> int:
        """Runs `action` on the first process alone; its result, an integer, on all."""
        if jax.process_count() == 1:
            return action() or 0
        result, error = 0, None
        if jax.process_index() == 0:
            try:
                result = action() or 0
            except UserError as raised:
                error = raised
        result, failed = multihost_utils.broadcast_one_to_all(
            np.array([result, error is not None], np.int32)
        ).tolist()
        if failed:
            raise error or CheckpointError(f"The first process cannot use {self.directory}.")
        return result

    def _is_good(self, step: int) -> bool:
        """Whether a step's files are what was written; reports what is damaged."""
        folder = self.directory / str(step)
        if not folder.exists():  # deleted meanwhile by the training that it belongs to
            return False
        if step not in self._good:
            try:
                manifest.verify(folder, title(step))
                self._good[step] = True
            except (manifest.Damaged, OSError) as error:
                if causes.is_refusal(error):
                    raise CheckpointError(_refused(folder, error)) from error
                self._good[step] = False
                logging.error("%s%s", damaged(folder, error), self._kept_as(step))
        return self._good[step]

    def _kept_as(self, step: int) -> str:
        """Sets a damaged step aside, where this may write; a sentence that says so."""
        return ""

    # --------------------------------------------------------------------------------------------
    # Reading

    def restore_latest(self, like: Any) -> tuple[Any, int]:
        """The newest state that can be read, and its step; `like` and 0 where there is none.

        A checkpoint that was damaged after all is reported and kept under another name, as soon as
        an older one has been read in its place.

        Raises:
          CheckpointError: none of those that are there can be read, or see `restore`.
          ConfigError: see `restore`.
        """
        unreadable: list[CheckpointError] = []
        while (step := self.latest_step()) is not None:
            try:
                state = self.restore(step, like)
            except _UnreadableError as error:
                unreadable.append(error)
                self._good[step] = False
                continue
            for error in unreadable:
                kept = self._kept_as(error.step) if self._is_first() else ""
                logging.error("%s%s Step %d is used instead.", error, kept, step)
            return state, step
        if unreadable:
            raise unreadable[0]
        return like, 0

    def restore(self, step: int, like: Any) -> Any:
        """Reads a step's state into the shapes and shardings of `like`, after comparing `about`.

        Raises:
          CheckpointError: the checkpoint is damaged or missing, or belongs to another task, number
            of outputs, model or preprocessing.
          ConfigError: it was trained with an optimiser that keeps another state.
        """
        about = self.read_about(step)
        compare_about(about, self._about, self.directory / str(step))
        try:
            return self._read(step, stored_state.read_state, like)
        except stored_state.OtherStructure as error:
            raise self._other_structure(step, about, error) from error

    def restore_params(self, step: int, like: Any = None) -> Any:
        """Reads a step's parameters alone, which takes no optimiser.

        Args:
          like: gives shapes, dtypes and shardings; None: NumPy arrays as they are stored.

        Raises:
          CheckpointError: the checkpoint is damaged or missing, or of another network.
        """
        try:
            return self._read(step, stored_state.read_params, like)
        except stored_state.OtherStructure as error:
            raise self._other_structure(step, {}, error) from error

    def read_about(self, step: int) -> dict[str, Any]:
        """The JSON part of a step; CheckpointError if the step is damaged or missing."""
        return self._read(step, stored_state.read_about)

    def _read(self, step: int, read: Callable[..., Any], *args: Any) -> Any:
        """read(folder of the step, *args) on all processes, or the same error on all."""
        folder = self.directory / str(step)
        if not self._first_process(lambda: folder.is_dir() and self._is_good(step)):
            raise CheckpointError(
                f"The checkpoint {folder} is missing or damaged; use another one, or train again."
            )
        result, failure = None, None
        try:
            result = read(folder, *args)
        except stored_state.Unreadable as error:
            failure = error
        refused = failure is not None and causes.is_refusal(failure)
        if jax.process_count() > 1:
            mine = np.array([failure is not None, refused])
            failed, refused = multihost_utils.process_allgather(mine).any(0).tolist()
            if failed and failure is None:
                failure = stored_state.Unreadable("another process cannot read it")
        if failure is not None and refused:
            raise CheckpointError(_refused(folder, failure)) from failure
        if failure is not None:
            raise _UnreadableError(damaged(folder, failure), step) from failure
        return result

    def _other_structure(
        self, step: int, about: Mapping[str, Any], error: stored_state.OtherStructure
    ) -> UserError:
        """A sentence for a state that is good, but not the configuration's."""
        folder = self.directory / str(step)
        if error.part == "params":
            return CheckpointError(
                f"The checkpoint {folder} belongs to another network ({error}). Use the "
                "configuration that it was trained with, or another --workdir."
            )
        stored, wanted = (_optimizer(record) for record in (about, self._about))
        changes = [
            f"optimizer.{key} is {stored.get(key)!r} there and {wanted.get(key)!r} here"
            for key in sorted(stored.keys() | wanted.keys())
            if stored.get(key) != wanted.get(key)
        ]
        return ConfigError(
            f"The checkpoint {folder} was trained with another optimiser "
            f"({'; '.join(changes) or error}). Go on with that one, or start anew from its "
            f"weights: another --workdir and --config.init_from={self.directory.parent}."
        )

    def _is_first(self) -> bool:
        return jax.process_index() == 0


class _UnreadableError(CheckpointError):
    """A step's files are what was written, and cannot be read all the same."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def _measure(about: Mapping[str, Any]) -> tuple[str, Literal["max", "min"]]:
    """Headline metric and its better direction, as stored; of older checkpoints as the task's."""
    best = about.get(BEST)
    if isinstance(best, Mapping) and isinstance(best.get("metric"), str):
        return best["metric"], "min" if best.get("better") == "min" else "max"
    task = TASKS.get(about.get("task", ""))
    return ("", "max") if task is None else (task.headline, task.better)


def _optimizer(about: Mapping[str, Any]) -> Mapping[str, Any]:
    config = about.get("config")
    found = config.get("optimizer") if isinstance(config, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def title(step: int) -> str:
    """The title of a step's manifest."""
    return f"v2v_jax checkpoint of step {step}"


def _refused(folder: pathlib.Path, error: Exception) -> str:
    """A sentence about a checkpoint that the system did not let be read, which may be sound."""
    remedy = causes.for_reading(error) or "see the other process's message"
    return f"The checkpoint {folder} cannot be read ({causes.reason(error)}); {remedy}."


def damaged(folder: pathlib.Path, error: Exception) -> str:
    """A sentence about a checkpoint's folder."""
    return f"The checkpoint {folder} is damaged ({reason(error)})."


def reason(error: Exception) -> str:
    """One line of an error; of tensorstore's long ones what the system said."""
    if isinstance(error, manifest.Damaged):
        return str(error)
    text = str(error).strip()
    for phrase in (os.strerror(number) for number in (28, 122, 27, 5, 30)):  # ENOSPC, EDQUOT, …
        if phrase in text:
            return phrase
    if isinstance(error, stored_state.Unreadable):
        return text
    with contextlib.suppress(IndexError):
        return f"{type(error).__name__}: {text.splitlines()[0][:200]}"
    return type(error).__name__


def compare_about(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Any) -> None:
    """Raises CheckpointError, naming the differences, if a checkpoint does not fit."""
    found, wanted = _with_options(found), _with_options(wanted)
    differences = [
        f"{key} is {found.get(key)!r}, the configuration's {wanted.get(key)!r}"
        for key in _COMPARED
        if found.get(key) != wanted.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"The checkpoint {where} does not fit: {'; '.join(differences)}. "
            "Use the configuration that it was trained with, or another --workdir."
        )


def _with_options(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record with the task's options where newer ones have them, and the model's."""
    if isinstance(about.get("model"), Mapping):
        about = {**about, "model": {"standardized": False, **about["model"]}}
    known = about.get("task") in TASKS
    return {**about, "task_options": stored_options(about)} if known else about
