"""Classification of whole clips, with which C3D is trained (Tran et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax.datasets.base.video_dataset import VIDEO_LABEL
from v2v_jax.drawing.legends import Words
from v2v_jax.errors import DataError
from v2v_jax.tasks import losses, metrics
from v2v_jax.tasks.task import PaperRecipe, Picture, Task

_SHOWN = 5


class Classification(Task):
    """One class a clip, its video's: softmax over K classes; outputs are (B,K), without T, H, W."""

    name = "classification"
    fields = ("video", VIDEO_LABEL)
    answers = "clips"
    # C3D's, at its batches of 30 (Tran et al. 2015).
    paper = PaperRecipe(3e-3, weight_decay=0.005, decay_every=20_000, num_steps=60_000)
    headline, better = "accuracy", "max"
    baseline = "always the commonest class"
    units = (
        "All are shares of clips, from 0 to 1. Top-5 accuracy: the true class is among the five "
        "likeliest."
    )

    def __init__(self, label_names: Sequence[str]):
        """label_names: the K classes, index = label. Raises DataError if there are none."""
        if len(label_names) < 2:
            raise DataError("Classification needs a dataset with at least two classes of videos.")
        self.label_names = tuple(label_names)

    @classmethod
    def from_dataset(cls, dataset):
        return cls(dataset.video_label_names)

    @classmethod
    def from_stored(cls, about):
        return cls(about["label_names"])

    @property
    def num_outputs(self) -> int:
        return len(self.label_names)

    def loss(self, outputs, batch):
        return losses.softmax_cross_entropy(outputs, batch[VIDEO_LABEL], batch["mask"])

    def sums(self, outputs, batch):
        labels, counts = batch[VIDEO_LABEL], batch["mask"]
        # How many classes score higher; among equals the label's own place is not favoured.
        own = jnp.take_along_axis(outputs, labels[:, None], axis=1)
        place = (outputs > own).sum(1) + (outputs == own).sum(1) - 1
        confusion = metrics.confusion_matrix(labels, outputs.argmax(-1), counts, self.num_outputs)
        return {"confusion": confusion, "top5": counts & (place < 5), "count": counts}

    def summarize(self, sums):
        confusion = sums["confusion"]
        return {
            "accuracy": metrics.accuracy(confusion),
            "top5_accuracy": metrics.ratio(sums["top5"], sums["count"]),
            "mean_class_accuracy": metrics.mean_of_known(metrics.per_class_accuracy(confusion)),
            "baseline_accuracy": metrics.majority_accuracy(confusion),
            **metrics.class_scores(confusion, self.label_names),
        }

    def predict(self, outputs):
        """(…,K) class probabilities."""
        return jax.nn.softmax(outputs)

    def picture(self, clip, prediction):
        truth = self.label_names[int(clip[VIDEO_LABEL])]
        order = np.argsort(-prediction, kind="stable")[:_SHOWN]
        lines = [f"{self.label_names[i]}: {prediction[i]:.2f}" for i in order]
        return Picture({"input": clip["video"]}, (Words((f"truth: {truth}", *lines)),))
