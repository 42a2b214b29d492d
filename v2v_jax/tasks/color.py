"""Video colouring (paper section 6)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax.errors import ConfigError
from v2v_jax.input.preprocess import LUMA, to_gray
from v2v_jax.tasks import losses, metrics
from v2v_jax.tasks.color_hints import CHANNELS, hint_channels, hint_mask
from v2v_jax.tasks.task import Batch, PaperRecipe, Picture, Task, clip_valid


class Color(Task):
    """Video colouring (paper section 6): grey in, RGB out, average distance error.

    The loss is that error itself ("distance") or the paper's L2 ("half_squared").

    With `residual` the network predicts how the colour differs from the grey input. The network
    alone (the paper's) must redraw the frame through features of a quarter of its size, so that its
    colours are blurred, and worse than no colour at all where there are few training videos.

    With `hints` the network is also told the colour at a few voxels (`color_hints`): its input is
    grey, the hints' mask and their colour. A batch that has `hint_mask` (B,T,H,W) bool brings its
    own; the hints' colours are those of its `video`.
    """

    name = "color"
    fields = ("video",)
    options = {"residual": True, "hints": 0, "loss": "distance"}
    options_before = {"loss": "half_squared"}
    paper = PaperRecipe(
        6e-3,
        weight_decay=0.0,
        decay_every=200_000,
        num_steps=600_000,
        options={"residual": False, "loss": "half_squared"},
    )
    input_channels = 1  # more with hints
    headline, better = "ade", "min"
    baseline = "the grey frame"
    units = "ADE: mean distance in RGB, whose channels go from 0 to 1 (black to white has 1.73)."
    frame_files = (".png", ".npz")
    array_name = "rgb"
    overlays = False
    scale_numbers = ()
    num_outputs = 3

    def __init__(
        self,
        residual: bool = True,
        hints: int = 0,
        fewest_hints: int = 0,
        draw_hints: bool = True,
        loss: str = "distance",
    ):
        """residual: whether the network's outputs are added to the grey input.

        hints, fewest_hints: the most and the fewest hints a clip; with hints=0 there are none.
        loss: of `losses.REGRESSION`.
        draw_hints: False: a batch without `hint_mask` has no hints, as a user's video.
        """
        self.residual, self.draw_hints = residual, draw_hints
        self.hints, self.fewest_hints = hints, fewest_hints
        self._loss = loss
        self.input_channels = 1 + (CHANNELS if hints else 0)

    @classmethod
    def from_stored(cls, about, **options):
        """Of hints it is given those of a batch's `hint_mask`, and draws none of its own."""
        return cls(**options, draw_hints=False)

    @classmethod
    def check_options(cls, options):
        losses.check(options["loss"])
        if options["hints"] < 0:
            raise ConfigError(
                f"task_options.hints is {options['hints']}; it is the most colour hints a clip, 0 "
                "or more."
            )

    def complete(self, raw, batch):
        return raw + to_gray(batch["video"]) if self.residual else raw

    def inputs(self, batch, preprocessing):
        gray = preprocessing.normalize_gray(to_gray(batch["video"]))
        if not self.hints:
            return gray
        channels = hint_channels(batch["video"], self._hint_mask(batch))
        return jnp.concatenate([gray, channels], axis=-1)

    def _hint_mask(self, batch: Batch) -> jax.Array:
        if "hint_mask" in batch:
            return batch["hint_mask"]
        if not self.draw_hints:
            return jnp.zeros(batch["video"].shape[:4], bool)
        return hint_mask(batch["video"], most=self.hints, fewest=self.fewest_hints)

    def _target(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        video = batch["video"]
        return video.astype(jnp.float32) / 255.0, clip_valid(jnp.ones(video.shape[:4], bool), batch)

    def loss(self, outputs, batch):
        return losses.REGRESSION[self._loss](outputs, *self._target(batch))

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

    def blendable(self, raw):
        """RGB in [0,1]; with `residual` the difference from grey, in [-1,1].

        Grey is added to that only after it was scaled up, so that nothing of its detail is lost.
        """
        return raw if self.residual else self.predict(raw)

    @property
    def finish_reads_video(self):
        return self.residual

    def finish(self, values, video, scale):
        """(T,H,W,3) uint8 RGB."""
        rgb = values + to_gray(video) if self.residual else values
        return jnp.round(self.predict(rgb) * 255.0).astype(jnp.uint8)

    def drawing_scale(self, values):
        return ()

    def draw(self, values, *scale):
        return values

    def legends(self, *scale):
        return ()

    def shown_input(self, frames):
        """The grey of the video."""
        gray = np.rint(frames @ np.array(LUMA, np.float32)).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)

    def picture(self, clip, prediction):
        gray = np.asarray(to_gray(clip["video"]))
        to_uint8 = lambda x: np.round(np.asarray(x, np.float32) * 255).astype(np.uint8)
        gray = to_uint8(np.broadcast_to(gray, clip["video"].shape))
        columns = {"input": gray}
        if self.hints:
            batch = {name: clip[name][None] for name in ("video", "hint_mask") if name in clip}
            mask = np.asarray(self._hint_mask(batch))[0]
            columns["hints"] = np.where(mask[..., None], clip["video"], gray)
        columns |= {"prediction": to_uint8(prediction), "truth": clip["video"]}
        return Picture(columns)
