"""Frames from whatever holds a video: a file, a folder of pictures, an array, an iterator."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from fractions import Fraction
from typing import Any

import numpy as np
from av import VideoFrame
from av.video.reformatter import VideoReformatter

from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.clock import Shown
from v2v_jax.media.folders import PICTURE_EXTENSIONS, list_pictures
from v2v_jax.media.frame_arrays import check_video, rgb_frame
from v2v_jax.media.frame_conversion import INTERPOLATION
from v2v_jax.media.pictures import Picture
from v2v_jax.media.video import VideoFile, VideoStream
from v2v_jax.system.paths import local_path

# (T,H,W,3) uint8, a path, or an iterable of frames.
Video = np.ndarray | str | os.PathLike | Iterable[np.ndarray]

# Iterables whose items are no frames, or come in no order.
_NO_FRAMES = (bytes, bytearray, Mapping, Set, io.IOBase)


@dataclasses.dataclass(frozen=True)
class FrameSource:
    """Frames in order, to be drawn once.

    Attributes:
      frames: (H,W,3) uint8 RGB, all of one size.
      name: for messages.
      fps: frames per second; None if not known.
      num_frames: how many there are likely to be; None if not known.
      pixel_aspect: width of a pixel by its height, as it is to be shown.
      times: when each frame is shown that was drawn so far, in order; None if that is not known.
      tick: seconds of the unit of `times`.
      read: gives frames start..stop-1 as an array, whatever was drawn so far; the last ones where
        `num_frames` promised too many. Raises DataError. None where a frame comes once only.
    """

    frames: Iterator[np.ndarray]
    name: str
    fps: float | None = None
    num_frames: int | None = None
    pixel_aspect: Fraction = Fraction(1)
    times: Sequence[Shown] | None = None
    tick: Fraction | None = None
    read: Callable[[int, int], np.ndarray] | None = None


def open_source(video: Video | FrameSource) -> FrameSource:
    """Frames of a video file, a folder of pictures, an array or an iterable.

    Args:
      video: a path; (T,H,W,3) uint8 RGB; (T,H,W) or (T,H,W,1) grey; (T,H,W,4), whose opacity is
        left out; or an iterable of such frames. Whether colours are RGB cannot be seen: of OpenCV's
        BGR give frame[..., ::-1].

    Raises:
      DataError: there is nothing there, no frame, or a frame that is none or of another size than
        the first; the later ones are raised when they are reached.
    """
    if isinstance(video, FrameSource):
        return video
    if isinstance(video, (str, os.PathLike)):
        if not os.fspath(video):
            raise DataError("The video's path is empty; give a video, or a folder of its frames.")
        path = pathlib.Path(local_path(os.fspath(video)))
        if path.suffix.lower() in PICTURE_EXTENSIONS and os.path.isfile(path):
            raise DataError(
                f"Video {path} is one picture; give a video, or a folder with a video's frames."
            )
        if os.path.isdir(path):
            names = list_pictures(path)
            if not names:
                raise DataError(
                    f"Folder {path} holds no pictures; expected the frames of a video as "
                    f"{', '.join(PICTURE_EXTENSIONS)}."
                )

            def frames(some: Sequence[str]) -> Iterator[np.ndarray]:
                return _checked((Picture(path / name).frame() for name in some), str(path))

            read = lambda start, stop: np.stack(list(frames(names[start:stop])))
            return FrameSource(frames(names), str(path), None, len(names), read=read)
        stream = VideoStream(path)
        frames = _checked(stream, str(path))
        aspect = Fraction(1)
        with contextlib.suppress(CorruptVideoError):  # said when the frames are reached
            aspect = stream.pixel_aspect
        return FrameSource(
            *(frames, str(path), stream.fps, stream.num_frames, aspect, stream.times, stream.tick),
            read=_reader(path),
        )
    if hasattr(video, "__array__") or isinstance(video, memoryview):
        array = check_video(video)
        read = lambda start, stop: array[start:stop]
        frames = _checked(array, "The video")
        return FrameSource(frames, "the video", None, len(array), read=read)
    if not isinstance(video, Iterable) or isinstance(video, _NO_FRAMES):
        raise DataError(
            f"The video is {type(video).__name__}; expected a path, an array (T,H,W,3) uint8 RGB, "
            "or an iterable of frames."
        )
    return FrameSource(_checked(video, "The video"), "the video")


def _reader(path: pathlib.Path) -> Callable[[int, int], np.ndarray]:
    """`FrameSource.read` of a video file, which is opened when it is first asked for."""
    opened = functools.cache(lambda: VideoFile(path))

    def read(start: int, stop: int) -> np.ndarray:
        late = max(0, stop - opened().num_frames)
        return opened().read(max(0, start - late), stop - late)

    return read


def _checked(frames: Iterable[Any], name: str) -> Iterator[np.ndarray]:
    """The frames as (H,W,3) uint8 of one size; DataError for others and for none at all."""
    size = None
    for number, frame in enumerate(frames):
        frame = rgb_frame(frame, f"{name}, frame {number},")
        size = size or frame.shape[:2]
        if frame.shape[:2] != size:
            raise DataError(
                f"{name}, frame {number}, is {frame.shape[0]}x{frame.shape[1]} (HxW), the first "
                f"one {size[0]}x{size[1]}; expected frames of one size."
            )
        yield frame
    if size is None:
        raise DataError(f"{name} has no frames; expected at least one.")


class FrameResizer:
    """Scales RGB frames to one size as the training data was (bicubic, antialiased)."""

    def __init__(self, size: tuple[int, int]):
        """size: (H,W)."""
        self._size = size
        self._reformatter = VideoReformatter()

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """(h,w,3) uint8 → (H,W,3) uint8; the same array where the size is."""
        if frame.shape[:2] == self._size:
            return frame
        h, w = self._size
        whole = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        scaled = self._reformatter.reformat(
            whole, w, h, "gbrp", interpolation=INTERPOLATION, threads=1
        )
        return scaled.to_ndarray()
