"""A cache of decoded frames: a video is decoded and resized once, not once for every clip.

    DIR/<dataset>-<split>-<H>x<W>-<key>/
        video.npy      (N,H,W,3) uint8, the frames of all videos one after the other
        labels.npy     … one file for each field that the task needs
        manifest.json  the videos, the SHA-256 sums of each one's frames, which are unreadable
        verified.json  sizes and times of these files when their sums were last found right

The key is a hash of all that the content depends on: the dataset's files (names, sizes, times) or
parameters, frame size, fields, this format. Changed data has another key, so a cache that is out of
date is never read. The files are memory-mapped: a clip costs copying what its crop needs.

A cache appears under its name only when it is complete. One that is damaged or incomplete is built
anew with a warning, as nothing but time is lost with it. The sums are compared on first opening and
whenever a file's size or time has changed; to compare them at any time:

    python -m v2v_jax.datasets.cache.packed DIR
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from v2v_jax.datasets.base.listing import check_window
from v2v_jax.datasets.base.reading import read_videos
from v2v_jax.datasets.base.video_dataset import FIELDS, VideoDataset
from v2v_jax.errors import ConfigError, CorruptVideoError, DataError
from v2v_jax.system.locks import locked
from v2v_jax.system.whole_files import (
    discard,
    leftovers,
    publish,
    temporary_path,
    write_bytes,
)

FORMAT = 1  # raise it when the files' layout changes, or how this package decodes or resizes
Progress = Callable[[Iterable, int, str], Iterable]

_MANIFEST, _VERIFIED = "manifest.json", "verified.json"
_REMEDY = "choose another folder with --config.data.cache=DIR, or leave it out"


class PackedVideos(VideoDataset):
    """Another dataset, read from a cache of its decoded frames.

    `prepare_fields` opens the cache and first builds it where needed. Videos that could not be read
    whole are not in it: they are read from the dataset itself, which says what is wrong, or
    delivers those of their clips that can be read.

    Attributes:
      name, fields, label_names, video_label_names, frame_size, videos: the dataset's.
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
        folder = os.fspath(folder)
        if not folder.strip() or (os.path.exists(folder) and not os.path.isdir(folder)):
            raise ConfigError(f"data.cache is {folder!r}, which is no folder; {_REMEDY}.")
        self.name = source.name
        self.fields = source.fields
        self.label_names = source.label_names
        self.video_label_names = source.video_label_names
        self.frame_size = source.frame_size
        self.native_size = source.native_size
        self.videos = source.videos
        self._source = source
        self._folder = pathlib.Path(folder)
        self._split = split
        counts = [video.num_frames for video in source.videos]
        self._first = np.concatenate([[0], np.cumsum(counts)]).tolist()  # of every video in a file
        self._arrays: dict[str, np.ndarray] = {}
        self._unreadable: set[int] = set()

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        return self._source.identity()

    def video_label(self, video: int) -> int:
        """See `VideoDataset.video_label`."""
        return self._source.video_label(video)

    def prepare_fields(self, fields: Sequence[str], progress: Progress | None = None) -> None:
        """Opens the cache that holds these fields; builds it if there is none that can be used.

        Raises:
          DataError: the cache cannot be written, or the dataset lacks a field, cannot be cached,
            changed meanwhile, or has something wrong that is not a matter of one video.
        """
        self.check_fields(fields)
        fields = tuple(field for field in FIELDS if field in fields)
        if self._arrays.keys() >= set(fields):
            return
        key = self._key(fields)
        h, w = self.frame_size
        path = self._folder / f"{self.name}-{self._split}-{h}x{w}-{key[:16]}"
        cache = self._open_or_build(path, key, fields, progress)
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
            return self._source.read(video, start, stop, fields)
        check_window(self.videos[video], start, stop)
        first = self._first[video]
        return {field: self._arrays[field][first + start : first + stop] for field in fields}

    def _key(self, fields: Sequence[str]) -> str:
        """SHA-256 of all that determines the content of a cache with these fields."""
        description = {
            "format": FORMAT,
            "dataset": self.name,
            "split": self._split,
            "identity": self._source.identity(),
            "videos": [(video.name, video.num_frames) for video in self.videos],
            "frame_size": list(self.frame_size),
            "label_names": list(self.label_names),
            "fields": {f: [FIELDS[f].dtype.str, list(FIELDS[f].channels)] for f in fields},
        }
        return hashlib.sha256(_to_json(description)).hexdigest()

    def _open_or_build(
        self, path: pathlib.Path, key: str, fields: Sequence[str], progress: Progress | None
    ) -> _Cache:
        if path.exists():
            with contextlib.suppress(_Unusable):
                return _open(path, key, progress)
        with _writing(path):
            self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(path) as alone:
            try:  # another process may have built it meanwhile
                return _open(path, key, progress)
            except _Unusable as error:
                if path.exists():
                    logging.warning("The cache %s %s; it is built anew.", path, error)
            self._report_others(path)
            self._build(path, key, fields, progress, alone)
            try:
                return _open(path, key, progress)
            except _Unusable as error:
                raise DataError(
                    f"The cache {path} was just written and {error}; check the disk, or {_REMEDY}."
                ) from error

    def _report_others(self, path: pathlib.Path) -> None:
        """Says which caches of the same dataset are of other data, files' times or fields."""
        prefix = path.name.rpartition("-")[0]
        others = sorted(p.name for p in self._folder.glob(f"{prefix}-*") if p != path)
        if others:
            logging.warning(
                "%s holds caches of %s with other files, parameters or fields, which are not "
                "used here; delete those that are out of date: %s",
                *(self._folder, prefix, ", ".join(others)),
            )

    def _build(
        self,
        path: pathlib.Path,
        key: str,
        fields: Sequence[str],
        progress: Progress | None,
        alone: bool,
    ) -> None:
        """Writes the cache in a folder of its own and gives it its name when it is complete."""
        with _writing(path):
            if alone:  # nobody else is building: these were left by builders that were killed
                for left in leftovers(path):
                    shutil.rmtree(left)
            if path.exists():
                shutil.rmtree(path)
        self._check_space(path, fields)
        temporary = temporary_path(path)
        try:
            self._write(temporary, path, key, fields, progress)
            with _writing(path):
                _publish(temporary, path)
        finally:
            discard(temporary)

    def _check_space(self, path: pathlib.Path, fields: Sequence[str]) -> None:
        needed = sum(_frame_bytes(field, self.frame_size) for field in fields) * self._first[-1]
        free = shutil.disk_usage(path.parent).free
        if needed > free:
            raise DataError(
                f"The cache {path} takes {needed / 2**30:.1f} GiB and its disk has "
                f"{free / 2**30:.1f} GiB left; {_REMEDY}."
            )

    def _write(
        self,
        folder: pathlib.Path,
        path: pathlib.Path,
        key: str,
        fields: Sequence[str],
        progress: Progress | None,
    ) -> None:
        """Writes the files to `folder`, the manifest last; `path`, where they will be: messages."""
        unreadable: dict[str, str] = {}
        sums: dict[str, list[str]] = {field: [""] * len(self.videos) for field in fields}
        with contextlib.ExitStack() as stack:
            with _writing(path):
                folder.mkdir()
                files = {f: self._create(folder, f) for f in fields}
                for file in files.values():
                    stack.callback(_close, file)
            start = {field: file.tell() for field, file in files.items()}
            videos = read_videos(self._source, fields)
            if progress is not None:
                videos = progress(videos, len(self.videos), f"caching {self.name}")
            for video, frames in videos:
                if isinstance(frames, CorruptVideoError):
                    unreadable[str(video)] = str(frames)
                    continue
                for field, file in files.items():
                    data = np.ascontiguousarray(frames[field], FIELDS[field].dtype)
                    sums[field][video] = _sum(data)
                    place = self._first[video] * _frame_bytes(field, self.frame_size)
                    with _writing(path):
                        file.seek(start[field] + place)
                        file.write(data)
            with _writing(path):
                for file in files.values():
                    _flush(file)
        if self._key(fields) != key:
            raise DataError(f"The files of {self.name} changed while they were read; start again.")
        manifest = {
            "key": key,
            "videos": [video.name for video in self.videos],
            "first": self._first,
            "frame_size": list(self.frame_size),
            "unreadable": unreadable,
            "sums": sums,
        }
        with _writing(path):
            _write_manifest(folder, manifest)

    def _create(self, folder: pathlib.Path, field: str) -> BinaryIO:
        """A field's file at its full size, open behind its header."""
        path, spec = folder / f"{field}.npy", FIELDS[field]
        shape = (self._first[-1], *self.frame_size, *spec.channels)
        header = np.lib.format.open_memmap(path, "w+", spec.dtype, shape).offset
        file = open(path, "r+b")
        file.seek(header)
        return file


