"""The interface that every dataset implements: random access to windows of frames."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from v2v_jax.errors import DataError

FRAME_SIZE = (128, 171)  # height, width that C3D and V2V resize to (paper section 4)
IGNORE_LABEL = 255
DECODING_SHARE = 0.25  # `python_share` of PyAV's and Pillow's decoding; docs/records/performance.md
VIDEO_LABEL = "video_label"  # a field of whole videos: (B,) int32 in a batch, see `video_label`


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """How one voxel of a field is stored, and what it depends on.

    Attributes:
      dtype: NumPy's.
      channels: the trailing (channel) shape.
      to_next_frame: whether it is about the motion to the next frame, so that it is not known of
        frames in another order or at another distance.
      per_class: whether there is one channel for each of the dataset's classes
        (`VideoDataset.channels`).
    """

    dtype: np.dtype
    channels: tuple[int, ...]
    to_next_frame: bool = False
    per_class: bool = False


# Every array that a dataset can deliver, aligned voxel for voxel with `video`. Floating point
# targets are stored as float16: 0.008 px at a flow of 15 px, at half of float32's memory.
FIELDS: dict[str, FieldSpec] = {
    "video": FieldSpec(np.dtype(np.uint8), (3,)),  # RGB, 0..255
    "labels": FieldSpec(np.dtype(np.uint8), ()),  # class index, 255 = ignore
    # of each class (K,), as a teacher gave them, in steps of 1/255; all 0 = ignore
    "probabilities": FieldSpec(np.dtype(np.uint8), (), per_class=True),
    "flow": FieldSpec(np.dtype(np.float16), (2,), True),  # (u, v) px/frame, at the resized scale
    # flow is known; scenes: and its end point is visible and no soft edge blurs it
    "flow_valid": FieldSpec(np.dtype(np.bool_), (), True),
    "flow_occluded": FieldSpec(np.dtype(np.bool_), (), True),  # the point is hidden in the next
    "depth": FieldSpec(np.dtype(np.float16), ()),  # metres, inf = none
}


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """One video of a dataset: a name for messages (file or index) and its number of frames."""

    name: str
    num_frames: int


class VideoDataset(abc.ABC):
    """Videos of equal frame size with random access to frames.

    Attributes:
      name: the dataset's name, as in `--config=…:dataset=NAME`.
      fields: which of `FIELDS` it can deliver.
      label_names: class names, index = label; empty where there are no labels.
      video_label_names: names of the classes of whole videos; empty where there are none.
      python_share: for how much of its time `read` holds Python's lock (GIL), 0 to 1: 1 for what is
        computed in Python, a quarter where a library decodes. Where there are more than 1 / share
        processors, processes read instead of threads; the dataset must be picklable then. 0: it
        copies what is in memory, threads will do.
      processes: how many are to read; 0: as many as are worth it, 1: none, threads do.
      frame_size: (H, W) of everything that `read` returns.
      native_size: (H, W) of the frames before they are resized, where all have the same and it is
        known; flow metrics are then given in those pixels.
      videos: one `VideoInfo` a video.
      corrupt: (name, reason) of the videos that were left out because they cannot be read.
    """

    name: ClassVar[str]
    fields: ClassVar[tuple[str, ...]] = ("video",)
    python_share: float = 0.0
    processes: int = 0
    label_names: tuple[str, ...] = ()
    video_label_names: tuple[str, ...] = ()
    frame_size: tuple[int, int] = FRAME_SIZE
    native_size: tuple[int, int] | None = None
    videos: Sequence[VideoInfo]
    corrupt: Sequence[tuple[str, str]] = ()

    @abc.abstractmethod
    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """Reads frames start..stop-1 of one video, resized to `frame_size`.

        Returns:
          For every field asked for an array (T,H,W,…), T = stop - start, with dtype and channels as
          in `FIELDS`. Thread-safe: several threads may call it at once.

        Raises:
          CorruptVideoError: the video's file cannot be decoded.
          DataError: anything else is wrong with the data, such as a mask of another size.
        """

    def channels(self, field: str) -> tuple[int, ...]:
        """The trailing (channel) shape of a field of this dataset."""
        spec = FIELDS[field]
        return (len(self.label_names),) if spec.per_class else spec.channels

    def files(self, video: int) -> tuple[str, ...]:
        """The paths of a video's frames: one video file, or a picture a frame, in order.

        Raises:
          DataError: they are not files, so that no labels on disk can be of them.
        """
        raise DataError(f"Dataset {self.name} cannot be labelled: its videos are not files.")

    def original_size(self, video: int) -> tuple[int, int] | None:
        """(H, W) of a video before resizing, where that is known without reading it."""
        del video
        return None

    def video_label(self, video: int) -> int:
        """The class of a whole video, an index into `video_label_names`, where that is not empty.

        Not stored in caches, and not what a step waits for: it is read once before training.
        """
        raise DataError(f"Dataset {self.name} has no classes of whole videos.")

    def identity(self) -> dict[str, Any]:
        """What its frames depend on, JSON-ready: files, parameters, versions of decoders.

        A cache (`packed`) is made anew when this changes. Frame size and the videos' names and
        lengths need not be among it.

        Raises:
          DataError: it does not know, so that it cannot be cached.
        """
        raise DataError(f"Dataset {self.name} cannot be cached; leave --config.data.cache out.")

    def prepare_fields(
        self,
        fields: Sequence[str],
        progress: Callable[[Iterable, int, str], Iterable] | None = None,
    ) -> None:
        """Called by the feeds before they read; a cache (`packed`) builds itself here.

        Args:
          fields: what `read` will be asked for.
          progress: wraps an iterable of known length to show its progress.

        Raises:
          DataError: this dataset lacks one of `fields`, or a cache cannot be made.
        """
        self.check_fields(fields)

    def check_fields(self, fields: Sequence[str]) -> None:
        """Raises DataError if this dataset lacks one of `fields`."""
        known = (*self.fields, *([VIDEO_LABEL] if self.video_label_names else ()))
        missing = [field for field in fields if field not in known]
        if missing:
            raise DataError(
                f"Dataset {self.name} has no {', '.join(missing)}: it delivers "
                f"{', '.join(known)}; choose a dataset that has it with "
                "--config=…:dataset=NAME."
            )
