"""Flow labels on disk: the forward flow of every frame pair of a video, found by a teacher.

    OUTPUT/labels.json                      the teacher, its parameters, the size it worked at
    OUTPUT/<video's path>.flow.zarr/        one Zarr (version 3) array, in shards of up to 64 MiB
        zarr.json                           shape, codecs, and as attributes what `LabelInfo` holds

The array is (N-1,h,w,2) int16 for N frames: flow (u,v) from frame t to t+1 in steps of 1/64 px, so
rounded by at most 1/128 px; where a vector of the video is longer than 511 px, in steps of 1/32 px
(at most 1/64 px off, up to 1,023 px). -32768 stands for unknown. Every frame is compressed on its
own (Blosc: bit shuffling and Zstandard) with a CRC-32C sum, so that any frame can be read alone and
a damaged one is noticed. Any program that knows Zarr reads it; here TensorStore does, which comes
with Orbax.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from v2v_jax.errors import CorruptVideoError, DataError

SUFFIX = ".flow.zarr"
STEPS = (1 / 64, 1 / 32)  # pixels; the first in which a video's flow fits
FORMAT = 1
_UNKNOWN = -32768
_LARGEST = 32767
_SHARD_BYTES = 64 * 2**20  # before compression: what the writer keeps in memory
_SHARD_FRAMES = 256
_REMEDY = "label it again: v2v label"


@dataclasses.dataclass(frozen=True)
class LabelInfo:
    """What a video's labels say about themselves.

    Attributes:
      teacher: its name, and `parameters`, those it ran with.
      video_bytes, video_sha256: size and sum of the video's file.
      num_frames: N, frames of the video.
      video_size: (H,W) of its frames.
      size: (h,w) of the flow, which is in pixels of this size.
      step: pixels a unit of the stored integers.
    """

    teacher: str
    parameters: Mapping[str, Any]
    video_bytes: int
    video_sha256: str
    num_frames: int
    video_size: tuple[int, int]
    size: tuple[int, int]
    step: float = STEPS[0]


class FlowTooLargeError(Exception):
    """A vector does not fit 16 bits in the step in use."""


def label_path(folder: str | os.PathLike[str], name: str) -> str:
    """Where the labels of the video `name`, a path relative to the videos' folder, are."""
    return os.path.join(os.fspath(folder), name + SUFFIX)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 sum of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------
# Numbers


def encode_flow(flow: Any, step: float, xp: Any = np) -> tuple[Any, Any]:
    """Flow as 16-bit integers.

    Args:
      flow: (…,2) float, pixels; NaN (in u, v or both) is unknown.
      step: pixels a unit.
      xp: `jax.numpy` for JAX's arrays.

    Returns:
      (…,2) int16, and () bool: whether a vector was infinite or too large, and so is not right.
    """
    steps = xp.rint(flow.astype(np.float32) / xp.float32(step))
    unknown = xp.isnan(steps).any(-1, keepdims=True)
    steps = xp.where(unknown, np.float32(_UNKNOWN), steps)
    too_large = ((xp.abs(steps) > _LARGEST) & ~unknown).any()
    return xp.clip(steps, _UNKNOWN, _LARGEST).astype(np.int16), too_large


