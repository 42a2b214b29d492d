"""Checkpoints: orbax, the latest and the best kept, with all that is needed to use the weights.

Beside the training state a checkpoint holds a JSON `about`: the configuration, preprocessing, task,
label names, number of outputs, the package's version, and a checksum of the state: a damaged file
would otherwise be restored as wrong weights without a word.
"""

from __future__ import annotations

import math
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from v2v_jax.errors import CheckpointError

# What must agree for a checkpoint to continue a run or to be evaluated with a configuration.
_COMPARED = ("task", "num_outputs", "label_names", "residual", "hints", "model", "preprocessing")


class Checkpoints:
    """The checkpoints of one run, in `workdir`/checkpoints/<step>."""

    def __init__(
        self,
        workdir: str | pathlib.Path,
        about: Mapping[str, Any],
        *,
        headline: str,
        better: Literal["max", "min"],
    ):
        """about: JSON-ready; headline: the metric in `save`'s metrics that `better` refers to.

        Raises:
          CheckpointError: the folder cannot be created.
        """
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        self._about = dict(about)
        worst = -math.inf if better == "max" else math.inf

        def score(metrics: Mapping[str, float]) -> float:
            value = metrics.get(headline, math.nan)  # another task's checkpoints lack it
            return worst if math.isnan(value) else value

        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(1),
                preservation_policy.BestN(
                    get_metric_fn=score,
                    reverse=better == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep, best_fn=score, best_mode=better
        )
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except OSError as error:
            raise CheckpointError(
                f"Cannot create the folder {self.directory} ({error.strerror}); "
                "choose another --workdir."
            ) from error

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the checkpoint with the best headline metric, or None."""
        return self._manager.best_step()

    def save(self, state: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Saves in the background; `metrics` are the evaluation's at this step."""
        about = {**self._about, "checksum": checksum(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
        )
        self._manager.save(step, args=args, metrics=dict(metrics), force=True)

    def restore(self, step: int, like: Any) -> Any:
        """Reads a step's state into the shapes and shardings of `like`, after comparing `about`.

        Raises:
          CheckpointError: the checkpoint is damaged or unfinished, or belongs to another task,
            number of outputs, model or preprocessing.
        """
        about = self.read_about(step)
        compare_about(about, self._about, self.directory / str(step))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state = self._read(step, state=ocp.args.StandardRestore(abstract)).state
        if checksum(state) != about.get("checksum"):
            raise self._damaged(step, "its checksum is wrong")
        return state

    def read_about(self, step: int) -> dict[str, Any]:
        """The JSON part of a step; CheckpointError if it is not there."""
        return self._read(step, about=ocp.args.JsonRestore()).about

    def _read(self, step: int, **args: Any) -> ocp.args.Composite:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            raise self._damaged(step, reason) from error

    def _damaged(self, step: int, reason: str) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint {self.directory / str(step)} is unfinished or damaged ({reason}); "
            "delete that folder to go on from an earlier one."
        )

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def checksum(state: Any) -> int:
    """CRC-32 of all arrays of a pytree, in its order; the same on every process."""
    crc = 0
    for leaf in jax.tree.leaves(state):
        crc = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8), crc)
    return crc


def compare_about(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Any) -> None:
    """Raises CheckpointError, naming the differences, if a checkpoint does not fit."""
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
