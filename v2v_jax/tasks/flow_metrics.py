"""Metrics of optical flow as MPI-Sintel and KITTI define them, as sums and counts.

All are in native pixels, those of the dataset's own frames: the speeds and the errors of a frame
that was shrunk for the network are small because it was shrunk. Sources: Butler et al., "A
naturalistic open source movie for optical flow evaluation" (ECCV 2012), and MPI-Sintel's result
tables, for matched, unmatched and speeds; Menze and Geiger, "Object scene flow for autonomous
vehicles" (CVPR 2015), for Fl-all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax.tasks import metrics

# Name → least and, exclusive, greatest speed in native pixels per frame (Sintel's s0-10, …).
SPEEDS = {"s0-10": (0.0, 10.0), "s10-40": (10.0, 40.0), "s40+": (40.0, math.inf)}
OUTLIERS = (1, 3, 5)  # native pixels
_FL_PIXELS, _FL_SHARE = 3.0, 0.05  # KITTI: wrong by more than 3 px and by more than 5 %


def truth_counts(
    target: jax.Array,
    valid: jax.Array,
    occluded: jax.Array | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> metrics.Sums:
    """How many voxels each metric is over.

    Args:
      target: (B,T,H,W,2) true flow, (u right, v down), in pixels of the frames at hand.
      valid: (B,T,H,W) bool; the target may be anything, NaN too, where not valid.
      occluded: (B,T,H,W) bool, the point is hidden in the next frame; None: not known.
      scale: native pixels a pixel at hand, (x, y).

    Returns:
      "count", "count_s0-10" … and, where occlusion is known, "count_matched" and
      "count_unmatched": (B,) int32.
    """
    return {
        f"count_{name}" if name else "count": metrics.count(where)
        for name, where in _regions(target, valid, occluded, scale).items()
    }


def error_sums(
    prediction: jax.Array,
    target: jax.Array,
    valid: jax.Array,
    occluded: jax.Array | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> metrics.Sums:
    """What a flow gets wrong, to be divided by `truth_counts`.

    Args:
      prediction: (B,T,H,W,2), as the target; all else as for `truth_counts`.

    Returns:
      "epe_native", "epe_matched", "epe_unmatched", "epe_s0-10" …: (B,) float32 sums of end-point
      errors in native pixels; "outliers_1px" …, "fl_all": (B,) int32 numbers of voxels.
    """
    native = jnp.array(scale, jnp.float32)
    difference = (prediction.astype(jnp.float32) - target.astype(jnp.float32)) * native
    error = jnp.sqrt((difference**2).sum(-1))
    sums = {
        f"epe_{name or 'native'}": jnp.where(where, error, 0.0).sum(metrics.VOXELS)
        for name, where in _regions(target, valid, occluded, scale).items()
    }
    for pixels in OUTLIERS:
        sums[f"outliers_{pixels}px"] = metrics.count(valid & (error > pixels))
    relative = _FL_SHARE * _speed(target, scale)
    sums["fl_all"] = metrics.count(valid & (error > _FL_PIXELS) & (error > relative))
    return sums


def summarize(sums: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, float]:
    """Metrics from the pooled results of `truth_counts` and `error_sums`.

    Args:
      sums: both, added up; errors under `prefix` + their name.
      prefix: of the errors, kept in the result's names.

    Returns:
      Mean end-point errors in native pixels ("epe_…") and shares of the valid voxels, 0..1
      ("outliers_…", "fl_all"); NaN where there is no such voxel.
    """
    result = {}
    for name in (*_epe_names(sums), *(f"outliers_{p}px" for p in OUTLIERS), "fl_all"):
        region = name.removeprefix("epe_")
        count = sums.get(f"count_{region}", sums["count"])
        result[prefix + name] = metrics.ratio(sums[prefix + name], count)
    return result


def _epe_names(sums: Mapping[str, np.ndarray]) -> list[str]:
    regions = ["native", "matched", "unmatched", *SPEEDS]
    return [f"epe_{r}" for r in regions if r == "native" or f"count_{r}" in sums]


def _speed(target: jax.Array, scale: tuple[float, float]) -> jax.Array:
    native = target.astype(jnp.float32) * jnp.array(scale, jnp.float32)
    return jnp.sqrt((native**2).sum(-1))


def _regions(
    target: jax.Array,
    valid: jax.Array,
    occluded: jax.Array | None,
    scale: tuple[float, float],
) -> dict[str, jax.Array]:
    """Name → (B,T,H,W) bool; "" is all that is valid."""
    speed = _speed(target, scale)
    regions = {"": valid}
    if occluded is not None:
        regions |= {"matched": valid & ~occluded, "unmatched": valid & occluded}
    for name, (least, greatest) in SPEEDS.items():
        regions[name] = valid & (speed >= least) & (speed < greatest)
    return regions
