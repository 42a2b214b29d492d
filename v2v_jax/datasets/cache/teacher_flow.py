"""Flow labels (`v2v label`) for any dataset of video files."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from v2v_jax.datasets.base.listing import VideoFileDataset, file_identities
from v2v_jax.datasets.base.resizing import resize_flow
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.datasets.base.wrapped_dataset import WrappedDataset
from v2v_jax.errors import DataError
from v2v_jax.media.flow_label_files import FlowLabels, label_path

_THREADS = 8  # opening labels waits for the disk
_FLOW_FIELDS = ("flow", "flow_valid")


class TeacherFlow(WrappedDataset):
    """A dataset of video files with the fields `flow` and `flow_valid` from labels on disk.

    The flow is resized with the frames, its vectors too. It is valid where the teacher gave one: a
    teacher such as Brox's method does so everywhere, in occluded places too. The last frame of a
    video leads nowhere: nothing is valid there.

    Attributes:
      fields: the dataset's, `flow` and `flow_valid`.
      native_size: (H,W) of the videos, if it is the same for all.
      teacher: whose labels they are.
    """

    def __init__(self, source: VideoFileDataset, root: str, labels: str) -> None:
        """Opens the labels of every video.

        Args:
          source: the dataset.
          root: the folder of its videos, which names of labels are relative to.
          labels: the folder that `v2v label --output` names.

        Raises:
          DataError: labels are missing, damaged, of another video, or of different teachers.
        """
        super().__init__(source)
        self.fields = (*source.fields, *_FLOW_FIELDS)
        paths = [os.path.relpath(path, root) for path in source.paths]
        if not os.path.isdir(labels):
            raise DataError(f"Folder of flow labels {labels} does not exist; {_make(root, labels)}")

        def open_one(video: int) -> FlowLabels:
            name = paths[video]
            path = label_path(labels, name)
            if not os.path.isdir(path):
                raise DataError(
                    f"Video {name} of {self.name} has no flow labels in {labels}; "
                    f"{_make(root, labels)}"
                )
            opened = FlowLabels(path)
            _check_video(opened, source.paths[video], self.videos[video].num_frames)
            return opened

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            self._labels = list(pool.map(open_one, range(len(paths))))
        self.teacher = _check_teacher(self._labels)
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
        others = _without_flow(fields)
        found = self.source.read(video, start, stop, others) if others else {}
        if len(others) < len(fields):
            found |= self._read_flow(video, start, stop)
        return {field: found[field] for field in fields}

    def _read_flow(self, video: int, start: int, stop: int) -> dict[str, np.ndarray]:
        shape = (stop - start, *self.frame_size)
        flow = np.empty((*shape, 2), FIELDS["flow"].dtype)
        valid = np.empty(shape, bool)
        for frame, *native in zip(range(stop - start), *self._labels[video].read(start, stop)):
            flow[frame], valid[frame] = resize_flow(*native, self.frame_size)
        return {"flow": flow, "flow_valid": valid}

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        files = (os.path.join(opened.path, "zarr.json") for opened in self._labels)
        return {"video": self.source.identity(), "flow_labels": file_identities(files)}

    def prepare_fields(
        self,
        fields: Sequence[str],
        progress: Callable[[Iterable, int, str], Iterable] | None = None,
    ) -> None:
        """See `VideoDataset.prepare_fields`."""
        self.check_fields(fields)
        self.source.prepare_fields(_without_flow(fields), progress)


def _without_flow(fields: Sequence[str]) -> list[str]:
    return [field for field in fields if field not in _FLOW_FIELDS]


def _check_video(labels: FlowLabels, path: str, num_frames: int) -> None:
    """Raises DataError if the labels are, to go by its size and length, of another video."""
    info = labels.info
    try:
        size = os.path.getsize(path)
    except OSError as error:
        raise DataError(f"Video {path} cannot be found any more ({error.strerror}).") from error
    if (info.video_bytes, info.num_frames) != (size, num_frames):
        raise DataError(
            f"Flow labels {labels.path} are of a video of {info.num_frames} frames and "
            f"{info.video_bytes} bytes; {path} has {num_frames} and {size}. Run python -m "
            "v2v_jax.cli.label again, which labels what has changed."
        )


def _check_teacher(labels: Sequence[FlowLabels]) -> str:
    """The teacher's name; DataError if there are several, or one with different parameters."""
    first = labels[0]
    whose = lambda opened: (opened.info.teacher, dict(opened.info.parameters))
    for other in labels[1:]:
        if whose(other) != whose(first):
            raise DataError(
                f"Flow labels {first.path} and {other.path} are of different teachers, "
                f"{whose(first)} and {whose(other)}; label all videos by one."
            )
    return first.info.teacher


def _make(root: str, labels: str) -> str:
    return f"make them: v2v label --videos={root} --output={labels}"
