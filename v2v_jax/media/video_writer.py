"""Writing MP4 files frame by frame, with the sound of another file if wanted."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from absl import logging
from av.video.reformatter import ColorRange

from v2v_jax.errors import DataError
from v2v_jax.media.containers import open_input, open_output
from v2v_jax.system.whole_files import discard, publish, temporary_path

# Sound that MP4 files hold and players know, by FFmpeg's names of the formats, not of decoders.
_COPIED_CODECS = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
_BT601 = 6  # SMPTE 170M in FFmpeg's numbers
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class VideoWriter:
    """An H.264 MP4 file (yuv420p, which every player shows) that grows frame by frame.

    The file appears under its name only when `finish` has completed it; until then it has a name
    that begins with a dot, in the same folder. H.264 with yuv420p has even sizes only: an odd
    height or width is padded by repeating the last row or column.

        with VideoWriter("out.mp4", fps=25) as writer:
            for frame in frames:
                writer.add(frame)
            writer.finish()

    Leaving the block without `finish` removes what was written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float = 25.0,
        sound_of: str | os.PathLike[str] | None = None,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        """Creates the file, hidden.

        Args:
          path: the file to write, ending in .mp4; an existing one is replaced by `finish`.
          fps: frames per second.
          sound_of: a file whose sound (its best track) is copied, as it is where MP4 holds its
            codec, else as AAC, resampled where need be. Sound that cannot be copied is left out
            with a warning.
          pixel_aspect: width of a pixel by its height, for players to show it so.

        Raises:
          ValueError: another extension, a bad `fps`.
          DataError: the folder does not exist or cannot be written.
        """
        self.path = os.fspath(path)
        if not self.path.lower().endswith(".mp4"):
            raise ValueError(f"Videos are written as MP4 files; {self.path} must end in .mp4.")
        if not 0.01 <= fps < 1000:
            raise ValueError(f"fps is {fps}; expected 0.01 to 1000 frames per second.")
        self._temporary = os.fspath(temporary_path(self.path))
        # 1001 keeps NTSC rates such as 30000/1001 exact, and those with two decimals.
        self._rate = Fraction(fps).limit_denominator(1001)
        self._shape: tuple[int, ...] | None = None
        self.num_frames = 0
        with contextlib.ExitStack() as opened, self._errors():
            self._container = opened.enter_context(open_output(self._temporary))
            self._stream = self._container.add_stream(
                "libx264", rate=self._rate, options={"crf": "18"}
            )
            self._stream.pix_fmt = "yuv420p"
            self._stream.sample_aspect_ratio = pixel_aspect
            # How FFmpeg makes YUV of RGB; players take large untagged videos for BT.709.
            self._stream.codec_context.colorspace = _BT601
            self._stream.codec_context.color_range = ColorRange.MPEG
            self._sound = None
            if sound_of is not None:
                self._sound = _Sound(sound_of, self._container)
                opened.callback(self._sound.close)
            self._opened = opened.pop_all()

    def add(self, frame: np.ndarray) -> None:
        """Appends one frame (H,W,3) uint8 RGB, 0..255, of the size of those before.

        Raises:
          ValueError: a frame of another shape or dtype.
          DataError: the disk is full, or the file cannot be written any more.
        """
        frame = np.asarray(frame)
        if self._shape is None:
            _check_frame(frame)
            self._shape = frame.shape
            self._stream.height, self._stream.width = (n + n % 2 for n in frame.shape[:2])
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(
                f"Frame {self.num_frames} is {frame.shape} {frame.dtype}; expected {self._shape} "
                "uint8 like the first frame."
            )
        h, w, _ = frame.shape
        with self._errors():
            if h % 2 or w % 2:
                frame = np.pad(frame, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            self._container.mux(self._stream.encode(picture))
            self.num_frames += 1
            if self._sound is not None:
                self._sound.copy_until(self.num_frames / self._rate)

    def finish(self, path: str | os.PathLike[str] | None = None) -> None:
        """Completes the file and gives it its name, or `path` instead of it.

        Raises:
          ValueError: no frame was added.
          DataError: the disk is full, or the file cannot be written any more.
        """
        if not self.num_frames:
            raise ValueError(f"Video {self.path} got no frames; expected at least one.")
        with self._errors():
            self._container.mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.copy_until(self.num_frames / self._rate)
            self._opened.close()
            publish(self._temporary, self.path if path is None else path)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, av.error.FFmpegError) as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing writes what a player would need to open it: that fails on a full disk, too.
        with contextlib.suppress(OSError, av.error.FFmpegError):
            self._opened.close()
        discard(self._temporary)


