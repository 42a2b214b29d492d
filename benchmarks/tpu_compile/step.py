"""The real training step of a configuration, lowered and compiled on abstract arrays."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.tpu_compile import StepProblem
from benchmarks.tpu_compile.topology import Chip
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.input.preprocess import gather_clips
from v2v_jax.input.tf_data_feed import TfDataFeed
from v2v_jax.run.experiment import Experiment, make_experiment
from v2v_jax.system import sharding
from v2v_jax.training.step import make_train_step

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load_config(path: str) -> ConfigDict:
    """`configs/seg.py` or `configs/seg.py:key=value,…`, as train.py's --config reads it."""
    path, _, arg = path.partition(":")
    spec = importlib.util.spec_from_file_location("config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


class AbstractDeviceFeed:
    """What feed=device does inside the step, with a store of shapes only."""

    def __init__(self, experiment: Experiment):
        self._preprocessing = experiment.training_clips
        dataset = experiment.dataset
        frames = sum(video.num_frames for video in dataset.videos)
        whole = functools.partial(
            jax.ShapeDtypeStruct, sharding=sharding.replicated(experiment.mesh)
        )
        self.store = {
            name: whole((frames, *dataset.frame_size, *FIELDS[name].channels), FIELDS[name].dtype)
            for name in experiment.task.fields
        }

    def prepare(self, store: Any, batch: Any) -> Any:
        """Cuts the clips out of the store; traced inside the jitted step."""
        return gather_clips(store, batch, self._preprocessing) | {"mask": batch["mask"]}


def abstract_step(config: ConfigDict, mesh: Mesh, feed_kind: str) -> jax.stages.Lowered:
    """The real training step of a configuration, lowered for a mesh without making an array."""
    experiment = make_experiment(config, "train", mesh)
    if feed_kind == "device":
        feed = AbstractDeviceFeed(experiment)
    else:
        fields = experiment.task.fields
        feed = TfDataFeed(experiment.dataset, fields, experiment.training_clips, mesh)
    state, batch = experiment.abstract_state(), abstract_batch(experiment, feed_kind)
    return make_train_step(experiment, feed).lower(state, feed.store, batch)


def abstract_batch(experiment: Experiment, feed_kind: str) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch that a feed hands to the step, split over the mesh."""
    b = experiment.config.batch_size
    split = functools.partial(
        jax.ShapeDtypeStruct, sharding=sharding.batch_sharded(experiment.mesh)
    )
    batch = {"mask": split((b,), jnp.bool_), "mirror": split((b,), jnp.bool_)}
    if feed_kind == "device":
        return batch | {name: split((b,), jnp.int32) for name in ("frame", "top", "left")}
    preprocessing = experiment.training_clips
    size = (b, preprocessing.clip_length, *preprocessing.crop_size)
    for name in experiment.task.fields:
        batch[name] = split((*size, *FIELDS[name].channels), FIELDS[name].dtype)
    return batch


def compile_for(lowered: jax.stages.Lowered, what: str, chip: Chip) -> jax.stages.Compiled:
    """Compiles; StepProblem if the compiler itself finds that the memory does not suffice."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        raise StepProblem(out_of_memory(what, str(error), chip)) from error


def out_of_memory(what: str, message: str, chip: Chip) -> str:
    """One sentence out of what the TPU compiler says, which depends on where it runs out."""
    found = re.search(r"Used ([\d.]+\w?) of ([\d.]+\w?) hbm", message) or re.search(
        r"\(([\d.]+\w?)\) exceeds available HBM \(([\d.]+\w?)\)", message
    )
    used = f": it needs {found[1]} of {found[2]}" if found else ""
    return (
        f"The step for {what} does not fit a chip's {chip.memory / 1e9:.0f} GB{used}; "
        "take fewer clips a chip (--clips_per_chip)."
    )
