"""Labels as the integers and half floats that are stored: what a teacher says of every voxel.

There are four kinds; all of them can say that a voxel is not known:

    flow           int16 (h,w,2)    (u,v) in steps of 1/64 px or 1/32 px; -32768: not known
    depth          float16 (h,w)    metres, infinite where there is none; NaN: not known
    labels         uint8 (h,w)      a class; 255: not known
    probabilities  uint8 (h,w,K)    of each class, in steps of 1/255; all 0: not known
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

KindName = Literal["flow", "depth", "labels", "probabilities"]
STEPS = (1 / 64, 1 / 32)  # pixels a unit of flow; the first in which a video's flow fits
_UNKNOWN = -32768
_LARGEST = 32767
NO_CLASS = 255  # in datasets: `IGNORE_LABEL`


class FlowTooLargeError(Exception):
    """A vector does not fit 16 bits in the step in use."""


@dataclasses.dataclass(frozen=True)
class LabelKind:
    """How one kind of labels is stored.

    Attributes:
      name: of the kind.
      dtype: NumPy's.
      unknown: what stands for a voxel that is not known.
      axes: names of a frame's axes.
      fields: of a dataset that has such labels.
      to_next_frame: whether it is of pairs of frames, one fewer than a video has frames.
    """

    name: KindName
    dtype: np.dtype
    unknown: float
    axes: tuple[str, ...]
    fields: tuple[str, ...]
    to_next_frame: bool = False

    def channels(self, label_names: tuple[str, ...]) -> tuple[int, ...]:
        """The trailing shape of a frame's codes."""
        return {"flow": (2,), "probabilities": (len(label_names),)}.get(self.name, ())


KINDS: dict[str, LabelKind] = {
    kind.name: kind
    for kind in (
        LabelKind(
            *("flow", np.dtype(np.int16), _UNKNOWN, ("y", "x", "uv")),
            fields=("flow", "flow_valid"),
            to_next_frame=True,
        ),
        LabelKind("depth", np.dtype(np.float16), np.nan, ("y", "x"), fields=("depth",)),
        LabelKind("labels", np.dtype(np.uint8), NO_CLASS, ("y", "x"), fields=("labels",)),
        LabelKind(
            *("probabilities", np.dtype(np.uint8), 0, ("y", "x", "class")),
            fields=("labels", "probabilities"),
        ),
    )
}


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


def encode_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """(…,K) float in [0,1], NaN where not known → (…,K) uint8."""
    known = np.isfinite(probabilities).all(-1, keepdims=True)
    steps = np.rint(np.where(known, np.clip(probabilities, 0, 1), 0) * 255)
    return steps.astype(np.uint8)


def likeliest(codes: np.ndarray) -> np.ndarray:
    """(…,K) uint8 probabilities → (…) uint8, the likeliest class, 255 where none is known."""
    labels = codes.argmax(-1).astype(np.uint8)
    labels[~codes.any(-1)] = NO_CLASS
    return labels


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """(…) float metres, NaN where not known → (…) float16; beyond 65,504 m it is infinite."""
    with np.errstate(over="ignore"):
        return depth.astype(np.float16)


def decode(kind: LabelKind, codes: np.ndarray, step: float) -> dict[str, np.ndarray]:
    """A kind's codes (T,h,w,…) as fields of a dataset, at the size that they were made at.

    Returns:
      `flow` (T,h,w,2) float32 and `flow_valid` (T,h,w) bool; or `depth` (T,h,w) float16, infinite
      where it is not known; or `labels` (T,h,w) uint8 and, where they are stored, `probabilities`
      (T,h,w,K) uint8.
    """
    if kind.name == "flow":
        flow, valid = decode_flow(codes, step)
        return {"flow": flow, "flow_valid": valid}
    if kind.name == "depth":
        return {"depth": np.where(np.isnan(codes), np.float16(np.inf), codes)}
    if kind.name == "labels":
        return {"labels": codes}
    return {"labels": likeliest(codes), "probabilities": codes}