class _Sound:
    """Copies one file's sound into another, no further than its pictures have come.

    Sound must never stop a video: what is missing of it is said in one warning.
    """

    def __init__(self, path: str | os.PathLike[str], target: av.container.OutputContainer) -> None:
        self._path = os.fspath(path)
        self._packets: Iterator[av.Packet] | None = None
        self._source: av.container.InputContainer | None = None
        self._target = target
        self._next: av.Packet | None = None
        try:
            self._source = open_input(self._path)
            source = self._source.streams.best("audio")
            if source is None:
                return
            if source.codec_context is None:
                raise ValueError("FFmpeg has no decoder for it")
            self._begin = _begin(self._source)
            if _is_held(source):
                self._stream = target.add_stream_from_template(source)
                self._packets = self._copied(source)
            else:
                self._stream = target.add_stream("aac", rate=_aac_rate(source.rate))
                self._packets = self._encoded(source)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._give_up("is left out", error)

    def _copied(self, source: av.AudioStream) -> Iterator[av.Packet]:
        begin = round(self._begin / source.time_base)
        for packet in self._source.demux(source):
            if packet.dts is None or packet.pts is None or packet.pts < begin:
                continue
            packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
            packet.stream = self._stream
            yield packet

    def _encoded(self, source: av.AudioStream) -> Iterator[av.Packet]:
        encoder = self._stream.codec_context
        resampler = av.AudioResampler(encoder.format, encoder.layout, encoder.sample_rate)
        # Only the beginning's time is the source's: later ones may have gaps that the encoder
        # refuses.
        samples = None
        frames = itertools.chain(self._source.decode(source), (None,))  # None: what is left
        for frame in itertools.chain.from_iterable(map(resampler.resample, frames)):
            if samples is None:
                samples = round(((frame.time or 0.0) - float(self._begin)) * frame.sample_rate)
            if samples < 0:  # before the pictures
                samples += frame.samples
                continue
            frame.pts, frame.time_base = samples, Fraction(1, frame.sample_rate)
            samples += frame.samples
            yield from self._stream.encode(frame)
        yield from self._stream.encode(None)

    def _give_up(self, what: str, error: Exception) -> None:
        self._packets = None
        reason = getattr(error, "strerror", None) or str(error)
        logging.warning("The sound of %s %s (%s).", self._path, what, reason)

    def copy_until(self, seconds: Fraction) -> None:
        """Copies the packets that begin before that time; damage ends the sound."""
        if self._packets is None:
            return
        while True:
            if self._next is None:
                try:
                    self._next = next(self._packets, None)
                except (av.error.FFmpegError, ValueError) as error:
                    self._give_up(f"ends before {float(seconds):.2f} s", error)
                    return
            if self._next is None:
                self._packets = None
                return
            begins = self._next.pts
            if begins is not None and begins * self._next.time_base >= seconds:
                return
            self._target.mux(self._next)
            self._next = None

    def close(self) -> None:
        """Closes the source."""
        if self._source is not None:
            self._source.close()


def _begin(source: av.container.InputContainer) -> Fraction:
    """The time, in seconds, of the first picture, or of whatever is first; it becomes 0.

    Streams of broadcasts begin at any time, and sound may begin before or after the pictures.
    """
    pictures = source.streams.best("video")
    if pictures is not None and pictures.start_time is not None:
        return pictures.start_time * pictures.time_base
    return Fraction(source.start_time or 0, av.time_base)


def _is_held(source: av.AudioStream) -> bool:
    """Whether MP4 files hold this sound as it is, in a way that players know."""
    if source.codec_context.codec.canonical_name not in _COPIED_CODECS:
        return False
    try:  # on a file in memory, as a refusal would spoil the true one
        with av.open(io.BytesIO(), "w", format="mp4") as trial:
            trial.add_stream_from_template(source)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def _aac_rate(rate: int) -> int:
    """The rate of AAC that loses least: the next higher one, of higher ones than all 48 kHz."""
    return min((known for known in _AAC_RATES if known >= rate), default=48000)


def write_video(
    path: str | os.PathLike[str], frames: np.ndarray | Iterable[np.ndarray], fps: float = 25.0
) -> None:
    """Writes an H.264 MP4 file; see VideoWriter.

    Args:
      path: the file to write, ending in .mp4; an existing one is replaced.
      frames: (T,H,W,3) uint8 RGB, 0..255, or an iterable of (H,W,3) such frames.
      fps: frames per second.

    Raises:
      ValueError: no frames, a frame of another shape or dtype, another extension, a bad `fps`.
      DataError: the folder does not exist or cannot be written.
    """
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.add(frame)
        writer.finish()


def cannot_write(path: str, error: Exception) -> DataError:
    """The sentence for a file that could not be written."""
    reason = getattr(error, "strerror", None) or str(error)
    if getattr(error, "errno", None) == errno.ENOSPC:
        return DataError(f"Cannot write {path}: the disk is full; make room or choose another one.")
    return DataError(
        f"Cannot write {path} ({reason}); choose an existing, writable folder with enough space."
    )


def _check_frame(frame: np.ndarray) -> None:
    if np.ndim(frame) != 3 or np.shape(frame)[2] != 3 or 0 in np.shape(frame):
        raise ValueError(f"A frame is {np.shape(frame)}; expected (H,W,3).")
