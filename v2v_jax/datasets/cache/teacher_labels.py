"""A teacher's labels (`v2v label`) as fields of any dataset whose videos are files."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from v2v_jax.datasets.base.listing import file_identities
from v2v_jax.datasets.base.resizing import resize_flow, resize_nearest, resize_probabilities
from v2v_jax.datasets.base.video_dataset import FIELDS, VideoDataset
from v2v_jax.datasets.base.wrapped_dataset import WrappedDataset
from v2v_jax.errors import DataError
from v2v_jax.media.label_codes import likeliest
from v2v_jax.media.label_files import LabelInfo, StoredLabels, files_bytes, label_path, read_set

_THREADS = 8  # opening labels waits for the disk


def with_labels(
    dataset: VideoDataset, split: str, folder: str, root: str | None = None
) -> VideoDataset:
    """The dataset with a teacher's labels, but for a test split that has its own truth.

    There the student is judged by it; its teacher's labels need not be there.

    Args:
      split: "train" or "test".
      folder, root: see `TeacherLabels`.

    Raises:
      DataError: as of `TeacherLabels`.
    """
    if split == "test" and os.path.isdir(folder) and read_set(folder)["field"] in dataset.fields:
        return dataset
    return TeacherLabels(dataset, folder, root)


class TeacherLabels(WrappedDataset):
    """A dataset with the fields that a teacher's labels on disk are.

    Flow is resized with the frames, its vectors too; it is valid where the teacher gave one (one
    such as Brox's method does so everywhere, in occluded places too), never in a video's last
    frame. Probabilities are averaged, and the labels beside them are the likeliest classes; classes
    and depth are resized by nearest neighbour. What the dataset itself has of these fields gives
    way.

    Attributes:
      fields: the dataset's and the labels'.
      label_names: the teacher's, where it gives classes.
      native_size: (H,W) of the videos, if it is the same for all.
      teacher: whose labels they are.
      made: the fields that are the teacher's.
    """

    def __init__(self, source: VideoDataset, labels: str, root: str | None = None) -> None:
        """Opens the labels of every video.

        Args:
          source: the dataset.
          labels: the folder that `v2v label --output` names.
          root: the folder of its video files, which names of labels are relative to; None: labels
            have the names of the dataset's videos.

        Raises:
          DataError: labels are missing, damaged, of another video, or of different teachers.
        """
        super().__init__(source)
        files = [source.files(video) for video in range(len(source.videos))]
        names = [info.name for info in source.videos]
        if root is not None:
            names = [os.path.relpath(paths[0], root) for paths in files]
        if not os.path.isdir(labels):
            raise DataError(f"Folder of labels {labels} does not exist; {_make(root, labels)}")
        made = read_set(labels)["field"]

        def open_one(video: int) -> StoredLabels:
            path = label_path(labels, names[video], made)
            if not os.path.isdir(path):
                kind = made if made == "labels" else f"{made} labels"
                raise DataError(
                    f"Video {names[video]} of {self.name} has no {kind} in {labels}; "
                    f"{_make(root, labels)}"
                )
            opened = StoredLabels(path)
            _check_video(opened, files[video], self.videos[video].num_frames)
            return opened

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            self._labels = list(pool.map(open_one, range(len(names))))
        info = _check_teacher(self._labels)
        self.teacher = info.teacher
        self.made = self._labels[0].kind.fields
        self.fields = tuple(dict.fromkeys((*source.fields, *self.made)))
        if info.label_names:
            self.label_names = info.label_names
        sizes = {opened.info.video_size for opened in self._labels}
        self.native_size = source.native_size or (sizes.pop() if len(sizes) == 1 else None)

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`.

        Raises:
          CorruptVideoError: the video or its labels are damaged.
        """
        self.check_fields(fields)
        others = self._others(fields)
        found = self.source.read(video, start, stop, others) if others else {}
        if len(others) < len(fields):
            found |= self._read_labels(video, start, stop)
        return {field: found[field] for field in fields}

    def _read_labels(self, video: int, start: int, stop: int) -> dict[str, np.ndarray]:
        native = self._labels[video].read(start, stop)
        resized = {
            field: np.empty(
                (stop - start, *self.frame_size, *self.channels(field)), FIELDS[field].dtype
            )
            for field in self.made
        }
        for t in range(stop - start):
            frame = _resized({field: native[field][t] for field in self.made}, self.frame_size)
            for field, values in frame.items():
                resized[field][t] = values
        return resized

    def _others(self, fields: Sequence[str]) -> list[str]:
        return [field for field in fields if field not in self.made]

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        files = (os.path.join(opened.path, "zarr.json") for opened in self._labels)
        return {"video": self.source.identity(), "labels": file_identities(files)}

    def prepare_fields(
        self,
        fields: Sequence[str],
        progress: Callable[[Iterable, int, str], Iterable] | None = None,
    ) -> None:
        """See `VideoDataset.prepare_fields`."""
        self.check_fields(fields)
        self.source.prepare_fields(self._others(fields), progress)


def _resized(frame: dict[str, np.ndarray], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """One frame's fields (h,w,…) at the size (H,W)."""
    if "flow" in frame:
        flow, valid = resize_flow(frame["flow"], frame["flow_valid"], size)
        return {"flow": flow, "flow_valid": valid}
    if "probabilities" in frame:
        probabilities = resize_probabilities(frame["probabilities"], size)
        return {"labels": likeliest(probabilities), "probabilities": probabilities}
    return {field: resize_nearest(values, size) for field, values in frame.items()}


def _check_video(labels: StoredLabels, files: Sequence[str], num_frames: int) -> None:
    """Raises DataError if the labels are, to go by its size and length, of another video."""
    info, path = labels.info, files[0] if len(files) == 1 else os.path.dirname(files[0])
    try:
        size = files_bytes(files)
    except OSError as error:
        raise DataError(f"Video {path} cannot be found any more ({error.strerror}).") from error
    if (info.video_bytes, info.num_frames) != (size, num_frames):
        raise DataError(
            f"Labels {labels.path} are of a video of {info.num_frames} frames and "
            f"{info.video_bytes} bytes; {path} has {num_frames} and {size}. Run v2v label again, "
            "which labels what has changed."
        )


def _check_teacher(labels: Sequence[StoredLabels]) -> LabelInfo:
    """What the first says; DataError if there are several teachers, or different parameters."""
    first = labels[0]
    whose = lambda opened: (opened.info.teacher, dict(opened.info.parameters))
    for other in labels[1:]:
        if whose(other) != whose(first):
            raise DataError(
                f"Labels {first.path} and {other.path} come from different teachers, "
                f"{whose(first)} and {whose(other)}; label all videos by one."
            )
        if (other.kind, other.info.label_names) != (first.kind, first.info.label_names):
            raise DataError(
                f"Labels {first.path} and {other.path} have different classes or kinds "
                f"({first.kind.name} and {other.kind.name}); label all videos in one way."
            )
    return first.info


def _make(root: str | None, labels: str) -> str:
    return f"make them: v2v label --videos={root or 'DIR'} --output={labels}"
