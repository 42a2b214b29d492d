"""The files of a cache of decoded frames: its format, its manifest, opening and verifying it.

    DIR/<dataset>-<split>-<H>x<W>-<key>/
        video.npy      (N,H,W,3) uint8, the frames of all videos one after the other
        labels.npy     … one file for each field that the task needs
        manifest.json  the videos, the SHA-256 sums of each one's frames, which are unreadable
        verified.json  sizes and times of these files when their sums were last found right

The sums are compared on first opening and whenever a file's size or time has changed; to compare
them at any time:

    v2v pack --verify=DIR
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging

from v2v_jax.datasets.base.video_dataset import FIELDS, VideoDataset
from v2v_jax.errors import DataError
from v2v_jax.system import causes, processors
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.whole_files import write_bytes

FORMAT = 2  # raise it when the files' layout changes, or how this package decodes or resizes
MANIFEST, _VERIFIED = "manifest.json", "verified.json"
Progress = Callable[[Iterable, int, str], Iterable]


class Unusable(Exception):
    """A cache is missing, incomplete or damaged; the text goes on from "The cache DIR …"."""


@dataclasses.dataclass(frozen=True)
class Cache:
    """An open cache: field → memory-mapped (N,H,W,…), and the videos that are not in it."""

    arrays: dict[str, np.ndarray]
    unreadable: set[int]


def open_cache(
    path: pathlib.Path, key: str | None, progress: Progress | None, verify: bool = False
) -> Cache:
    """Opens a cache and compares its sums where that was not done before.

    Args:
      path: its folder.
      key: what it must be of; None: anything.
      progress: shown while the sums are compared.
      verify: compare the sums even if that was done.

    Raises:
      Unusable: it is missing, incomplete or damaged.
      DataError: the system does not let it be read.
    """
    manifest = _read_manifest(path)
    if key is not None and manifest["key"] != key:
        raise Unusable("holds other data than its name says")
    try:
        shape = (manifest["first"][-1], *manifest["frame_size"])
        arrays = {field: _map(path / f"{field}.npy", field, shape) for field in manifest["sums"]}
        state = _file_state(path, manifest["sums"])
        cache = Cache(arrays, {int(video) for video in manifest["unreadable"]})
        if verify or _read_verified(path) != state:
            _compare_sums(cache, manifest, progress)
            _write_verified(path, state)
    except (OSError, EOFError, KeyError, ValueError) as error:
        _raise_if_refused(path, error)
        raise Unusable(f"is damaged ({error})") from error
    return cache


def _raise_if_refused(path: pathlib.Path, error: Exception) -> None:
    """DataError where the system did not let a cache be read, which is no reason to replace it."""
    if causes.is_refusal(error):
        raise DataError(
            f"The cache {path} cannot be read ({causes.reason(error)}); "
            f"{causes.for_reading(error)}."
        ) from error


def _map(path: pathlib.Path, field: str, shape: Sequence[int]) -> np.ndarray:
    array = np.lib.format.open_memmap(path, "r")
    spec = FIELDS[field]
    channels = array.shape[3:4] if spec.per_class else spec.channels
    if array.dtype != spec.dtype or array.shape != (*shape, *channels):
        raise ValueError(f"{path.name} holds {array.dtype} {array.shape}")
    return np.asarray(array)  # slicing a plain array is faster; it keeps the file mapped


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        stored = parse_object((path / MANIFEST).read_bytes())
        manifest = stored["manifest"]
        intact = stored["sum"] == hashlib.sha256(to_json(manifest)).hexdigest()
    except OSError as error:
        _raise_if_refused(path, error)
        raise Unusable(f"has no {MANIFEST} that can be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unusable(f"is damaged ({MANIFEST} cannot be understood)") from error
    if not intact:
        raise Unusable(f"is damaged (the sum of {MANIFEST} is wrong)")
    return manifest


def write_manifest(folder: pathlib.Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest with its sum; the last file of a cache."""
    stored = {"sum": hashlib.sha256(to_json(manifest)).hexdigest(), "manifest": manifest}
    (folder / MANIFEST).write_bytes(to_json(stored))


def _compare_sums(cache: Cache, manifest: dict[str, Any], progress: Progress | None) -> None:
    """Reads everything; raises Unusable where a sum is not the one of the manifest."""
    first = manifest["first"]
    names = manifest["videos"]

    def damaged(video: int) -> str | None:
        if video in cache.unreadable:
            return None
        for field, array in cache.arrays.items():
            if sum_of(array[first[video] : first[video + 1]]) != manifest["sums"][field][video]:
                return f"the sum of {names[video]} in {field}.npy is wrong"
        return None

    with concurrent.futures.ThreadPoolExecutor(processors.count()) as pool:
        results: Iterable[str | None] = pool.map(damaged, range(len(names)))
        if progress is not None:
            results = progress(results, len(names), "verifying the cache")
        found = [text for text in results if text]
    if found:
        more = f", and of {len(found) - 1} more" if len(found) > 1 else ""
        raise Unusable(f"is damaged ({found[0]}{more})")


def _file_state(path: pathlib.Path, fields: Iterable[str]) -> dict[str, list[int]]:
    """File name → [bytes, time of the last change in ns]."""
    states = {}
    for name in (MANIFEST, *(f"{field}.npy" for field in fields)):
        status = (path / name).stat()
        states[name] = [status.st_size, status.st_mtime_ns]
    return states


def _read_verified(path: pathlib.Path) -> Any:
    try:
        return parse_object((path / _VERIFIED).read_bytes())
    except (OSError, ValueError):
        return None


def _write_verified(path: pathlib.Path, state: dict[str, list[int]]) -> None:
    try:
        write_bytes(path / _VERIFIED, to_json(state), durable=False)
    except OSError as error:
        logging.info("The cache %s is sound, but no note of it can be written (%s).", path, error)


def frame_bytes(dataset: VideoDataset, field: str) -> int:
    """What one frame of a field takes."""
    voxels = math.prod(dataset.frame_size)
    return voxels * math.prod(dataset.channels(field)) * FIELDS[field].dtype.itemsize


def sum_of(array: np.ndarray) -> str:
    """The SHA-256 of an array's bytes."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest()


def to_json(value: Any) -> bytes:
    """The one way to write a value, so that equal ones have equal sums."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
