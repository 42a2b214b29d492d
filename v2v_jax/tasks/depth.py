"""Depth (named in the paper's figure 1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from v2v_jax.drawing import colors
from v2v_jax.tasks import losses, metrics
from v2v_jax.tasks.task import Batch, PaperRecipe, Picture, Task, clip_valid


class Depth(Task):
    """Depth: a loss on log depth, from 0.1 to 200 m; other voxels (sky) are ignored.

    The paper names depth estimation as an application (figure 1) without doing it; the loss on log
    depth and the metrics are those of Eigen et al. (NIPS 2014).
    """

    name = "depth"
    fields = ("video", "depth")
    label_field = "depth"
    # The paper has no schedule for depth: flow's, whose loss is of the same kind.
    options = {"loss": "half_squared"}
    options_before = {"loss": "huber"}
    paper = PaperRecipe(
        4e-3,
        weight_decay=0.0,
        decay_every=200_000,
        num_steps=800_000,
        options={"loss": "huber"},
    )
    headline, better = "rmse_log", "min"
    baseline = "the best constant depth"
    units = (
        "RMSE of log depth: root mean squared error of the natural logarithm of depth (0.1 is "
        "about 10 %). Absolute relative error: mean of error / true depth. Within a factor of "
        "1.25: share of the voxels that are wrong by less than that."
    )
    frame_files = (".png", ".npz")
    array_name = "depth"
    scale_numbers, scale_is_positive = ("NEAR", "FAR"), True  # metres
    num_outputs = 1
    reference = 10.0  # metres that an output of 0 stands for
    min_depth = 0.1  # metres
    max_depth = 200.0  # metres; the horizon is kilometres away, where log depth means little
    png_steps = 256  # a metre, in 16-bit PNGs, as KITTI's depth has them

    def __init__(self, loss: str = "half_squared"):
        """loss: of `losses.REGRESSION`, on log depth."""
        self._loss = loss

    @classmethod
    def check_options(cls, options):
        losses.check(options["loss"])

    def target(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        depth = batch["depth"].astype(jnp.float32)
        valid = (depth >= self.min_depth) & (depth <= self.max_depth)
        log_depth = jnp.log(jnp.where(valid, depth, self.reference) / self.reference)
        return log_depth[..., None], clip_valid(valid, batch)

    def loss(self, outputs, batch):
        return losses.REGRESSION[self._loss](outputs, *self.target(batch))

    def sums(self, outputs, batch):
        target, valid = self.target(batch)
        predicted = jnp.log(self.predict(outputs)[..., None] / self.reference)
        error = jnp.where(valid, (predicted - target)[..., 0], 0.0)
        return {
            **metrics.regression_sums(predicted, target, valid),
            "relative": jnp.abs(jnp.expm1(error)).sum(metrics.VOXELS),
            "within": metrics.count(valid & (jnp.abs(error) < jnp.log(1.25))),
        }

    def summarize(self, sums):
        errors = metrics.regression_errors(sums)  # of log depth
        return {
            "rmse_log": errors["rmse"],
            "abs_rel": metrics.ratio(sums["relative"], sums["count"]),
            "within_1.25": metrics.ratio(sums["within"], sums["count"]),
            "baseline_rmse_log": errors["baseline_rmse"],
        }

    def predict(self, outputs):
        """(…) depth in metres: the channel axis, of length 1, goes."""
        least, most = (np.log(d / self.reference) for d in (self.min_depth, self.max_depth))
        return self.reference * jnp.exp(jnp.clip(outputs[..., 0], least, most))

    def frame_notes(self, extension):
        if extension != ".png":
            return None
        meaning = f"depth along the optical axis: metres = number / {self.png_steps}"
        return "depth.json", {"meaning": meaning, "unit": "metre", "steps_per_unit": self.png_steps}

    def write_frame(self, path, values):
        if path.suffix.lower() == ".npz":
            super().write_frame(path, values)
        else:
            steps = np.clip(np.rint(values * self.png_steps), 0, 65535).astype(np.uint16)
            PIL.Image.fromarray(steps).save(path)

    def drawing_scale(self, values):
        """Near and far, in metres."""
        return colors.depth_range(values)

    def draw(self, values, *scale):
        return colors.depth_to_color(values, *scale)

    def legends(self, *scale):
        return (colors.depth_legend(*scale),)

    def picture(self, clip, prediction):
        # Where there is no truth (sky) nothing was learned either: the answer means nothing there.
        truth = clip["depth"].astype(np.float32)
        known = (truth >= self.min_depth) & (truth <= self.max_depth)
        scale = self.drawing_scale(truth[known])
        columns = {
            "input": clip["video"],
            "prediction (black: not judged)": self.draw(np.where(known, prediction, 0), *scale),
            "truth (black: none)": self.draw(np.where(known, truth, 0), *scale),
        }
        return Picture(columns, self.legends(*scale))
