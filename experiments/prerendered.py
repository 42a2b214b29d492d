"""Rendered scenes in files that many processes share: rendered once, by all processors.

Where `data.cache` sums and compares what it stores, because it is kept, this only writes: for
experiments that train many networks side by side on one machine.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from v2v_jax.datasets.base.video_dataset import FIELDS, VIDEO_LABEL, VideoDataset

_LABELS = "video_labels"


class Prerendered(VideoDataset):
    """A dataset whose frames `render` has written.

    Attributes: see `VideoDataset`.
    """

    def __init__(self, source: VideoDataset, folder: pathlib.Path):
        """source: what was rendered, of which only the description is used."""
        self.name, self.frame_size, self.videos = source.name, source.frame_size, source.videos
        self.native_size = source.native_size
        self.label_names = source.label_names
        self.video_label_names = source.video_label_names
        paths = {path.stem: path for path in folder.glob("*.npy")}
        self._labels = np.load(paths.pop(_LABELS)) if _LABELS in paths else None
        self._arrays = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
        self.fields = tuple(self._arrays)
        if self._labels is not None:
            self.fields += (VIDEO_LABEL,)

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`."""
        return {field: self._arrays[field][video, start:stop] for field in fields}

    def video_label(self, video: int) -> int:
        """See `VideoDataset.video_label`."""
        return int(self._labels[video])


def render(
    source: VideoDataset, folder: pathlib.Path, fields: Sequence[str], workers: int | None = None
) -> Prerendered:
    """Writes folder/<field>.npy (N,T,H,W,…) of all videos, which are equally long.

    Args:
      fields: of the source; `video_label` too.
      workers: processes; default: as many as there are processors.
    """
    done = folder / "done"
    if done.exists():
        return Prerendered(source, folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(source.videos), source.videos[0].num_frames, *source.frame_size)
    voxels = [field for field in fields if field != VIDEO_LABEL]
    for field in voxels:
        spec = FIELDS[field]
        path = folder / f"{field}.npy"
        np.lib.format.open_memmap(path, "w+", spec.dtype, (*shape, *spec.channels))
    with concurrent.futures.ProcessPoolExecutor(
        workers or os.cpu_count(),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
        initargs=(source, folder, voxels, VIDEO_LABEL in fields),
    ) as pool:
        labels = list(pool.map(_render_one, range(len(source.videos)), chunksize=4))
    if VIDEO_LABEL in fields:
        np.save(folder / f"{_LABELS}.npy", np.array(labels, np.int32))
    done.touch()
    return Prerendered(source, folder)


_job: dict[str, Any] = {}  # of a worker


def _prepare(
    source: VideoDataset, folder: pathlib.Path, fields: list[str], with_label: bool
) -> None:
    _job.update(source=source, fields=fields, with_label=with_label)
    _job["arrays"] = {f: np.load(folder / f"{f}.npy", mmap_mode="r+") for f in fields}


def _render_one(video: int) -> int:
    source = _job["source"]
    if _job["fields"]:
        frames = source.read(video, 0, source.videos[video].num_frames, _job["fields"])
        for field, value in frames.items():
            _job["arrays"][field][video] = value
    return source.video_label(video) if _job["with_label"] else 0
