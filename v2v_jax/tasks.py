"""What V2V can be trained for: a task's input, target, loss, metrics, trivial answer and picture.

A batch is a dict of the dataset's fields (B,T,H,W,…) and `mask` (B,) bool, False for clips that
only pad the batch. A task is one class and one entry of `TASKS`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax import losses, metrics, visualize
from v2v_jax.datasets.video_dataset import IGNORE_LABEL, VideoDataset
from v2v_jax.errors import DataError
from v2v_jax.preprocess import Preprocessing, to_gray

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
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    input_channels: ClassVar[int] = 3
    headline: ClassVar[str]
    better: ClassVar[Literal["max", "min"]]
    baseline: ClassVar[str]
    label_names: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """K, outputs a voxel."""

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


def _clip_valid(valid: jax.Array, batch: Batch) -> jax.Array:
    """(B,T,H,W) bool: valid voxels of the clips that count."""
    return valid & batch["mask"][:, None, None, None]


class Segmentation(Task):
    """Video semantic segmentation (paper section 4): voxel-wise softmax over K classes."""

    name = "segmentation"
    fields = ("video", "labels")
    headline, better = "accuracy", "max"
    baseline = "always the commonest class"

    def __init__(self, label_names: Sequence[str]):
        """label_names: the K classes, index = label. Raises DataError if there are none."""
        if len(label_names) < 2:
            raise DataError("Segmentation needs a dataset with at least two classes of labels.")
        self.label_names = tuple(label_names)

    @property
    def num_outputs(self) -> int:
        return len(self.label_names)

    def _valid(self, batch: Batch) -> jax.Array:
        return _clip_valid(batch["labels"] != IGNORE_LABEL, batch)

    def loss(self, outputs, batch):
        return losses.softmax_cross_entropy(outputs, batch["labels"], self._valid(batch))

    def sums(self, outputs, batch):
        confusion = metrics.confusion_matrix(
            batch["labels"], outputs.argmax(-1), self._valid(batch), self.num_outputs
        )
        return {"confusion": confusion}

    def summarize(self, sums):
        confusion = sums["confusion"]
        per_class = metrics.per_class_accuracy(confusion)
        iou = metrics.intersection_over_union(confusion)
        share = metrics.ratio(confusion.sum(1), confusion.sum())
        result = {
            "accuracy": metrics.accuracy(confusion),
            "miou": metrics.mean_iou(confusion),
            "mean_class_accuracy": metrics.mean_of_known(per_class),
            "baseline_accuracy": metrics.majority_accuracy(confusion),
        }
        for i, name in enumerate(self.label_names):
            result[f"accuracy/{name}"] = float(per_class[i])
            result[f"iou/{name}"] = float(iou[i])
            result[f"share/{name}"] = float(share[i])
        return result

    def predict(self, outputs):
        """(…,K) class probabilities."""
        return jax.nn.softmax(outputs)

    def picture(self, clip, prediction):
        k = self.num_outputs
        video, labels = clip["video"], prediction.argmax(-1).astype(np.uint8)
        columns = {
            "input": video,
            "prediction": visualize.labels_to_color(labels, k),
            "truth": visualize.labels_to_color(clip["labels"], k),
            "prediction on input": visualize.overlay(video, labels, k),
        }
        return Picture(columns, (visualize.label_legend(self.label_names),))

    def more_pictures(self, clip, prediction):
        # The paper's figure 4.
        maps = visualize.class_heat_maps(prediction, self.label_names)
        legends = (visualize.probability_legend(),)
        return {"heat_maps": Picture({"input": clip["video"], **maps}, legends)}


class Flow(Task):
    """Optical flow (paper section 5): Huber loss on flow / 15, end-point error in pixels."""

    name = "flow"
    fields = ("video", "flow", "flow_valid")
    headline, better = "epe", "min"
    baseline = "zero flow"
    num_outputs = 2
    alpha = 15.0

    def loss(self, outputs, batch):
        target = batch["flow"].astype(jnp.float32) / self.alpha
        return losses.huber(outputs, target, self._valid(batch))

    def _valid(self, batch: Batch) -> jax.Array:
        return _clip_valid(batch["flow_valid"], batch)

    def sums(self, outputs, batch):
        valid = self._valid(batch)
        flow = self.predict(outputs)
        return {
            "distance": metrics.distance_sums(flow, batch["flow"], valid),
            "baseline": metrics.distance_sums(jnp.zeros_like(flow), batch["flow"], valid),
            "count": metrics.count(valid),
        }

    def summarize(self, sums):
        return {
            "epe": metrics.ratio(sums["distance"], sums["count"]),
            "baseline_epe": metrics.ratio(sums["baseline"], sums["count"]),
        }

    def predict(self, outputs):
        """(…,2) flow (u,v) in pixels per frame."""
        return outputs * self.alpha

    def picture(self, clip, prediction):
        valid = clip["flow_valid"]
        speed = np.linalg.norm(clip["flow"].astype(np.float32), axis=-1)
        scale = max(float(np.percentile(speed[valid], 99)) if valid.any() else 1.0, 1.0)
        columns = {
            "input": clip["video"],
            "prediction": visualize.flow_to_color(prediction, scale),
            "truth (black: not valid)": visualize.flow_to_color(clip["flow"], scale, valid),
        }
        return Picture(columns, (visualize.flow_legend(96),))


class Color(Task):
    """Video colouring (paper section 6): grey in, RGB out, L2 loss, average distance error.

    With `residual` the network predicts how the colour differs from the grey input. The network
    alone (the paper's) must redraw the frame through features of a quarter of its size, so that its
    colours are blurred, and worse than no colour at all where there are few training videos.
    """

    name = "color"
    fields = ("video",)
    input_channels = 1
    headline, better = "ade", "min"
    baseline = "the grey frame"
    num_outputs = 3

    def __init__(self, residual: bool = False):
        """residual: whether the network's outputs are added to the grey input."""
        self.residual = residual

    def complete(self, raw, batch):
        return raw + to_gray(batch["video"]) if self.residual else raw

    def inputs(self, batch, preprocessing):
        return preprocessing.normalize_gray(to_gray(batch["video"]))

    def _target(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        video = batch["video"]
        return video.astype(jnp.float32) / 255.0, _clip_valid(
            jnp.ones(video.shape[:4], bool), batch
        )

    def loss(self, outputs, batch):
        return losses.half_squared(outputs, *self._target(batch))

    def sums(self, outputs, batch):
        target, valid = self._target(batch)
        gray = jnp.broadcast_to(to_gray(batch["video"]), target.shape)
        return {
            "distance": metrics.distance_sums(self.predict(outputs), target, valid),
            "baseline": metrics.distance_sums(gray, target, valid),
            "count": metrics.count(valid),
        }

    def summarize(self, sums):
        return {
            "ade": metrics.ratio(sums["distance"], sums["count"]),
            "baseline_ade": metrics.ratio(sums["baseline"], sums["count"]),
        }

    def predict(self, outputs):
        """(…,3) RGB in [0,1]."""
        return jnp.clip(outputs, 0.0, 1.0)

    def picture(self, clip, prediction):
        gray = np.asarray(to_gray(clip["video"]))
        to_uint8 = lambda x: np.round(np.asarray(x, np.float32) * 255).astype(np.uint8)
        columns = {
            "input": to_uint8(np.broadcast_to(gray, clip["video"].shape)),
            "prediction": to_uint8(prediction),
            "truth": clip["video"],
        }
        return Picture(columns)


class Depth(Task):
    """Depth: Huber loss on log depth, from 0.1 to 200 m; other voxels (sky) are ignored.

    The paper names depth estimation as an application (figure 1) without doing it; the loss on log
    depth and the metrics are those of Eigen et al. (NIPS 2014).
    """

    name = "depth"
    fields = ("video", "depth")
    headline, better = "rmse_log", "min"
    baseline = "the best constant depth"
    num_outputs = 1
    reference = 10.0  # metres that an output of 0 stands for
    min_depth = 0.1  # metres
    max_depth = 200.0  # metres; the horizon is kilometres away, where log depth means little

    def _target(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        depth = batch["depth"].astype(jnp.float32)
        valid = (depth >= self.min_depth) & (depth <= self.max_depth)
        log_depth = jnp.log(jnp.where(valid, depth, self.reference) / self.reference)
        return log_depth[..., None], _clip_valid(valid, batch)

    def loss(self, outputs, batch):
        return losses.huber(outputs, *self._target(batch))

    def sums(self, outputs, batch):
        target, valid = self._target(batch)
        predicted = jnp.log(self.predict(outputs)[..., None] / self.reference)
        error = jnp.where(valid, (predicted - target)[..., 0], 0.0)
        target = jnp.where(valid, target[..., 0], 0.0)
        total = lambda x: x.sum(metrics.VOXELS)
        return {
            "squared": total(error**2),
            "relative": total(jnp.where(valid, jnp.abs(jnp.expm1(error)), 0.0)),
            "within": metrics.count(valid & (jnp.abs(error) < jnp.log(1.25))),
            "target": total(target),
            "target_squared": total(target**2),
            "count": metrics.count(valid),
        }

    def summarize(self, sums):
        mean = lambda name: metrics.ratio(sums[name], sums["count"])
        return {
            "rmse_log": float(np.sqrt(mean("squared"))),
            "abs_rel": mean("relative"),
            "within_1.25": mean("within"),
            # The constant with the smallest rmse_log is the mean log depth; its error is the
            # standard deviation. The maximum is for rounding, which may end below 0.
            "baseline_rmse_log": float(
                np.sqrt(np.maximum(mean("target_squared") - mean("target") ** 2, 0.0))
            ),
        }

    def predict(self, outputs):
        """(…) depth in metres: the channel axis, of length 1, goes."""
        least, most = (np.log(d / self.reference) for d in (self.min_depth, self.max_depth))
        return self.reference * jnp.exp(jnp.clip(outputs[..., 0], least, most))

    def picture(self, clip, prediction):
        # Where there is no truth (sky) nothing was learned either: the answer means nothing there.
        truth = clip["depth"].astype(np.float32)
        known = (truth >= self.min_depth) & (truth <= self.max_depth)
        near, far = visualize.depth_range(truth[known])
        columns = {
            "input": clip["video"],
            "prediction (black: not judged)": visualize.depth_to_color(
                np.where(known, prediction, 0), near, far
            ),
            "truth (black: none)": visualize.depth_to_color(np.where(known, truth, 0), near, far),
        }
        return Picture(columns, (visualize.depth_legend(near, far),))


TASKS: dict[str, type[Task]] = {task.name: task for task in (Segmentation, Flow, Color, Depth)}


def make_task(name: str, dataset: VideoDataset, *, residual: bool = False) -> Task:
    """The task of that name for a dataset, which decides the number of classes.

    Args:
      residual: for `color`, see there; other tasks have no such thing.

    Raises:
      DataError: the dataset lacks what the task needs.
    """
    task = TASKS[name]
    dataset.check_fields(task.fields)
    if task is Segmentation:
        return Segmentation(dataset.label_names)
    return Color(residual) if task is Color else task()
