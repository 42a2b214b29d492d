"""What a configuration describes, built: datasets, task, model, preprocessing, and their record."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

import v2v_jax
from v2v_jax import datasets
from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.models import CLASSIFIERS, MODELS
from v2v_jax.run import recipes
from v2v_jax.run.optimizers import frozen_layers, make_optimizer
from v2v_jax.system import sharding
from v2v_jax.tasks import Task, make_task, record


class TrainState(flax.struct.PyTreeNode):
    """All that training carries from step to step."""

    step: jax.Array  # () int32, steps done
    params: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A validated configuration with everything that it names, for one split."""

    config: ConfigDict
    mesh: Mesh
    dataset: VideoDataset
    task: Task
    preprocessing: Preprocessing
    model: nn.Module
    optimizer: optax.GradientTransformation

    @property
    def about(self) -> dict[str, Any]:
        """What is stored with the weights; JSON-ready."""
        about = {
            "version": v2v_jax.__version__,
            **record(self.task, self.config.task_options),
            "model": self.config.model.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "config": self.config.to_dict(),
        }
        return json.loads(json.dumps(about))  # tuples become the lists that a file would give back

    def init_state(self, seed: int | None = None) -> TrainState:
        """The state at step 0 on every device of the mesh; seed: default `config.seed`."""
        return self._init_state(jnp.uint32((self.config.seed if seed is None else seed) % 2**32))

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state, without computing it."""
        sharded = sharding.replicated(self.mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded),
            jax.eval_shape(self.init_state),
        )

    @functools.cached_property
    def _init_state(self) -> Callable[[jax.Array], TrainState]:
        """Compiled once for all seeds."""

        def init(seed: jax.Array) -> TrainState:
            size = (1, self.preprocessing.clip_length, *self.preprocessing.crop_size)
            clip = jnp.zeros((*size, self.task.input_channels))
            params = self.model.init(jax.random.key(seed), clip)["params"]
            return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params))

        return jax.jit(init, out_shardings=sharding.replicated(self.mesh))

    def with_dropout_seeds(self, batch: dict[str, Any], step: jax.Array) -> dict[str, Any]:
        """The batch with a random `dropout_seed` (B,) uint32 a clip, if the network has dropout.

        It is a function of (config.seed, step), and one a clip, so that it is split with the batch
        over devices and parts.
        """
        if self.task.answers == "voxels":  # V2V and its baselines have none
            return batch
        key = jax.random.fold_in(jax.random.key(self.config.seed), step)
        return batch | {"dropout_seed": jax.random.bits(key, batch["mask"].shape)}

    def apply_in_training(self, params: Any, x: tuple[jax.Array, Any]) -> jax.Array:
        """The network's own outputs of x = (inputs, dropout seeds or None), some clips of a batch.

        No gradient is computed for frozen layers.
        """
        inputs, seeds = x
        variables = {"params": self.stop_frozen(params)}
        if seeds is None:
            return self.model.apply(variables, inputs)
        rngs = {"dropout": jax.random.key(seeds[0])}
        return self.model.apply(variables, inputs, train=True, rngs=rngs)

    def stop_frozen(self, params: Any) -> Any:
        """The parameters, of which those of frozen layers have no gradient."""
        frozen = frozen_layers(self.config, params)
        return {
            name: jax.lax.stop_gradient(layer) if name in frozen else layer
            for name, layer in params.items()
        }


def make_experiment(
    config: ConfigDict,
    split: str,
    mesh: Mesh | None = None,
    training: VideoDataset | None = None,
) -> Experiment:
    """Builds what `config` describes.

    Args:
      split: "train", "validation" or "test".
      mesh: default: all devices.
      training: see `datasets.load`.

    Raises:
      UserError: a value that is not known, or a dataset that is missing or does not fit the task.
    """
    recipes.validate(config)
    frame_size = tuple(config.preprocessing.frame_size)
    dataset = datasets.load(config.data, split, frame_size, training=training)
    task = make_task(config.task, dataset, config.task_options)
    return Experiment(
        config,
        sharding.make_mesh() if mesh is None else mesh,
        dataset,
        task,
        Preprocessing.from_dict(config.preprocessing),
        make_model(config, task.num_outputs),
        make_optimizer(config, config.num_steps),
    )


def make_model(config: ConfigDict, num_outputs: int) -> nn.Module:
    """The network that `config.model` and `config.dtype` describe, for K = num_outputs."""
    variant = config.model.get("variant", "paper")  # configurations before it lack it
    options = {} if variant == "paper" else {"variant": variant}
    if "dropout" in config.model:
        options["dropout"] = config.model.dropout
    if config.model.get("standardized", False):  # likewise
        options["standardized"] = True
    return (MODELS | CLASSIFIERS)[config.model.name](
        num_outputs=num_outputs,
        width=config.model.width,
        dtype=_dtype(config.dtype),
        initialization=config.model.initialization,
        **options,
    )


def _dtype(name: str) -> jnp.dtype:
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)
