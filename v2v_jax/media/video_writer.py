"""Writing MP4 files frame by frame, with the sound of another file if wanted."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from av.video.reformatter import ColorRange

from v2v_jax.errors import DataError
from v2v_jax.media.clock import Shown
from v2v_jax.media.containers import open_output
from v2v_jax.media.sound import Sound
from v2v_jax.system import causes
from v2v_jax.system.paths import local_path
from v2v_jax.system.whole_files import discard, publish, temporary_path

# Of x264, from the quickest to the one that tries hardest.
Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
# A third of the time of x264's default, 8 % fewer bytes, 1.1 dB less (docs/records/inference.md).
PRESET: Preset = "veryfast"

_BT601 = 6  # SMPTE 170M in FFmpeg's numbers
_SHORTEST_TICK = Fraction(1, 90000)  # in which an MP4 can say an hour without a new frame


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
        tick: Fraction | None = None,
        preset: Preset = PRESET,
    ) -> None:
        """Creates the file, hidden.

        Args:
          path: the file to write, ending in .mp4; an existing one is replaced by `finish`.
          fps: frames per second; of frames that come with times, about how many.
          sound_of: a file whose sound (its best track) is copied, as it is where MP4 holds its
            codec, else as AAC, resampled where need be. Sound that cannot be copied is left out
            with a warning.
          pixel_aspect: width of a pixel by its height, for players to show it so.
          tick: seconds of the unit of the times that frames come with, so that those can be kept
            exactly; None where they come without.
          preset: how hard the encoder tries: slower ones lose less, in files of much the same size.

        Raises:
          ValueError: another extension, a bad `fps`.
          DataError: the folder does not exist or cannot be written.
        """
        self.path = local_path(os.fspath(path))
        if not self.path.lower().endswith(".mp4"):
            raise ValueError(f"Videos are written as MP4 files; {self.path} must end in .mp4.")
        if not 0.01 <= fps < 1000:
            raise ValueError(f"fps is {fps}; expected 0.01 to 1000 frames per second.")
        self._temporary = os.fspath(temporary_path(self.path))
        # 1001 keeps NTSC rates such as 30000/1001 exact, and those with two decimals.
        self._rate = Fraction(fps).limit_denominator(1001)
        self._shape: tuple[int, ...] | None = None
        self._begin: Fraction | None = None  # of the first frame, on the clock of its source
        self._stamp = -1  # of the last frame, in ticks from the first one
        self.num_frames = 0
        with contextlib.ExitStack() as opened, self._errors():
            self._container = opened.enter_context(open_output(self._temporary, "mp4"))
            self._stream = self._container.add_stream(
                "libx264", rate=self._rate, options={"crf": "18", "preset": preset}
            )
            self._stream.pix_fmt = "yuv420p"
            # PyAV's default cuts each frame into slices, four at most of 272 rows.
            self._stream.codec_context.thread_type = "FRAME"
            self._tick = 1 / self._rate
            if tick is not None:
                self._tick = max(tick, _SHORTEST_TICK)
                self._stream.codec_context.time_base = self._tick
            self._stream.sample_aspect_ratio = pixel_aspect
            # How FFmpeg makes YUV of RGB; players take large untagged videos for BT.709.
            self._stream.codec_context.colorspace = _BT601
            self._stream.codec_context.color_range = ColorRange.MPEG
            self._sound = None
            if sound_of is not None:
                self._sound = Sound(sound_of, self._container)
                opened.callback(self._sound.close)
            self._opened = opened.pop_all()

    def add(self, frame: np.ndarray, shown: Shown | None = None) -> None:
        """Appends one frame (H,W,3) uint8 RGB, 0..255, of the size of those before.

        Args:
          frame: the picture.
          shown: when, on the clock of the file whose sound is copied; the first one's time becomes
            0 for both. None is one frame of `fps` after the frame before. Either for all or none.

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
            begin, length = shown or (self.num_frames / self._rate, 1 / self._rate)
            if self._begin is None:
                self._begin = begin
                if self._sound is not None and shown is not None:
                    self._sound.begin_at(begin)
            begin -= self._begin
            self._stamp = max(round(begin / self._tick), self._stamp + 1)
            picture.pts, picture.time_base = self._stamp, self._tick
            picture.duration = max(1, round(length / self._tick))
            self._container.mux(self._stream.encode(picture))
            self.num_frames += 1
            self._end = begin + length
            if self._sound is not None:
                self._sound.copy_until(self._end)

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
                self._sound.copy_until(self._end)
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
    return DataError(f"Cannot write {path} ({causes.reason(error)}); {causes.for_writing(error)}.")


def _check_frame(frame: np.ndarray) -> None:
    if np.ndim(frame) != 3 or np.shape(frame)[2] != 3 or 0 in np.shape(frame):
        raise ValueError(f"A frame is {np.shape(frame)}; expected (H,W,3).")
