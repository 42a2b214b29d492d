"""Labelling videos by a teacher, and verifying labels against their videos."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from v2v_jax.errors import ConfigError, CorruptVideoError, DataError, UserError
from v2v_jax.labelling.teachers import Teacher, make_teacher
from v2v_jax.media.flow_label_files import (
    FORMAT,
    STEPS,
    SUFFIX,
    FlowLabels,
    FlowTooLargeError,
    LabelInfo,
    LabelWriter,
    file_sha256,
    label_path,
    read_info,
)
from v2v_jax.media.video import VideoFile
from v2v_jax.system.console import progress
from v2v_jax.system.jobs import Backend, Job, Report, Tick, run_jobs
from v2v_jax.system.whole_files import is_temporary, write_text

_SET = "labels.json"
_CHECK_FRAMES = 64  # that are read at a time


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """A set of labels to be made.

    Attributes:
      videos: the folder of the videos.
      names: their paths in it.
      output: the folder of the labels.
      teacher: its name.
      size: (h,w) to compute at; None: every video's own.
      batch_size: frame pairs at a time.
    """

    videos: str
    names: Sequence[str]
    output: str
    teacher: str = "brox"
    size: tuple[int, int] | None = None
    batch_size: int = 32

    def jobs(self) -> list[Job]:
        """A job for every video."""
        return [
            Job(name, os.path.join(self.videos, name), label_path(self.output, name))
            for name in self.names
        ]


def label_videos(labels: LabelSet, backend: Backend) -> Report:
    """Labels all videos that are not labelled yet.

    Raises:
      ConfigError: the teacher cannot be used, or the folder holds another teacher's labels.
      DataError: the folder cannot be used.
    """
    if labels.batch_size < 1:
        raise ConfigError(f"batch_size is {labels.batch_size}; it must be at least 1.")
    teacher = make_teacher(labels.teacher)
    _claim_folder(labels, teacher)
    return run_jobs(
        labels.jobs(),
        functools.partial(LabelWork, labels.teacher, labels.size, labels.batch_size),
        backend=backend,
        done=functools.partial(is_labelled, dict(teacher.parameters), labels.size),
        lock=labels.output,
        publish=_publish,
        description=f"labelling by {teacher.name}",
    )


def _publish(new: str, path: str) -> None:
    """Puts labels in the place of older ones; a folder of anything else is left alone."""
    if os.path.isfile(os.path.join(path, "zarr.json")):
        shutil.rmtree(path)
    os.replace(new, path)


def is_labelled(parameters: Mapping[str, Any], size: tuple[int, int] | None, job: Job) -> bool:
    """Whether a video has labels with these parameters, and still its number of bytes."""
    try:
        info = read_info(job.output)
        same_video = info.video_bytes == os.path.getsize(job.source)
    except (DataError, OSError):
        return False
    return same_video and info.parameters == parameters and info.size == (size or info.video_size)


def _claim_folder(labels: LabelSet, teacher: Teacher) -> None:
    """Notes whose labels the folder holds; ConfigError if they are another teacher's."""
    mine = {
        "format": FORMAT,
        "teacher": teacher.name,
        "parameters": dict(teacher.parameters),
        "size": list(labels.size) if labels.size else None,
    }
    path = pathlib.Path(labels.output, _SET)
    try:
        os.makedirs(labels.output, exist_ok=True)
        if not path.exists():
            write_text(path, json.dumps(mine, indent=1) + "\n")
        found = json.loads(path.read_text())
    except OSError as error:
        raise DataError(
            f"Labels cannot be written to {labels.output} ({error.strerror}); choose another "
            "--output."
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is damaged; choose another --output, or delete it.") from error
    if found != mine:
        raise ConfigError(
            f"{labels.output} holds labels of {found.get('teacher')} with "
            f"{found.get('parameters')} at size {found.get('size')}, not of {mine['teacher']} with "
            f"{mine['parameters']} at size {mine['size']}; choose another --output."
        )


def stored_size(labels: LabelSet) -> tuple[int, int]:
    """Bytes on disk and frame pairs of the labels that there are."""
    size = pairs = 0
    for job in labels.jobs():
        try:
            pairs += read_info(job.output).num_frames - 1
        except DataError:
            continue
        files = pathlib.Path(job.output).rglob("*")
        size += sum(file.stat().st_size for file in files if file.is_file())
    return size, pairs


class LabelWork:
    """`video_jobs.Work` that labels one video; several threads may call it at once."""

    def __init__(self, teacher: str, size: tuple[int, int] | None, batch_size: int) -> None:
        self._teacher = make_teacher(teacher)
        self._size = size
        self._batch_size = batch_size

    def __call__(self, job: Job, output: str, tick: Tick) -> None:
        """Writes the labels of the video `job.source` to the folder `output`."""
        video = VideoFile(job.source)
        if video.num_frames < 2:
            raise DataError(f"Video {job.source} has one frame; flow needs two.")
        if not video.is_even:
            logging.warning(
                "Video %s has frames at uneven times; its flow is in pixels from one frame to the "
                "next, whatever time lies between them.",
                job.source,
            )
        native = next(video.stream()).shape[:2]
        size = self._size or native
        if min(size) < self._teacher.min_size:
            raise DataError(
                f"Video {job.source} is {native[0]}x{native[1]} (HxW), labelled at "
                f"{size[0]}x{size[1]}; teacher {self._teacher.name} needs "
                f"{self._teacher.min_size} pixels a side: use --size."
            )
        info = LabelInfo(
            teacher=self._teacher.name,
            parameters=dict(self._teacher.parameters),
            video_bytes=os.path.getsize(job.source),
            video_sha256=file_sha256(job.source),
            num_frames=video.num_frames,
            video_size=native,
            size=size,
        )
        for step in STEPS:
            counted: list[int] = []
            try:
                self._label(video, dataclasses.replace(info, step=step), output, tick, counted)
                tick(1)  # the last frame, which no pair begins with
                return
            except FlowTooLargeError:
                shutil.rmtree(output)
                tick(-sum(counted))
        raise DataError(
            f"Teacher {self._teacher.name} found a vector of video {job.source} that is infinite "
            f"or longer than the {STEPS[-1] * 32767:.0f} px that labels can hold; use a smaller "
            "--size."
        )

    def _label(
        self, video: VideoFile, info: LabelInfo, output: str, tick: Tick, counted: list[int]
    ) -> None:
        """Labels at one step; FlowTooLargeError if a vector does not fit."""
        writer = LabelWriter(output, info)
        frames = video.stream(info.size if info.size != info.video_size else None)
        batches = _batches(frames, self._batch_size, pad=self._teacher.compiled)

        def write(codes: Any, too_large: Any, pairs: int) -> None:
            if too_large:
                raise FlowTooLargeError
            writer.append(np.asarray(codes)[:pairs])
            counted.append(pairs)
            tick(pairs)

        # While the device computes a batch this thread writes the one before and another decodes
        # the one after.
        with concurrent.futures.ThreadPoolExecutor(1, "decode") as pool:
            coming = pool.submit(next, batches, None)
            computing = None
            while (batch := coming.result()) is not None:
                coming = pool.submit(next, batches, None)
                computed = (*self._teacher.encoded(batch[0], info.step), batch[1])
                if computing is not None:
                    write(*computing)
                computing = computed
            write(*computing)
        try:
            writer.finish()
        except ValueError as error:  # the file's index promised another number of frames
            raise CorruptVideoError(f"Video {video.path} cannot be labelled: {error}") from error


def _batches(
    frames: Iterator[np.ndarray], batch_size: int, pad: bool
) -> Iterator[tuple[np.ndarray, int]]:
    """Consecutive frames (B+1,H,W,3), the last of one batch again the first of the next, and B.

    With `pad` the last batch has the others' shape: its last frame is repeated.
    """
    batch = [next(frames)]
    for frame in frames:
        batch.append(frame)
        if len(batch) == batch_size + 1:
            yield np.stack(batch), batch_size
            batch = batch[-1:]
    pairs = len(batch) - 1
    if pairs:
        if pad:
            batch += batch[-1:] * (batch_size - pairs)
        yield np.stack(batch), pairs


# ------------------------------------------------------------------------------------------------


def check_labels(labels: LabelSet, threads: int = 1) -> list[str]:
    """Compares a set of labels with its videos: reads all of both.

    Args:
      labels: `teacher`, `size` and `batch_size` do not matter.

    Returns:
      One sentence for everything that is wrong: labels that are missing, damaged, of a video that
      changed, of another teacher than the set's, or that belong to no video.
    """
    whose = _read_set(labels.output)
    check = functools.partial(_check_one, whose)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        jobs = labels.jobs()
        checked = progress(pool.map(check, jobs), len(jobs), "checking labels")
        problems = [problem for problem in checked if problem]
    wanted = {os.path.abspath(job.output) for job in labels.jobs()}
    for parent, folders, _ in os.walk(labels.output):
        for folder in sorted(folders):
            path = os.path.join(parent, folder)
            if is_temporary(folder):
                problems.append(f"half written: {path}, by a run that was killed; label again")
            elif folder.endswith(SUFFIX) and os.path.abspath(path) not in wanted:
                problems.append(f"extra: {path} belongs to no video in {labels.videos}")
        folders[:] = [f for f in folders if not f.endswith(SUFFIX) and not is_temporary(f)]
    return problems


def _read_set(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, _SET)
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder} is no folder of flow labels: {_SET} cannot be read; make labels with "
            "v2v label."
        ) from error


