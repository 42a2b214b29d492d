"""The interface that every task implements, and what most tasks have in common.

A task knows all that is special about what is predicted; nothing else in the package knows a task's
name. Of a task of one's own the least is a name, the fields it reads, the number of outputs and
their target (docs/guides/own_task.md); every other method may be overridden.

A batch is a dict of the dataset's fields (B,T,H,W,…) and `mask` (B,) bool, False for clips that
only pad the batch.
"""

from __future__ import annotations

import abc
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.drawing import colors
from v2v_jax.drawing.legends import Legend
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.tasks import losses, metrics

Batch = Mapping[str, jax.Array]
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Picture:
    """What is to be drawn of one clip: title → (T,H,W,3) uint8 RGB, and what its colours mean.

    A legend may also be a picture of one's own, (h,w,3) uint8 RGB.
    """

    columns: dict[str, np.ndarray]
    legends: tuple[Legend | np.ndarray, ...] = ()


@dataclasses.dataclass(frozen=True)
class PaperRecipe:
    """What `recipe=paper` sets for a task: Caffe's SGD on batches of one clip (sections 4 to 6).

    Attributes:
      learning_rate: for a loss averaged over voxels and channels.
      weight_decay: of kernels.
      decay_every: steps after which the rate is divided by ten.
      num_steps: of the whole training.
      options: the task's options where they differ from its defaults.
    """

    learning_rate: float
    weight_decay: float
    decay_every: int
    num_steps: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task(abc.ABC):
    """One prediction problem.

    The defaults are for outputs that should be near a `target`: half the squared error is the loss,
    its root mean the metric, the best constant the trivial answer.

    Attributes:
      name: as in `config.task`.
      fields: what it needs of a dataset, "video" among them.
      answers: "voxels", or "clips" for one answer a clip: (B,K) outputs, without T, H and W, of a
        network for classification.
      options: what `config.task_options` holds, with defaults; arguments of the constructor.
      options_before: what was done before an option existed, where that is not its default: weights
        of that time have no record of it.
      label_field: what a teacher's labels for it are, "flow", "labels" or "depth" (`v2v label`);
        empty: it needs none.
      paper: what recipe=paper sets; None: the paper says nothing of this task.
      input_channels: C of the network's input.
      headline: the metric that decides which checkpoint is best, and `better` its direction.
      baseline: what the trivial answer is called.
      units: a sentence or two on what the metrics are and in which units.
      label_names: of the classes, index = label; empty for other tasks.
      has_probabilities: whether what is blended is the probabilities of classes.
      frame_files: the extensions of a frame's file in predictions; the first is the usual one.
      array_name: of the results in .npz files.
      overlays: whether a drawing can lie over the video, half transparent.
      scale_numbers: what the numbers of `drawing_scale` are called, the smaller one first.
      scale_is_positive: whether they must be above 0.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]
    answers: ClassVar[Literal["voxels", "clips"]] = "voxels"
    options: ClassVar[Mapping[str, Any]] = {}
    options_before: ClassVar[Mapping[str, Any]] = {}
    label_field: ClassVar[str] = ""
    paper: ClassVar[PaperRecipe | None] = None
    input_channels: int = 3
    headline: ClassVar[str] = "rmse"
    better: ClassVar[Literal["max", "min"]] = "min"
    baseline: ClassVar[str] = "the best constant"
    units: ClassVar[str] = (
        "RMSE: root of the mean over voxels of the squared distance between output and target, in "
        "the target's units."
    )
    label_names: tuple[str, ...] = ()
    has_probabilities: ClassVar[bool] = False
    frame_files: ClassVar[tuple[str, ...]] = (".npz",)
    array_name: ClassVar[str] = "values"
    overlays: ClassVar[bool] = True
    scale_numbers: ClassVar[tuple[str, ...]] = ("LEAST", "MOST")
    scale_is_positive: ClassVar[bool] = False

    # --------------------------------------------------------------------------------------------
    # How it is made

    @classmethod
    def from_dataset(cls, dataset: VideoDataset, **options: Any) -> Task:
        """The task for training and evaluation on a dataset.

        Args:
          options: a value for each of `cls.options`.

        Raises:
          DataError: the dataset lacks what the task needs beside `fields`.
        """
        del dataset
        return cls(**options)

    @classmethod
    def from_stored(cls, about: Mapping[str, Any], **options: Any) -> Task:
        """The task for prediction, from what is stored with the weights.

        Args:
          about: the record, JSON: "label_names", "num_outputs", "preprocessing", "config" and, as
            "task_stored", what `stored` gave.
          options: a value for each of `cls.options`, as stored.
        """
        del about
        return cls(**options)

    @property
    def stored(self) -> dict[str, Any]:
        """JSON-ready: what `from_stored` needs beside the options, label and output numbers."""
        return {}

    @classmethod
    def fields_for(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """What training with these options reads; `cls.fields` is what every use of it needs."""
        del options
        return cls.fields

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raises ConfigError if a value of `config.task_options` cannot be used."""
        del options

    # --------------------------------------------------------------------------------------------
    # Training and evaluation

    @property
    @abc.abstractmethod
    def num_outputs(self) -> int:
        """K, outputs a voxel."""

    @property
    def evaluation_fields(self) -> tuple[str, ...]:
        """What evaluation reads: `fields`, and what else the metrics can use."""
        return self.fields

    def inputs(self, batch: Batch, preprocessing: Preprocessing) -> jax.Array:
        """The network's input (B,T,H,W,C) float32."""
        return preprocessing.normalize(batch["video"])

    def complete(self, raw: jax.Array, batch: Batch) -> jax.Array:
        """The outputs (B,T,H,W,K) that loss, sums and predict take, from the network's own."""
        del batch
        return raw

    def target(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """What the outputs should be, (B,T,H,W,K) float32, and where that is known: (B,T,H,W) bool.

        Only the defaults of `loss`, `sums` and `picture` ask for it. `clip_valid` leaves out the
        clips that pad a batch.
        """
        raise NotImplementedError(
            f"The task {self.name} has neither a target nor its own loss, sums and summarize."
        )

    def loss(self, outputs: jax.Array, batch: Batch) -> losses.Sum:
        """Sum and count of the loss of completed outputs (B,T,H,W,K) float32."""
        return losses.half_squared(outputs, *self.target(batch))

    def sums(self, outputs: jax.Array, batch: Batch) -> metrics.Sums:
        """What `summarize` needs of a batch: per-clip values (B,) or matrices (K,K)."""
        return metrics.regression_sums(outputs, *self.target(batch))

    def training_sums(self, outputs: jax.Array, batch: Batch) -> metrics.Sums:
        """What `summarize` needs for the headline metric alone, in every training step."""
        return self.sums(outputs, batch)

    def summarize(self, sums: Arrays) -> dict[str, float]:
        """Metrics from the sums of any number of batches.

        Returns:
          name → value; the headline metric and `baseline_HEADLINE`, the trivial answer's, are
          always among them. `metric/class` is of a class or another part alone.
        """
        return metrics.regression_errors(sums)

    def predict(self, outputs: jax.Array) -> jax.Array:
        """Completed outputs (…,K) in the task's own units."""
        return outputs

    # --------------------------------------------------------------------------------------------
    # Prediction of whole videos

    def blendable(self, raw: jax.Array) -> jax.Array:
        """What windows are blended and scaled as: the network's own outputs (…,K) → (…,C) float32.

        Blending and scaling are linear: class probabilities or metres, but not labels.
        """
        values = self.predict(raw)
        return values if values.ndim == raw.ndim else values[..., None]

    @property
    def num_values(self) -> int:
        """C, of `blendable`."""
        raw = jax.ShapeDtypeStruct((1, 1, 1, 1, self.num_outputs), jnp.float32)
        return jax.eval_shape(self.blendable, raw).shape[-1]

    @property
    def finish_reads_video(self) -> bool:
        """Whether `finish` looks at the video's frames."""
        return False

    def finish(self, values: jax.Array, video: jax.Array | None, scale: jax.Array) -> jax.Array:
        """The result from blended values at the video's own size; traced by jit.

        Args:
          values: (T,H,W,C) float32.
          video: (T,H,W,3) uint8 RGB; None unless `finish_reads_video`.
          scale: (2,) float32, pixels of the video a pixel that the network saw, (x, y).

        Returns:
          (T,H,W) or (T,H,W,…), what a Predictor gives.
        """
        del video, scale
        return values[..., 0] if values.shape[-1] == 1 else values

    # --------------------------------------------------------------------------------------------
    # Files and drawings

    def frame_arrays(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """name → array of a frame's .npz file; `values` (H,W) or (H,W,…) as a Predictor gives."""
        return {self.array_name: values}

    def frame_notes(self, extension: str) -> tuple[str, dict[str, Any]] | None:
        """What the numbers in frames' files with that extension mean, where the format says not.

        Returns:
          The name of a JSON file that is written once beside them, and its content.
        """
        del extension
        return None

    def write_frame(self, path: pathlib.Path, values: np.ndarray) -> None:
        """Writes one frame's result to a file with an extension of `frame_files`.

        Pictures are of what is uint8: (H,W) or (H,W,3).

        Raises:
          OSError, DataError: it cannot be written.
        """
        if path.suffix.lower() == ".npz":
            np.savez_compressed(path, **self.frame_arrays(values))
        else:
            PIL.Image.fromarray(values).save(path)

    def drawing_scale(self, values: np.ndarray) -> tuple[float, ...]:
        """What `draw` maps to its colours, one for a whole video; here the least and the largest.

        Args:
          values: results of the video's beginning, (T,H,W,…): its end is not known when the first
            frames are drawn.
        """
        known = _magnitude(values)
        known = known[np.isfinite(known)]
        least, most = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
        return float(least), float(most)

    def draw(self, values: np.ndarray, *scale: float) -> np.ndarray:
        """Results (T,H,W) or (T,H,W,C) as colours (T,H,W,3) uint8 RGB; of vectors, their length."""
        return colors.scalar_to_color(_magnitude(values), *scale)

    def legends(self, *scale: float) -> tuple[Legend | np.ndarray, ...]:
        """What the colours of `draw` mean; also as pictures (h,w,3) uint8 RGB."""
        return (colors.scalar_legend(*scale),)

    def overlay(self, frames: np.ndarray, values: np.ndarray, *scale: float) -> np.ndarray:
        """Results over the video (T,H,W,3) uint8 RGB, the same shape; here `draw`, half of it."""
        return colors.half_over(frames, self.draw(values, *scale))

    def overlay_legends(self, *scale: float) -> tuple[Legend | np.ndarray, ...]:
        """What the colours of `overlay` mean; here as those of `draw`."""
        return self.legends(*scale)

    def shown_input(self, frames: np.ndarray) -> np.ndarray:
        """What is shown of the video (…,H,W,3) uint8 RGB as the network's input, the same shape."""
        return frames

    @property
    def label_colors(self) -> np.ndarray | None:
        """(K,3) uint8 RGB: each class's colour in the drawings; None where classes have none."""
        return None

    def picture(self, clip: Arrays, prediction: np.ndarray) -> Picture:
        """Input, prediction and truth of one clip, fields (T,H,W,…), to be drawn side by side.

        Args:
          prediction: as `predict` gives it.
        """
        batch = {name: jnp.asarray(value)[None] for name, value in clip.items()}
        target, valid = self.target(batch | {"mask": jnp.ones(1, bool)})
        truth = np.where(valid[..., None], target, np.nan)[0]
        scale = self.drawing_scale(truth)
        columns = {
            "input": self.shown_input(clip["video"]),
            "prediction": self.draw(prediction, *scale),
            "truth (black: not valid)": self.draw(truth, *scale),
        }
        return Picture(columns, self.legends(*scale))

    def more_pictures(self, clip: Arrays, prediction: np.ndarray) -> dict[str, Picture]:
        """Further stills by name."""
        del clip, prediction
        return {}


def clip_valid(valid: jax.Array, batch: Batch) -> jax.Array:
    """(B,T,H,W) bool: valid voxels of the clips that count."""
    return valid & batch["mask"][:, None, None, None]


def _magnitude(values: np.ndarray) -> np.ndarray:
    """(T,H,W) as it is, of (T,H,W,C) the only channel or the vectors' length; float32."""
    values = np.asarray(values, np.float32)
    if values.ndim == 3:
        return values
    return values[..., 0] if values.shape[-1] == 1 else np.linalg.norm(values, axis=-1)
