"""The real training step on a batch that lies on the devices: what is measured of scaling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from configs import seg
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.input.tf_data_feed import TfDataFeed
from v2v_jax.run.experiment import Experiment, TrainState, make_experiment
from v2v_jax.system import sharding
from v2v_jax.training import accumulation
from v2v_jax.training.step import TrainStep, make_train_step


def make(
    arg: str, clips_per_device: int, crop: int = 0, devices: Sequence[jax.Device] | None = None
) -> Experiment:
    """The experiment of configs/seg.py:`arg` on `devices`, all by default.

    Args:
      crop: the clips' height and width, 0: as configured.
    """
    config = seg.get_config(arg)
    mesh = sharding.make_mesh(devices)
    config.batch_size = clips_per_device * mesh.size
    if crop:
        config.preprocessing.crop_size = (crop, crop)
    return make_experiment(config.lock(), "train", mesh)


def make_step(
    experiment: Experiment, add_up: Callable[[Any], Any] = accumulation.add_up
) -> TrainStep:
    """The jitted training step; `add_up`: see `make_train_step`."""
    # It reads nothing, and does on the devices what streaming leaves to them: mirroring.
    feed = TfDataFeed(
        experiment.dataset, experiment.task.fields, experiment.preprocessing, experiment.mesh
    )
    return make_train_step(experiment, feed, add_up)


def initial_state(experiment: Experiment) -> TrainState:
    """The state that every measurement starts from; inside `jax.set_mesh`.

    Training starts with zeros for conv_pre's kernel, behind which all gradients are zeros: such
    steps draw less power and are quicker. Here it has small random values.
    """

    def filled(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if path[-1].key != "kernel" or leaf.any():
            return leaf
        noise = 0.01 * jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype)
        return jax.device_put(noise, leaf.sharding)

    state = experiment.init_state()
    return state.replace(params=jax.tree.map_with_path(filled, state.params))


def make_batch(experiment: Experiment) -> Callable[[], dict[str, jax.Array]]:
    """A jitted function that makes a random batch, the same on any devices and processes."""
    config, task = experiment.config, experiment.task
    b = config.batch_size
    size = (b, experiment.preprocessing.clip_length, *experiment.preprocessing.crop_size)

    def batch() -> dict[str, jax.Array]:
        keys = iter(jax.random.split(jax.random.key(0), len(task.fields) + 1))
        fields = {}
        for field in task.fields:
            spec = FIELDS[field]
            limit = len(task.label_names) if field == "labels" else 255
            shape = size + spec.channels
            fields[field] = jax.random.randint(next(keys), shape, 0, limit).astype(spec.dtype)
        fields["mirror"] = jax.random.bernoulli(next(keys), shape=(b,))
        return fields | {"mask": jnp.ones(b, bool)}

    return jax.jit(batch, out_shardings=sharding.batch_sharded(experiment.mesh))


def abstract_batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of what `make_batch` makes."""
    split = sharding.batch_sharded(experiment.mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split),
        jax.eval_shape(make_batch(experiment)),
    )


def run(
    step: TrainStep, state: TrainState, batch: dict[str, jax.Array], steps: int
) -> tuple[TrainState, list[jax.Array]]:
    """Waits for `steps` steps; returns the state after them, and the loss of each."""
    losses = []
    for _ in range(steps):
        state, metrics = step(state, (), batch)
        losses.append(metrics["loss"])
    return jax.block_until_ready(state), losses
