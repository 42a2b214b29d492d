"""Video semantic segmentation (paper section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.drawing import colors
from v2v_jax.errors import DataError
from v2v_jax.tasks import losses, metrics
from v2v_jax.tasks.task import Batch, Picture, Task, clip_valid


class Segmentation(Task):
    """Video semantic segmentation (paper section 4): voxel-wise softmax over K classes."""

    name = "segmentation"
    fields = ("video", "labels")
    headline, better = "accuracy", "max"
    baseline = "always the commonest class"
    units = (
        "All are shares of voxels, from 0 to 1; miou is the mean over the classes of intersection "
        "over union."
    )

    def __init__(self, label_names: Sequence[str]):
        """label_names: the K classes, index = label. Raises DataError if there are none."""
        if len(label_names) < 2:
            raise DataError("Segmentation needs a dataset with at least two classes of labels.")
        self.label_names = tuple(label_names)

    @property
    def num_outputs(self) -> int:
        return len(self.label_names)

    def _valid(self, batch: Batch) -> jax.Array:
        return clip_valid(batch["labels"] != IGNORE_LABEL, batch)

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
            "prediction": colors.labels_to_color(labels, k),
            "truth": colors.labels_to_color(clip["labels"], k),
            "prediction on input": colors.overlay(video, labels, k),
        }
        return Picture(columns, (colors.label_legend(self.label_names),))

    def more_pictures(self, clip, prediction):
        # The paper's figure 4.
        maps = colors.class_heat_maps(prediction, self.label_names)
        legends = (colors.probability_legend(),)
        return {"heat_maps": Picture({"input": clip["video"], **maps}, legends)}
