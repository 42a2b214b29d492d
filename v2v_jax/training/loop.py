"""The training loop; it resumes by being called again with the same arguments."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from v2v_jax.errors import ConfigError
from v2v_jax.input.base_feed import Feed
from v2v_jax.input.clips import ClipSampler
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import TrainState
from v2v_jax.run.metrics_log import EVALUATION, MetricsLog
from v2v_jax.run.recipe_files import read_config
from v2v_jax.run.sessions import Session
from v2v_jax.system import compilation_cache
from v2v_jax.system.console import console, waiting, waiting_for_first
from v2v_jax.system.whole_files import write_text
from v2v_jax.training import heap
from v2v_jax.training.callbacks import Callback, Callbacks
from v2v_jax.training.early_stopping import EarlyStopping
from v2v_jax.training.monitor import Monitor
from v2v_jax.training.preemption import StopRequest
from v2v_jax.training.setup import Setup, make_sampler
from v2v_jax.training.start import first_state
from v2v_jax.training.step import Metrics, TrainStep
from v2v_jax.training.tensorboard import TensorBoard


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
    experiment, schedule = setup.for_seed(seed), setup.schedule
    config, task = experiment.config, experiment.task
    first_process = jax.process_index() == 0
    with contextlib.ExitStack() as stack:  # closes also what an error or Ctrl-C leaves open
        stack.enter_context(jax.set_mesh(experiment.mesh))
        goal = dict(headline=task.headline, better=task.better)
        checkpoints = Checkpoints(workdir, experiment.about, **goal, writable=True)
        stack.enter_context(checkpoints)
        state, first_step, progress = first_state(setup, experiment, checkpoints)
        sampler = make_sampler(experiment, workdir)
        feed, evaluator, train_step = setup.feed, setup.evaluator, setup.train_step
        evaluated = bool(checkpoints.metrics(first_step))
        log = MetricsLog(workdir, first_step, first_process, evaluated=evaluated)
        stack.enter_context(log)
        trains = first_process and first_step < schedule.num_steps
        session = Session(workdir, first_step, state.params, trains)
        if first_process:
            text = config.to_json_best_effort(indent=2)
            write_text(workdir / "config.json", text + "\n")
        told = stack.enter_context(Callbacks((TensorBoard(), *callbacks), first_process))
        told.start(config, workdir, first_step)
        monitor = Monitor(experiment, schedule, sampler, feed, log, first_step, progress, told)
        stack.enter_context(monitor)
        stopping = EarlyStopping(config.get("patience", 0), task.better, progress.get("stopping"))

        def save(step: int, values: Mapping[str, float] | None = None) -> None:
            monitor.flush()  # so that no checkpoint is written after a loss that is not finite
            log.sync()
            session.note(step)
            noted = {**monitor.progress(), "stopping": stopping.progress()}
            checkpoints.save(state, step, values, noted)  # in the background

        def stop_if_asked(step: int) -> None:
            if not stop.reached():
                return
            save(step)
            checkpoints.close()
            raise stop.stopped(
                f"after step {step} of {schedule.num_steps}, which is saved; the same command, or "
                "call, goes on from there."
            )

        def evaluate(step: int) -> dict[str, float]:
            monitor.flush()
            with monitor.line.pause():
                values = evaluator(state.params, lambda: stop_if_asked(step))
                log.write(step, EVALUATION, values)
                _report(setup, step, values)
                stopping.add(values[task.headline])
                if config.get("save_every_evaluation", True) or step == schedule.num_steps:
                    save(step, values)
                with waiting("drawing examples"):
                    pictures = evaluator.pictures(state.params, config.num_pictures)
                told.evaluated(step, values, pictures)
                heap.release()
            return values

        values = None
        if first_step and schedule.is_evaluated(first_step) and not evaluated:
            values = evaluate(first_step)  # saved, but ended before its evaluation
        stop.arm()
        last = first_step
        todo = range(first_step, first_step if stopping.is_over else schedule.num_steps)
        taken = steps(train_step, feed, sampler, state, seed, todo)
        first = compilation_cache.preparing("training step")
        for step, after, metrics in waiting_for_first(taken, first):
            state, last = after, step  # the one before is donated
            if step == first_step + 1:
                heap.share()  # not before: the compiler's threads would wait for one another
                heap.release()  # of what the compiler needed
            monitor.add(step, metrics)
            checkpoints.check()
            stop_if_asked(step)
            if schedule.is_evaluated(step):
                values = evaluate(step)
                if stopping.is_over:
                    break
            elif schedule.is_saved(step):
                save(step)
        if values is None:  # nothing was left to train
            values = evaluator(state.params)
            _report(setup, first_step, values)
        if stopping.is_over and last < schedule.num_steps:
            _report_early(setup, last, stopping, checkpoints)
        return values


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


def _report(setup: Setup, step: int, values: Mapping[str, float]) -> None:
    """Prints the headline metric of an evaluation beside the trivial answer's."""
    task = setup.experiment.task
    value, trivial = values[task.headline], values[f"baseline_{task.headline}"]
    console.print(
        f"step {step}  {setup.split} {task.headline} {value:.4f}  ({task.baseline}: {trivial:.4f})"
    )


def _report_early(
    setup: Setup, step: int, stopping: EarlyStopping, checkpoints: Checkpoints
) -> None:
    """Says why a run ended after `step`, and what is left of it; on all processes."""
    checkpoints.wait()
    best, headline = checkpoints.best_step(), setup.experiment.task.headline
    console.print(
        f"Stopped early, after step {step} of {setup.schedule.num_steps}: {stopping.since_best} "
        f"evaluations in a row brought no better {setup.split} {headline}. The best checkpoint is "
        f"step {best}'s; v2v eval and v2v predict use it."
    )