def _check_one(whose: Mapping[str, Any], job: Job) -> str | None:
    """What is wrong with one video's labels, beginning with the kind."""
    if not os.path.isdir(job.output):
        return f"missing: {job.name} has no labels"
    try:
        labels = FlowLabels(job.output)
        info = labels.info
        if (info.teacher, dict(info.parameters)) != (whose["teacher"], whose["parameters"]):
            return f"other teacher: {job.name} was labelled by {info.teacher} {info.parameters}"
        size = tuple(whose["size"] or info.video_size)
        if info.size != size:
            return f"wrong size: {job.name} has labels of {info.size}, the set is of {size}"
        if info.video_sha256 != file_sha256(job.source):
            return f"changed video: {job.name} is not the file that was labelled"
        video = VideoFile(job.source)
        if info.num_frames != video.num_frames:
            return f"wrong length: {job.name} has {video.num_frames}, its labels {info.num_frames}"
        if info.video_size != next(video.stream()).shape[:2]:
            return f"wrong size: {job.name} is not {info.video_size}, as its labels say"
        for start in range(0, info.num_frames, _CHECK_FRAMES):
            labels.read(start, min(start + _CHECK_FRAMES, info.num_frames))
    except (UserError, OSError) as error:
        return f"damaged: {job.name}: {error}"
    return None
