"""Building a cache of decoded frames: by one process at a time, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from absl import logging

from v2v_jax.datasets.base.reading import read_videos
from v2v_jax.datasets.base.video_dataset import FIELDS, VideoDataset
from v2v_jax.datasets.cache.cache_files import (
    FORMAT,
    Cache,
    Progress,
    Unusable,
    frame_bytes,
    open_cache,
    sum_of,
    to_json,
    write_manifest,
)
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.system import causes
from v2v_jax.system.locks import locked
from v2v_jax.system.whole_files import discard, leftovers, publish, temporary_path

REMEDY = "choose another folder with --config.data.cache=DIR, or leave it out"


@dataclasses.dataclass(frozen=True)
class CacheBuilder:
    """Opens the cache of some fields of a dataset; builds it if there is none that can be used.

    Attributes:
      source: the dataset.
      split: "train" or "test", of which `source` is.
      folder: where caches are.
      fields: which fields the cache holds.
      first: number of each video's first frame in a file, and that of all frames.
    """

    source: VideoDataset
    split: str
    folder: pathlib.Path
    fields: tuple[str, ...]
    first: Sequence[int]

    def open_or_build(self, progress: Progress | None) -> Cache:
        """The cache, whose folder's name tells what it is of.

        Raises:
          DataError: it cannot be written, or the dataset changed meanwhile or has something wrong
            that is not a matter of one video.
        """
        key = self._key()
        h, w = self.source.frame_size
        path = self.folder / f"{self.source.name}-{self.split}-{h}x{w}-{key[:16]}"
        if path.exists():
            with contextlib.suppress(Unusable):
                return open_cache(path, key, progress)
        with _writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(path) as has_locks:
            try:  # another process may have built it meanwhile
                return open_cache(path, key, progress)
            except Unusable as error:
                if path.exists():
                    logging.warning("The cache %s %s; it is built again.", path, error)
            self._report_others(path)
            self._build(path, key, progress, has_locks)
            try:
                return open_cache(path, key, progress)
            except Unusable as error:
                raise DataError(
                    f"The cache {path} was just written and {error}; check the disk, or {REMEDY}."
                ) from error

    def _key(self) -> str:
        """SHA-256 of all that determines the content of a cache with these fields."""
        source = self.source
        description = {
            "format": FORMAT,
            "dataset": source.name,
            "split": self.split,
            "identity": source.identity(),
            "videos": [(video.name, video.num_frames) for video in source.videos],
            "frame_size": list(source.frame_size),
            "label_names": list(source.label_names),
            "fields": {f: [FIELDS[f].dtype.str, list(source.channels(f))] for f in self.fields},
        }
        return hashlib.sha256(to_json(description)).hexdigest()

    def _report_others(self, path: pathlib.Path) -> None:
        """Says which caches of the same dataset are of other data, files' times or fields."""
        prefix = path.name.rpartition("-")[0]
        others = sorted(p.name for p in self.folder.glob(f"{prefix}-*") if p != path)
        if others:
            logging.warning(
                "%s holds caches of %s with other files, parameters or fields, which are not "
                "used here; delete those that are out of date: %s",
                *(self.folder, prefix, ", ".join(others)),
            )

    def _build(
        self, path: pathlib.Path, key: str, progress: Progress | None, has_locks: bool
    ) -> None:
        """Writes the cache in a folder of its own and gives it its name when it is complete."""
        with _writing(path):
            if has_locks:  # nobody else is building: these were left by builders that were killed
                for left in leftovers(path):
                    discard(left)
            if path.exists():
                shutil.rmtree(path)
        self._check_space(path)
        temporary = temporary_path(path)
        try:
            self._write(temporary, path, key, progress)
            with _writing(path):
                _publish(temporary, path)
        finally:
            discard(temporary)

    def _check_space(self, path: pathlib.Path) -> None:
        needed = sum(frame_bytes(self.source, field) for field in self.fields) * self.first[-1]
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise DataError(
                f"The cache {path} takes {needed / 2**30:.1f} GiB and its disk has "
                f"{free / 2**30:.1f} GiB left; {REMEDY}."
            )

    def _write(
        self, folder: pathlib.Path, path: pathlib.Path, key: str, progress: Progress | None
    ) -> None:
        """Writes the files to `folder`, the manifest last; `path`, where they will be: messages."""
        videos = self.source.videos
        sums: dict[str, list[str]] = {field: [""] * len(videos) for field in self.fields}
        with contextlib.ExitStack() as stack:
            with _writing(path):
                folder.mkdir()
                files = {f: self._create(folder, f) for f in self.fields}
                for file in files.values():
                    stack.callback(_close, file)
            unreadable = self._write_frames(files, sums, path, progress)
            with _writing(path):
                for file in files.values():
                    file.flush()
        if self._key() != key:
            raise DataError(
                f"The files of {self.source.name} changed while they were read; start again."
            )
        manifest = {
            "key": key,
            "videos": [video.name for video in videos],
            "first": list(self.first),
            "frame_size": list(self.source.frame_size),
            "unreadable": unreadable,
            "sums": sums,
        }
        with _writing(path):
            write_manifest(folder, manifest)

    def _write_frames(
        self,
        files: dict[str, BinaryIO],
        sums: dict[str, list[str]],
        path: pathlib.Path,
        progress: Progress | None,
    ) -> dict[str, str]:
        """Decodes and writes all videos, notes their sums; video → reason of the unreadable."""
        unreadable: dict[str, str] = {}
        start = {field: file.tell() for field, file in files.items()}
        videos = read_videos(self.source, self.fields)
        if progress is not None:
            videos = progress(videos, len(self.source.videos), f"caching {self.source.name}")
        for video, frames in videos:
            if isinstance(frames, CorruptVideoError):
                unreadable[str(video)] = str(frames)
                continue
            for field, file in files.items():
                data = np.ascontiguousarray(frames[field], FIELDS[field].dtype)
                sums[field][video] = sum_of(data)
                place = self.first[video] * frame_bytes(self.source, field)
                with _writing(path):
                    file.seek(start[field] + place)
                    file.write(data)
        return unreadable

    def _create(self, folder: pathlib.Path, field: str) -> BinaryIO:
        """A field's file at its full size, open behind its header."""
        path, dtype = folder / f"{field}.npy", FIELDS[field].dtype
        shape = (self.first[-1], *self.source.frame_size, *self.source.channels(field))
        header = np.lib.format.open_memmap(path, "w+", dtype, shape).offset
        file = open(path, "r+b")
        file.seek(header)
        return file


def _publish(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a complete cache its name, unless another process was first."""
    try:
        publish(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # else the other one's is as good; the caller removes this one


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[bool]:
    """Lets one process after the other build a cache; False where the file system has no locks.

    Without locks each builds its own, and the first to finish gives it its name.
    """
    waiting = functools.partial(
        logging.warning, "Waiting for another process, which builds the cache %s.", path
    )
    with contextlib.ExitStack() as stack:
        with _writing(path):
            has_locks = stack.enter_context(locked(path.parent / f".{path.name}.lock", waiting))
        yield has_locks


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Turns what goes wrong while writing a cache into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The cache {path} cannot be written ({causes.reason(error)}); "
            f"{causes.for_writing(error)}, or leave data.cache out."
        ) from error


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # on a full disk, which was said already
        file.close()
