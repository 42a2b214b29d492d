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

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
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
                f"{file.path} is damaged: {info.filename} claims {shape} of {dtype} in "
                f"{info.file_size} bytes."
            )

        def read(info=info, shape=shape, dtype=dtype, fortran=fortran, start=start):
            try:
                data = archive.read(info)[start:]
            except DAMAGED as error:
                raise WeightsError(f"{file.path} is damaged: {info.filename}: {error}.") from error
            return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

        result[info.filename.removesuffix(".npy")] = Entry(shape, read)
    return result


def _header(file: MappedFile, archive: zipfile.ZipFile, info: zipfile.ZipInfo):
    """(shape, dtype, whether in Fortran's order, where the data starts)."""
    try:
        with archive.open(info) as part:
            read = _HEADERS[np.lib.format.read_magic(part)]
            shape, fortran, dtype = read(part)
            start = part.tell()
    except WeightsError:
        raise
    except Exception as error:  # NumPy's parser raises whatever the bytes lead to
        raise WeightsError(f"{file.path} is damaged: {info.filename} is no array.") from error
    if dtype.hasobject:
        raise WeightsError(
            f"{file.path} holds pickled objects ({info.filename}), which are not read; save arrays "
            "of numbers."
        )
    if any(n < 0 for n in shape):
        raise WeightsError(f"{file.path} is damaged: {info.filename} claims the shape {shape}.")
    return shape, dtype, fortran, start
