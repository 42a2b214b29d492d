"""Training: one jitted, donated step; resumes by being called again with the same arguments."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from v2v_jax import datasets
from v2v_jax.errors import ConfigError, Stopped
from v2v_jax.evaluation.evaluator import Evaluator
from v2v_jax.input.clips import ClipSampler
from v2v_jax.input.feeds import Feed, make_feed
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import Experiment, TrainState, make_experiment
from v2v_jax.run.metrics_log import EVALUATION, MetricsLog
from v2v_jax.system import sharding
from v2v_jax.system.console import console, progress
from v2v_jax.system.whole_files import write_text
from v2v_jax.tasks import losses
from v2v_jax.training import accumulation, fine_tuning, heap, recompute
from v2v_jax.training.monitor import Monitor
from v2v_jax.training.preemption import StopRequest

TrainStep = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, float]:
    """Trains what `config` describes and evaluates it every `config.eval_every` steps.

    In `workdir`: checkpoints/ (the latest two and the best), metrics.jsonl, tensorboard/,
    config.json. If there is a checkpoint, training goes on from it.

    Returns:
      The last evaluation's metrics.

    Raises:
      UserError: bad configuration, data or checkpoint, or a loss that is not finite.
      Stopped: SIGTERM asked it to end; the state is saved.
    """
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:  # closes also what an error or Ctrl-C leaves open
        stop = stack.enter_context(StopRequest())
        experiment = make_experiment(config, "train")
        sampler = make_sampler(experiment)
        sharding.local_rows(config.batch_size, experiment.mesh)  # fail before anything is read
        check_parts(experiment)
        task = experiment.task
        stack.enter_context(jax.set_mesh(experiment.mesh))
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir,
                experiment.about,
                headline=task.headline,
                better=task.better,
                writable=True,
            )
        )
        state, first_step = _start(experiment, checkpoints)
        feed = make_feed(
            config.feed,
            experiment.dataset,
            task.fields,
            experiment.preprocessing,
            experiment.mesh,
            progress,
            grows=config.get("grow_steps", 0) > 0,
        )
        evaluator = Evaluator(
            make_experiment(config, _choosing(config), experiment.mesh, experiment.dataset)
        )
        log = stack.enter_context(
            MetricsLog(
                workdir,
                first_step,
                active=jax.process_index() == 0,
                evaluated=bool(checkpoints.metrics(first_step)),
            )
        )
        if jax.process_index() == 0:
            text = config.to_json_best_effort(indent=2)
            write_text(workdir / "config.json", text + "\n")
        saved = checkpoints.read_about(first_step)["progress"] if first_step else {}
        monitor = stack.enter_context(Monitor(experiment, sampler, feed, log, first_step, saved))
        run = _Run(experiment, checkpoints, evaluator, monitor, log, stop)
        return run.train(make_train_step(experiment, feed), feed, sampler, state, first_step)


def _choosing(config: ConfigDict) -> str:
    """The split that checkpoints are chosen on; a configuration from before it had one: test."""
    return "validation" if datasets.has_validation(config.data) else "test"


@dataclasses.dataclass
class _Run:
    """The parts of a run, and its loop."""

    experiment: Experiment
    checkpoints: Checkpoints
    evaluator: Evaluator
    monitor: Monitor
    log: MetricsLog
    stop: StopRequest

    def train(
        self, train_step: TrainStep, feed: Feed, sampler: ClipSampler, state: Any, first_step: int
    ) -> dict[str, float]:
        """Steps first_step + 1 … num_steps; the last evaluation's metrics."""
        config = self.experiment.config
        values: dict[str, float] = {}
        if first_step and self._is_evaluated(first_step):
            if not self.checkpoints.metrics(first_step):  # saved, but ended before its evaluation
                values = self.evaluate(state, first_step)
        plans = (sampler.plan(step) for step in range(first_step, config.num_steps))
        self.stop.arm()
        for step, batch in enumerate(feed.batches(plans), first_step + 1):
            state, metrics = train_step(state, feed.store, batch)
            if step == first_step + 1:
                heap.share()  # not before: the compiler's threads would wait for one another
                heap.release()  # of what the compiler needed
            self.monitor.add(step, metrics)
            self.checkpoints.check()
            if self.stop.reached():
                self.save_and_stop(state, step)
            if self._is_evaluated(step):
                values = self.evaluate(state, step)
            elif config.save_every and step % config.save_every == 0:
                self.save(state, step)
        if not values:  # nothing was left to train
            values = self.evaluator(state.params)
            report(self.experiment, first_step, values)
        return values

    def _is_evaluated(self, step: int) -> bool:
        config = self.experiment.config
        return step % config.eval_every == 0 or step == config.num_steps

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """Evaluates, logs and saves."""
        self.monitor.flush()  # so that no checkpoint is written after a loss that is not finite

        def check() -> None:
            if self.stop.reached():
                self.save_and_stop(state, step)

        with self.monitor.line.pause():
            values = self.evaluator(state.params, check)
            self.log.write(step, EVALUATION, values)
            report(self.experiment, step, values)
            self.save(state, step, values)
            heap.release()
        return values

    def save(self, state: TrainState, step: int, values: Mapping[str, float] | None = None) -> None:
        """Saves in the background."""
        self.monitor.flush()
        self.log.sync()
        self.checkpoints.save(state, step, values, self.monitor.progress())

    def save_and_stop(self, state: TrainState, step: int) -> None:
        """Saves, waits until that is on disk, and raises Stopped."""
        self.save(state, step)
        self.checkpoints.close()
        raise Stopped(
            f"Stopped by SIGTERM after step {step} of {self.experiment.config.num_steps}, which is "
            "saved; run the same command again to go on."
        )


