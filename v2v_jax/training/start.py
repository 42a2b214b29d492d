"""A run's first words and its first state: new, pretrained, or from a checkpoint."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp

from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import Experiment, TrainState
from v2v_jax.run.schedule import Schedule
from v2v_jax.system.console import console, waiting
from v2v_jax.training import fine_tuning
from v2v_jax.training.setup import Setup


def first_state(
    setup: Setup, experiment: Experiment, checkpoints: Checkpoints
) -> tuple[TrainState, int, dict[str, Any]]:
    """The state to go on from, its step, and what the run noted then (`Monitor.progress`).

    It is the latest checkpoint's. Without one it is new, at step 0, with the layers that fit from
    `config.init_from`.

    Raises:
      UserError: the checkpoint, or the weights, cannot be read or do not fit.
    """
    state, step = checkpoints.restore_latest(experiment.abstract_state())
    announce(experiment, setup.schedule, step)
    if step:
        return state, step, checkpoints.read_about(step)["progress"]
    state = setup.init_state(experiment.config.seed)
    if experiment.config.init_from:
        state = fine_tuning.initialize(experiment, state)
    return state, 0, {}


def announce(experiment: Experiment, schedule: Schedule, first_step: int) -> None:
    """Prints what is going to be trained on what; without an accelerator also for how long."""
    config = experiment.config
    devices = experiment.mesh.devices
    kind = f"{devices.flat[0].device_kind} device{'s' if devices.size > 1 else ''}"
    console.print(
        f"{config.task} with {config.model.name} (width {config.model.width}) "
        f"on {config.data.name}: {config.num_steps} steps of {config.batch_size} clips "
        f"on {devices.size} {kind}"
    )
    console.print(str(schedule))
    if first_step:
        console.print(f"Resuming after step {first_step} of {config.num_steps}")
    elif jax.default_backend() == "cpu" and config.model.width > 0.25:
        with waiting("No accelerator here: measuring the speed of one training step"):
            seconds = _seconds_per_clip(experiment)
        hours = seconds * config.batch_size * config.num_steps / 3600
        console.print(
            f"This will take about {_duration(hours)} on this machine ({seconds:.1f} s a clip, "
            "measured). For a run of minutes: make demo, which is "
            "python train.py --config=configs/seg.py:demo --workdir=runs/demo"
        )


def _seconds_per_clip(experiment: Experiment) -> float:
    """Times the gradient on one clip, after compiling it."""
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
