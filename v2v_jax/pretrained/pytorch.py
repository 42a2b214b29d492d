"""PyTorch's files, read without PyTorch: today's zip archives and the older rows of pickles."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from v2v_jax.errors import WeightsError
from v2v_jax.pretrained.mapped_file import MAX_READ, MappedFile
from v2v_jax.pretrained.names import printable
from v2v_jax.pretrained.restricted_pickle import Refused, Tensor, read_pickle
from v2v_jax.pretrained.weights import Entry, Weights, assemble

LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"  # a magic number
_PROTOCOL = 1001
_TYPES = {"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "u2"}
_OTHER_SIZES = dict(LongStorage=8, IntStorage=4, ShortStorage=2, CharStorage=1, ByteStorage=1)
_OTHER_SIZES["BoolStorage"] = 1
_MAX_DEPTH = 8  # of dictionaries


def read_archive(file: MappedFile, archive: zipfile.ZipFile, pickle_name: str) -> Weights:
    """A file of PyTorch ≥ 1.6: an archive with `pickle_name` and a part for every storage.

    Raises:
      WeightsError: it is damaged, or holds other than a dictionary of tensors.
    """
    entries = _archive_entries(file, archive, pickle_name)
    return assemble(entries, file.path, "PyTorch archive", "oithw")


def read_legacy(file: MappedFile) -> Weights:
    """A file of PyTorch < 1.6: magic number, version, system, tensors, keys, then the storages.

    Raises:
      WeightsError: it is damaged, or holds other than a dictionary of tensors.
    """
    return assemble(_legacy_entries(file), file.path, "PyTorch, before 1.6", "oithw")


def read_state_dict(path: str) -> dict[str, np.ndarray]:
    """Every tensor of a file of either kind, whatever the network is, by its name.

    Raises:
      WeightsError: it cannot be read, is damaged, or holds other than a dictionary of tensors.
    """
    file = MappedFile(path)
    if bytes(file.memory[: len(LEGACY_START)]) == LEGACY_START:
        entries = _legacy_entries(file)
    else:
        try:
            archive = zipfile.ZipFile(file)
            pickle_name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        except (zipfile.BadZipFile, StopIteration) as error:
            raise WeightsError(f"{path} was not written by PyTorch.") from error
        entries = _archive_entries(file, archive, pickle_name)
    return {name: np.array(entry.read()) for name, entry in entries.items()}


def _archive_entries(
    file: MappedFile, archive: zipfile.ZipFile, pickle_name: str
) -> dict[str, Entry]:
    folder = pickle_name.removesuffix("data.pkl")
    infos = {info.filename: info for info in archive.infolist()}
    try:
        described, _ = _read_pickle(_stored(file, infos[pickle_name]))
        order = "<"
        if f"{folder}byteorder" in infos:
            order = ">" if bytes(_stored(file, infos[f"{folder}byteorder"])) == b"big" else "<"
    except Refused as error:
        raise _refused(file, error) from error

    def part(tensor: Tensor) -> memoryview:
        name = f"{folder}data/{tensor.storage.key}"
        if name not in infos:
            raise WeightsError(f"{file.path} is damaged: its part {name!r} is missing.")
        return _stored(file, infos[name])

    return _entries(file, described, part, order)


def _legacy_entries(file: MappedFile) -> dict[str, Entry]:
    values, position = [], 0
    try:
        for _ in range(5):
            value, size = _read_pickle(file.memory[position:])
            values.append(value)
            position += size
        _, version, system, described, keys = values
        if version != _PROTOCOL or not isinstance(system, dict):
            raise Refused("it is of an unknown version")
    except Refused as error:
        raise _refused(file, error) from error
    big = system.get("little_endian", True) is False
    order = ">" if big else "<"
    types = {t.storage.key: t.storage.type for t in _tensors(file, described).values()}
    parts: dict[str, memoryview] = {}
    for key in keys if isinstance(keys, list) else ():
        head = file.memory[position : position + 8]
        size = _size_of(types.get(key, "")) if isinstance(key, str) else 0
        count = struct.unpack(f"{order}q", head)[0] if len(head) == 8 else -1
        end = position + 8 + count * size
        if count < 0 or size == 0 or end > len(file):
            raise WeightsError(
                f"{file.path} is damaged: the storage {str(key)[:50]!r} is cut short."
            )
        parts[key] = file.memory[position + 8 : end]
        position = end

    def part(tensor: Tensor) -> memoryview:
        if tensor.storage.key not in parts:
            raise WeightsError(f"{file.path} is damaged: a storage of its tensors is missing.")
        return parts[tensor.storage.key]

    return _entries(file, described, part, order)


def _read_pickle(data: memoryview) -> tuple[Any, int]:
    """What a pickle at the start of `data` describes, and its size."""
    file = io.BytesIO(data[:MAX_READ])  # its read() reserves no more than there is
    return read_pickle(file), file.tell()


def _size_of(kind: str) -> int:
    return np.dtype(_TYPES[kind]).itemsize if kind in _TYPES else _OTHER_SIZES.get(kind, 0)


def _refused(file: MappedFile, error: Refused) -> WeightsError:
    return WeightsError(
        f"{file.path} is not read because its pickle is not a plain dictionary of tensors: "
        f"{error}; save the network's state_dict with torch.save, where the file is trusted."
    )


def _stored(file: MappedFile, info: zipfile.ZipInfo) -> memoryview:
    """An archive's part in place; PyTorch does not compress."""
    start = info.header_offset
    header = bytes(file.memory[start : start + 30]) if start >= 0 else b""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise WeightsError(f"{file.path}: {info.filename!r} is compressed; PyTorch never does so.")
    if len(header) < 30 or header[:4] != b"PK\x03\x04" or info.file_size != info.compress_size:
        raise WeightsError(f"{file.path} is damaged: its part {info.filename!r}.")
    start += 30 + sum(struct.unpack("<HH", header[26:30]))
    data = file.memory[start : start + info.file_size]
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise WeightsError(f"{file.path} is damaged: the sum of {info.filename!r} is wrong.")
    return data


