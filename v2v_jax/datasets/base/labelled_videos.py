"""Videos with a mask a frame, as picture files or as video files, read through one interface."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import av
import numpy as np
import PIL

from v2v_jax.datasets.base.class_masks import (
    ClassTable,
    check_mask_size,
    class_mask,
    mask_kind,
    nearest_class,
)
from v2v_jax.datasets.base.listing import check_window, file_identities, list_videos
from v2v_jax.datasets.base.resizing import resize_nearest
from v2v_jax.datasets.base.video_dataset import DECODING_SHARE, IGNORE_LABEL, VideoDataset
from v2v_jax.errors import DataError
from v2v_jax.media.folders import LeftOut, list_pictures
from v2v_jax.media.pictures import Picture
from v2v_jax.media.video import VideoFile

_SAME_FORMAT = {".tif": ".tiff", ".jpeg": ".jpg", **dict.fromkeys((".pbm", ".pgm", ".pnm"), ".ppm")}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A video whose frames and masks are picture files.

    Attributes:
      frames: the frames' paths in order.
      masks: their masks' paths; None for a frame without one, of which nothing is labelled.
    """

    frames: tuple[str, ...]
    masks: tuple[str | None, ...]

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def frame_paths(self) -> tuple[str, ...]:
        """The frames' files."""
        return self.frames

    @property
    def paths(self) -> list[str]:
        """All files."""
        return [*self.frames, *filter(None, self.masks)]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the first frame, of which only the header is read."""
        return Picture(self.frames[0]).size

    @property
    def mask_kind(self) -> str | None:
        """The kind of the first mask, of which only the header is read; None without masks."""
        first = next(filter(None, self.masks), None)
        return None if first is None else mask_kind(Picture(first))

    def read_video(self, start: int, stop: int, size: tuple[int, int]) -> np.ndarray:
        """(T,H,W,3) uint8 RGB, resized."""
        return np.stack([Picture(path).frame(size) for path in self.frames[start:stop]])

    def read_labels(
        self, start: int, stop: int, size: tuple[int, int], table: ClassTable, kind: str | None
    ) -> np.ndarray:
        """(T,H,W) uint8; DataError if a mask is not its frame's size or not of this kind."""
        labels = np.full((stop - start, *size), IGNORE_LABEL, np.uint8)
        for t in range(start, stop):
            if (name := self.masks[t]) is None:
                continue
            mask = Picture(name)
            check_mask_size(name, mask.size, Picture(self.frames[t]).size)  # its header alone
            if mask_kind(mask) != kind:
                raise DataError(
                    f"Masks of mixed formats: {name} is of kind {mask_kind(mask)}, the dataset's "
                    f"first mask of kind {kind}; convert them to one."
                )
            labels[t - start] = resize_nearest(class_mask(mask, table), size)
        return labels


@dataclasses.dataclass(frozen=True)
class VideoPair:
    """A video whose frames are one video file and whose masks, as colours, another."""

    frames: VideoFile
    masks: VideoFile

    @property
    def num_frames(self) -> int:
        return self.frames.num_frames

    @property
    def frame_paths(self) -> tuple[str, ...]:
        """The frames' file."""
        return (self.frames.path,)

    @property
    def paths(self) -> list[str]:
        """Both files."""
        return [self.frames.path, self.masks.path]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames."""
        return self.frames.size

    @property
    def is_even(self) -> bool:
        """Whether all frames are shown about as long."""
        return self.frames.is_even

    mask_kind: ClassVar[str] = "video"

    def read_video(self, start: int, stop: int, size: tuple[int, int]) -> np.ndarray:
        """(T,H,W,3) uint8 RGB, resized."""
        return self.frames.read(start, stop, size)

    def read_labels(
        self, start: int, stop: int, size: tuple[int, int], table: ClassTable, kind: str | None
    ) -> np.ndarray:
        """(T,H,W) uint8; DataError if the two files' frames differ in size."""
        del kind
        frames = self.masks.read(start, stop)
        first = self.frames.read(start, start + 1)
        check_mask_size(self.masks.path, frames.shape[1:3], first.shape[1:3])
        return np.stack(
            [
                resize_nearest(nearest_class(f, table, f"{self.masks.path}, frame {t},"), size)
                for t, f in enumerate(frames, start)
            ]
        )


