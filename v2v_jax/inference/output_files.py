"""Predictions as files: an MP4 to look at, or one file a frame to compute with.

Nothing unfinished has the final name. Where a video breaks off midway, what was predicted until
there is kept under a name that says so: out.partial.mp4, or the folder out.partial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from absl import logging

from v2v_jax.errors import ConfigError, DataError, UserError
from v2v_jax.inference.predictor import Chunk, Predictor
from v2v_jax.inference.video_folders import partial_path
from v2v_jax.media.frame_sources import FrameSource
from v2v_jax.media.video_writer import VideoWriter, cannot_write
from v2v_jax.system.background import in_background
from v2v_jax.system.whole_files import temporary_path
from v2v_jax.tasks import Task

View = Literal["overlay", "plain", "side_by_side"]
VIEWS: tuple[View, ...] = ("overlay", "plain", "side_by_side")

_NUMBER = re.compile(r"%0?\d*d")
_RATES = (1.0, 240.0)  # frames per second that the encoder is told to expect
_MUCH = 1e9  # bytes of files a frame
_GAP = 4  # px between pictures side by side


@dataclasses.dataclass(frozen=True)
class Output:
    """What `--output` asks for.

    Attributes:
      path: what appears when all is done: a file, or the folder of the frames' files.
      pattern: of a frame's file name, such as %05d.png; None for a video.
    """

    path: pathlib.Path
    pattern: str | None = None

    @property
    def partial(self) -> pathlib.Path:
        """The name for what there is of a video that broke off."""
        return pathlib.Path(partial_path(os.fspath(self.path)))


def parse_output(output: str, task: Task, probabilities: bool = False) -> Output:
    """Reads `--output`: NAME.mp4, or FOLDER/%05d with an extension of `task.frame_files`.

    Args:
      output: the path; one of the forms.
      task: which decides what a frame's file may be.
      probabilities: whether class probabilities are wanted, which only .npz holds.

    Raises:
      ConfigError: another form, or one that the task does not have.
    """
    path = pathlib.Path(output)
    extension = path.suffix.lower()
    if extension == ".mp4" and not _NUMBER.search(output):
        if probabilities:
            raise ConfigError(f"Probabilities are written to .npz files, not to {output}.")
        return Output(path)
    if len(_NUMBER.findall(path.name)) != 1 or _NUMBER.search(str(path.parent)):
        raise ConfigError(
            f"Unsupported --output={output}; expected NAME.mp4, or a file a frame as "
            f"FOLDER/%05d with one of {', '.join(task.frame_files)}."
        )
    if extension not in task.frame_files:
        raise ConfigError(
            f"--output={output}: the task {task.name} has frames as {', '.join(task.frame_files)}, "
            f"not {extension or 'without extension'}."
        )
    if probabilities and extension != ".npz":
        raise ConfigError(f"Probabilities are written to .npz files, not to {output}.")
    if path.parent in (pathlib.Path("."), pathlib.Path("/")):
        raise ConfigError(f"--output={output} needs a folder of its own for the frames.")
    return Output(path.parent, path.name)


def frame_name(pattern: str, number: int) -> str:
    """The file name of a frame: of 50%_%05d.png and 7, 50%_00007.png."""
    return _NUMBER.sub(lambda place: place.group() % number, pattern)


def frames_are_there(pattern: str, folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds all frames of a video: its first one comes last."""
    return os.path.lexists(os.path.join(folder, frame_name(pattern, 0)))


