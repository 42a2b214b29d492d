"""What all readers of real video share: which videos of a dataset can be used.

One damaged video among thousands must not stop a training run, but a dataset that is mostly damaged
or too short must not pass unseen.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import av
import numpy as np
from absl import logging

from v2v_jax.datasets.base.video_dataset import DECODING_SHARE, VideoDataset, VideoInfo
from v2v_jax.errors import CorruptVideoError, DataError, TooManyCorruptError
from v2v_jax.media.video import VideoFile
from v2v_jax.system.messages import some_of

# The warning of a video that is passed over: dataset, name, reason.
LEAVES_OUT = "Dataset %s leaves out the corrupt video %s: %s"
MIN_FRAMES = 16  # the length of V2V's clips
_MAX_CORRUPT_SHARE = 0.01
_THREADS = 8  # listing waits for the disk more than for the processor

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Listing(Generic[T]):
    """The usable videos of a dataset.

    Attributes:
      videos: name and number of frames of each.
      handles: what `open_one` returned for each.
      corrupt: (name, reason) of the videos left out because they cannot be read.
    """

    videos: list[VideoInfo]
    handles: list[T]
    corrupt: list[tuple[str, str]]


def list_videos(
    dataset: str,
    names: Sequence[str],
    open_one: Callable[[int], tuple[T, int]],
    min_frames: int = MIN_FRAMES,
) -> Listing[T]:
    """Opens all videos and leaves out those that are corrupt or too short.

    Args:
      dataset: the dataset's name, for messages.
      names: one name a video, for messages.
      open_one: maps a video's index to (handle, number of frames), called by several threads;
        raises CorruptVideoError if the video cannot be read. A handle may say `is_even`, as
        VideoFile does.
      min_frames: videos with fewer frames are left out with a warning.

    Returns:
      The usable videos, in the order of `names`.

    Raises:
      DataError: there are no videos, more than max(1, 1 %) are corrupt, or none is long enough.
    """
    if not names:
        raise DataError(f"Dataset {dataset} has no videos; check its folder.")

    def attempt(index: int) -> tuple[T, int] | CorruptVideoError:
        try:
            return open_one(index)
        except CorruptVideoError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            opened = list(pool.map(attempt, range(len(names))))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    listing: Listing[T] = Listing([], [], [])
    short, uneven = [], []
    for name, result in zip(names, opened, strict=True):
        if isinstance(result, CorruptVideoError):
            listing.corrupt.append((name, str(result)))
        elif result[1] < min_frames:
            short.append(f"{name} ({result[1]})")
        else:
            listing.handles.append(result[0])
            listing.videos.append(VideoInfo(name, result[1]))
            if not getattr(result[0], "is_even", True):
                uneven.append(name)
    _report(dataset, len(names), listing, short, min_frames)
    if uneven:
        logging.warning(
            "Dataset %s: %d of %d videos have frames at uneven times; clips take one frame after "
            "the other, however long each lasts: %s",
            *(dataset, len(uneven), len(listing.videos), some_of(uneven)),
        )
    return listing


def _report(
    dataset: str, count: int, listing: Listing[T], short: Sequence[str], min_frames: int
) -> None:
    corrupt = listing.corrupt
    if len(corrupt) > max(1, _MAX_CORRUPT_SHARE * count) or (corrupt and not listing.videos):
        raise TooManyCorruptError(
            f"Dataset {dataset}: {len(corrupt)} of {count} videos cannot be read "
            f"({some_of([name for name, _ in corrupt])}), more than one in a hundred. The first: "
            f"{corrupt[0][1]}",
            corrupt,
        )
    if not listing.videos:
        raise DataError(
            f"Dataset {dataset}: all {count} videos are shorter than {min_frames} frames "
            f"({some_of(short)}); use longer videos or lower min_frames."
        )
    for name, reason in corrupt:
        logging.warning(LEAVES_OUT, dataset, name, reason)
    if short:
        logging.warning(
            "Dataset %s leaves out %d of %d videos shorter than %d frames: %s",
            *(dataset, len(short), count, min_frames, some_of(short)),
        )


def check_split(dataset: str, split: str) -> None:
    """Raises DataError if `split` is neither "train" nor "test"."""
    if split not in ("train", "test"):
        raise DataError(f"Dataset {dataset} has no split {split!r}; choose train or test.")


def check_window(info: VideoInfo, start: int, stop: int) -> None:
    """Raises ValueError unless 0 <= start < stop <= the number of frames."""
    if not 0 <= start < stop <= info.num_frames:
        raise ValueError(
            f"Frames {start}..{stop} of video {info.name}: it has {info.num_frames} frames; ask "
            f"for 0 <= start < stop <= {info.num_frames}."
        )


def check_inside(dataset: str, root: str, paths: Iterable[str], source: str) -> None:
    """Raises DataError if a path that a list file named leads out of the dataset's folder.

    Links count by where they lead; the folder itself may be one.

    Args:
      source: the list, for the message.
    """
    real = os.path.join(os.path.realpath(root), "")
    for path in paths:
        if not os.path.realpath(path).startswith(real):
            raise DataError(
                f"Dataset {dataset}: {path}, which {source} names, leads out of {root}, to "
                f"{os.path.realpath(path)}; copy it into that folder."
            )


def file_identities(paths: Iterable[str | os.PathLike[str]]) -> list[list[Any]]:
    """[name, bytes, time of the last change in ns] of every file, for `VideoDataset.identity`.

    Names without folders: a dataset may move.

    Raises:
      DataError: a file has gone.
    """
    identities = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            raise DataError(
                f"File {os.fspath(path)} has disappeared ({error.strerror}); start again."
            ) from error
        identities.append([os.path.basename(path), status.st_size, status.st_mtime_ns])
    return identities


class VideoFileDataset(VideoDataset):
    """A dataset whose videos are video files.

    Attributes:
      paths: the file of every video.
      corrupt: (name, reason) of the videos left out because they cannot be read.
    """

    python_share = DECODING_SHARE

    def __init__(
        self,
        names: Sequence[str],
        paths: Sequence[str],
        frame_size: tuple[int, int],
        min_frames: int,
    ) -> None:
        """Indexes the files.

        Args:
          names: one name a video, for messages.
          paths: their files.
          frame_size: (H, W) to resize to.
          min_frames: shorter videos are left out.

        Raises:
          DataError: see `list_videos`.
        """

        def open_one(index: int) -> tuple[VideoFile, int]:
            file = VideoFile(paths[index])
            return file, file.num_frames

        listing = list_videos(self.name, names, open_one, min_frames)
        self.frame_size = frame_size
        self.videos = listing.videos
        self.corrupt = listing.corrupt
        self.paths = [file.path for file in listing.handles]
        self._files = listing.handles

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`: `video` (T,H,W,3) uint8 RGB, 0..255."""
        self.check_fields(fields)
        check_window(self.videos[video], start, stop)
        return {field: self._files[video].read(start, stop, self.frame_size) for field in fields}

    def files(self, video: int) -> tuple[str, ...]:
        """See `VideoDataset.files`."""
        return (self.paths[video],)

    def original_size(self, video: int) -> tuple[int, int]:
        """See `VideoDataset.original_size`."""
        return self._files[video].size

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        return {"files": file_identities(self.paths), "av": av.__version__}
