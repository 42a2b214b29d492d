"""Training runs of one configuration that differ in their seed alone: read once, compiled once."""

from __future__ import annotations

import functools
import json
import math
import pathlib
import shutil
import statistics
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from v2v_jax.evaluation.evaluator import Evaluator, best_params
from v2v_jax.run.experiment import make_experiment
from v2v_jax.training.loop import train
from v2v_jax.training.monitor import TrainingDiverged
from v2v_jax.training.preemption import StopRequest
from v2v_jax.training.setup import Setup


class SeededRuns:
    """Trains a configuration from several seeds in one process, by the loop that trains any run.

    Only the last evaluation of a run leaves a checkpoint, which is measured on the test split.
    """

    def __init__(self, config: ConfigDict):
        """config: as for `loop.train_and_evaluate`; its seed does not matter."""
        config = config.copy_and_resolve_references()
        config.save_every_evaluation = False
        config.num_pictures = 0
        self._setup = Setup(config)

    @functools.cached_property
    def _test(self) -> Evaluator:
        experiment = self._setup.experiment
        return Evaluator(make_experiment(experiment.config, "test", experiment.mesh))

    @property
    def compilations(self) -> int:
        """How often the training step was compiled; 1 after any number of runs."""
        return self._setup.train_step._cache_size()

    def run(self, seed: int, workdir: pathlib.Path, *, keep: bool = True) -> dict[str, Any]:
        """Trains from one seed, or goes on where SIGTERM stopped it.

        Args:
          seed: of the start, the clips and what is random in a step.
          workdir: the run's folder, as training leaves it.
          keep: False: the folder is deleted once the run has ended.

        Returns:
          JSON-ready: `metrics` (the test split's, after the last step), `curve` ([step, headline
          metric] of all evaluations on the way), `loss` ([step, training loss]), `seconds`,
          `clips_per_second`, and `diverged` (the step at which something was found not to be
          finite, or None).
        """
        begin, diverged, values = time.perf_counter(), None, {}
        try:
            with StopRequest() as stop:
                train(self._setup, seed, workdir, stop)
            values = self._measure(workdir)
        except TrainingDiverged as error:
            diverged = error.step
        headline = self._setup.experiment.task.headline
        speeds = [speed for _, speed in _logged(workdir, "train/clips_per_second")]
        result = {
            "seed": seed,
            "metrics": {name: finite(value) for name, value in values.items()},
            "curve": _logged(workdir, f"eval/{headline}"),
            "loss": _logged(workdir, "train/loss"),
            "diverged": diverged,
            "seconds": round(time.perf_counter() - begin, 2),
            "clips_per_second": round(statistics.median(speeds), 1) if speeds else None,
        }
        if not keep:
            shutil.rmtree(workdir)
        return result

    def _measure(self, workdir: pathlib.Path) -> dict[str, float]:
        experiment = self._setup.experiment
        with jax.set_mesh(experiment.mesh):
            _, params = best_params(experiment, workdir)
            return self._test(params)


def _logged(workdir: pathlib.Path, name: str) -> list[list[float | None]]:
    """[step, value] of all lines of metrics.jsonl that have it."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [[line["step"], line[name]] for line in lines if name in line]


def finite(value: float) -> float | None:
    """The number, or None for what JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