# ------------------------------------------------------------------------------------------------
# Files


class _Unusable(Exception):
    """A cache is missing, incomplete or damaged; the text goes on from "The cache DIR …"."""


@dataclasses.dataclass(frozen=True)
class _Cache:
    """An open cache: field → memory-mapped (N,H,W,…), and the videos that are not in it."""

    arrays: dict[str, np.ndarray]
    unreadable: set[int]


def _open(
    path: pathlib.Path, key: str | None, progress: Progress | None, verify: bool = False
) -> _Cache:
    """Opens a cache and compares its sums where that was not done before.

    Args:
      path: its folder.
      key: what it must be of; None: anything.
      progress: shown while the sums are compared.
      verify: compare the sums even if that was done.

    Raises:
      _Unusable: it is missing, incomplete or damaged.
    """
    manifest = _read_manifest(path)
    if key is not None and manifest["key"] != key:
        raise _Unusable("is of other data than its name says")
    try:
        shape = (manifest["first"][-1], *manifest["frame_size"])
        arrays = {field: _map(path / f"{field}.npy", field, shape) for field in manifest["sums"]}
        state = _file_state(path, manifest["sums"])
        cache = _Cache(arrays, {int(video) for video in manifest["unreadable"]})
        if verify or _read_verified(path) != state:
            _compare_sums(cache, manifest, progress)
            _write_verified(path, state)
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise _Unusable(f"is damaged ({error})") from error
    return cache


