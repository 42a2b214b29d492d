"""`feed=device`: the whole set, decoded once, in accelerator memory. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from v2v_jax.datasets.base.reading import read_videos
from v2v_jax.datasets.base.video_dataset import FIELDS, VIDEO_LABEL, VideoDataset
from v2v_jax.errors import ConfigError, CorruptVideoError
from v2v_jax.input.base_feed import Batch, Feed
from v2v_jax.input.clips import Clips
from v2v_jax.input.preprocess import Preprocessing, gather_clips
from v2v_jax.system import sharding


class DeviceFeed(Feed):
    """Keeps the decoded set, uint8 frames and targets, in the memory of every accelerator.

    Clips are cut out inside the jitted step: a batch holds their places alone. A video that cannot
    be read to its end is given up.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        fields: Sequence[str],
        preprocessing: Preprocessing,
        mesh: Mesh,
        progress: Callable[[Iterable, int, str], Iterable] | None = None,
        count_replacements: bool = True,
    ):
        """Reads the set; see `feeds.make_feed`."""
        super().__init__(dataset, fields, preprocessing, mesh, count_replacements)
        _check_memory(dataset, self._fields, mesh)
        lengths = [video.num_frames for video in dataset.videos]
        self._offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._unreadable = np.zeros(len(lengths), bool)
        self.store = sharding.to_every_device(self._decode(progress), mesh)

    def _decode(self, progress) -> dict[str, np.ndarray]:
        """Reads every video whole: field → (N,H,W,…) for the N frames of the set."""
        shape = (int(self._offsets[-1]), *self._dataset.frame_size)
        store = {f: np.empty(shape + FIELDS[f].channels, FIELDS[f].dtype) for f in self._fields}
        videos = read_videos(self._dataset, self._fields)
        if progress is not None:
            videos = progress(videos, len(self._dataset.videos), f"reading {self._dataset.name}")
        for video, frames in videos:
            if isinstance(frames, CorruptVideoError):
                self.skipped.add(video, frames)
                self._unreadable[video] = True
                continue
            for field in self._fields:
                store[field][self._offsets[video] : self._offsets[video + 1]] = frames[field]
        return store

    def batches(self, plans: Iterable[Clips]) -> Iterator[Batch]:
        """Yields the places of every plan's clips in the store, as global arrays."""
        for plan in plans:
            yield sharding.to_global(self._places(self._local(plan)), self._mesh)

    def _places(self, plan: Clips) -> dict[str, np.ndarray]:
        video, start = self._replace_unreadable(plan)
        labels = {} if self._labels is None else {VIDEO_LABEL: self._labels[video]}
        return labels | {
            "frame": (self._offsets[video] + start).astype(np.int32),
            "top": plan.top,
            "left": plan.left,
            "mirror": plan.mirror,
            "mask": plan.mask & (self._count_replacements | (video == plan.video)),
        }

    def _replace_unreadable(self, plan: Clips) -> tuple[np.ndarray, np.ndarray]:
        video, start = plan.video.copy(), plan.start.copy()
        for row in np.flatnonzero(self._unreadable[video]):
            others = self._replacements(video[row], start[row])
            video[row], start[row] = next(o for o in others if not self._unreadable[o[0]])
        return video, start

    def _clips(self, store: Any, batch: Batch) -> Batch:
        return gather_clips(store, batch, self._preprocessing)


def _check_memory(dataset: VideoDataset, fields: Sequence[str], mesh: Mesh) -> None:
    stats = mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return  # the CPU does not say
    frames = sum(video.num_frames for video in dataset.videos)
    voxel = sum(FIELDS[f].dtype.itemsize * int(np.prod(FIELDS[f].channels)) for f in fields)
    needed = frames * int(np.prod(dataset.frame_size)) * voxel
    taken = stats.get("bytes_in_use", 0)  # the training set, when this is the test set
    if taken + needed > 0.6 * stats["bytes_limit"]:
        raise ConfigError(
            f"feed=device needs {needed / 2**30:.1f} GiB for the {frames} frames of "
            f"{dataset.name}, with the {taken / 2**30:.1f} GiB in use more than 60 % of the "
            f"device's {stats['bytes_limit'] / 2**30:.1f} GiB; use --config.feed=tf_data."
        )