def _start(experiment: Experiment, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    """The state to go on from and its step: the latest checkpoint's, or a new one's."""
    state, first_step = checkpoints.restore_latest(experiment.abstract_state())
    announce(experiment, first_step)
    if not first_step:
        state = experiment.init_state()
        if experiment.config.init_from:
            state = fine_tuning.initialize(experiment, state)
    return state, first_step


def check_parts(experiment: Experiment) -> int:
    """Into how many parts a device splits its share of the batch (`config.accumulate`).

    Raises:
      ConfigError: `accumulate` does not divide the share, or `recompute` does not divide a part.
    """
    config, mesh = experiment.config, experiment.mesh
    share = config.batch_size // mesh.size
    parts = config.accumulate or accumulation.automatic_parts(
        share, mesh.devices.flat[0].platform
    )
    if share % parts:
        raise ConfigError(
            f"accumulate is {parts}; it must divide the {share} clips of the batch on each device."
        )
    if share // parts % config.recompute:
        raise ConfigError(
            f"recompute is {config.recompute}; it must divide the {share // parts} clips of the "
            "batch that a device computes at a time."
        )
    return parts


def make_sampler(experiment: Experiment) -> ClipSampler:
    """The training clips of an experiment, a function of (config.seed, step)."""
    config = experiment.config
    return ClipSampler(
        [video.num_frames for video in experiment.dataset.videos],
        experiment.preprocessing,
        batch_size=config.batch_size,
        stride=config.stride,
        seed=config.seed,
        mirror=config.mirror,
        grow_steps=config.get("grow_steps", 0),
    )


def make_train_step(experiment: Experiment, feed: Feed) -> TrainStep:
    """The jitted training step (state, feed.store, batch) → (state, metrics); donates the state.

    Metrics: `loss` and the global norms of gradient, update and parameters, float32 scalars, beside
    the task's sums. With `config.skip_nonfinite` a step whose loss, gradient or update is not
    finite changes neither parameters nor optimiser state, and its metric `skipped` is 1, not 0.
    """
    optimizer, mesh = experiment.optimizer, experiment.mesh
    parts = check_parts(experiment)

    def rows(params: Any, store: Any, batch: Any):
        of_part = functools.partial(_gradient_of_part, experiment, feed, params, store)
        return jax.lax.psum(accumulation.summed_over_parts(of_part, parts)(batch), "data")

    whole, split = PartitionSpec(), PartitionSpec("data")
    # check_vma would add an all-reduce to the gradient of every parameter, in bfloat16; without it
    # each device keeps its own until the one all-reduce of `rows`.
    gradient_of_batch = jax.shard_map(
        rows, mesh=mesh, in_specs=(whole, whole, split), out_specs=whole, check_vma=False
    )

    def step(state: TrainState, store: Any, batch: Any):
        batch = experiment.with_dropout_seeds(batch, state.step)
        gradient, (total, count), sums = gradient_of_batch(state.params, store, batch)
        gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": losses.mean((total, count)),
            "gradient_norm": optax.tree.norm(gradient),
            "update_norm": optax.tree.norm(updates),
            "parameter_norm": optax.tree.norm(params),
            "sums": sums,
        }
        if experiment.config.skip_nonfinite:
            names = ("loss", "gradient_norm", "update_norm")
            good = jnp.isfinite(jnp.stack([metrics[name] for name in names])).all()
            keep = lambda new, old: jnp.where(good, new, old)
            params = jax.tree.map(keep, params, state.params)
            opt_state = jax.tree.map(keep, opt_state, state.opt_state)
            metrics["parameter_norm"] = optax.tree.norm(params)
            metrics["skipped"] = 1.0 - good
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=sharding.replicated(mesh),
        compiler_options=_compiler_options(mesh),
    )


