"""Parameters in NumPy's .npz archives; pickled objects are refused."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib

import numpy as np

from v2v_jax.errors import WeightsError
from v2v_jax.pretrained.mapped_file import MappedFile
from v2v_jax.pretrained.weights import MAX_BYTES, Entry

_VERSION = (1, 0)  # of .npy; later ones only allow longer headers, which arrays of numbers lack
_CHUNK = 2**22
# What zipfile raises for bytes that are no sound archive, encrypted or compressed in other ways.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,  # NotImplementedError is one
    struct.error,
)


def entries(file: MappedFile, archive: zipfile.ZipFile) -> dict[str, Entry]:
    """The archive's arrays by name, without reading them.

    Raises:
      WeightsError: an array is damaged, holds objects, or claims more than its file has.
    """
    result = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        shape, dtype, fortran, start = _header(file, archive, info)
        if dtype.kind not in "fiub":
            continue  # texts and the like; objects were refused
        size = math.prod(shape) * dtype.itemsize
        if info.file_size > MAX_BYTES or size != info.file_size - start:
            raise WeightsError(
                f"{file.path} is damaged: {info.filename!r} claims {shape} of {dtype} in "
                f"{info.file_size} bytes."
            )

        def read(info=info, shape=shape, dtype=dtype, fortran=fortran, start=start):
            try:
                data = _read(archive, info)[start:]
            except DAMAGED as error:
                raise WeightsError(
                    f"{file.path} is damaged: {info.filename!r}: {error}."
                ) from error
            return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

        result[info.filename.removesuffix(".npy")] = Entry(shape, read)
    return result


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of a part, whose size was checked; its sum is compared at its end."""
    data = np.empty(info.file_size, np.uint8)
    position = 0
    with archive.open(info) as part:
        while chunk := part.read(_CHUNK):
            data[position : position + len(chunk)] = np.frombuffer(chunk, np.uint8)
            position += len(chunk)
    if position != len(data):
        raise EOFError("it is cut short")
    return data


def _header(file: MappedFile, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
    """(shape, dtype, whether in Fortran's order, where the data starts)."""
    try:
        with archive.open(info) as part:
            if np.lib.format.read_magic(part) != _VERSION:
                raise ValueError("another version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(part)
            start = part.tell()
    except WeightsError:
        raise
    except Exception as error:  # NumPy's parser raises whatever the bytes lead to
        raise WeightsError(f"{file.path} is damaged: {info.filename!r} is not an array.") from error
    if dtype.hasobject:
        raise WeightsError(
            f"{file.path} holds pickled objects ({info.filename!r}), which are not read; save "
            "arrays of numbers."
        )
    if any(n < 0 for n in shape):
        raise WeightsError(f"{file.path} is damaged: {info.filename!r} claims the shape {shape}.")
    return shape, dtype, fortran, start
