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
from v2v_jax.input.augmentation import Augmentation
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.run import recipes
from v2v_jax.run.model import make_model, variant
from v2v_jax.run.optimizers import frozen_layers, make_optimizer, names_to_freeze
from v2v_jax.system import compiler_options, sharding
from v2v_jax.tasks import Task, make_task, record, stored_options


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
    frozen: tuple[str, ...]  # `names_to_freeze`

    @property
    def augmentation(self) -> Augmentation:
        """How training clips vary; configurations from before it have none."""
        return Augmentation.from_config(self.config.get("augmentation", {}))

    @property
    def training_clips(self) -> Preprocessing:
        """`preprocessing` with the size of the clips that a training step cuts out and augments."""
        return self.augmentation.source(self.preprocessing)

    @property
    def about(self) -> dict[str, Any]:
        """What is stored with the weights; JSON-ready."""
        about = {
            "version": v2v_jax.__version__,
            **record(self.task, stored_options(self.config)),
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
        return self._abstract(lambda: self._new_state(jnp.uint32(0)))

    def abstract_params(self) -> Any:
        """Shapes, dtypes and shardings of the parameters; takes no optimiser."""
        return self._abstract(lambda: self._init_params(jnp.uint32(0)))

    def _abstract(self, function: Callable[[], Any]) -> Any:
        sharded = sharding.replicated(self.mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded),
            jax.eval_shape(function),
        )

    def _init_params(self, seed: jax.Array) -> Any:
        size = (1, self.preprocessing.clip_length, *self.preprocessing.crop_size)
        clip = jnp.zeros((*size, self.task.input_channels))
        return self.model.init(jax.random.key(seed), clip)["params"]

    def _new_state(self, seed: jax.Array) -> TrainState:
        params = self._init_params(seed)
        return TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params))

    @functools.cached_property
    def _init_state(self) -> Callable[[jax.Array], TrainState]:
        """Compiled once for all seeds."""
        options = compiler_options.of_inference(self.mesh.devices.flat[0].platform)
        everywhere = sharding.replicated(self.mesh)
        return jax.jit(self._new_state, out_shardings=everywhere, compiler_options=options)

    def stop_frozen(self, params: Any) -> Any:
        """The parameters, of which those of frozen layers have no gradient."""
        frozen = frozen_layers(self.frozen, params)
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
    preprocessing = Preprocessing.from_dict(config.preprocessing)
    size, length = preprocessing.frame_size, preprocessing.clip_length
    dataset = datasets.load(config.data, split, size, min_frames=length, training=training)
    task = make_task(config.task, dataset, stored_options(config))
    frozen = names_to_freeze(config.optimizer, variant(config.model))
    return Experiment(
        config,
        sharding.make_mesh() if mesh is None else mesh,
        dataset,
        task,
        preprocessing,
        make_model(config.model, config.dtype, task.num_outputs),
        make_optimizer(config.optimizer, config.num_steps, frozen),
        frozen,
    )
