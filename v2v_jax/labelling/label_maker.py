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
from v2v_jax.labelling.teachers import Teacher, TeacherOptions, make_teacher
from v2v_jax.media.label_codes import STEPS, FlowTooLargeError, KindName
from v2v_jax.media.label_files import (
    FORMAT,
    SET,
    LabelInfo,
    LabelWriter,
    StoredLabels,
    files_bytes,
    files_sha256,
    label_path,
    read_info,
    read_set,
    suffix,
)
from v2v_jax.media.picture_sequence import PictureSequence
from v2v_jax.media.video import VideoFile
from v2v_jax.system import causes
from v2v_jax.system.console import progress
from v2v_jax.system.jobs import Backend, Job, Report, Tick, run_jobs
from v2v_jax.system.paths import check_array_path
from v2v_jax.system.whole_files import is_temporary, write_text

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
      batch_size: frames, or pairs of frames, at a time.
      options: how the teacher is called; its `field` is what the labels are.
      pictures: of the videos whose frames are picture files, name → these, in order.
    """

    videos: str
    names: Sequence[str]
    output: str
    teacher: str = "brox"
    size: tuple[int, int] | None = None
    batch_size: int = 32
    options: TeacherOptions = TeacherOptions()
    pictures: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def jobs(self) -> list[Job]:
        """A job for every video."""
        return [Job(name, os.path.join(self.videos, name), self.path(name)) for name in self.names]

    def path(self, name: str) -> str:
        """Where the labels of the video `name` are."""
        return label_path(self.output, name, self.options.field)

    def files(self, job: Job) -> Sequence[str]:
        """The files of a job's video: one, or its pictures."""
        return self.pictures.get(job.name) or [job.source]

    def open(self, job: Job) -> VideoFile | PictureSequence:
        """A job's video; DataError or CorruptVideoError where it cannot be opened."""
        pictures = self.pictures.get(job.name)
        return PictureSequence(pictures) if pictures else VideoFile(job.source)


def label_videos(labels: LabelSet, backend: Backend) -> Report:
    """Labels all videos that are not labelled yet.

    Raises:
      ConfigError: the teacher cannot be used, or the folder holds another teacher's labels.
      DataError: the folder cannot be used.
    """
    if labels.batch_size < 1:
        raise ConfigError(f"batch_size is {labels.batch_size}; it must be at least 1.")
    teacher = make_teacher(labels.teacher, labels.options)
    _claim_folder(labels, teacher)
    return run_jobs(
        labels.jobs(),
        functools.partial(LabelWork, labels),
        backend=backend,
        done=functools.partial(is_labelled, labels, dict(teacher.parameters)),
        lock=labels.output,
        publish=_publish,
        description=f"labelling by {teacher.name}",
    )


def _publish(new: str, path: str) -> None:
    """Puts labels in the place of older ones; a folder of anything else is left alone."""
    if os.path.isfile(os.path.join(path, "zarr.json")):
        shutil.rmtree(path)
    os.replace(new, path)


def is_labelled(labels: LabelSet, parameters: Mapping[str, Any], job: Job) -> bool:
    """Whether a video has labels with these parameters, and still its number of bytes."""
    try:
        info = read_info(job.output)
        same_video = info.video_bytes == files_bytes(labels.files(job))
    except (DataError, OSError):
        return False
    same_size = info.size == (labels.size or info.video_size)
    return same_video and same_size and info.parameters == parameters


def _claim_folder(labels: LabelSet, teacher: Teacher) -> None:
    """Notes whose labels the folder holds; ConfigError if they are another teacher's."""
    mine = {
        "format": FORMAT,
        "field": teacher.field,
        "label_names": list(teacher.label_names),
        "teacher": teacher.name,
        "parameters": dict(teacher.parameters),
        "size": list(labels.size) if labels.size else None,
    }
    path = pathlib.Path(labels.output, SET)
    check_array_path(path.parent.absolute())
    try:
        os.makedirs(labels.output, exist_ok=True)
        if not path.exists():
            write_text(path, json.dumps(mine, indent=1) + "\n")
    except OSError as error:
        raise DataError(
            f"Labels cannot be written to {labels.output} ({causes.reason(error)}); "
            f"{causes.for_writing(error)}."
        ) from error
    found = read_set(labels.output)
    if found != mine:
        raise ConfigError(
            f"{labels.output} holds labels {_described(found)}, not {_described(mine)}; choose "
            "another --output."
        )


