"""Checkpoints: orbax's, verified; the latest two and the best kept, with all that their use needs.

Beside the training state a checkpoint holds a JSON `about`: the configuration, preprocessing, task,
label names, number of outputs, and the package's version; `metrics.json`, its evaluation; and a
manifest, `SHA256SUMS`. A folder `checkpoints/<step>` is complete: it is written under another name,
in the background, and renamed when its manifest is on the disk. A flipped bit, which orbax would
restore as wrong weights without a word, is noticed before a state is used.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from v2v_jax.errors import CheckpointError
from v2v_jax.run import manifest
from v2v_jax.tasks import TASKS, stored_options

# What must agree for a checkpoint to continue a run or to be evaluated with a configuration.
_COMPARED = ("task", "task_options", "num_outputs", "label_names", "model", "preprocessing")
_METRICS = "metrics.json"
# Names that are no step: being written, being replaced by a second one of its step, being deleted.
_SAVING, _REPLACED, _DELETING = "saving-", "replaced-", "deleting-"
_LATEST = 2  # how many are kept: if the newest is damaged there is another
_TIMEOUT = 600  # seconds that a process waits for the others to have written their parts


class Checkpoints:
    """The checkpoints of one run, in `workdir`/checkpoints/<step>.

    With several processes all of them call every method, in the same order, and see the same
    folder; the first one verifies, publishes and deletes.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        about: Mapping[str, Any],
        *,
        headline: str,
        better: Literal["max", "min"],
        writable: bool = False,
    ):
        """about: JSON-ready; headline: the metric in `save`'s metrics that `better` refers to.

        Args:
          writable: for training. It alone saves, sets damaged checkpoints aside under the name
            damaged-<step>-<time>, and clears away what a killed run left half written.

        Raises:
          CheckpointError: the folder cannot be created.
        """
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        self._about = dict(about)
        self._headline, self._better, self._writable = headline, better, writable
        self._good: dict[int, bool] = {}  # steps that were verified
        self._thread: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None  # of the last checkpoint begun
        self._checkpointer = _new_checkpointer()
        self._closed = False
        if writable:
            self._first_process(self._tidy)

    # --------------------------------------------------------------------------------------------
    # Which there are

    def latest_step(self) -> int | None:
        """The newest good checkpoint's step, or None; damaged ones are reported."""
        return self._first_good(lambda steps: sorted(steps, reverse=True))

    def best_step(self) -> int | None:
        """The step of the good checkpoint with the best headline metric, or None."""

        def best_first(steps):
            evaluated = [step for step in steps if not math.isinf(self._score(step))]
            return sorted(evaluated, key=lambda step: (self._score(step), step), reverse=True)

        return self._first_good(best_first)

    def metrics(self, step: int) -> dict[str, float]:
        """The evaluation that was saved with a step; empty if there was none."""
        try:
            return json.loads((self.directory / str(step) / _METRICS).read_text())
        except (OSError, ValueError):
            return {}  # damaged: `verify` will say so

    def _steps(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        return [int(path.name) for path in self.directory.iterdir() if path.name.isdecimal()]

    def _score(self, step: int) -> float:
        """Larger is better; -inf where there is no number."""
        value = self.metrics(step).get(self._headline)
        if value is None:
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
            except CheckpointError as raised:
                error = raised
        result, failed = multihost_utils.broadcast_one_to_all(
            np.array([result, error is not None], np.int32)
        ).tolist()
        if failed:
            raise error or CheckpointError(f"The first process cannot use {self.directory}.")
        return result

    def _is_good(self, step: int) -> bool:
        """Whether a step's files are what was written; reports and sets aside what is damaged."""
        folder = self.directory / str(step)
        if not folder.exists():  # deleted meanwhile by the training that it belongs to
            return False
        if step not in self._good:
            try:
                manifest.verify(folder, _title(step))
                self._good[step] = True
            except (manifest.Damaged, OSError) as error:
                self._good[step] = False
                kept = f" It is kept as {self._set_aside(step)}." if self._writable else ""
                logging.error("%s%s", _damaged(folder, error), kept)
        return self._good[step]

    def _set_aside(self, step: int) -> str:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name, count = f"damaged-{step}-{stamp}", 1
        while (self.directory / name).exists():
            count += 1
            name = f"damaged-{step}-{stamp}-{count}"
        (self.directory / str(step)).rename(self.directory / name)
        return name

    # --------------------------------------------------------------------------------------------
    # Reading

    def restore(self, step: int, like: Any) -> Any:
        """Reads a step's state into the shapes and shardings of `like`, after comparing `about`.

        Raises:
          CheckpointError: the checkpoint is damaged or missing, or belongs to another task, number
            of outputs, model or preprocessing.
        """
        compare_about(self.read_about(step), self._about, self.directory / str(step))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._read(step, state=ocp.args.StandardRestore(abstract)).state

    def read_about(self, step: int) -> dict[str, Any]:
        """The JSON part of a step; CheckpointError if the step is damaged or missing."""
        return self._read(step, about=ocp.args.JsonRestore()).about

    def _read(self, step: int, **args: Any) -> ocp.args.Composite:
        folder = self.directory / str(step)
        if not self._first_process(lambda: folder.is_dir() and self._is_good(step)):
            raise CheckpointError(
                f"The checkpoint {folder} is missing or damaged; use another one, or train again."
            )
        try:
            return self._checkpointer.restore(folder, args=ocp.args.Composite(**args))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(_damaged(folder, error)) from error

    # --------------------------------------------------------------------------------------------
    # Saving

    def save(
        self,
        state: Any,
        step: int,
        metrics: Mapping[str, float] | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Saves in the background; waits only for the one before to be finished.

        A checkpoint that cannot be written, as on a full disk, is reported here, in `check` or in
        `close`; those before it stay.

        Args:
          metrics: the evaluation's at this step; None where there was none.
          progress: JSON-ready, what else the run needs to go on exactly; see `read_about`.

        Raises:
          CheckpointError: with several processes, the one before could not be written.
        """
        self.wait()
        if self._failure is not None:
            self._failure = None
            self._checkpointer = _new_checkpointer()  # the old one would raise its errors again
        self._good.pop(step, None)
        about = {**self._about, "progress": dict(progress or {})}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
        )
        folder = self.directory / f"{_SAVING}{step}"
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        try:
            self._checkpointer.save(folder, args=items, force=True)
        except Exception as error:  # orbax's writers raise all kinds
            self._failed(step, error)
            self.check()
            return
        self._thread = threading.Thread(
            target=self._publish, args=(folder, step, metrics), name="publish", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Reports a checkpoint that could not be written; to be called every step, costs nothing.

        Raises:
          CheckpointError: it could not be written, and there are other processes, which would wait.
        """
        if self._thread is not None and not self._thread.is_alive():
            self._thread.join()
            self._thread = None
            if self._failure is not None:
                if jax.process_count() > 1:
                    raise CheckpointError(self._failure_message())
                logging.error("%s Training goes on.", self._failure_message())

    def wait(self) -> None:
        """Waits until the checkpoint being written is on disk; then as `check`."""
        if self._thread is not None:
            self._thread.join()
            self.check()

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          CheckpointError: the last checkpoint could not be written.
        """
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        try:
            self._checkpointer.close()
        except Exception as error:  # orbax raises once more what `_publish` has noted
            self._failure = self._failure or (-1, error)
        if self._failure is not None:
            raise CheckpointError(self._failure_message())

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            logging.error("%s", error)  # beside the exception that is on its way

    def _publish(self, folder: pathlib.Path, step: int, metrics: Mapping[str, float]) -> None:
        """In the background: waits for orbax, writes the manifest, renames, deletes old ones."""
        try:
            self._checkpointer.wait_until_finished()
            if jax.process_index() == 0:
                finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
                (folder / _METRICS).write_text(json.dumps(finite) + "\n")
                manifest.write(folder, _title(step))
                self._put_in_place(folder, step)
                self._delete_old()
                self._clear(_SAVING)  # of one that failed, whose threads may have gone on writing
        except Exception as error:  # for `check`
            self._failed(step, error)

    def _put_in_place(self, folder: pathlib.Path, step: int) -> None:
        final, replaced = self.directory / str(step), self.directory / f"{_REPLACED}{step}"
        if final.exists():  # saved before its evaluation, and now with it
            final.rename(replaced)
        folder.rename(final)
        manifest.sync_folder(self.directory)
        if replaced.exists():
            self._delete(replaced)

    def _delete_old(self) -> None:
        """Keeps the latest two and the best."""
        steps = sorted(self._steps())
        best = max(steps, key=lambda step: (self._score(step), step))
        for step in steps[:-_LATEST]:
            if step != best:
                self._delete(self.directory / str(step))

    def _delete(self, folder: pathlib.Path) -> None:
        # Renamed first: who reads beside it sees all of a checkpoint or none of it.
        if not folder.name.startswith(_DELETING):
            doomed = folder.with_name(_DELETING + folder.name)
            shutil.rmtree(doomed, ignore_errors=True)
            folder = folder.rename(doomed)
        shutil.rmtree(folder, ignore_errors=True)

    def _failed(self, step: int, error: Exception) -> None:
        self._failure = step, error
        if jax.process_count() == 1:
            self._clear(_SAVING)  # a full disk needs the room

    def _clear(self, *prefixes: str) -> None:
        for prefix in prefixes:
            for folder in self.directory.glob(f"{prefix}*"):
                self._delete(folder)

    def _failure_message(self) -> str:
        assert self._failure is not None
        step, error = self._failure
        earlier = sorted(self._steps())
        left = f"the last good one is step {earlier[-1]}" if earlier else "there is none yet"
        return (
            f"The checkpoint of step {step} cannot be written to {self.directory} "
            f"({_reason(error)}); {left}. Make room there or choose another --workdir."
        )

    def _tidy(self) -> None:
        """Clears away what a killed run left; a checkpoint that was being replaced comes back."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"Cannot create the folder {self.directory} ({error.strerror}); "
                "choose another --workdir."
            ) from error
        for folder in self.directory.glob(f"{_REPLACED}*"):
            final = self.directory / folder.name.removeprefix(_REPLACED)
            if not final.exists():
                folder.rename(final)
        self._clear(_SAVING, _REPLACED, _DELETING)


def _new_checkpointer() -> ocp.AsyncCheckpointer:
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), timeout_secs=_TIMEOUT)


def _title(step: int) -> str:
    return f"v2v_jax checkpoint of step {step}"


def _damaged(folder: pathlib.Path, error: Exception) -> str:
    return f"The checkpoint {folder} is damaged ({_reason(error)})."


def _reason(error: Exception) -> str:
    """One line of an error; of tensorstore's long ones what the system said."""
    if isinstance(error, manifest.Damaged):
        return str(error)
    text = str(error).strip()
    for phrase in (os.strerror(number) for number in (28, 122, 27, 5, 30)):  # ENOSPC, EDQUOT, …
        if phrase in text:
            return phrase
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
    """The record with the task's options where newer ones have them."""
    known = about.get("task") in TASKS
    return {**about, "task_options": stored_options(about)} if known else about