class LabelledVideos(VideoDataset):
    """Videos with classes a voxel, in whatever files they are.

    Attributes:
      corrupt: (name, reason) of the videos left out because they cannot be read.
    """

    fields: ClassVar[tuple[str, ...]] = ("video", "labels")
    python_share = DECODING_SHARE

    def __init__(
        self,
        names: Sequence[str],
        open_one: Callable[[int], Pictures | VideoPair],
        table: ClassTable,
        frame_size: tuple[int, int],
        min_frames: int,
    ) -> None:
        """Opens the videos.

        Args:
          names: one name a video, for messages.
          open_one: maps a video's index to its files; called by several threads.
          table: what the masks' values mean.
          frame_size: (H, W) to resize to.
          min_frames: shorter videos are left out with a warning.

        Raises:
          DataError: see `list_videos`; or masks of different kinds.
        """

        def opened(index: int) -> tuple[Pictures | VideoPair, int]:
            files = open_one(index)
            return files, files.num_frames

        listing = list_videos(self.name, names, opened, min_frames)
        self.label_names = table.names
        self.frame_size = frame_size
        self.videos = listing.videos
        self.corrupt = listing.corrupt
        self._files = listing.handles
        self._table = table
        kinds = [files.mask_kind for files in self._files]
        self._kind = next(filter(None, kinds), None)
        for info, kind in zip(self.videos, kinds):
            if kind not in (None, self._kind):
                raise DataError(
                    f"Dataset {self.name} has masks of mixed formats: those of {info.name} are of "
                    f"kind {kind}, those of {self.videos[0].name} of kind {self._kind}; convert "
                    "them to one."
                )

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`: `video` (T,H,W,3) uint8 RGB, `labels` (T,H,W) uint8."""
        self.check_fields(fields)
        check_window(self.videos[video], start, stop)
        files, result = self._files[video], {}
        if "video" in fields:
            result["video"] = files.read_video(start, stop, self.frame_size)
        if "labels" in fields:
            result["labels"] = files.read_labels(
                start, stop, self.frame_size, self._table, self._kind
            )
        return result

    def files(self, video: int) -> tuple[str, ...]:
        """See `VideoDataset.files`."""
        return self._files[video].frame_paths

    def original_size(self, video: int) -> tuple[int, int]:
        """See `VideoDataset.original_size`."""
        return self._files[video].size

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        table = [self._table.labels, self._table.names]
        if self._table.colors is not None:
            table.append(self._table.colors.tolist())
        paths = [path for files in self._files for path in files.paths]
        versions = {"pillow": PIL.__version__, "av": av.__version__}
        return {"files": file_identities(paths), "classes": table, **versions}


def picture_names(folder: str, dataset: str, left_out: LeftOut) -> dict[str, str]:
    """Stem → file name of every picture in a folder, in natural order.

    Args:
      left_out: gets what is left out, for the caller to report.

    Raises:
      DataError: two formats in one folder, or two pictures of one name.
    """
    names = list_pictures(folder, left_out)
    by_format: dict[str, str] = {}
    for name in names:
        extension = os.path.splitext(name)[1].lower()
        by_format.setdefault(_SAME_FORMAT.get(extension, extension), name)
    if len(by_format) > 1:
        raise DataError(
            f"Dataset {dataset}: folder {folder} holds pictures of mixed formats "
            f"({', '.join(list(by_format.values())[:3])}); keep one."
        )
    found: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]
        if stem in found:
            raise DataError(
                f"Dataset {dataset}: folder {folder} holds {found[stem]} and {name}; keep one."
            )
        found[stem] = name
    return found
