"""A dataset read from a cache of its decoded frames: a video is decoded and resized once.

The key in a cache's name is a hash of all that the content depends on: the dataset's files (names,
sizes, times) or parameters, frame size, fields, the format. Changed data has another key, so a
cache that is out of date is never read. The files (`cache_files`) are memory-mapped: a clip costs
copying what its crop needs.

A cache appears under its name only when it is complete (`cache_builder`). One that is damaged or
incomplete is built anew with a warning, as nothing but time is lost with it.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from v2v_jax.datasets.base.listing import check_window
from v2v_jax.datasets.base.video_dataset import FIELDS, VideoDataset
from v2v_jax.datasets.base.wrapped_dataset import WrappedDataset
from v2v_jax.datasets.cache.cache_builder import REMEDY, CacheBuilder
from v2v_jax.datasets.cache.cache_files import Progress
from v2v_jax.errors import ConfigError


class PackedVideos(WrappedDataset):
    """Another dataset, read from a cache of its decoded frames.

    `prepare_fields` opens the cache and first builds it where needed. Videos that could not be read
    whole are not in it: they are read from the dataset itself, which says what is wrong, or
    delivers those of their clips that can be read.
    """

    def __init__(self, source: VideoDataset, folder: str | os.PathLike[str], split: str) -> None:
        """Nothing is read or written yet.

        Args:
          source: the dataset.
          folder: where caches are; created when the first is built.
          split: "train" or "test", of which `source` is.

        Raises:
          ConfigError: the folder's name is blank or that of a file.
        """
        super().__init__(source)
        folder = os.fspath(folder)
        if not folder.strip() or (os.path.exists(folder) and not os.path.isdir(folder)):
            raise ConfigError(f"data.cache is {folder!r}, which is not a folder; {REMEDY}.")
        self._folder = pathlib.Path(folder)
        self._split = split
        counts = [video.num_frames for video in source.videos]
        self._first = np.concatenate([[0], np.cumsum(counts)]).tolist()  # of every video in a file
        self._arrays: dict[str, np.ndarray] = {}
        self._unreadable: set[int] = set()

    @property
    def python_share(self) -> float:
        """The dataset's, until reading is but copying what is mapped to memory."""
        return 0.0 if self._arrays else self.source.python_share

    @property
    def processes(self) -> int:
        """The dataset's, but none for what is mapped to memory."""
        return 1 if self._arrays else self.source.processes

    def prepare_fields(self, fields: Sequence[str], progress: Progress | None = None) -> None:
        """Opens the cache that holds these fields; builds it if there is none that can be used.

        Raises:
          DataError: the cache cannot be written, or the dataset lacks a field, cannot be cached,
            changed meanwhile, or has something wrong that is not a matter of one video.
        """
        self.source.prepare_fields(fields, progress)
        fields = tuple(field for field in FIELDS if field in fields)
        if self._arrays.keys() >= set(fields):
            return
        builder = CacheBuilder(self.source, self._split, self._folder, fields, self._first)
        cache = builder.open_or_build(progress)
        self._arrays |= cache.arrays
        self._unreadable |= cache.unreadable

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`; the arrays are read-only and still on disk where not in memory.

        Raises:
          CorruptVideoError, DataError: as the dataset itself.
        """
        self.check_fields(fields)
        if video in self._unreadable or not self._arrays.keys() >= set(fields):
            return self.source.read(video, start, stop, fields)
        check_window(self.videos[video], start, stop)
        first = self._first[video]
        return {field: self._arrays[field][first + start : first + stop] for field in fields}
