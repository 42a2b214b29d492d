"""Keras' and other HDF5 files of named arrays; links to other files are not followed."""

from __future__ import annotations

import math

import numpy as np

from v2v_jax.errors import WeightsError
from v2v_jax.pretrained.weights import MAX_BYTES, Entry, Weights, assemble

START = b"\x89HDF\r\n\x1a\n"
_MAX_OBJECTS = 10_000
# deflate (gzip), shuffle, Fletcher's sums. For one that it lacks HDF5 loads libraries, where the
# machine has some, because a file names it.
_OWN_FILTERS = {1, 2, 3}


def read_hdf5(path: str) -> Weights:
    """The weights of a Keras or TensorFlow port: kernels (T,H,W,in,out).

    Raises:
      WeightsError: h5py is not installed, or the file is damaged or holds no layer of C3D.
    """
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(f"{path} is an HDF5 file; pip install h5py to read it.") from error
    try:
        with h5py.File(path, "r") as file:
            entries: dict[str, Entry] = {}
            total = 0
            for name, dataset in _datasets(h5py, file, path):
                # The library reserves memory for what a shape claims.
                total += math.prod(dataset.shape) * dataset.dtype.itemsize
                if total > MAX_BYTES:
                    raise WeightsError(
                        f"{path} claims arrays of more than {MAX_BYTES} bytes, which are not read."
                    )
                entries[name] = Entry(
                    dataset.shape, lambda dataset=dataset: np.asarray(dataset[()])
                )
            return assemble(entries, path, "HDF5", "thwio")
    except WeightsError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else "unreadable"
        raise WeightsError(f"{path} is a damaged HDF5 file: {reason}.") from error


def _datasets(h5py, file, path):
    """(name, dataset) of all arrays of floating point numbers in the file itself."""
    waiting, count = [file], 0
    seen = set()
    while waiting:
        group = waiting.pop()
        for key in group:
            count += 1
            if count > _MAX_OBJECTS:
                raise WeightsError(f"{path} has more than {_MAX_OBJECTS} objects.")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                continue
            value = group[key]
            address = h5py.h5o.get_info(value.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(value, h5py.Group):
                waiting.append(value)
            elif isinstance(value, h5py.Dataset) and value.dtype.kind == "f":
                if value.is_virtual or value.external:
                    raise WeightsError(
                        f"{path}: {value.name!r} lies in another file, which is not read."
                    )
                if value.shape is not None and _filters(value) <= _OWN_FILTERS:
                    yield value.name, value


def _filters(dataset) -> set[int]:
    """The numbers of the filters that its data went through."""
    properties = dataset.id.get_create_plist()
    return {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