def publish_frames(
    pattern: str, new: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> None:
    """Gives a folder of frames its name; in one that is there, frames of the pattern are replaced.

    All else in there stays. The first frame goes first and comes last: where it is, all are.

    Raises:
      OSError: what the operating system says.
    """
    new, folder = pathlib.Path(new), pathlib.Path(folder)
    if not os.path.lexists(folder):
        os.rename(new, folder)
        return
    first = frame_name(pattern, 0)
    (folder / first).unlink(missing_ok=True)
    prefix, suffix = _NUMBER.split(pattern)
    frame = re.compile(rf"{re.escape(prefix)}\d+{re.escape(suffix)}")
    for old in folder.iterdir():
        if frame.fullmatch(old.name):
            old.unlink()
    for file in sorted(new.iterdir(), key=lambda file: file.name == first):
        os.replace(file, folder / file.name)
    new.rmdir()


def predict_to_files(
    predictor: Predictor,
    source: FrameSource,
    output: Output,
    *,
    write_to: str | os.PathLike[str] | None = None,
    view: View = "overlay",
    fps: float | None = None,
    sound_of: str | os.PathLike[str] | None = None,
    probabilities: bool = False,
    tick: Callable[[int], None] = lambda count: None,
) -> int:
    """Predicts one video and writes it; reading, the network and writing overlap.

    Args:
      source: the video's frames.
      output: where to, and in which form. What is there already is replaced.
      write_to: a path that is written instead of `output.path`; names in messages stay.
      view: of an MP4.
      fps: of an MP4, whose frames are then all shown equally long; default: every frame keeps its
        time, or 25 where the source has no times.
      sound_of: whose sound an MP4 gets, unless `fps` is given.
      probabilities: write class probabilities too.
      tick: called with the number of frames that were written.

    Returns:
      The number of frames.

    Raises:
      DataError: the video cannot be read to its end (what was predicted before is then kept as
        `output.partial`), or the output cannot be written.
    """
    path = pathlib.Path(write_to or output.path)
    chunks = predictor.chunks(source, probabilities=probabilities)
    if output.pattern is None:
        drawing = Drawing(predictor.network.task, view)
        writer = _Movie(path, source, fps, sound_of)
        prepare = drawing.draw
    else:
        writer = _FrameFiles(path, output.pattern, predictor.network.task)
        prepare = lambda chunk: chunk.values
    written = 0
    with writer:
        ready = in_background(_each(prepare, chunks), 2)
        try:
            for frames in ready:
                if not written:
                    _warn_of_size(output, source, frames[0])
                writer.add(frames)
                written += len(frames)
                tick(len(frames))
        except UserError as error:
            if not written or writer.failed:
                raise
            writer.finish(output.partial)
            raise DataError(
                f"{error} Its first {written} frames are in {output.partial}."
            ) from error
        finally:
            ready.close()
        writer.finish(path)
    return written


def _warn_of_size(output: Output, source: FrameSource, first: np.ndarray) -> None:
    """Says how large files a frame will be, where that may fill a disk."""
    if output.pattern is None or source.num_frames is None:
        return
    size = first.nbytes * source.num_frames
    if size > _MUCH:
        logging.warning(
            "%s will hold %d frames of %.1f MB, %.1f GB before they are compressed.",
            *(output.path, source.num_frames, first.nbytes / 1e6, size / 1e9),
        )


def _each(prepare: Callable[[Chunk], np.ndarray], chunks: Iterator[Chunk]) -> Iterator[np.ndarray]:
    try:
        yield from map(prepare, chunks)
    finally:
        chunks.close()


class Drawing:
    """Turns predictions into pictures, chunk after chunk, on one scale for the whole video."""

    def __init__(self, task: Task, view: View):
        """view: see `draw`."""
        self._task, self._view = task, view
        # A stream's end is not known when its beginning is drawn: it is taken from the first chunk.
        self._scale: tuple[float, ...] | None = None

    def draw(self, chunk: Chunk) -> np.ndarray:
        """(n,H,W',3) uint8 RGB.

        View "plain" is the prediction's colours; "overlay" lays them half transparent over the
        video (what cannot lie over it, such as a colouring, is plain); "side_by_side" has the input
        as the network sees it (of a colouring, its grey) on the left and the overlay on the right.
        """
        if self._scale is None:
            self._scale = self._task.drawing_scale(chunk.values)
        colors = self._task.draw(chunk.values, *self._scale)
        if self._task.overlays and self._view != "plain":
            colors = _half(chunk.frames, colors)
        if self._view != "side_by_side":
            return colors
        left = self._task.shown_input(chunk.frames)
        gap = np.full((*left.shape[:2], _GAP, 3), 255, np.uint8)
        return np.concatenate([left, gap, colors], axis=2)


def _half(frames: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """The mean of two (…) uint8, rounded up."""
    return ((frames.astype(np.uint16) + colors + 1) >> 1).astype(np.uint8)


class _Movie:
    """A VideoWriter that takes several frames at a time."""

    def __init__(
        self,
        path: pathlib.Path,
        source: FrameSource,
        fps: float | None,
        sound_of: str | os.PathLike[str] | None,
    ):
        """fps: None for the source's times."""
        self._times = source.times if fps is None else None
        if fps is not None:
            sound_of = None  # it would not fit
        else:  # the writer's is a measure alone where there are times
            fps = min(max(source.fps or 25.0, _RATES[0]), _RATES[1])
        self._writer = VideoWriter(
            *(path, fps, sound_of, source.pixel_aspect),
            tick=source.tick if self._times is not None else None,
        )
        self._count = 0
        self.failed = False

    def add(self, frames: np.ndarray) -> None:
        try:
            for frame in frames:
                shown = None if self._times is None else self._times[self._count]
                self._writer.add(frame, shown)
                self._count += 1
        except UserError:
            self.failed = True
            raise

    def finish(self, path: pathlib.Path) -> None:
        self._writer.finish(path)

    def __enter__(self) -> _Movie:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)


class _FrameFiles:
    """A folder with a file a frame; it is hidden until it is complete."""

    def __init__(self, path: pathlib.Path, pattern: str, task: Task):
        self._path, self._pattern, self._task = path, pattern, task
        self._folder = temporary_path(path)
        self._count = 0
        self.failed = False
        try:
            self._folder.mkdir()
        except OSError as error:
            raise cannot_write(str(path), error) from error

    def add(self, frames: np.ndarray) -> None:
        try:
            for values in frames:
                path = self._folder / frame_name(self._pattern, self._count)
                self._task.write_frame(path, values)
                self._count += 1
        except (OSError, DataError) as error:
            self.failed = True
            if isinstance(error, DataError):
                raise
            raise cannot_write(str(self._path), error) from error

    def finish(self, path: pathlib.Path) -> None:
        """Gives the folder its name, as `publish_frames` does."""
        try:
            publish_frames(self._pattern, self._folder, path)
        except OSError as error:
            raise cannot_write(str(path), error) from error

    def __enter__(self) -> _FrameFiles:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            shutil.rmtree(self._folder)
