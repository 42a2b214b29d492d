"""Checkpoints: orbax's, verified; the latest two and the best kept, with all that their use needs.

Beside the training state (see `stored_state`) a checkpoint holds a JSON `about`: the configuration,
preprocessing, task, label names, number of outputs, and the package's version; `metrics.json`, its
evaluation; and a manifest, `SHA256SUMS`. A folder `checkpoints/<step>` is complete: it is written
under another name, in the background, and renamed when all arrays were read back and the manifest
is on the disk. A flipped bit, which orbax would restore as wrong weights without a word, is noticed
before a state is used. One training at a time writes: who opens it `writable` holds a lock.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import shutil
import threading
import time
from collections.abc import Mapping
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from absl import logging

from v2v_jax.errors import CheckpointError
from v2v_jax.run import manifest, stored_state, tensorstore_leak
from v2v_jax.run.stored_checkpoints import BEST, METRICS, StoredCheckpoints, reason, title
from v2v_jax.system import causes
from v2v_jax.system.locks import InUseError, locked
from v2v_jax.system.whole_files import sync_folder

_LOCK = ".lock"
# Names that are no step: being written, being replaced by a second one of its step, being deleted.
_SAVING, _REPLACED, _DELETING = "saving-", "replaced-", "deleting-"
_LATEST = 2  # how many are kept: if the newest is damaged there is another
_TIMEOUT = 600  # seconds that a process waits for the others to have written their parts


class Checkpoints(StoredCheckpoints):
    """The checkpoints of one run, in `workdir`/checkpoints/<step>.

    With several processes all of them call every method, in the same order, and see the same
    folder; the first one verifies, publishes and deletes.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        about: Mapping[str, Any],
        *,
        headline: str | None = None,
        better: Literal["max", "min"] = "max",
        writable: bool = False,
    ):
        """Opens the folder, which need not be there for reading.

        Args:
          about: JSON-ready, stored with each step and compared with what a step has; {} for reading
            whatever is there.
          headline: the metric in `save`'s metrics that `better` refers to; None: what the newest
            checkpoint says.
          writable: for training. It alone saves, sets damaged checkpoints aside under the name
            damaged-<step>-<time>, and clears away what a killed run left half written.

        Raises:
          CheckpointError: the folder cannot be created or written, or another training has it.
        """
        super().__init__(workdir, about, headline=headline, better=better)
        self._writable = writable
        self._thread: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None  # of the last checkpoint begun
        self._held = contextlib.ExitStack()  # the lock, while this is open
        self._closed = self._said_undeletable = False
        if writable:
            self._first_process(self._lock_and_tidy)
            self._checkpointer = _new_checkpointer()

    def _kept_as(self, step: int) -> str:
        if not self._writable:
            return ""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name, count = f"damaged-{step}-{stamp}", 1
        while (self.directory / name).exists():
            count += 1
            name = f"damaged-{step}-{stamp}-{count}"
        try:
            (self.directory / str(step)).rename(self.directory / name)
        except OSError as error:
            return f" It stays where it is ({error.strerror})."
        return f" It is kept as {name}."

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
          CheckpointError: this is open for reading only; or with several processes, the one before
            could not be written.
        """
        if not self._writable or self._closed:
            raise CheckpointError(
                f"Step {step} is not saved: the checkpoints in {self.directory} are open for "
                "reading only; open them with writable=True."
            )
        self.wait()
        if self._failure is not None:
            self._failure = None
            self._checkpointer = _new_checkpointer()  # the old one would raise its errors again
        self._good.pop(step, None)
        best = {"metric": self._headline, "better": self._better}
        about = {**self._about, BEST: best, "progress": dict(progress or {})}
        items = stored_state.to_save(state, about)
        shapes = stored_state.abstract(state)  # the arrays themselves may be donated meanwhile
        folder = self.directory / f"{_SAVING}{step}"
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        try:
            self._checkpointer.save(folder, args=items, force=True)
        except Exception as error:  # orbax's writers raise all kinds
            self._failed(step, error)
            self.check()
            return
        self._thread = threading.Thread(
            target=self._publish,
            args=(folder, step, metrics, shapes),
            name="publish",
            daemon=True,
        )
        self._thread.start()

    def check(self) -> bool:
        """Reports a checkpoint that could not be written; to be called every step, costs nothing.

        Returns:
          Whether writing one has ended since this was called before, well or not.

        Raises:
          CheckpointError: it could not be written, and there are other processes, which would wait.
        """
        if self._thread is None or self._thread.is_alive():
            return False
        self._thread.join()
        self._thread = None
        if self._failure is not None:
            if jax.process_count() > 1:
                raise CheckpointError(self._failure_message())
            logging.error("%s Training goes on.", self._failure_message())
        return True

    def wait(self) -> None:
        """Waits until the checkpoint being written is on disk; then as `check`."""
        if self._thread is not None:
            self._thread.join()
            self.check()

    def close(self) -> None:
        """Waits until everything is on disk, then lets others write.

        Raises:
          CheckpointError: the last checkpoint could not be written.
        """
        if self._closed:
            return
        self._closed = True
        if not self._writable:
            return
        with self._held:
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

    def _publish(
        self, folder: pathlib.Path, step: int, metrics: Mapping[str, float], shapes: Any
    ) -> None:
        """In the background: waits for orbax, writes the manifest, renames, deletes old ones."""
        try:
            self._checkpointer.wait_until_finished()
            if self._is_first():
                stored_state.check_written(folder, shapes)
                finite = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
                (folder / METRICS).write_text(json.dumps(finite) + "\n")
                manifest.write(folder, title(step))
                self._put_in_place(folder, step)
        except Exception as error:  # for `check`
            self._failed(step, error)
            return
        if self._is_first():
            self._delete_old()
            self._clear(_SAVING)  # of one that failed, whose threads may have gone on writing

    def _put_in_place(self, folder: pathlib.Path, step: int) -> None:
        final, replaced = self.directory / str(step), self.directory / f"{_REPLACED}{step}"
        if final.exists():  # saved before its evaluation, and now with it
            final.rename(replaced)
        folder.rename(final)
        sync_folder(self.directory)
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
        """As far as that can be done: what cannot be deleted must not stop what is new."""
        try:
            # Renamed first: who reads beside it sees all of a checkpoint or none of it.
            if not folder.name.startswith(_DELETING):
                doomed = folder.with_name(_DELETING + folder.name)
                shutil.rmtree(doomed, ignore_errors=True)
                folder = folder.rename(doomed)
            shutil.rmtree(folder)
        except OSError as error:
            if folder.exists() and not self._said_undeletable:
                self._said_undeletable = True
                logging.warning("%s cannot be deleted (%s); it stays.", folder, reason(error))

    def _failed(self, step: int, error: Exception) -> None:
        self._failure = step, error
        if jax.process_count() == 1:
            with contextlib.suppress(OSError):
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
        remedy = "make room there or choose another --workdir"
        if not causes.is_full(error):
            remedy = causes.for_writing(error)
        return (
            f"The checkpoint of step {step} cannot be written to {self.directory} "
            f"({reason(error)}); {left}. {remedy[0].upper()}{remedy[1:]}."
        )

    def _lock_and_tidy(self) -> None:
        """Keeps other trainings off the run's folder until `close`, or this process's end."""
        workdir = self.directory.parent
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for folder in (workdir, workdir.absolute().parent):  # made just now
                sync_folder(folder)
            self._held.enter_context(locked(workdir / _LOCK))
            self._tidy()
        except InUseError as error:
            raise CheckpointError(
                f"Another training is writing to {workdir}; wait for its end, or choose another "
                "--workdir."
            ) from error
        except OSError as error:
            self._held.close()
            raise CheckpointError(
                f"Cannot create the folder {self.directory}, or write there "
                f"({causes.reason(error)}); {causes.for_writing(error)}, as another --workdir."
            ) from error

    def _tidy(self) -> None:
        """Clears away what a killed run left; a checkpoint that was being replaced comes back."""
        for folder in self.directory.glob(f"{_REPLACED}*"):
            final = self.directory / folder.name.removeprefix(_REPLACED)
            if not final.exists():
                folder.rename(final)
        self._clear(_SAVING, _REPLACED, _DELETING)


def _new_checkpointer() -> ocp.AsyncCheckpointer:
    tensorstore_leak.avoid()
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), timeout_secs=_TIMEOUT)
