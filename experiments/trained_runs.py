"""Opens the runs that training left behind, to draw what they predict; leaves such runs."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from v2v_jax.evaluation.evaluator import Evaluator
from v2v_jax.run import recipes
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import Experiment, make_experiment
from v2v_jax.run.which_checkpoint import find_checkpoint
from v2v_jax.system.whole_files import write_text
from v2v_jax.tasks import stored_options, task_class

Clip = tuple[str, dict[str, np.ndarray], np.ndarray]  # name, fields (T,H,W,…), prediction


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run's test split and its best parameters."""

    experiment: Experiment
    params: Any
    step: int

    def clips(self, count: int) -> list[Clip]:
        """Predictions for `count` windows spread over the test split, the same for all runs."""
        with jax.set_mesh(self.experiment.mesh):
            return Evaluator(self.experiment).clips(self.params, count)


def open_run(folder: str | pathlib.Path, *, scenes: int = 8) -> TrainedRun:
    """Opens a run's folder.

    Args:
      folder: the --workdir of its training; or another path that `find_checkpoint` takes.
      scenes: rendered test videos to look at, where the run's data are `scenes`.

    Raises:
      CheckpointError: there is no such run, or no finished checkpoint.
    """
    found = find_checkpoint(folder)
    stored = found.about["config"] | {"task_options": stored_options(found.about["config"])}
    # Fields that runs of an older version lack have their defaults.
    names = dict(dataset=stored["data"]["name"], model=stored["model"]["name"])
    options = recipes.parse_arg("", **names)
    config = recipes.make_config(stored["task"], options, num_steps=1, learning_rate=1.0)
    for key, value in stored.items():
        if isinstance(value, dict) and key in config:
            config[key].update(value)
        else:
            config[key] = value
    config.data.cache = ""
    if config.data.name == "scenes":
        config.data.num_test_videos = min(config.data.num_test_videos, scenes)
    config.feed = "device"
    experiment = make_experiment(config, "test")
    found.check_fits(experiment.about)
    return TrainedRun(experiment, found.params(experiment.abstract_params()), found.step)


def save_run(
    about: Mapping[str, Any], state: Any, values: Mapping[str, float], workdir: pathlib.Path
) -> None:
    """Leaves in `workdir` what training would: a checkpoint, config.json.

    Args:
      about: the record that is stored with the weights, `Experiment.about`.
    """
    task = task_class(about["task"])
    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(
        workdir, about, headline=task.headline, better=task.better, writable=True
    ) as checkpoints:
        checkpoints.save(state, int(state.step), values)
    write_text(workdir / "config.json", json.dumps(about["config"], indent=2) + "\n")
