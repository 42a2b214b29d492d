"""Recognises a weight file by its content and reads it."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from v2v_jax.errors import WeightsError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.models.standardization import fold
from v2v_jax.pretrained import caffe, hdf5, numpy_archive, pytorch
from v2v_jax.pretrained.mapped_file import MappedFile
from v2v_jax.pretrained.weights import Params, Weights, assemble
from v2v_jax.run import weight_file
from v2v_jax.system.paths import local_path


def load_c3d(path: str | os.PathLike[str]) -> Params:
    """C3D's parameters out of a file of any known format; see `read_weights` for all else.

    Returns:
      layer → {"kernel", "bias"} float32, of the trunk conv1a … conv5b and, where the file has them,
      the classifier fc6, fc7, fc8 (and V2V's decoder). Kernels are (T,H,W,in,out) or (in,out).

    Raises:
      WeightsError: see `read_weights`.
    """
    folded = fold(read_weights(path).params)
    return {n: {k: np.asarray(v) for k, v in layer.items()} for n, layer in folded.items()}


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Reads weights: parameters, the input that they expect, and what was left over.

    Args:
      path: a file in one of the formats of docs/reference/pretrained.md, a folder that this
        package's converter wrote, the folder of a run, or a file of `v2v export --bits`.

    Raises:
      WeightsError: it cannot be read, is of no known format, damaged, or holds other than numbers;
        a layer is incomplete or of a wrong shape.
    """
    path = local_path(os.fspath(path))
    if os.path.isdir(path):
        from v2v_jax.pretrained.folders import read_folder  # here: it needs orbax

        return read_folder(path)
    if weight_file.is_weights(path):
        return _read_own(path)
    file = MappedFile(path)
    head = bytes(file.memory[:32])
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(file)
    if head.startswith(hdf5.START):
        return hdf5.read_hdf5(path)
    if head.startswith(pytorch.LEGACY_START):
        return pytorch.read_legacy(file)
    if head.startswith(b"\x80"):
        raise WeightsError(
            f"{path} is a pickle that PyTorch did not write; it is not read because a pickle can "
            "run code. Save its arrays with numpy.savez."
        )
    if caffe.is_mean(head):
        raise WeightsError(f"{path} is a mean file of Caffe, not a model: give it as --mean.")
    if caffe.looks_like_caffe(head):
        return caffe.read_caffe(file)
    raise WeightsError(
        f"{path} has an unknown format; expected a Caffe model, a PyTorch file, .npz or HDF5."
    )


def _read_own(path: str) -> Weights:
    """A file of `v2v export --bits`."""
    stored = weight_file.read_weights(path)
    name = f"{stored.bits}-bit weights ({stored.about.get('task')})"
    preprocessing = Preprocessing.from_dict(stored.about["preprocessing"])
    return Weights(stored.params, preprocessing, name, path)


def _read_zip(file: MappedFile) -> Weights:
    try:
        archive = zipfile.ZipFile(file)
    except numpy_archive.DAMAGED as error:
        raise WeightsError(f"{file.path} is a damaged archive: {error}.") from error
    for name in archive.namelist():
        if name == "data.pkl" or (name.count("/") == 1 and name.endswith("/data.pkl")):
            return pytorch.read_archive(file, archive, name)
    return assemble(numpy_archive.entries(file, archive), file.path, "NumPy archive", "thwio")
