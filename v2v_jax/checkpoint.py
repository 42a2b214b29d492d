"""Checkpoints: orbax, the latest and the best kept, with all that is needed to use the weights.

Beside the training state a checkpoint holds a JSON `about`: the configuration, preprocessing, task,
label names, number of outputs and the package's version.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from v2v_jax.errors import CheckpointError

# What must agree for a checkpoint to continue a run or to be evaluated with a configuration.
_COMPARED = ("task", "num_outputs", "label_names", "model", "preprocessing")


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
        """about: JSON-ready; headline: the metric in `save`'s metrics that `better` refers to."""
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        self._about = dict(about)
        keep = preservation_policy.AnyPreservationPolicy([
            preservation_policy.LatestN(1),
            preservation_policy.BestN(
                get_metric_fn=lambda metrics: metrics[headline],
                reverse=better == "min",
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ])
        best = dict(best_fn=lambda metrics: metrics[headline], best_mode=better)
        options = ocp.CheckpointManagerOptions(preservation_policy=keep, **best)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the checkpoint with the best headline metric, or None."""
        return self._manager.best_step()

    def save(self, state: Any, step: int, metrics: Mapping[str, float]) -> None:
        """Saves in the background; `metrics` are the evaluation's at this step."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(self._about)
        )
        self._manager.save(step, args=args, metrics=dict(metrics), force=True)

    def restore(self, step: int, like: Any) -> Any:
        """Reads a step's state into the shapes and shardings of `like`, after comparing `about`.

        Raises:
          CheckpointError: the checkpoint belongs to another task, number of outputs or model.
        """
        about = self.read_about(step)
        compare_about(about, self._about, self.directory / str(step))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        )
        return restored.state

    def read_about(self, step: int) -> dict[str, Any]:
        """The JSON part of a step."""
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).about

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


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