def _map(path: pathlib.Path, field: str, shape: Sequence[int]) -> np.ndarray:
    array = np.lib.format.open_memmap(path, "r")
    spec = FIELDS[field]
    if array.dtype != spec.dtype or array.shape != (*shape, *spec.channels):
        raise ValueError(f"{path.name} holds {array.dtype} {array.shape}")
    return np.asarray(array)  # slicing a plain array is faster; it keeps the file mapped


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        stored = json.loads((path / _MANIFEST).read_bytes())
        manifest = stored["manifest"]
        intact = stored["sum"] == hashlib.sha256(_to_json(manifest)).hexdigest()
    except OSError as error:
        raise _Unusable(f"has no {_MANIFEST} that can be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _Unusable(f"is damaged ({_MANIFEST} cannot be understood)") from error
    if not intact:
        raise _Unusable(f"is damaged (the sum of {_MANIFEST} is wrong)")
    return manifest


def _write_manifest(folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    stored = {"sum": hashlib.sha256(_to_json(manifest)).hexdigest(), "manifest": manifest}
    with open(folder / _MANIFEST, "wb") as file:
        file.write(_to_json(stored))
        _flush(file)


def _compare_sums(cache: _Cache, manifest: dict[str, Any], progress: Progress | None) -> None:
    """Reads everything; raises _Unusable where a sum is not the one of the manifest."""
    first = manifest["first"]
    names = manifest["videos"]

    def damaged(video: int) -> str | None:
        if video in cache.unreadable:
            return None
        for field, array in cache.arrays.items():
            if _sum(array[first[video] : first[video + 1]]) != manifest["sums"][field][video]:
                return f"the sum of {names[video]} in {field}.npy is wrong"
        return None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results: Iterable[str | None] = pool.map(damaged, range(len(names)))
        if progress is not None:
            results = progress(results, len(names), "verifying the cache")
        found = [text for text in results if text]
    if found:
        more = f", and of {len(found) - 1} more" if len(found) > 1 else ""
        raise _Unusable(f"is damaged ({found[0]}{more})")


def _file_state(path: pathlib.Path, fields: Iterable[str]) -> dict[str, list[int]]:
    """File name → [bytes, time of the last change in ns]."""
    states = {}
    for name in (_MANIFEST, *(f"{field}.npy" for field in fields)):
        status = (path / name).stat()
        states[name] = [status.st_size, status.st_mtime_ns]
    return states


def _read_verified(path: pathlib.Path) -> Any:
    try:
        return json.loads((path / _VERIFIED).read_bytes())
    except (OSError, ValueError):
        return None


def _write_verified(path: pathlib.Path, state: dict[str, list[int]]) -> None:
    try:
        write_bytes(path / _VERIFIED, _to_json(state), durable=False)
    except OSError as error:
        logging.info("That the cache %s is sound cannot be noted (%s).", path, error)


def _publish(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a complete cache its name, unless another process was first."""
    try:
        publish(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # else: the other one's is as good; the caller removes this one


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[bool]:
    """Lets one process after the other build a cache; False where the file system has no locks.

    Without locks each builds its own, and the first to finish gives it its name.
    """
    wait = lambda: logging.warning("Waiting for another process, which builds the cache %s.", path)
    with contextlib.ExitStack() as held:
        with _writing(path):
            has_locks = held.enter_context(locked(path.parent / f".{path.name}.lock", wait))
        yield has_locks


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Turns what goes wrong while writing a cache into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The cache {path} cannot be written ({error.strerror or error}); {_REMEDY}."
        ) from error


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # on a full disk, which was said already
        file.close()


def _flush(file: BinaryIO) -> None:
    """To the disk: a power cut must not leave a cache with its name but without its content."""
    file.flush()
    os.fsync(file.fileno())


def _frame_bytes(field: str, frame_size: tuple[int, int]) -> int:
    h, w = frame_size
    return h * w * int(np.prod(FIELDS[field].channels)) * FIELDS[field].dtype.itemsize


def _sum(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest()


def _to_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def main(argv: Sequence[str] | None = None) -> int:
    """Compares the sums of all caches in a folder; returns 1 if one cannot be used."""
    parser = argparse.ArgumentParser(description="Verifies caches of decoded frames.")
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args(argv).folder
    status = 0
    for path in sorted(file.parent for file in folder.glob(f"*/{_MANIFEST}")):
        try:
            cache = _open(path, None, None, verify=True)
        except _Unusable as error:
            print(f"{path} {error}; delete it, or let the next run build it anew.")
            status = 1
        else:
            size = sum(array.nbytes for array in cache.arrays.values()) / 2**30
            print(f"{path} is sound: {', '.join(cache.arrays)}, {size:.2f} GiB")
    return status


if __name__ == "__main__":
    sys.exit(main())
