"""Resizing of targets: flow with its validity, masks, class labels, depth.

Frames are resized by antialiased filters; targets must not be: half a motion, or a depth between
two surfaces, belongs to nothing in the picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

# Of a pixel's footprint that must be known, or set, for it to be so: a half, less rounding.
_LEAST_SHARE = 0.5 - 1e-4


def resize_flow(
    flow: np.ndarray, valid: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes flow and rescales its vectors with the frame.

    A pixel's vector is the mean over its footprint of the valid vectors, weighted by area (where
    an axis grows: the nearest one); invalid ones, whatever they hold, add nothing.

    Args:
      flow: (H,W,2) float, (u right, v down) pixels per frame at its own scale.
      valid: (H,W) bool, where the flow is known.
      size: (H', W') of the result.

    Returns:
      Flow (H',W',2) float32, pixels per frame at the new scale, 0 where invalid; and (H',W') bool,
      valid where at least half of the footprint is.

    Raises:
      ValueError: the shapes do not fit.
    """
    h, w = valid.shape
    if flow.shape != (h, w, 2):
        raise ValueError(f"flow is {flow.shape}, valid {valid.shape}; expected (H,W,2) and (H,W).")
    if (h, w) == tuple(size):
        known = np.where(valid[..., None], flow, 0).astype(np.float32)
        return known, valid.copy()
    share = _mean_of_footprint(valid, size)
    kept = share >= _LEAST_SHARE
    divisor = np.where(kept, share, 1)
    result = np.zeros((*size, 2), np.float32)
    for channel, factor in enumerate((size[1] / w, size[0] / h)):
        mean = _mean_of_footprint(np.where(valid, flow[..., channel], 0), size) / divisor
        result[..., channel] = np.where(kept, factor * mean, 0)
    return result, kept


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H,W) bool → (H',W') bool, set where at least half of the pixel's footprint is."""
    if mask.shape == tuple(size):
        return mask.copy()
    return _mean_of_footprint(mask, size) >= _LEAST_SHARE


def resize_probabilities(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes the probabilities of classes: means over a pixel's footprint.

    Args:
      values: (H,W,K) uint8, of each class in steps of 1/255; all 0 where not known.
      size: (H', W') of the result.

    Returns:
      (H',W',K) uint8; all 0 where less than half of the footprint is known. Where an axis grows:
      the nearest pixel's.
    """
    h, w, k = values.shape
    if (h, w) == tuple(size):
        return values.copy()
    known = _mean_of_footprint(values.any(-1), size)
    kept = known >= _LEAST_SHARE
    divisor = np.where(kept, known, 1)
    result = np.zeros((*size, k), np.uint8)
    for channel in range(k):
        mean = _mean_of_footprint(values[..., channel], size) / divisor
        result[..., channel] = np.where(kept, np.rint(np.minimum(mean, 255)), 0)
    return result


def resize_nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes labels or depth, of which no values in between make sense.

    The only nearest-neighbour resize of the package: a pixel gets the value in which its centre
    lies, ⌊(i + ½) · H / H'⌋; where it lies between two, one of them.

    Args:
      values: (H,W) uint8 or float.
      size: (H', W') of the result.

    Returns:
      (H',W') uint8, or float32.

    Raises:
      ValueError: another dtype, which Pillow would change without a word.
    """
    h, w = size
    if values.ndim != 2 or values.dtype != np.uint8 and values.dtype.kind != "f":
        raise ValueError(
            f"values are {values.dtype} {values.shape}; expected (H,W) uint8 or float."
        )
    if values.dtype != np.uint8:
        values = values.astype(np.float32)
    return np.asarray(Image.fromarray(values).resize((w, h), Image.Resampling.NEAREST))


def _mean_of_footprint(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H,W) → (H',W') float32: area-weighted means."""
    h, w = size
    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(picture.resize((w, h), Image.Resampling.BOX))