def _compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """On TPUs one all-reduce for the whole gradient, 135 MB; by default XLA stops at some 128."""
    if mesh.devices.flat[0].platform != "tpu":
        return None
    return {"xla_jf_crs_combiner_threshold_in_bytes": str(2**30)}


def _gradient_of_part(experiment: Experiment, feed: Feed, params: Any, store: Any, batch: Any):
    """What one device computes of some clips of the batch, to be added up over all of them.

    The gradient is that of the loss's sum: dividing by the batch's count before it would need the
    count from all devices first, so a second all-reduce. All is float32, because XLA combines
    all-reduces of one type only; counts beyond 2^24 are then rounded, which a training metric may.

    Returns:
      The gradient of the loss's sum, that sum and its count, and the task's sums.
    """
    task, seeds = experiment.task, batch.get("dropout_seed")
    batch = feed.prepare(store, batch)
    inputs = task.inputs(batch, experiment.preprocessing)
    apply = recompute.in_parts(experiment.apply_in_training, experiment.config.recompute)

    def total_of(params):
        outputs = task.complete(apply(params, (inputs, seeds)), batch)
        total, count = task.loss(outputs, batch)
        return total, (count, outputs)

    (total, (count, outputs)), gradient = jax.value_and_grad(total_of, has_aux=True)(params)
    sums = {
        name: (value.sum() if value.ndim == 1 else value).astype(jnp.float32)  # (B,): one a clip
        for name, value in task.training_sums(outputs, batch).items()
    }
    return gradient, (total, count), sums


def report(experiment: Experiment, step: int, values: Mapping[str, float]) -> None:
    """Prints one line: the evaluation's headline metric beside the trivial baseline's."""
    task = experiment.task
    name = task.headline
    console.print(
        f"step {step}  {_choosing(experiment.config)} {name} {values[name]:.4f}  "
        f"({task.baseline}: {values[f'baseline_{name}']:.4f})"
    )


# ------------------------------------------------------------------------------------------------
# How long it will take


def announce(experiment: Experiment, first_step: int) -> None:
    """Prints what is going to be trained on what; without an accelerator also for how long."""
    config = experiment.config
    devices = experiment.mesh.devices
    console.print(
        f"{config.task} with {config.model.name} (width {config.model.width}) "
        f"on {config.data.name}: {config.num_steps} steps of {config.batch_size} clips "
        f"on {devices.size} {devices.flat[0].device_kind} device(s)"
    )
    if first_step:
        console.print(f"Resuming after step {first_step} of {config.num_steps}")
    elif jax.default_backend() == "cpu" and config.model.width > 0.25:
        console.print("No accelerator here: measuring the speed of one training step …")
        seconds = measure_seconds_per_clip(experiment)
        hours = seconds * config.batch_size * config.num_steps / 3600
        console.print(
            f"This will take about {_duration(hours)} on this machine ({seconds:.1f} s a clip, "
            "measured). For a run of minutes: make demo, which is "
            "python train.py --config=configs/seg.py:demo --workdir=runs/demo"
        )


def measure_seconds_per_clip(experiment: Experiment) -> float:
    """Times the gradient on one clip, after compiling it; seconds."""
    size = (1, experiment.preprocessing.clip_length, *experiment.preprocessing.crop_size)
    clip = jnp.zeros((*size, experiment.task.input_channels))
    params = experiment.init_state().params
    gradient = jax.jit(
        jax.grad(lambda params: experiment.model.apply({"params": params}, clip).mean())
    )
    jax.block_until_ready(gradient(params))
    start = time.perf_counter()
    jax.block_until_ready(gradient(params))
    return time.perf_counter() - start


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 48 else f"{hours / 24:.0f} days"
