"""Labels on disk: what a teacher says of every frame of a video, or of every pair of frames.

    OUTPUT/labels.json                     the field, the teacher, its parameters, the size it saw
    OUTPUT/<video's path>.<field>.zarr/    one Zarr (version 3) array, in shards of up to 64 MiB
        zarr.json                          shape, codecs, and as attributes what `LabelInfo` holds

The array is (N,h,w,…) for N frames, (N-1,h,w,2) for flow, in numbers of 8 or 16 bits
(`label_codes`). Every frame is compressed on its own (Blosc: bit shuffling and Zstandard) with a
CRC-32C sum, so that any frame can be read alone and a damaged one is noticed. Any program that
knows Zarr reads it; here TensorStore does, which comes with Orbax.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.label_codes import KINDS, STEPS, KindName, LabelKind, decode
from v2v_jax.system import causes
from v2v_jax.system.json_files import parse_object

FORMAT = 1
SET = "labels.json"
_SHARD_BYTES = 64 * 2**20  # before compression: what the writer keeps in memory
_SHARD_FRAMES = 256
_REMEDY = "label it again: v2v label"


@dataclasses.dataclass(frozen=True)
class LabelInfo:
    """What a video's labels say about themselves.

    Attributes:
      teacher: its name, and `parameters`, those it ran with.
      video_bytes, video_sha256: size and sum of the video's file, or files.
      num_frames: N, frames of the video.
      video_size: (H,W) of its frames.
      size: (h,w) of the labels; flow is in pixels of this size.
      step: of flow, pixels a unit of the stored integers.
      kind: of `label_codes.KINDS`.
      label_names: of the classes, index = label; empty where there are none.
    """

    teacher: str
    parameters: Mapping[str, Any]
    video_bytes: int
    video_sha256: str
    num_frames: int
    video_size: tuple[int, int]
    size: tuple[int, int]
    step: float = STEPS[0]
    kind: KindName = "flow"  # what all labels were when this was not noted
    label_names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many frames, or pairs of frames, are labelled."""
        return self.num_frames - KINDS[self.kind].to_next_frame

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of one frame's codes."""
        return (*self.size, *KINDS[self.kind].channels(self.label_names))


def suffix(field: str) -> str:
    """How the folder of a video's labels ends."""
    return f".{field}.zarr"


def label_path(folder: str | os.PathLike[str], name: str, field: str = "flow") -> str:
    """Where the labels of the video `name`, a path relative to the videos' folder, are.

    TensorStore, which writes them, cannot have a backslash in a path, or bytes that are no UTF-8:
    they are written as in addresses, %5C and %E9.
    """
    quoted = "".join(
        "".join(f"%{byte:02X}" for byte in os.fsencode(letter))
        if letter == "\\" or "\ud800" <= letter <= "\udfff"
        else letter
        for letter in name
    )
    return os.path.join(os.fspath(folder), quoted + suffix(field))


