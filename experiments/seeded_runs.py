"""Training runs of one configuration that differ in their seed alone: read once, compiled once."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from v2v_jax.evaluation.evaluator import Evaluator
from v2v_jax.input.feeds import make_feed
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import Experiment, TrainState, make_experiment
from v2v_jax.system import sharding
from v2v_jax.system.console import progress
from v2v_jax.system.whole_files import write_text
from v2v_jax.training import fine_tuning
from v2v_jax.training.loop import make_sampler, make_train_step


class SeededRuns:
    """Trains a configuration from several seeds in one process.

    Data is read and the step compiled once, because a seed is data: it decides the start of the
    parameters and the clips, not the program.
    """

    def __init__(self, config: ConfigDict):
        """config: as for `train.train_and_evaluate`; its seed does not matter."""
        self.experiment = make_experiment(config, "train")
        self._filled: dict[str, Any] | None = None  # layers out of config.init_from
        task = self.experiment.task
        with jax.set_mesh(self.experiment.mesh):
            self._feed = make_feed(
                config.feed,
                self.experiment.dataset,
                task.fields,
                self.experiment.preprocessing,
                self.experiment.mesh,
                progress,
            )
            self._evaluator = Evaluator(make_experiment(config, "test", self.experiment.mesh))
            self._train_step = make_train_step(self.experiment, self._feed)

    @property
    def compilations(self) -> int:
        """How often the training step was compiled; 1 after any number of runs."""
        return self._train_step._cache_size()

    def run(self, seed: int, workdir: pathlib.Path | None = None) -> dict[str, Any]:
        """Trains from one seed and evaluates every `config.eval_every` steps and at the end.

        Args:
          seed: of the start and of the clips.
          workdir: where to keep the checkpoint and the configuration, as training does; None: not.

        Returns:
          JSON-ready: `metrics` (the last evaluation's), `curve` ([step, headline metric] of all),
          `loss` ([step, training loss]), `seconds`, `clips_per_second`, and `diverged` (the step
          at which the loss was found not to be finite, or None).
        """
        with jax.set_mesh(self.experiment.mesh):
            return self._run(self._with_seed(seed), workdir)

    def _with_seed(self, seed: int) -> Experiment:
        config = self.experiment.config.copy_and_resolve_references()
        with config.unlocked():
            config.seed = seed
        return dataclasses.replace(self.experiment, config=config)

    def _start(self, experiment: Experiment) -> TrainState:
        # From the shared experiment, which keeps its compiled program.
        state = self.experiment.init_state(experiment.config.seed)
        if not experiment.config.init_from:
            return state
        if self._filled is None:
            filled = fine_tuning.initialize(experiment, state).params
            # Those that fit are other arrays than the start's. On the host: training donates its
            # state, and the next seed wants them again.
            self._filled = {
                name: jax.device_get(layer)
                for name, layer in filled.items()
                if layer is not state.params[name]
            }
        filled = jax.device_put(self._filled, sharding.replicated(experiment.mesh))
        return fine_tuning.with_params(experiment, state, state.params | filled)

    def _run(self, experiment: Experiment, workdir: pathlib.Path | None) -> dict[str, Any]:
        config, task = experiment.config, experiment.task
        sampler, state = make_sampler(experiment), self._start(experiment)
        result: dict[str, Any] = {"seed": config.seed, "curve": [], "loss": [], "diverged": None}
        begin = timed_from = time.perf_counter()
        evaluating, timed_steps, pending = 0.0, 0, None
        plans = (sampler.plan(step) for step in range(config.num_steps))
        for step, batch in enumerate(self._feed.batches(plans), 1):
            state, metrics = self._train_step(state, self._feed.store, batch)
            if step == 1:  # it compiled
                jax.block_until_ready(metrics["loss"])
                timed_from, timed_steps = time.perf_counter(), config.num_steps - 1
            if step % config.log_every == 0 or step == config.num_steps:
                # One log interval late, so that the device never waits for the host.
                self._log(result, pending)
                pending = (step, metrics["loss"])
            if result["diverged"]:
                break
            if step % config.eval_every == 0 or step == config.num_steps:
                jax.block_until_ready(state.params)
                start = time.perf_counter()
                values = self._evaluator(state.params)
                result["curve"].append([step, finite(values[task.headline])])
                evaluating += time.perf_counter() - start
        self._log(result, pending)
        training = time.perf_counter() - timed_from - evaluating
        if result["diverged"]:
            return result | {"metrics": {}}
        if workdir is not None:
            save(experiment, state, values, workdir)
        return result | {
            "metrics": {name: finite(value) for name, value in values.items()},
            "seconds": round(time.perf_counter() - begin, 2),
            "clips_per_second": round(timed_steps * config.batch_size / max(training, 1e-9), 1),
        }

    def _log(self, result: dict[str, Any], pending: tuple[int, jax.Array] | None) -> None:
        if pending is None or result["diverged"]:
            return
        step, loss = pending[0], float(pending[1])
        if not math.isfinite(loss):
            result["diverged"] = step
        result["loss"].append([step, finite(loss)])


def finite(value: float) -> float | None:
    """The number, or None for what JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def save(
    experiment: Experiment, state: TrainState, values: dict[str, float], workdir: pathlib.Path
) -> None:
    """Leaves in `workdir` what `train.train_and_evaluate` would: a checkpoint, config.json."""
    task = experiment.task
    workdir.mkdir(parents=True, exist_ok=True)
    with Checkpoints(
        workdir, experiment.about, headline=task.headline, better=task.better, writable=True
    ) as checkpoints:
        checkpoints.save(state, int(state.step), values)
    text = experiment.config.to_json_best_effort(indent=2)
    write_text(workdir / "config.json", text + "\n")
