"""Which checkpoint is meant by a path: of a run, of its checkpoints, or of one step."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from v2v_jax.errors import CheckpointError
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.stored_checkpoints import StoredCheckpoints, compare_about


@dataclasses.dataclass(frozen=True)
class FoundCheckpoint:
    """A step of a run, verified.

    Attributes:
      workdir: the run's folder.
      step: of the run.
      about: what was stored with the weights, JSON.
    """

    workdir: pathlib.Path
    step: int
    about: Mapping[str, Any]
    _checkpoints: StoredCheckpoints = dataclasses.field(repr=False)

    @property
    def folder(self) -> pathlib.Path:
        """Where its files are."""
        return self._checkpoints.directory / str(self.step)

    def params(self, like: Any = None) -> Any:
        """The parameters; see `StoredCheckpoints.restore_params`."""
        return self._checkpoints.restore_params(self.step, like)

    def check_fits(self, about: Mapping[str, Any]) -> None:
        """Raises CheckpointError unless it is of the task, model and preprocessing of `about`."""
        compare_about(self.about, about, self.folder)


def find_checkpoint(path: str | pathlib.Path, also: str = "") -> FoundCheckpoint:
    """The checkpoint that a path stands for; with several processes all call this.

    Args:
      path: a run's folder (the --workdir of its training) or its `checkpoints`, for the run's best
        checkpoint, or the latest if none was evaluated; or one step's folder in there.
      also: what else the caller takes, for the message.

    Raises:
      CheckpointError: there is none, or it is damaged.
    """
    workdir, step = _place(pathlib.Path(path).expanduser().absolute(), also)
    checkpoints = Checkpoints(workdir, {})
    if step is None:
        step = checkpoints.best_step()
    if step is None:
        step = checkpoints.latest_step()
    if step is None:
        raise CheckpointError(f"No finished checkpoint in {checkpoints.directory}: train first.")
    return FoundCheckpoint(workdir, step, checkpoints.read_about(step), checkpoints)


def _place(path: pathlib.Path, also: str) -> tuple[pathlib.Path, int | None]:
    """The run's folder, and the step if the path names one."""
    if (path / "checkpoints").is_dir():
        return path, None
    if path.name == "checkpoints" and path.is_dir():
        return path.parent, None
    if path.parent.name == "checkpoints" and path.name.isdecimal() and path.is_dir():
        return path.parent.parent, int(path.name)
    raise CheckpointError(
        f"No checkpoint in {path}; expected a run's folder (the --workdir of train.py), its "
        f"checkpoints folder, {'' if also else 'or '}one step's folder in there"
        f"{f', or {also}' if also else ''}."
    )
