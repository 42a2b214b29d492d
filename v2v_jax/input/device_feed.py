"""`feed=device`: the whole set, decoded once, in accelerator memory. Needs no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from v2v_jax.datasets.base.video_dataset import FIELDS, VIDEO_LABEL, VideoDataset
from v2v_jax.errors import ConfigError
from v2v_jax.input.base_feed import Batch, Feed
from v2v_jax.input.clips import Clips
from v2v_jax.input.device_store import DeviceStore
from v2v_jax.input.preprocess import Preprocessing, gather_clips
from v2v_jax.system import sharding


class DeviceFeed(Feed):
    """Keeps the decoded set, uint8 frames and targets, in the memory of every accelerator.

    Clips are cut out inside the jitted step: a batch holds their places alone. A video that cannot
    be read to its end is given up. Training may begin while the set is read (`grow_share`, see
    `input.clips`).
    """

    def __init__(
        self,
        dataset: VideoDataset,
        fields: Sequence[str],
        preprocessing: Preprocessing,
        mesh: Mesh,
        progress: Callable[[Iterable, int, str], Iterable] | None = None,
        count_replacements: bool = True,
        grows: bool = False,
    ):
        """Reads the set, or begins to; see `feeds.make_feed`."""
        super().__init__(dataset, fields, preprocessing, mesh, count_replacements)
        _check_memory(dataset, self._fields, mesh)
        self._store = DeviceStore(
            dataset, self._fields, mesh, self.skipped.add, preprocessing.clip_length
        )
        if not grows:
            self._read_all(progress)

    def _read_all(self, progress: Callable[[Iterable, int, str], Iterable] | None) -> None:
        arriving = self._store.fill()
        if progress is not None:
            count, name = len(self._dataset.videos), self._dataset.name
            arriving = progress(arriving, count, f"reading {name}")
        for _ in arriving:
            pass

    @property
    def store(self) -> dict[str, jax.Array]:
        """field → (N,H,W,…), the frames of all videos one after the other."""
        return self._store.arrays()

    def batches(self, plans: Iterable[Clips]) -> Iterator[Batch]:
        """Yields the places of every plan's clips in the store, as global arrays."""
        for plan in plans:
            mine = self._local(plan)
            self._store.wait_for(mine.video)
            yield sharding.to_global(self._places(mine), self._mesh)

    def _places(self, plan: Clips) -> dict[str, np.ndarray]:
        video, start = self._replace_unreadable(plan)
        labels = {} if self._labels is None else {VIDEO_LABEL: self._labels[video]}
        return labels | {
            "frame": (self._store.offsets[video] + start).astype(np.int32),
            "top": plan.top,
            "left": plan.left,
            "mirror": plan.mirror,
            "mask": plan.mask & (self._count_replacements | (video == plan.video)),
        }

    def _replace_unreadable(self, plan: Clips) -> tuple[np.ndarray, np.ndarray]:
        video, start = plan.video.copy(), plan.start.copy()
        for row in np.flatnonzero(self._store.unreadable[video]):
            others = self._replacements(video[row], start[row])
            video[row], start[row] = next(clip for clip in others if self._is_readable(clip[0]))
        return video, start

    def _is_readable(self, video: int) -> bool:
        self._store.wait_for([video])
        return not self._store.unreadable[video]

    def _clips(self, store: Any, batch: Batch) -> Batch:
        return gather_clips(store, batch, self._preprocessing)


def _check_memory(dataset: VideoDataset, fields: Sequence[str], mesh: Mesh) -> None:
    stats = mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return  # the CPU does not say
    frames = sum(video.num_frames for video in dataset.videos)
    voxel = sum(FIELDS[f].dtype.itemsize * math.prod(dataset.channels(f)) for f in fields)
    needed = frames * int(np.prod(dataset.frame_size)) * voxel
    taken = stats.get("bytes_in_use", 0)  # the training set, when this is the test set
    if taken + needed > 0.6 * stats["bytes_limit"]:
        raise ConfigError(
            f"feed=device needs {needed / 2**30:.1f} GiB for the {frames} frames of "
            f"{dataset.name}, with the {taken / 2**30:.1f} GiB in use more than 60 % of the "
            f"device's {stats['bytes_limit'] / 2**30:.1f} GiB; use --config.feed=tf_data."
        )
