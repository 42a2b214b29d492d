"""Optical flow (paper section 5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax import losses, metrics, visualize
from v2v_jax.tasks.task import Batch, Picture, Task, clip_valid


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
        return clip_valid(batch["flow_valid"], batch)

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
