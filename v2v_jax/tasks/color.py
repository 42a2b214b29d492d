"""Video colouring (paper section 6)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax import losses, metrics
from v2v_jax.preprocess import to_gray
from v2v_jax.tasks.task import Batch, Picture, Task, clip_valid


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
        return video.astype(jnp.float32) / 255.0, clip_valid(
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
