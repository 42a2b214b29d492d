"""A network's weights in one small file: `v2v export --bits=8`, and what ships with the package.

A ZIP archive, compressed, that nothing in it can make execute code (`system.sealed_archive`):

    about.json               format, versions, bits, step, and the record that is stored with every
                             checkpoint: task, label names, model, preprocessing, configuration
    weights/LAYER/….npy      bits=8: kernels int8, the rest float16; bits=16: float16; bits=32:
                             float32
    scales/LAYER/….npy       of each int8 array (out,) float32: what a unit is worth, output by
                             output

A value of eight bits is off by half a unit at most, 1/254 of the largest of its output's kernel.
Kernels are plain ones, with what standardises them in training folded away.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

import v2v_jax
from v2v_jax.errors import CheckpointError, ConfigError
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.npy import array_of
from v2v_jax.system.sealed_archive import (
    NoArchiveError,
    read_member,
    read_sealed,
    write_sealed,
)

FORMAT = 1
BITS = (8, 16, 32)
_KIND = "weights"  # an exported network, whose archive looks alike, has none
_ABOUT, _WEIGHTS, _SCALES = "about.json", "weights/", "scales/"
_LARGEST = 127
Params = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """What such a file holds.

    Attributes:
      params: layer → {"kernel", "bias"}, float32, whatever they were stored as.
      about: the record of the checkpoint that they came from.
      step: of its training; None if not known.
      bits: that a number of a kernel took.
    """

    params: Params
    about: Mapping[str, Any]
    step: int | None = None
    bits: int = 32


def write_weights(path: str | os.PathLike[str], weights: StoredWeights) -> None:
    """Writes the file, whole or not at all; the same weights give the same bytes.

    Raises:
      ConfigError: `bits` is not 8, 16 or 32.
      CheckpointError: a weight is not finite, or too large for 16 bits.
      OSError: it cannot be written.
    """
    from v2v_jax.models.standardization import fold  # an export is read without the models

    if weights.bits not in BITS:
        raise ConfigError(f"bits is {weights.bits}; known: {', '.join(map(str, BITS))}.")
    record = {
        "kind": _KIND,
        "format": FORMAT,
        "version": v2v_jax.__version__,
        "bits": weights.bits,
        "step": weights.step,
        "about": dict(weights.about),
    }
    members = {_ABOUT: json.dumps(record, indent=1).encode()}
    for layer, leaves in fold(weights.params).items():
        for leaf, value in leaves.items():
            name, array = f"{layer}/{leaf}.npy", np.asarray(value, np.float32)
            if weights.bits == 8 and leaf == "kernel":
                codes, scales = quantize(array)
                members[_WEIGHTS + name] = _npy(codes)
                members[_SCALES + name] = _npy(scales)
                continue
            with np.errstate(over="ignore"):
                stored = array if weights.bits == 32 else array.astype(np.float16)
            members[_WEIGHTS + name] = _npy(stored)
            if not np.isfinite(stored).all():
                raise CheckpointError(
                    f"The {leaf} of {layer} is not finite in {weights.bits} bits; use --bits=32, "
                    "or another checkpoint."
                )
    write_sealed(path, members, compress=True)


def is_weights(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is such a one; reads its record alone."""
    try:
        return parse_object(read_member(path, _ABOUT)).get("kind") == _KIND
    except (NoArchiveError, ValueError):
        return False


def read_weights(path: str | os.PathLike[str]) -> StoredWeights:
    """Reads and verifies such a file.

    Raises:
      CheckpointError: it is no such file, its content is not what was written, or a version wrote
        it that this one does not read.
    """
    try:
        members, intact = read_sealed(path, compressed=True)
        record = parse_object(members[_ABOUT])
        kind, written_as, version = record["kind"], record["format"], record["version"]
        if kind != _KIND:
            raise ValueError(f"it holds {kind!r}")
    except (NoArchiveError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no weight file of v2v export --bits, or is damaged ({str(error)[:200]}); "
            "export it again."
        ) from error
    if written_as != FORMAT:
        raise CheckpointError(
            f"{path} has format {written_as}, written by version {version} of v2v_jax; version "
            f"{v2v_jax.__version__} reads format {FORMAT}. Export the checkpoint again."
        )
    if not intact:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not the one that was written; export it again."
        )
    try:
        return StoredWeights(_params(members), record["about"], record["step"], record["bits"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} holds other than weights ({error}).") from error


def _params(members: Mapping[str, bytes]) -> Params:
    params: Params = {}
    for member, data in members.items():
        if not member.startswith(_WEIGHTS):
            continue
        name = member.removeprefix(_WEIGHTS)
        layer, leaf = name.removesuffix(".npy").split("/")
        array = array_of(data)
        if array.dtype == np.int8:
            array = dequantize(array, array_of(members[_SCALES + name]))
        params.setdefault(layer, {})[leaf] = array.astype(np.float32, copy=False)
    return params


def quantize(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernels as 8-bit integers, output by output.

    Args:
      kernel: (…,out) float32.

    Returns:
      (…,out) int8 in -127..127, and (out,) float32 scales: kernel ≈ integers · scales.

    Raises:
      CheckpointError: a value is not finite.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    if not np.isfinite(largest).all():
        raise CheckpointError("A kernel is not finite; choose another checkpoint.")
    scales = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    codes = np.clip(np.rint(kernel / scales), -_LARGEST, _LARGEST)
    return codes.astype(np.int8), scales


def dequantize(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The inverse of `quantize`: float32."""
    return codes.astype(np.float32) * scales


def _npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return data.getvalue()
