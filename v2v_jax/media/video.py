"""Video files: frame-exact random access and streaming by PyAV (FFmpeg); writing: video_writer.

Frames are (T,H,W,3) uint8 RGB, 0..255. A file is open only while it is read, every read has its own
decoder with a single thread: many threads read many files at once and none waits for another.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import operator
import os
import stat
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from absl import logging
from av.stream import Disposition

from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.clock import Clock, Shown, is_even, mean_rate
from v2v_jax.media.containers import demuxed, open_input
from v2v_jax.media.frame_conversion import FrameConverter, lies_on_its_side
from v2v_jax.media.packets import (
    check_complete,
    corrupt,
    presentation_times,
    scan_packets,
    seekable_times,
)
from v2v_jax.media.video_writer import write_video
from v2v_jax.system import causes
from v2v_jax.system.paths import local_path

__all__ = ["VideoFile", "VideoStream", "read_video", "write_video"]

# What a hostile file may claim; 8K video just fits.
_MAX_PIXELS = 1 << 25
_PROGRESSIVE = 1  # FFmpeg's field orders: 0 is unknown, those above are of two fields
_RATE_PACKETS = 100  # from which a rate is measured
_STUCK = 60.0  # seconds that the system may need for a read, or decoding for the next frame
# Without `explode` FFmpeg hides damage by copying from neighbouring frames.
_DECODE = {"err_detect": "explode", "max_pixels": str(_MAX_PIXELS)}


class VideoFile:
    """A video with random access to frames.

    Frames are found by their presentation time: the reader seeks to the keyframe before the first
    one wanted and decodes forward. Where the times cannot be trusted (XviD AVI files with B-frames,
    "not coded" frames) it counts by decoding from the beginning instead. Thread-safe.

    Attributes:
      path: the file.
      num_frames: how many frames `read` can deliver.
      fps: frames per second, averaged over the file by its frames' times.
      is_even: whether all frames are shown about as long. Frames are counted, not timed: of an
        uneven video some neighbours are further apart than others.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Indexes the packets of a video, without decoding their pixels.

        Raises:
          DataError: the file does not exist, or is a pipe, folder or device.
          CorruptVideoError: it is no video, or is empty, truncated or damaged; or claims more than
            2^25 pixels or holds more than 2^22 frames.
        """
        self.path = _existing(path)
        with _opened(self.path) as (container, stream):
            tick, claimed = stream.time_base, stream.average_rate
            packets = scan_packets(self.path, container, stream)
            check_complete(self.path, container, stream, packets)
            # Ascending presentation times, and the numbers of the frames that are keyframes; None
            # where the frames have to be counted.
            self._times = presentation_times(container, stream, packets)
            if self._times is not None:
                keys = seekable_times(stream.codec_context.name, packets)
                self._keys = np.unique(np.searchsorted(self._times, keys))
        shown = self._times
        if shown is None:
            with _opened(self.path) as (container, stream):
                frames = _timed(container, stream, _decode(self.path, container, stream, False))
                shown = np.array([round(at.begin / tick) for _, at in frames], np.int64)
        self.num_frames = len(shown)
        if not self.num_frames:
            raise corrupt(self.path, "it holds no frames")
        self.fps = mean_rate(claimed, shown, tick)
        self.is_even = is_even(shown, tick)

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of its frames as `read` gives them, upright; decodes the first one.

        The header tells the stored size alone, which is another where the video lies on its side.

        Raises:
          CorruptVideoError: the first frame cannot be decoded.
        """
        return self.read(0, 1).shape[1:3]

    def read(self, start: int, stop: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """Reads frames start..stop-1, 0 <= start < stop <= num_frames.

        Args:
          start: first frame.
          stop: one past the last frame.
          size: (H, W) to resize to (bicubic, antialiased); None keeps the video's own.

        Returns:
          (T,H,W,3) uint8 RGB, 0..255, T = stop - start.

        Raises:
          ValueError: frames that the video does not have, or a `size` that is not (H,W).
          TypeError: a number of a frame that is not a whole one.
          CorruptVideoError: a frame cannot be decoded.
        """
        start, stop = operator.index(start), operator.index(stop)
        if not 0 <= start < stop <= self.num_frames:
            raise ValueError(
                f"Frames {start}..{stop} of video {self.path}: it has {self.num_frames} frames; "
                f"ask for 0 <= start < stop <= {self.num_frames}."
            )
        frames = None
        if self._times is not None:
            # The container's own index may lead past the frame or to where decoding cannot begin.
            with contextlib.suppress(CorruptVideoError):
                frames = self._read(start, stop, size, seek=True)
        if frames is None:
            frames = self._read(start, stop, size, seek=False)
        if frames is None:
            raise corrupt(self.path, f"frame {start} is missing")
        return frames

    def stream(self, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """Yields all `num_frames` frames, as `read` delivers them; the file is decoded once.

        Args:
          size: as for `read`.

        Yields:
          (H,W,3) uint8 RGB, 0..255.

        Raises:
          CorruptVideoError: a frame is missing or cannot be decoded, after those before it.
        """
        count = 0
        converter = FrameConverter(size)
        with _opened(self.path) as (container, stream):
            for number, frame in self._numbered(container, stream):
                if number != count:
                    raise corrupt(self.path, f"frame {count} is missing")
                yield converter(frame)
                count += 1
        if count < self.num_frames:
            raise corrupt(self.path, f"frame {count} of {self.num_frames} cannot be decoded")

    def _read(
        self, start: int, stop: int, size: tuple[int, int] | None, seek: bool
    ) -> np.ndarray | None:
        """Reads frames start..stop-1, or returns None if decoding begins after `start`."""
        writer = _FrameWriter(stop - start, size)
        with _opened(self.path) as (container, stream):
            if seek:
                key = int(np.searchsorted(self._keys, start, side="right")) - 1
                if key > 0:
                    target = int(self._times[self._keys[key]])
                    container.seek(target, stream=stream, backward=True)
            for number, frame in self._numbered(container, stream):
                if number > start + writer.count:
                    if writer.count == 0:
                        return None
                    raise corrupt(self.path, f"frame {start + writer.count} is missing")
                if number >= start:
                    writer.add(frame)
                if writer.count == stop - start:
                    return writer.frames
        if writer.count == 0:
            return None
        raise corrupt(
            self.path, f"frame {start + writer.count} of {self.num_frames} cannot be decoded"
        )

    def _numbered(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields (frame number, frame) from where the container stands."""
        if self._times is None:
            yield from enumerate(_decode(self.path, container, stream, False))
            return
        for frame in _decode(self.path, container, stream, True):
            number = int(np.searchsorted(self._times, frame.pts))
            if number == self.num_frames or self._times[number] != frame.pts:
                raise corrupt(self.path, f"a frame's time {frame.pts} is not in the file's index")
            yield number, frame


class VideoStream:
    """All frames of a video from the first to the last, decoded by several threads.

    Iterating yields (H,W,3) uint8 RGB frames of the first one's size, upright. A frame that cannot
    be decoded, or a file that ends before it should, raises CorruptVideoError, but only after the
    frames before.

    Attributes:
      path: the file.
      fps: frames per second, of the header if its first frames' times agree, else of those.
      num_frames: as the header says or implies; None if it does not.
      tick: seconds of the unit in which the file tells times.
      times: when each frame is shown that was yielded so far, in their order.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads the header.

        Raises:
          DataError: the file does not exist.
          CorruptVideoError: it is no video.
        """
        self.path = _existing(path)
        with _opened(self.path) as (container, stream):
            self.fps = _first_rate(container, stream)
            self.tick = stream.time_base
            self.times: list[Shown] = []
            seconds = container.duration / av.time_base if container.duration else None
            self.num_frames = stream.frames or (round(seconds * self.fps) if seconds else None)
            if stream.codec_context.field_order > _PROGRESSIVE:
                logging.warning(
                    "Video %s is interlaced: each frame shows two moments, line by line. "
                    "Deinterlace it first: ffmpeg -i IN -vf bwdif OUT.",
                    self.path,
                )

    @functools.cached_property
    def pixel_aspect(self) -> Fraction:
        """Width of a shown pixel by its height, 1 for square ones; decodes the first frame.

        Raises:
          CorruptVideoError: the first frame cannot be decoded.
        """
        with _opened(self.path) as (container, stream):
            ratio = stream.sample_aspect_ratio or Fraction(1)
            for frame in _decode(self.path, container, stream, False):
                return 1 / ratio if lies_on_its_side(frame) else ratio
        return Fraction(1)

    def __iter__(self) -> Iterator[np.ndarray]:
        converter = FrameConverter(None)
        self.times.clear()
        with _opened(self.path, threads=0) as (container, stream):
            frames = _decode(self.path, container, stream, False)
            for frame, shown in _timed(container, stream, frames):
                self.times.append(shown)
                yield converter(frame)
        with _opened(self.path) as (container, stream):
            packets = scan_packets(self.path, container, stream)
            check_complete(self.path, container, stream, packets)


def read_video(
    path: str | os.PathLike[str],
    start: int = 0,
    stop: int | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, float]:
    """Reads a video or a part of it into memory.

    Args:
      path: a file of any format that FFmpeg knows.
      start: first frame.
      stop: one past the last frame; None reads to the end.
      size: (H, W) to resize to (bicubic, antialiased); None keeps the video's own.

    Returns:
      Frames (T,H,W,3) uint8 RGB, 0..255, and the frames per second.

    Raises:
      DataError: the file does not exist.
      CorruptVideoError: it cannot be decoded.
      ValueError: frames that the video does not have.
    """
    video = VideoFile(path)
    return video.read(start, video.num_frames if stop is None else stop, size), video.fps


class _FrameWriter:
    """Collects converted frames in one array."""

    def __init__(self, num_frames: int, size: tuple[int, int] | None) -> None:
        self.count = 0
        self.frames: np.ndarray | None = None
        self._num_frames = num_frames
        self._converter = FrameConverter(size)

    def add(self, frame: av.VideoFrame) -> None:
        array = self._converter(frame)
        if self.frames is None:
            self.frames = np.empty((self._num_frames, *array.shape), np.uint8)
        self.frames[self.count] = array
        self.count += 1


def _existing(path: str | os.PathLike[str]) -> str:
    """The path of a regular file; DataError if there is none, or if that cannot be known."""
    place = local_path(os.fspath(path))
    try:
        regular = stat.S_ISREG(os.stat(place).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # of a \\0 in it
        raise DataError(f"Video {place} does not exist; check the path.") from error
    except OSError as error:
        why, remedy = causes.reason(error), causes.for_reading(error)
        raise DataError(f"Video {place} cannot be read: {why}; {remedy or 'check it'}.") from error
    if not regular:
        raise DataError(f"Video {place} is not a regular file; check the path.")
    return place


@contextlib.contextmanager
def _opened(
    path: str, threads: int = 1
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Opens a video's first stream; errors of FFmpeg become CorruptVideoError.

    threads: that decode; 0 is one a processor.
    """
    try:
        with _container(path) as container:
            stream = container.streams.best("video")  # not the first: that may be a cover
            if stream is None or stream.disposition & Disposition.attached_pic:  # a song's cover
                raise corrupt(path, "it has no video stream", "give a file with moving pictures")
            context = stream.codec_context
            if context is None:
                raise corrupt(path, "FFmpeg has no decoder for it", "convert it to H.264")
            context.thread_count = threads
            if threads != 1:
                context.thread_type = "AUTO"  # frames and slices
            context.options = _DECODE
            if context.width * context.height > _MAX_PIXELS:
                raise corrupt(
                    path,
                    f"its header claims {context.width}x{context.height} pixels, and the limit is "
                    f"{_MAX_PIXELS} in all",
                    "scale it down",
                )
            yield container, stream
    except av.error.ExitError as error:  # by our own limit
        raise _refused(path, TimeoutError(errno.ETIMEDOUT, "")) from error
    except (av.error.PatchWelcomeError, av.error.DecoderNotFoundError) as error:
        raise corrupt(path, error.strerror, "convert it to H.264") from error
    except (av.error.FFmpegError, UnicodeDecodeError) as error:
        # Not EIO, which FFmpeg gives at the end of files that break off.
        if causes.is_refusal(error) or isinstance(error, FileNotFoundError):
            raise _refused(path, error) from error
        raise corrupt(path, causes.reason(error)) from error


def _refused(path: str, error: Exception) -> DataError:
    """The error for a file that the system did not let be read: nothing is known of its content."""
    why, remedy = causes.reason(error), causes.for_reading(error) or ""
    if causes.is_of_machine(error):  # it would be the same with every other file
        return DataError(f"Video {path} cannot be read: {why}; {remedy}.")
    return corrupt(path, why, remedy)


def _container(path: str) -> av.container.InputContainer:
    # The limit on pixels is for opening already: FFmpeg decodes some frames to know a stream.
    limit = {"max_pixels": _DECODE["max_pixels"]}
    try:
        return open_input(path, options=limit, timeout=(_STUCK, _STUCK))
    except av.error.InvalidDataError as error:
        reason = "it is not a video of a known format, or is cut short"
        raise corrupt(path, reason, "fetch it again if it is a video") from error


def _decode(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, trust_times: bool
) -> Iterator[av.VideoFrame]:
    """Decodes from where the container stands, which is a keyframe."""
    first = None
    deadline = time.monotonic() + _STUCK
    for packet in demuxed(container, stream):
        if time.monotonic() > deadline:
            raise corrupt(path, f"no frame came within {_STUCK:.0f} s", "convert it or remove it")
        if packet.size == 0 and packet.dts is not None:
            continue  # a dropped frame in an AVI file; the decoder would take it for the end
        if trust_times and packet.pts is not None:
            first = packet.pts if first is None else first
            if packet.pts < first:
                continue  # shown before the keyframe, needs frames before it
        for frame in packet.decode():
            if frame.is_corrupt:
                raise corrupt(path, f"the frame at time {frame.time} s is damaged")
            yield frame
            deadline = time.monotonic() + _STUCK


def _timed(
    container: av.container.InputContainer, stream: av.VideoStream, frames: Iterable[av.VideoFrame]
) -> Iterator[tuple[av.VideoFrame, Shown]]:
    """Yields the frames of a whole video with their times."""
    clock = Clock(stream.time_base, 1 / Fraction(stream.average_rate or stream.guessed_rate or 25))
    # AVI has no times but an order. Those that FFmpeg gives are its packets', later by what the
    # decoder holds back.
    of_packets = "avi" in container.format.name
    # Matroska's lengths are one for all, or of the unit of time, whatever is true.
    has_lengths = "matroska" not in container.format.name
    first = None
    for frame in frames:
        stamp = frame.pts
        if of_packets and frame.dts is not None:
            first = frame.dts if first is None else first
            stamp = frame.dts - first
        elif of_packets:
            stamp = None
        yield frame, clock(stamp, frame.duration if has_lengths else None)


def _first_rate(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """The header's frame rate, or that of the video's beginning where it is another."""
    stamps = set()
    with contextlib.suppress(av.error.FFmpegError):  # damage is said when it is reached
        for packet in itertools.islice(demuxed(container, stream), _RATE_PACKETS):
            if packet.size and packet.dts is not None:
                stamps.add(packet.dts)
    return mean_rate(stream.average_rate, np.array(sorted(stamps), np.int64), stream.time_base)
