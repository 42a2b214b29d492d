"""Training runs of one configuration that differ in their seed alone: read once, compiled once."""

from __future__ import annotations

import json
import math
import pathlib
import shutil
import statistics
import time
from typing import Any

from ml_collections import ConfigDict

from v2v_jax.training.loop import train
from v2v_jax.training.monitor import TrainingDiverged
from v2v_jax.training.preemption import StopRequest
from v2v_jax.training.setup import Setup


class SeededRuns:
    """Trains a configuration from several seeds in one process, by the loop that trains any run.

    Only the last evaluation of a run leaves a checkpoint.
    """

    def __init__(self, config: ConfigDict):
        """config: as for `loop.train_and_evaluate`; its seed does not matter."""
        config = config.copy_and_resolve_references()
        config.save_every_evaluation = False
        self._setup = Setup(config)

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
          JSON-ready: `metrics` (the last evaluation's), `curve` ([step, headline metric] of all),
          `loss` ([step, training loss]), `seconds`, `clips_per_second`, and `diverged` (the step
          at which something was found not to be finite, or None).
        """
        begin, diverged, values = time.perf_counter(), None, {}
        try:
            with StopRequest() as stop:
                values = train(self._setup, seed, workdir, stop)
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


def _logged(workdir: pathlib.Path, name: str) -> list[list[float | None]]:
    """[step, value] of all lines of metrics.jsonl that have it."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [[line["step"], line[name]] for line in lines if name in line]


def finite(value: float) -> float | None:
    """The number, or None for what JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
