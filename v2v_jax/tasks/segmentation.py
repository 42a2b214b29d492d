"""Video semantic segmentation (paper section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.drawing import colors
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.media.pictures import write_labels
from v2v_jax.tasks import losses, metrics
from v2v_jax.tasks.task import Batch, PaperRecipe, Picture, Task, clip_valid


class Segmentation(Task):
    """Video semantic segmentation (paper section 4): voxel-wise softmax over K classes."""

    name = "segmentation"
    fields = ("video", "labels")
    label_field = "labels"
    paper = PaperRecipe(1e-4, weight_decay=0.005, decay_every=30_000, num_steps=100_000)
    headline, better = "accuracy", "max"
    baseline = "always the commonest class"
    units = (
        "All are shares of voxels, from 0 to 1. IoU: intersection over union of a class's voxels; "
        "mean IoU: its mean over the classes."
    )
    options = {"class_weights": (), "dice": 0.0, "targets": "labels"}
    has_probabilities = True
    frame_files = (".png", ".npz")
    array_name = "labels"
    scale_numbers = ()

    def __init__(
        self,
        label_names: Sequence[str],
        class_weights: Sequence[float] = (),
        dice: float = 0.0,
        targets: str = "labels",
    ):
        """Which classes there are, and what the loss makes of unbalanced ones.

        Args:
          label_names: the K classes, index = label.
          class_weights: K positive numbers, what a voxel of each class counts in the loss, for
            classes that are rare or matter more; none: each counts the same.
          dice: how much of `losses.soft_dice` is added to the softmax loss.
          targets: what is learned from: "labels", or a teacher's "probabilities". Metrics are of
            labels in both cases.

        Raises:
          DataError: there are no classes.
          ConfigError: there are not as many weights as classes.
        """
        if len(label_names) < 2:
            raise DataError("Segmentation needs a dataset with at least two classes of labels.")
        self.label_names = tuple(label_names)
        if class_weights and len(class_weights) != len(label_names):
            raise ConfigError(
                f"task_options.class_weights has {len(class_weights)} numbers; expected one for "
                f"each of the {len(label_names)} classes: {', '.join(label_names)}."
            )
        # Only their ratios matter; with a mean of one, batches of few voxels keep their loss.
        total = sum(class_weights)
        self._class_weights = [w * len(class_weights) / total for w in class_weights] or None
        self._dice = dice
        self._soft = targets == "probabilities"
        self.fields = self.fields_for({"targets": targets})

    @classmethod
    def from_dataset(cls, dataset, **options):
        return cls(dataset.label_names, **options)

    @classmethod
    def from_stored(cls, about, **options):
        return cls(about["label_names"], **options)

    @classmethod
    def fields_for(cls, options):
        return (*cls.fields, *["probabilities"] * (options["targets"] == "probabilities"))

    @property
    def evaluation_fields(self):
        return type(self).fields

    @classmethod
    def check_options(cls, options):
        if options["targets"] not in ("labels", "probabilities"):
            raise ConfigError(
                f"task_options.targets is {options['targets']!r}; known: labels, probabilities."
            )
        weights, dice = options["class_weights"], options["dice"]
        if not all(0 < weight < math.inf for weight in weights):
            raise ConfigError(
                f"task_options.class_weights is {tuple(weights)}; expected positive numbers, one "
                "for each class, or () for none."
            )
        if not 0 <= dice < math.inf:
            raise ConfigError(f"task_options.dice is {dice}; it must be 0 (off) or more.")

    @property
    def num_outputs(self) -> int:
        return len(self.label_names)

    def _valid(self, batch: Batch) -> jax.Array:
        return clip_valid(batch["labels"] != IGNORE_LABEL, batch)

    def loss(self, outputs, batch):
        truth = (batch["labels"], self._valid(batch), self._class_weights)
        if self._soft:
            soft = (batch["probabilities"], truth[1], self._class_weights)
            total, count = losses.soft_cross_entropy(outputs, *soft)
        else:
            total, count = losses.softmax_cross_entropy(outputs, *truth)
        if self._dice:
            total += self._dice * losses.soft_dice(outputs, *truth)[0]
        return total, count

    def sums(self, outputs, batch):
        confusion = metrics.confusion_matrix(
            batch["labels"], outputs.argmax(-1), self._valid(batch), self.num_outputs
        )
        return {"confusion": confusion}

    def summarize(self, sums):
        confusion = sums["confusion"]
        iou = metrics.intersection_over_union(confusion)
        return {
            "accuracy": metrics.accuracy(confusion),
            "miou": metrics.mean_iou(confusion),
            "mean_class_accuracy": metrics.mean_of_known(metrics.per_class_accuracy(confusion)),
            "baseline_accuracy": metrics.majority_accuracy(confusion),
            **metrics.class_scores(confusion, self.label_names, iou=iou),
        }

    def predict(self, outputs):
        """(…,K) class probabilities."""
        return jax.nn.softmax(outputs)

    def finish(self, values, video, scale):
        """(T,H,W) uint8, the likeliest class."""
        return values.argmax(-1).astype(jnp.uint8)

    def frame_notes(self, extension):
        return "labels.json", {"labels": colors.label_table(self.label_names)}

    def write_frame(self, path, values):
        if path.suffix.lower() == ".npz":
            super().write_frame(path, values)
        else:
            write_labels(path, values, self.label_colors, self.label_names)

    def frame_arrays(self, values):
        """`labels`; of (H,W,K) class probabilities both these and the labels."""
        if values.ndim == 2:
            return {"labels": values}
        return {"labels": values.argmax(-1).astype(np.uint8), "probabilities": values}

    @property
    def label_colors(self):
        return colors.label_colors(self.num_outputs)

    def drawing_scale(self, values):
        return ()

    def draw(self, values, *scale):
        return self.label_colors.take(values, axis=0)  # four times as quick as [values]

    def legends(self, *scale):
        return (colors.label_legend(self.label_names, ignored=False),)

    def overlay(self, frames, values, *scale):
        return colors.overlay(frames, values, self.label_names)

    def overlay_legends(self, *scale):
        return (colors.label_legend(self.label_names, ignored=False, over_video=True),)

    def picture(self, clip, prediction):
        k, video = self.num_outputs, clip["video"]
        labels = prediction.argmax(-1).astype(np.uint8)
        columns = {
            "input": video,
            "prediction": self.draw(labels),
            "truth": colors.labels_to_color(clip["labels"], k),
            "prediction on input": self.overlay(video, labels),
        }
        ignored = bool((clip["labels"] == IGNORE_LABEL).any())
        return Picture(columns, (colors.label_legend(self.label_names, ignored),))

    def more_pictures(self, clip, prediction):
        # The paper's figure 4.
        maps = colors.class_heat_maps(prediction, self.label_names)
        legends = (colors.probability_legend(),)
        return {"heat_maps": Picture({"input": clip["video"], **maps}, legends)}