def _described(whose: Mapping[str, Any]) -> str:
    names = f", classes {', '.join(whose['label_names'])}," if whose["label_names"] else ""
    return (
        f"of {whose.get('teacher')} ({whose['field']}) with {whose.get('parameters')}{names} at "
        f"size {whose.get('size')}"
    )


def stored_size(labels: LabelSet) -> tuple[int, int]:
    """Bytes on disk, and frames or pairs of frames, of the labels that there are."""
    size = count = 0
    for job in labels.jobs():
        try:
            count += read_info(job.output).count
        except DataError:
            continue
        files = pathlib.Path(job.output).rglob("*")
        size += sum(file.stat().st_size for file in files if file.is_file())
    return size, count


class LabelWork:
    """`video_jobs.Work` that labels one video; several threads may call it at once."""

    def __init__(self, labels: LabelSet) -> None:
        self._set = labels
        self._teacher = make_teacher(labels.teacher, labels.options)

    def __call__(self, job: Job, output: str, tick: Tick) -> None:
        """Writes the labels of the job's video to the folder `output`."""
        teacher = self._teacher
        video, files = self._set.open(job), self._set.files(job)
        if teacher.needs_next and video.num_frames < 2:
            raise DataError(f"Video {job.source} has one frame; teacher {teacher.name} needs two.")
        if teacher.needs_next and not getattr(video, "is_even", True):
            logging.warning(
                "Video %s has frames at uneven times; its flow is in pixels from one frame to the "
                "next, however long each lasts.",
                job.source,
            )
        native = next(video.stream()).shape[:2]
        size = self._set.size or native
        if min(size) < teacher.min_size:
            raise DataError(
                f"Video {job.source} is {native[0]}x{native[1]} (HxW), labelled at "
                f"{size[0]}x{size[1]}; teacher {teacher.name} needs {teacher.min_size} pixels a "
                "side: use --size."
            )
        info = LabelInfo(
            teacher=teacher.name,
            parameters=dict(teacher.parameters),
            video_bytes=files_bytes(files),
            video_sha256=files_sha256(files),
            num_frames=video.num_frames,
            video_size=native,
            size=size,
            label_names=teacher.label_names,
        )
        for step in STEPS:
            counted: list[int] = []
            try:
                self._label(video, dataclasses.replace(info, step=step), output, tick, counted)
                if teacher.needs_next:
                    tick(1)  # the last frame, which no pair begins with
                return
            except FlowTooLargeError:
                shutil.rmtree(output, ignore_errors=True)  # not there if it was the first
                tick(-sum(counted))
        raise DataError(
            f"Teacher {teacher.name} found a vector of video {job.source} that is infinite or "
            f"longer than the {STEPS[-1] * 32767:.0f} px that labels can hold; use a smaller "
            "--size."
        )

    def _label(
        self,
        video: VideoFile | PictureSequence,
        info: LabelInfo,
        output: str,
        tick: Tick,
        counted: list[int],
    ) -> None:
        """Labels at one step; FlowTooLargeError if a vector does not fit."""
        teacher, writer = self._teacher, None
        frames = video.stream(info.size if info.size != info.video_size else None)
        batches = _batches(frames, self._set.batch_size, teacher.needs_next, pad=teacher.compiled)

        def write(codes: Any, too_large: Any, count: int) -> None:
            nonlocal writer
            if too_large:
                raise FlowTooLargeError
            codes = np.asarray(codes)[:count]
            if writer is None:
                kind = _kind(teacher.field, codes)
                writer = LabelWriter(output, dataclasses.replace(info, kind=kind))
            writer.append(codes)
            counted.append(count)
            tick(count)

        # While the device computes a batch this thread writes the one before and another decodes
        # the one after.
        with concurrent.futures.ThreadPoolExecutor(1, "decode") as pool:
            coming = pool.submit(next, batches, None)
            computing = None
            while (batch := coming.result()) is not None:
                coming = pool.submit(next, batches, None)
                computed = (*teacher.encoded(batch[0], info.step), batch[1])
                if computing is not None:
                    write(*computing)
                computing = computed
            write(*computing)
        try:
            writer.finish(pad=teacher.needs_next and teacher.field != "flow")
        except ValueError as error:  # the file's index promised another number of frames
            raise CorruptVideoError(f"Video {video.path} cannot be labelled: {error}") from error