def read_set(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a folder of labels says about itself: `field`, `teacher`, `parameters`, `size`, ….

    Raises:
      DataError: it is no such folder, or damaged.
    """
    try:
        with open(os.path.join(folder, SET), encoding="utf-8") as file:
            return {"field": "flow", "label_names": []} | parse_object(file.read())
    except (OSError, ValueError) as error:
        if causes.is_refusal(error):
            raise _refused(os.path.join(folder, SET), error) from error
        raise DataError(
            f"{os.fspath(folder)} is not a folder of labels: {SET} cannot be read; make labels "
            "with v2v label."
        ) from error


def files_bytes(paths: Sequence[str | os.PathLike[str]]) -> int:
    """The size of a video's file, or of its pictures together."""
    return sum(os.path.getsize(path) for path in paths)


def files_sha256(paths: Sequence[str | os.PathLike[str]]) -> str:
    """The SHA-256 of a video's file, in hexadecimal digits; of pictures, that of all their sums."""
    sums = []
    for path in paths:
        with open(path, "rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------
# Files


class LabelWriter:
    """Writes one video's labels, batch by batch; up to a shard of frames is kept in memory."""

    def __init__(self, path: str | os.PathLike[str], info: LabelInfo) -> None:
        """path: the folder to make, which must not exist. DataError if it cannot be written."""
        self._path = os.fspath(path)
        self._count = info.count
        self._written = 0
        kind, frame = KINDS[info.kind], info.frame_shape
        frame_bytes = int(np.prod(frame)) * kind.dtype.itemsize
        length = max(1, min(_SHARD_BYTES // frame_bytes, _SHARD_FRAMES, self._count))
        spec = {
            "driver": "zarr3",
            "kvstore": _kvstore(path),
            "metadata": _metadata(info, length),
            # Else a frame of which nothing is known would be left out, as damaged ones are.
            "store_data_equal_to_fill_value": True,
        }
        try:
            self._store = _open(spec, create=True)
        except ValueError as error:
            raise _cannot_write(self._path, error) from error
        self._shard = np.empty((length, *frame), kind.dtype)
        self._unknown = kind.unknown
        self._filled = 0

    def append(self, codes: np.ndarray) -> None:
        """Adds the codes (B,h,w,…) of the next B frames, or pairs of frames."""
        while len(codes):
            taken = codes[: len(self._shard) - self._filled]
            self._shard[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            codes = codes[len(taken) :]
            if self._filled == len(self._shard):
                self._flush()

    def finish(self, pad: bool = False) -> None:
        """Writes what is left; ValueError if the number is not the one promised.

        Args:
          pad: whether a single missing frame, the last of a video, is not known.
        """
        if pad and self._written + self._filled == self._count - 1:
            self.append(np.full((1, *self._shard.shape[1:]), self._unknown, self._shard.dtype))
        if self._filled:
            self._flush()
        if self._written != self._count:
            raise ValueError(f"{self._written} were written, {self._count} promised.")

    def _flush(self) -> None:
        first, last = self._written, self._written + self._filled
        if last > self._count:
            raise ValueError(f"More than the {self._count} promised were written.")
        try:  # a whole shard: a part of one would be read, extended and written again
            self._store[first:last].write(self._shard[: self._filled]).result()
        except ValueError as error:
            raise _cannot_write(self._path, error) from error
        self._written, self._filled = last, 0


class StoredLabels:
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

    @property
    def kind(self) -> LabelKind:
        """How they are stored, and which fields they are."""
        return KINDS[self.info.kind]

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Labels of frames start..stop-1, 0 <= start < stop <= num_frames.

        Returns:
          For each of `kind.fields` an array (T,h,w,…) as `label_codes.decode` gives it. Flow is
          from every frame to the next; that of the video's last frame is unknown.

        Raises:
          ValueError: frames that the video does not have.
          CorruptVideoError: the labels are damaged.
        """
        info = self.info
        if not 0 <= start < stop <= info.num_frames:
            raise ValueError(
                f"Frames {start}..{stop} of labels {self.path}: the video has {info.num_frames}."
            )
        shape = (stop - start, *info.frame_shape)
        codes = np.full(shape, self.kind.unknown, self.kind.dtype)
        last = min(stop, info.count)
        if last > start:
            try:
                codes[: last - start] = self._opened()[start:last].read().result()
            except ValueError as error:
                if causes.is_refusal(error):
                    raise _refused(self.path, error) from error
                raise CorruptVideoError(
                    f"Labels {self.path} are damaged at frames {start}..{last} "
                    f"({_reason(error)}); delete them and {_REMEDY}."
                ) from error
        return decode(self.kind, codes, info.step)

    def _opened(self) -> Any:
        if self._store is None:  # two threads may both open it: no harm
            store = _open(
                {
                    "driver": "zarr3",
                    "kvstore": _kvstore(self.path),
                    "fill_missing_data_reads": False,  # a shard that is not there: an error
                }
            )
            shape = (self.info.count, *self.info.frame_shape)
            if store.shape != shape or store.dtype.numpy_dtype != self.kind.dtype:
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
        raise DataError(f"Labels {path} do not exist; {_REMEDY}.")
    try:
        with open(os.path.join(path, "zarr.json"), encoding="utf-8") as file:
            attributes = parse_object(file.read())["attributes"]
        if attributes["format"] != FORMAT:
            raise ValueError(f"format {attributes['format']}, this program knows {FORMAT}")
        fields = {
            f.name: attributes.get(f.name, f.default)
            if f.name in ("kind", "label_names")
            else attributes[f.name]
            for f in dataclasses.fields(LabelInfo)
        }
        fields["label_names"] = tuple(fields["label_names"])
        fields["size"], fields["video_size"] = (
            tuple(map(int, fields[name])) for name in ("size", "video_size")
        )
        if len(fields["size"]) != 2 or len(fields["video_size"]) != 2:
            raise ValueError("a size does not have two numbers")
        if fields["kind"] not in KINDS:
            raise ValueError(f"kind {fields['kind']}, this program knows {', '.join(KINDS)}")
        return LabelInfo(**fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if causes.is_refusal(error):
            raise _refused(path, error) from error
        raise DataError(
            f"Labels {path} cannot be read ({_reason(error)}); delete them and {_REMEDY}."
        ) from error


def _metadata(info: LabelInfo, shard_frames: int) -> dict[str, Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}  # also for one byte
    crc = {"name": "crc32c"}
    kind, frame = KINDS[info.kind], list(info.frame_shape)
    size = kind.dtype.itemsize
    blosc = dict(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=size, blocksize=0)
    sharding = {
        "chunk_shape": [1, *frame],
        "codecs": [little, {"name": "blosc", "configuration": blosc}, crc],
        "index_codecs": [little, crc],
    }
    return {
        "shape": [info.count, *frame],
        "data_type": kind.dtype.name,
        "fill_value": "NaN" if np.isnan(kind.unknown) else kind.unknown,
        "dimension_names": ["frame", *kind.axes],
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


def _refused(path: str, error: Exception) -> DataError:
    """The error for labels that the system did not let be read, which may be as good as ever."""
    return DataError(
        f"Labels {path} cannot be read ({causes.reason(error)}); {causes.for_reading(error)}."
    )


def _cannot_write(path: str, error: Exception) -> DataError:
    return DataError(
        f"Labels {path} cannot be written ({_reason(error)}); {causes.for_writing(error)}."
    )


def _reason(error: Exception) -> str:
    """The first clause of a message: TensorStore's go on with specifications."""
    return causes.reason(error).partition(" [")[0] or type(error).__name__
