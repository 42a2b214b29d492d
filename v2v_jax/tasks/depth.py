"""Depth (named in the paper's figure 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax.drawing import colors
from v2v_jax.tasks import losses, metrics
from v2v_jax.tasks.task import Batch, Picture, Task, clip_valid


class Depth(Task):
    """Depth: a loss on log depth, from 0.1 to 200 m; other voxels (sky) are ignored.

    The paper names depth estimation as an application (figure 1) without doing it; the loss on log
    depth and the metrics are those of Eigen et al. (NIPS 2014).
    """

    name = "depth"
    fields = ("video", "depth")
    headline, better = "rmse_log", "min"
    baseline = "the best constant depth"
    units = (
        "rmse_log: root mean squared error of the natural logarithm of depth (0.1 is about 10 %). "
        "abs_rel: mean of error / true depth. within_1.25: share of the voxels that are wrong by "
        "a factor below 1.25."
    )
    num_outputs = 1
    reference = 10.0  # metres that an output of 0 stands for
    min_depth = 0.1  # metres
    max_depth = 200.0  # metres; the horizon is kilometres away, where log depth means little

    def __init__(self, loss: str = "huber"):
        """loss: on log depth, of `losses.REGRESSION`."""
        self._loss = loss

    def _target(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        depth = batch["depth"].astype(jnp.float32)
        valid = (depth >= self.min_depth) & (depth <= self.max_depth)
        log_depth = jnp.log(jnp.where(valid, depth, self.reference) / self.reference)
        return log_depth[..., None], clip_valid(valid, batch)

    def loss(self, outputs, batch):
        return losses.REGRESSION[self._loss](outputs, *self._target(batch))

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
        near, far = colors.depth_range(truth[known])
        columns = {
            "input": clip["video"],
            "prediction (black: not judged)": colors.depth_to_color(
                np.where(known, prediction, 0), near, far
            ),
            "truth (black: none)": colors.depth_to_color(np.where(known, truth, 0), near, far),
        }
        return Picture(columns, (colors.depth_legend(near, far),))
