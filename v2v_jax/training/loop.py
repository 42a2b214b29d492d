"""The training loop; it resumes by being called again with the same arguments."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from v2v_jax.errors import ConfigError
from v2v_jax.input.base_feed import Feed
from v2v_jax.input.clips import ClipSampler
from v2v_jax.run.experiment import TrainState
from v2v_jax.run.recipe_files import read_config
from v2v_jax.system import compilation_cache
from v2v_jax.system.console import waiting_for_first
from v2v_jax.training import heap
from v2v_jax.training.callbacks import Callback
from v2v_jax.training.preemption import StopRequest
from v2v_jax.training.setup import Setup
from v2v_jax.training.step import Metrics, TrainStep
from v2v_jax.training.training_run import TrainingRun


def train_and_evaluate(
    config: ConfigDict | str | os.PathLike[str],
    workdir: str | pathlib.Path,
    callbacks: Iterable[Callback] = (),
) -> dict[str, float]:
    """Trains what `config` describes and evaluates it now and then.

    In `workdir`: checkpoints/ (the latest two and the best), metrics.jsonl, tensorboard/,
    config.json. If there is a checkpoint, training goes on from it.

    Args:
      config: a configuration (`v2v_jax.read_config`), or a recipe's name or file as --config takes
        it: "seg:demo".
      workdir: the run's folder; it is made where it is not there.
      callbacks: are told of the run as it goes, beside TensorBoard's.

    Returns:
      The last evaluation's metrics, on the validation split: name → value.

    Raises:
      UserError: bad configuration, data or checkpoint, or a loss that is not finite.
      Stopped: SIGTERM or Ctrl-C asked it to end; the state is saved.
      Whatever a callback raises.
    """
    if isinstance(config, (str, os.PathLike)):
        config = read_config(config)
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"config is {type(config).__name__}; expected a ConfigDict, as v2v_jax.read_config "
            'gives one, or the name of a recipe, such as "seg:demo".'
        )
    heap.share()  # before JAX has threads
    with StopRequest() as stop:
        return train(Setup(config), config.seed, pathlib.Path(workdir), stop, callbacks)


def train(
    setup: Setup,
    seed: int,
    workdir: pathlib.Path,
    stop: StopRequest,
    callbacks: Iterable[Callback] = (),
) -> dict[str, float]:
    """The loop of `train_and_evaluate`, from one seed."""
    schedule = setup.schedule
    with (
        jax.set_mesh(setup.experiment.mesh),
        TrainingRun(setup, seed, workdir, stop, callbacks) as run,
    ):
        run.catch_up()
        stop.arm()
        todo = range(run.step, run.step if run.is_over else schedule.num_steps)
        taken = steps(setup.train_step, setup.feed, run.sampler, run.state, seed, todo)
        what = compilation_cache.preparing("training step")
        for step, state, metrics in waiting_for_first(taken, what):
            run.take(step, state, metrics)
            if schedule.is_evaluated(step):
                run.evaluate()
                if run.is_over:
                    break
            elif schedule.is_saved(step):
                run.save()
        return run.finish()


def steps(
    train_step: TrainStep,
    feed: Feed,
    sampler: ClipSampler,
    state: TrainState,
    seed: int,
    todo: range,
) -> Iterator[tuple[int, TrainState, Metrics]]:
    """The bare loop: (k, the state after the k-th step, that step's metrics).

    Args:
      state: after the first `todo.start` steps; it is donated.
      seed: what is random in a step is a function of it and of the step.
      todo: the steps to do, counted from 0.
    """
    for step, batch in zip(todo, feed.batches(map(sampler.plan, todo))):
        state, metrics = train_step(state, feed.store, batch, np.uint32(seed % 2**32))
        yield step + 1, state, metrics
