"""Predictions as files: an MP4 to look at, or one file a frame to compute with.

Nothing unfinished has the final name. Where a video breaks off midway, what was predicted until
there is kept under a name that says so: out.partial.mp4, or the folder out.partial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import logging

from v2v_jax.errors import ConfigError, DataError, UserError
from v2v_jax.inference.predictor import Chunk, Predictor
from v2v_jax.inference.video_folders import partial_path
from v2v_jax.inference.views import Drawing, View, other_moments
from v2v_jax.media.frame_sources import FrameSource
from v2v_jax.media.video_writer import PRESET, Preset, VideoWriter, cannot_write
from v2v_jax.system.background import in_background
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.whole_files import temporary_path
from v2v_jax.tasks import Task

_NUMBER = re.compile(r"%0?\d*d")
_RATES = (1.0, 240.0)  # frames per second that the encoder is told to expect
_WRITER = "v2v predict"  # what notes beside frames say of themselves
_MUCH = 1e9  # bytes of files a frame


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
            f"--output={output}: the task {task.name} writes frames as "
            f"{', '.join(task.frame_files)}, not as {extension or 'files without extension'}."
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

    All else in there stays, also a file of the name of the notes (labels.json) that is none of
    ours. The first frame goes first and comes last: where it is, all are.

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
        if frame.fullmatch(file.name) or _may_be_replaced(folder / file.name):
            os.replace(file, folder / file.name)
        else:
            logging.warning(
                "%s was written by another program and is kept; it does not describe the new "
                "frames.",
                folder / file.name,
            )
            file.unlink()
    new.rmdir()


def _may_be_replaced(notes: pathlib.Path) -> bool:
    """Whether there is no such file, or one that `_FrameFiles` wrote."""
    if not os.path.lexists(notes):
        return True
    try:
        return parse_object(notes.read_text()).get("written_by") == _WRITER
    except (OSError, ValueError):
        return False


def predict_to_files(
    predictor: Predictor,
    source: FrameSource,
    output: Output,
    *,
    write_to: str | os.PathLike[str] | None = None,
    view: View = "overlay",
    legend: bool = True,
    color_scale: tuple[float, ...] | None = None,
    fps: float | None = None,
    sound_of: str | os.PathLike[str] | None = None,
    probabilities: bool = False,
    preset: Preset = PRESET,
    tick: Callable[[int], None] = lambda count: None,
) -> int:
    """Predicts one video and writes it; reading, the network and writing overlap.

    Args:
      source: the video's frames.
      output: where to, and in which form. What is there already is replaced.
      write_to: a path that is written instead of `output.path`; names in messages stay.
      view: of an MP4.
      legend: whether an MP4 says below the picture what the colours mean.
      color_scale: what an MP4's colours stand for, as `Task.drawing_scale` gives it; default: taken
        from the video.
      fps: of an MP4, whose frames are then all shown equally long; default: every frame keeps its
        time, or 25 where the source has no times.
      sound_of: whose sound an MP4 gets, unless `fps` is given.
      probabilities: write class probabilities too.
      preset: of an MP4, see `VideoWriter`.
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
        elsewhere = functools.partial(other_moments, predictor, source)
        drawing = Drawing(
            *(predictor.network.task, view),
            legend=legend,
            color_scale=color_scale,
            elsewhere=elsewhere,
        )
        writer = _Movie(path, source, fps, sound_of, preset)
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
                    _warn_of_size(predictor, output, source, frames[0])
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


_warned: weakref.WeakSet[Predictor] = weakref.WeakSet()


def _warn_of_size(
    predictor: Predictor, output: Output, source: FrameSource, first: np.ndarray
) -> None:
    """Says how large files a frame will be, where that may fill a disk; once a predictor."""
    if output.pattern is None or source.num_frames is None or predictor in _warned:
        return
    size = first.nbytes * source.num_frames
    if size > _MUCH:
        _warned.add(predictor)
        logging.warning(
            "%s will hold %d frames of %.1f MB, %.1f GB before they are compressed; videos after "
            "it are not mentioned.",
            *(output.path, source.num_frames, first.nbytes / 1e6, size / 1e9),
        )


def _each(prepare: Callable[[Chunk], np.ndarray], chunks: Iterator[Chunk]) -> Iterator[np.ndarray]:
    try:
        yield from map(prepare, chunks)
    finally:
        chunks.close()


class _Movie:
    """A VideoWriter that takes several frames at a time."""

    def __init__(
        self,
        path: pathlib.Path,
        source: FrameSource,
        fps: float | None,
        sound_of: str | os.PathLike[str] | None,
        preset: Preset,
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
            preset=preset,
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
            self._write_notes(task.frame_notes(os.path.splitext(pattern)[1].lower()))
        except OSError as error:
            raise cannot_write(str(path), error) from error

    def _write_notes(self, notes: tuple[str, dict[str, Any]] | None) -> None:
        if notes is not None:
            name, content = notes
            text = json.dumps({"written_by": _WRITER, **content}, indent=2, ensure_ascii=False)
            (self._folder / name).write_text(text + "\n", encoding="utf-8")

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