def _tensors(file: MappedFile, described: Any) -> dict[str, Tensor]:
    """All tensors by the names that lead to them, with dots between."""
    if not isinstance(described, dict):
        raise WeightsError(f"{file.path} holds no dictionary of tensors.")
    result: dict[str, Tensor] = {}
    waiting: list[tuple[str, dict, int]] = [("", described, 0)]
    seen: set[int] = set()  # a dictionary may hold itself
    while waiting:
        prefix, values, depth = waiting.pop()
        if id(values) in seen or depth > _MAX_DEPTH:
            continue
        seen.add(id(values))
        for key, value in values.items():
            name = f"{prefix}{key if isinstance(key, str) else repr(key)}"[:200]
            if isinstance(value, Tensor):
                result[name] = value
            elif isinstance(value, dict):
                waiting.append((f"{name}.", value, depth + 1))
    return result


def _entries(
    file: MappedFile, described: Any, part: Callable[[Tensor], memoryview], order: str
) -> dict[str, Entry]:
    """The tensors of floating point by name, not yet read."""
    entries = {}
    tensors = _tensors(file, described)
    for name, tensor in tensors.items():
        kind = tensor.storage.type
        if kind in _TYPES:
            read = lambda name=name, tensor=tensor: _read(file, name, tensor, part(tensor), order)
            entries[name] = Entry(tensor.shape, read)
    return entries


def _read(file: MappedFile, name: str, tensor: Tensor, data: memoryview, order: str) -> np.ndarray:
    dtype = np.dtype(order + _TYPES[tensor.storage.type])
    count = tensor.storage.count
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride))
    # A view that repeats elements (stride 0) could be far larger than what it views.
    repeats = math.prod(tensor.shape) > count
    if len(data) != count * dtype.itemsize or last >= count or repeats:
        raise WeightsError(
            f"{file.path} is damaged: {printable(name)} claims {tensor.shape} of {len(data)} bytes."
        )
    flat = np.frombuffer(data, dtype)
    strides = tuple(s * dtype.itemsize for s in tensor.stride)
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )
    if tensor.storage.type == "BFloat16Storage":  # the upper half of a float32
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view
