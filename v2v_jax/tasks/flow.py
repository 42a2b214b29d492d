"""Optical flow (paper section 5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax.drawing import colors
from v2v_jax.media.flow_files import write_flow
from v2v_jax.tasks import flow_metrics, losses, metrics
from v2v_jax.tasks.task import Batch, PaperRecipe, Picture, Task, clip_valid


class Flow(Task):
    """Optical flow (paper section 5): end-point error in pixels.

    The loss is that error itself ("distance"), its power of 0.4 ("robust", `losses.robust`, for
    speeds that differ much) or the paper's, Huber's on flow / 15.

    `epe` is in pixels of the resized frames, which the network sees (the paper's 1.24 px is such a
    figure); all other metrics, `epe_native` too, in the pixels of the dataset's own frames: see
    `flow_metrics`.
    """

    name = "flow"
    fields = ("video", "flow", "flow_valid")
    label_field = "flow"
    options = {"loss": "distance"}
    options_before = {"loss": "huber"}
    paper = PaperRecipe(
        4e-3,
        weight_decay=0.0,
        decay_every=200_000,
        num_steps=800_000,
        options={"loss": "huber"},
    )
    headline, better = "epe", "min"
    baseline = "zero flow"
    units = (
        "EPE: mean end-point error in pixels of the resized frames, which the network sees. All "
        "others are in native pixels, those of the dataset's own frames. EPE at 0 to 10 px: of "
        "voxels with that true speed in pixels a frame. Off by more than 1 px, and Fl-all (off by "
        "more than 3 px and 5 %): shares of the valid voxels."
    )
    frame_files = (".flo", ".png", ".pfm", ".npz")
    array_name = "flow"
    scale_numbers, scale_is_positive = ("SPEED",), True  # px/frame, in full colour
    num_outputs = 2
    alpha = 15.0

    def __init__(
        self,
        *,
        loss: str = "distance",
        with_occlusion: bool = False,
        native_scale: tuple[float, float] = (1.0, 1.0),
    ):
        """The loss, and which metrics there are.

        Args:
          loss: of `losses.REGRESSION`.
          with_occlusion: whether the dataset has `flow_occluded`.
          native_scale: native pixels a pixel of the resized frame, (x, y).
        """
        self._scale = native_scale
        self._with_occlusion = with_occlusion
        self._loss = loss

    @classmethod
    def from_dataset(cls, dataset, **options):
        (h, w), (native_h, native_w) = dataset.frame_size, dataset.native_size or dataset.frame_size
        with_occlusion = "flow_occluded" in dataset.fields
        scale = (native_w / w, native_h / h)
        return cls(with_occlusion=with_occlusion, native_scale=scale, **options)

    @classmethod
    def check_options(cls, options):
        losses.check(options["loss"])

    @property
    def evaluation_fields(self):
        return (*self.fields, *["flow_occluded"] * self._with_occlusion)

    def loss(self, outputs, batch):
        target, valid = batch["flow"].astype(jnp.float32), self._valid(batch)
        if self._loss in ("distance", "robust"):
            return losses.REGRESSION[self._loss](self.predict(outputs), target, valid)
        return losses.REGRESSION[self._loss](outputs, target / self.alpha, valid)

    def _valid(self, batch: Batch) -> jax.Array:
        return clip_valid(batch["flow_valid"], batch)

    def training_sums(self, outputs, batch):
        """End-point errors alone: the others are of no use for training and take time."""
        valid = self._valid(batch)
        flow = self.predict(outputs)
        return {
            "distance": metrics.distance_sums(flow, batch["flow"], valid),
            "baseline": metrics.distance_sums(jnp.zeros_like(flow), batch["flow"], valid),
            "count": metrics.count(valid),
        }

    def sums(self, outputs, batch):
        flow = self.predict(outputs)
        truth = (batch["flow"], self._valid(batch), batch.get("flow_occluded"), self._scale)
        zero = flow_metrics.error_sums(jnp.zeros_like(flow), *truth)
        return {
            **self.training_sums(outputs, batch),
            **flow_metrics.truth_counts(*truth),
            **flow_metrics.error_sums(flow, *truth),
            **{f"baseline_{name}": value for name, value in zero.items()},
        }

    def summarize(self, sums):
        result = {
            "epe": metrics.ratio(sums["distance"], sums["count"]),
            "baseline_epe": metrics.ratio(sums["baseline"], sums["count"]),
        }
        if "fl_all" not in sums:  # training's
            return result
        for prefix in ("", "baseline_"):
            result |= flow_metrics.summarize(sums, prefix)
        return result

    def predict(self, outputs):
        """(…,2) flow (u,v) in pixels per frame."""
        return outputs * self.alpha

    def finish(self, values, video, scale):
        """(T,H,W,2) flow (u,v) in pixels of the video."""
        return values * scale

    def frame_notes(self, extension):
        if extension != ".png":
            return None
        return "flow.json", {
            "meaning": (
                "KITTI's flow: u (right) = (red - 32768) / 64, v (down) = (green - 32768) / 64, in "
                "pixels of the video from this frame to the next; known where blue is 1"
            ),
            "unit": "pixels a frame",
            "steps_per_unit": 64,
            "zero": 32768,
        }

    def write_frame(self, path, values):
        if path.suffix.lower() == ".npz":
            super().write_frame(path, values)
        else:
            write_flow(path, values)

    def drawing_scale(self, values):
        """The speed that is drawn in full colour, of vectors (…,2)."""
        speed = np.linalg.norm(np.asarray(values, np.float32), axis=-1)
        return (max(1.0, float(np.percentile(speed, 99))) if speed.size else 1.0,)

    def draw(self, values, *scale):
        return colors.flow_to_color(values, *scale)

    def legends(self, *scale):
        return (colors.flow_legend(96, *scale),)

    def picture(self, clip, prediction):
        valid = clip["flow_valid"]
        scale = self.drawing_scale(clip["flow"][valid])
        columns = {
            "input": clip["video"],
            "prediction": self.draw(prediction, *scale),
            "truth (black: not valid)": colors.flow_to_color(clip["flow"], *scale, valid),
        }
        return Picture(columns, self.legends(*scale))
