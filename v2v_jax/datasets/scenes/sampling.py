"""Bilinear look-up in textures kept as planes (C, H, W), a few at a time and without waste."""

from __future__ import annotations

import numpy as np


def split(coordinate: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Integer part and fraction of texel coordinates, clamped for bilinear look-up."""
    clamped = np.minimum(np.maximum(coordinate, 0), limit - 1.001)
    whole = clamped.astype(np.intp)
    return whole, np.subtract(clamped, whole, dtype=np.float32, casting="same_kind")


def sample_separable(texture: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Bilinear (C, h, w) samples at columns p (w,) and rows q (h,) of a texture (C, H, W)."""
    q0, fq = split(q, texture.shape[1])
    p0, fp = split(p, texture.shape[2])
    first, last = int(p0.min()), int(p0.max()) + 2
    part = texture[:, :, first:last]
    upper = part[:, q0]
    rows = part[:, q0 + 1]
    rows -= upper
    rows *= fq[:, None]
    rows += upper
    p0 = p0 - first
    left = rows.take(p0, axis=2)
    right = rows.take(p0 + 1, axis=2)
    right -= left
    right *= fp
    right += left
    return right


def sample(texture: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Bilinear (C, h, w) samples at (h, w) texel coordinates of a texture (C, H, W)."""
    channels, height, width = texture.shape
    p0, fp = split(p, width)
    q0, fq = split(q, height)
    flat = texture.reshape(channels, -1)
    index = q0 * width + p0
    upper = _between(flat, index, fp)
    index += width
    lower = _between(flat, index, fp)
    lower -= upper
    lower *= fq
    lower += upper
    return lower


def _between(flat: np.ndarray, index: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Linear interpolation (C, h, w) between the elements index and index + 1 of flat (C, N)."""
    left = flat.take(index, axis=1)
    right = flat.take(index + 1, axis=1)
    right -= left
    right *= fraction
    right += left
    return right


def planes_of(texture: np.ndarray, factor: int) -> np.ndarray:
    """(H, W, C) → (C, H / factor, W / factor), means of factor x factor texels.

    The factor is for frames much smaller than the reference, which would otherwise skip texels.
    """
    height, width, channels = texture.shape
    if factor > 1:
        pad = ((0, -height % factor), (0, -width % factor), (0, 0))
        padded = np.pad(texture, pad, mode="edge")
        rows, columns = padded.shape[0] // factor, padded.shape[1] // factor
        texture = padded.reshape(rows, factor, columns, factor, channels).mean(axis=(1, 3))
    return np.ascontiguousarray(np.moveaxis(texture, -1, 0))
