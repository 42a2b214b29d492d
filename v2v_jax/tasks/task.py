"""The interface that every task implements.

A batch is a dict of the dataset's fields (B,T,H,W,…) and `mask` (B,) bool, False for clips that
only pad the batch.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax
import numpy as np

from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.tasks import losses, metrics

Batch = Mapping[str, jax.Array]
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Picture:
    """What is to be drawn of one clip: title → (T,H,W,3) uint8 RGB, and legends (h,w,3) uint8."""

    columns: dict[str, np.ndarray]
    legends: tuple[np.ndarray, ...] = ()


class Task(abc.ABC):
    """One voxel-wise prediction problem.

    Attributes:
      name: as in `config.task`.
      fields: what it needs of a dataset.
      input_channels: C of the network's input.
      headline: the metric that decides which checkpoint is best, and `better` its direction.
      baseline: what the trivial answer is called.
      units: a sentence or two on what the metrics are and in which units.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    input_channels: int = 3
    headline: ClassVar[str]
    better: ClassVar[Literal["max", "min"]]
    baseline: ClassVar[str]
    units: ClassVar[str]
    label_names: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """K, outputs a voxel."""

    @property
    def evaluation_fields(self) -> tuple[str, ...]:
        """What evaluation reads: `fields`, and what else the metrics can use."""
        return self.fields

    def inputs(self, batch: Batch, preprocessing: Preprocessing) -> jax.Array:
        """The network's input (B,T,H,W,C) float32."""
        return preprocessing.normalize(batch["video"])

    def complete(self, raw: jax.Array, batch: Batch) -> jax.Array:
        """The outputs (B,T,H,W,K) that loss, sums and predict take, from the network's own."""
        return raw

    @abc.abstractmethod
    def loss(self, outputs: jax.Array, batch: Batch) -> losses.Sum:
        """Sum and count of the loss of completed outputs (B,T,H,W,K) float32."""

    @abc.abstractmethod
    def sums(self, outputs: jax.Array, batch: Batch) -> metrics.Sums:
        """What `summarize` needs of a batch: per-clip values (B,) or matrices (K,K)."""

    def training_sums(self, outputs: jax.Array, batch: Batch) -> metrics.Sums:
        """What `summarize` needs for the headline metric alone, in every training step."""
        return self.sums(outputs, batch)

    @abc.abstractmethod
    def summarize(self, sums: Arrays) -> dict[str, float]:
        """Metrics from the sums of any number of batches; `baseline_…`: the trivial answer's."""

    @abc.abstractmethod
    def predict(self, outputs: jax.Array) -> jax.Array:
        """Completed outputs (…,K) in the task's own units."""

    @abc.abstractmethod
    def picture(self, clip: Arrays, prediction: np.ndarray) -> Picture:
        """Input, prediction and truth of one clip, fields (T,H,W,…), to be drawn side by side."""

    def more_pictures(self, clip: Arrays, prediction: np.ndarray) -> dict[str, Picture]:
        """Further stills by name."""
        return {}


def clip_valid(valid: jax.Array, batch: Batch) -> jax.Array:
    """(B,T,H,W) bool: valid voxels of the clips that count."""
    return valid & batch["mask"][:, None, None, None]