def decode_flow(codes: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The inverse: (…,2) int16 → (…,2) float32 pixels, 0 where unknown, and (…) bool, known."""
    known = codes[..., 0] != _UNKNOWN
    flow = codes.astype(np.float32) * np.float32(step)
    if not known.all():
        flow[~known] = 0
    return flow, known


# ------------------------------------------------------------------------------------------------
# Files


class LabelWriter:
    """Writes one video's labels, batch by batch; up to a shard of frames is kept in memory."""

    def __init__(self, path: str | os.PathLike[str], info: LabelInfo) -> None:
        """path: the folder to make, which must not exist."""
        self._path = os.fspath(path)
        self._pairs = info.num_frames - 1
        self._written = 0
        frame = (*info.size, 2)
        frame_bytes = int(np.prod(frame)) * 2
        length = max(1, min(_SHARD_BYTES // frame_bytes, _SHARD_FRAMES, self._pairs))
        self._store = _open(
            {"driver": "zarr3", "kvstore": _kvstore(path), "metadata": _metadata(info, length)},
            create=True,
        )
        self._shard = np.empty((length, *frame), np.int16)
        self._filled = 0

    def append(self, codes: np.ndarray) -> None:
        """Adds (B,h,w,2) int16 from `encode_flow`, the next B pairs."""
        while len(codes):
            taken = codes[: len(self._shard) - self._filled]
            self._shard[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            codes = codes[len(taken) :]
            if self._filled == len(self._shard):
                self._flush()

    def finish(self) -> None:
        """Writes what is left; ValueError if the number of pairs is not the one promised."""
        if self._filled:
            self._flush()
        if self._written != self._pairs:
            raise ValueError(f"{self._written} pairs were written, {self._pairs} promised.")

    def _flush(self) -> None:
        first, last = self._written, self._written + self._filled
        if last > self._pairs:
            raise ValueError(f"More than the {self._pairs} pairs promised were written.")
        try:  # a whole shard: a part of one would be read, extended and written again
            self._store[first:last].write(self._shard[: self._filled]).result()
        except ValueError as error:
            raise _cannot_write(self._path, error) from error
        self._written, self._filled = last, 0


class FlowLabels:
    """One video's labels, with random access. Thread-safe.

    Attributes:
      path: the folder.
      info: see `LabelInfo`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads what the labels say about themselves.

        Raises:
          DataError: they are missing, damaged, or of another kind.
        """
        self.path = os.fspath(path)
        self.info = read_info(path)
        self._store = None

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Flow of frames start..stop-1, 0 <= start < stop <= num_frames.

        Returns:
          (T,h,w,2) float32, pixels of (h,w), from every frame to the next, 0 where unknown; and
          (T,h,w) bool, where it is known. That of the video's last frame is unknown.

        Raises:
          ValueError: frames that the video does not have.
          CorruptVideoError: the labels are damaged.
        """
        info = self.info
        if not 0 <= start < stop <= info.num_frames:
            raise ValueError(
                f"Frames {start}..{stop} of labels {self.path}: the video has {info.num_frames}."
            )
        codes = np.full((stop - start, *info.size, 2), _UNKNOWN, np.int16)
        last = min(stop, info.num_frames - 1)
        if last > start:
            try:
                codes[: last - start] = self._opened()[start:last].read().result()
            except ValueError as error:
                raise CorruptVideoError(
                    f"Flow labels {self.path} are damaged at frames {start}..{last} "
                    f"({_reason(error)}); delete them and {_REMEDY}."
                ) from error
        return decode_flow(codes, info.step)

    def _opened(self) -> Any:
        if self._store is None:  # two threads may both open it: no harm
            store = _open(
                {
                    "driver": "zarr3",
                    "kvstore": _kvstore(self.path),
                    "fill_missing_data_reads": False,  # a shard that is not there: an error
                }
            )
            shape = (self.info.num_frames - 1, *self.info.size, 2)
            if store.shape != shape or store.dtype.numpy_dtype != np.int16:
                raise ValueError(f"holds {store.dtype.numpy_dtype} {store.shape}, not {shape}")
            self._store = store
        return self._store


def read_info(path: str | os.PathLike[str]) -> LabelInfo:
    """What a video's labels say about themselves.

    Raises:
      DataError: they are missing, damaged, or of another kind.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        raise DataError(f"Flow labels {path} do not exist; {_REMEDY}.")
    try:
        with open(os.path.join(path, "zarr.json"), encoding="utf-8") as file:
            attributes = json.load(file)["attributes"]
        if attributes["format"] != FORMAT:
            raise ValueError(f"format {attributes['format']}, this program knows {FORMAT}")
        fields = {f.name: attributes[f.name] for f in dataclasses.fields(LabelInfo)}
        fields["size"], fields["video_size"] = (
            tuple(map(int, fields[name])) for name in ("size", "video_size")
        )
        if len(fields["size"]) != 2 or len(fields["video_size"]) != 2:
            raise ValueError("a size is not of two numbers")
        return LabelInfo(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"Flow labels {path} cannot be read ({_reason(error)}); delete them and {_REMEDY}."
        ) from error


def _metadata(info: LabelInfo, shard_frames: int) -> dict[str, Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    crc = {"name": "crc32c"}
    frame = [*info.size, 2]
    blosc = dict(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=2, blocksize=0)
    sharding = {
        "chunk_shape": [1, *frame],
        "codecs": [little, {"name": "blosc", "configuration": blosc}, crc],
        "index_codecs": [little, crc],
    }
    return {
        "shape": [info.num_frames - 1, *frame],
        "data_type": "int16",
        "fill_value": _UNKNOWN,
        "dimension_names": ["frame", "y", "x", "uv"],
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [shard_frames, *frame]},
        },
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {"format": FORMAT, **dataclasses.asdict(info)},
    }


def _kvstore(path: str | os.PathLike[str]) -> dict[str, str]:
    return {"driver": "file", "path": os.path.abspath(path)}


def _open(spec: dict[str, Any], **options: Any) -> Any:
    import tensorstore  # here: whoever reads no labels need not load it

    return tensorstore.open(spec, **options).result()


def _cannot_write(path: str, error: Exception) -> DataError:
    return DataError(
        f"Flow labels {path} cannot be written ({_reason(error)}); choose a writable folder with "
        "enough space."
    )


def _reason(error: Exception) -> str:
    """The first clause of a message: TensorStore's go on with specifications."""
    return str(error).partition(" [")[0][:200] or type(error).__name__
