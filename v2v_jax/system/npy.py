"""Arrays in NumPy's file format; those of hostile files claim nothing that is not checked."""

from __future__ import annotations

import io
import math

import numpy as np

_VERSIONS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MAX_HEADER = 10_000  # bytes; NumPy's own limit too


def bytes_of(array: np.ndarray) -> bytes:
    """What a .npy file of the array holds."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def array_of(data: bytes) -> np.ndarray:
    """The array of numbers that the bytes of a .npy file hold; a view of them.

    Raises:
      ValueError: they are no such file, hold anything but numbers, or not as many as they claim.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in _VERSIONS:
            raise ValueError(f"unknown version {version}")
        header = _VERSIONS[version](file, max_header_size=_MAX_HEADER)
    except Exception as error:  # NumPy's parser raises whatever the bytes lead to
        raise ValueError(f"not an array: {str(error)[:100]}") from error
    shape, fortran, dtype = header
    if dtype.kind not in "fiub":
        raise ValueError(f"an array of {str(dtype)[:50]}, not of numbers")
    start = file.tell()
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"an array that claims {str(shape)[:50]} in {len(data) - start} bytes")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