def _kind(field: str, codes: np.ndarray) -> KindName:
    """How the codes (N,H,W,…) of a field are stored."""
    if field == "labels":
        return "probabilities" if codes.ndim == 4 else "labels"
    return "flow" if field == "flow" else "depth"


def _batches(
    frames: Iterator[np.ndarray], batch_size: int, overlap: bool, pad: bool
) -> Iterator[tuple[np.ndarray, int]]:
    """Consecutive frames (B,H,W,3), and how many of them are to be labelled.

    With `overlap` they are B+1, the last of one batch again the first of the next, and B are
    labelled. With `pad` the last batch has the others' shape: its last frame is repeated.
    """
    batch: list[np.ndarray] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == batch_size + overlap:
            yield np.stack(batch), batch_size
            batch = batch[-1:] if overlap else []
    count = len(batch) - overlap
    if count > 0:
        if pad:
            batch += batch[-1:] * (batch_size - count)
        yield np.stack(batch), count


# ------------------------------------------------------------------------------------------------


def check_labels(labels: LabelSet, threads: int = 1) -> list[str]:
    """Compares a set of labels with its videos: reads all of both.

    Args:
      labels: the teacher, `size` and `batch_size` do not matter; the field is that of the set.

    Returns:
      One sentence for everything that is wrong: labels that are missing, damaged, of a video that
      changed, of another teacher than the set's, or that belong to no video.
    """
    whose = read_set(labels.output)
    options = dataclasses.replace(labels.options, field=whose["field"])
    labels = dataclasses.replace(labels, options=options)
    check = functools.partial(_check_one, labels, whose)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        jobs = labels.jobs()
        checked = progress(pool.map(check, jobs), len(jobs), "checking labels")
        problems = [problem for problem in checked if problem]
    ending = suffix(whose["field"])
    wanted = {os.path.abspath(job.output) for job in labels.jobs()}
    for parent, folders, _ in os.walk(labels.output):
        for folder in sorted(folders):
            path = os.path.join(parent, folder)
            if is_temporary(folder):
                problems.append(f"half written: {path}, by a run that was killed; label again")
            elif folder.endswith(ending) and os.path.abspath(path) not in wanted:
                problems.append(f"extra: {path} belongs to no video in {labels.videos}")
        folders[:] = [f for f in folders if not f.endswith(ending) and not is_temporary(f)]
    return problems


def _check_one(labels: LabelSet, whose: Mapping[str, Any], job: Job) -> str | None:
    """What is wrong with one video's labels, beginning with the kind."""
    if not os.path.isdir(job.output):
        return f"missing: {job.name} has no labels"
    try:
        stored = StoredLabels(job.output)
        info = stored.info
        if (info.teacher, dict(info.parameters)) != (whose["teacher"], whose["parameters"]):
            return f"other teacher: {job.name} was labelled by {info.teacher} {info.parameters}"
        if info.label_names != tuple(whose["label_names"]):
            return f"other classes: {job.name} has {info.label_names}, not the set's"
        size = tuple(whose["size"] or info.video_size)
        if info.size != size:
            return f"wrong size: {job.name} has labels of {info.size}, the set is of {size}"
        if info.video_sha256 != files_sha256(labels.files(job)):
            return f"changed video: {job.name} is not the file that was labelled"
        video = labels.open(job)
        if info.num_frames != video.num_frames:
            return f"wrong length: {job.name} has {video.num_frames}, its labels {info.num_frames}"
        if info.video_size != next(video.stream()).shape[:2]:
            return f"wrong size: {job.name} is not {info.video_size}, as its labels say"
        for start in range(0, info.num_frames, _CHECK_FRAMES):
            stored.read(start, min(start + _CHECK_FRAMES, info.num_frames))
    except (UserError, OSError) as error:
        return f"damaged: {job.name}: {error}"
    return None
