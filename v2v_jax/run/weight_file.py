"""A network's weights in one small file: `v2v export --bits=8`, and what ships with the package.

A ZIP archive, compressed, that nothing in it can make execute code (`system.sealed_archive`):

    about.json               format, versions, bits, step, and the record that is stored with every
                             checkpoint: task, label names, model, preprocessing, configuration
    weights/LAYER/….npy      bits=8: kernels int8, the rest and the kernel of the first layer
                             float16; bits=16: float16; bits=32: float32
    scales/LAYER/….npy       of each int8 array (out,) float32: what a unit is worth, output by
                             output

A value of eight bits is off by half a unit at most, 1/254 of the largest of its output's kernel.
The first layer's kernel has few inputs, so that its errors do not average out, and everything after
it sees them: most of what eight bits cost comes from it (docs/records/inference.md), and it is less
than a thousandth of the weights. Files from before 2026-11-28 have it in eight bits, too.
Kernels are plain ones, with what standardises them in training folded away.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from v2v_jax.errors import CheckpointError, ConfigError
from v2v_jax.run.network_archive import WEIGHTS, kind_of, open_archive, write_archive
from v2v_jax.system.npy import array_of, bytes_of

FORMAT = 1
BITS = (8, 16, 32)
_KIND = "weights"  # an exported network, whose archive looks alike, has none
_SCALES = "scales/"
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
    from v2v_jax.models.c3d import INPUT_LAYER  # an export is read without the models
    from v2v_jax.models.standardization import fold

    if weights.bits not in BITS:
        raise ConfigError(f"bits is {weights.bits}; known: {', '.join(map(str, BITS))}.")
    record = {
        "kind": _KIND,
        "bits": weights.bits,
        "step": weights.step,
        "about": dict(weights.about),
    }
    members: dict[str, bytes] = {}
    for layer, leaves in fold(weights.params).items():
        for leaf, value in leaves.items():
            name, array = f"{layer}/{leaf}.npy", np.asarray(value, np.float32)
            if weights.bits == 8 and leaf == "kernel" and layer != INPUT_LAYER:
                codes, scales = quantize(array)
                members[WEIGHTS + name] = bytes_of(codes)
                members[_SCALES + name] = bytes_of(scales)
                continue
            with np.errstate(over="ignore"):
                stored = array if weights.bits == 32 else array.astype(np.float16)
            members[WEIGHTS + name] = bytes_of(stored)
            if not np.isfinite(stored).all():
                raise CheckpointError(
                    f"The {leaf} of {layer} is not finite in {weights.bits} bits; use --bits=32, "
                    "or another checkpoint."
                )
    write_archive(path, FORMAT, record, members, compress=True)


def is_weights(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is such a one; reads its record alone."""
    return kind_of(path) == _KIND


def read_weights(path: str | os.PathLike[str]) -> StoredWeights:
    """Reads and verifies such a file.

    Raises:
      CheckpointError: it is no such file, its content is not what was written, or a version wrote
        it that this one does not read.
    """
    what = "a weight file of v2v export --bits"
    members, record = open_archive(path, what, FORMAT, kind=_KIND, compressed=True)
    try:
        return StoredWeights(_params(members), record["about"], record["step"], record["bits"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} holds something other than weights ({error}).") from error


def _params(members: Mapping[str, bytes]) -> Params:
    params: Params = {}
    for member, data in members.items():
        if not member.startswith(WEIGHTS):
            continue
        name = member.removeprefix(WEIGHTS)
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
