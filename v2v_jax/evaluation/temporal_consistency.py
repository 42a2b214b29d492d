"""Temporal consistency: how much predictions change along the motion of the video.

Frame t+1's prediction is brought back to frame t along the forward flow of frame t (a warp), and
compared with frame t's where the flow is known and its end point is visible (the warp error of Lai
et al., "Learning Blind Video Temporal Consistency", ECCV 2018, and of Chen et al., "Coherent Online
Video Style Transfer", ICCV 2017). The flow is the dataset's where it has one, else Brox's
(`brox_motion`). A constant prediction is perfectly consistent: read it beside the accuracy.

    flow, valid = brox_motion(video)
    changed, counted = label_changes(predictor(video), flow, valid)

All sums are float64 and int64 of NumPy; divide once, after all videos.
"""

from __future__ import annotations

import numpy as np

from v2v_jax.brox.brox_flow import brox_flow, grey_of_rgb

_PAIRS_AT_ONCE = 8  # frames that Brox's method takes together


def label_changes(labels: np.ndarray, flow: np.ndarray, valid: np.ndarray) -> tuple[int, int]:
    """Counts the voxels whose label changes along the motion.

    The label at the end point is that of the nearest voxel.

    Args:
      labels: (T,H,W) integers.
      flow: (T,H,W,2) or (T-1,H,W,2) forward flow (u right, v down) in pixels, from frame t to t+1.
      valid: bool like `flow` without its last axis: the flow is known, its end point is visible.

    Returns:
      The number of voxels that change and the number compared: those that are valid and end inside
      the frame.

    Raises:
      ValueError: the shapes do not fit.
    """
    labels = np.asarray(labels)
    x, y, inside = _end_points(labels, flow, valid, 3)
    column, row = (np.floor(position + 0.5).astype(np.int64) for position in (x, y))
    next_label = labels[1:][np.arange(len(labels) - 1)[:, None, None], row, column]
    return int(((next_label != labels[:-1]) & inside).sum()), int(inside.sum())


def color_changes(video: np.ndarray, flow: np.ndarray, valid: np.ndarray) -> tuple[float, int]:
    """Sums the Euclidean RGB distances along the motion; divided by the count, an ADE.

    The colour at the end point is interpolated bilinearly, which blurs a little: the frames' own
    value, beside it, is what a perfect prediction would have.

    Args:
      video: (T,H,W,3) RGB, uint8 0..255 or floating point 0..1.
      flow, valid: as for `label_changes`.

    Returns:
      The sum of the distances, in RGB of 0..1, and the number of voxels compared.

    Raises:
      ValueError: the shapes do not fit.
    """
    video = np.asarray(video)
    colors = video / 255.0 if video.dtype == np.uint8 else video.astype(np.float64)
    x, y, inside = _end_points(colors, flow, valid, 4)
    difference = bilinear(colors[1:], x, y) - colors[:-1]
    distance = np.sqrt((difference**2).sum(-1))
    return float(distance[inside].sum()), int(inside.sum())


def _end_points(
    frames: np.ndarray, flow: np.ndarray, valid: np.ndarray, ndim: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and y of each end point, (T-1,H,W) float64, and whether it counts.

    Where it does not count x and y are 0, so that they can be used as indices.
    """
    flow, valid = np.asarray(flow), np.asarray(valid)
    t, h, w = frames.shape[:3] if frames.ndim == ndim else (0, 0, 0)
    if not (
        t > 0
        and flow.shape in ((t, h, w, 2), (t - 1, h, w, 2))
        and valid.shape == flow.shape[:3]
        and valid.dtype == np.bool_
    ):
        raise ValueError(
            f"The frames are {frames.shape}, their flow {flow.shape}, valid {valid.shape} "
            f"{valid.dtype}; expected (T,H,W{',3' if ndim == 4 else ''}), (T,H,W,2) or "
            "(T-1,H,W,2), and bool like the flow without its last axis."
        )
    flow, valid = flow[: t - 1].astype(np.float64), valid[: t - 1]
    flow = np.where(valid[..., None], flow, 0.0)  # NaN, too, where it is not valid
    rows, columns = np.mgrid[:h, :w]
    x, y = columns + flow[..., 0], rows + flow[..., 1]
    inside = valid & (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return np.where(inside, x, 0.0), np.where(inside, y, 0.0), inside


def bilinear(frames: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Samples frames (T,H,W,C) at x, y (T,H,W) inside 0..W-1 and 0..H-1; (T,H,W,C) float64."""
    t, h, w, _ = frames.shape
    left, top = (np.floor(position).astype(np.int64) for position in (x, y))
    right, bottom = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1)
    dx, dy = (x - left)[..., None], (y - top)[..., None]
    number = np.arange(t)[:, None, None]
    upper = (1 - dx) * frames[number, top, left] + dx * frames[number, top, right]
    lower = (1 - dx) * frames[number, bottom, left] + dx * frames[number, bottom, right]
    return (1 - dy) * upper + dy * lower


def brox_motion(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brox's forward flow between consecutive frames, and where it can be trusted.

    Args:
      video: (T,H,W,3) uint8 RGB, T ≥ 2, H and W ≥ 16.

    Returns:
      (T-1,H,W,2) float32 (u,v) in pixels, and (T-1,H,W) bool: forward and backward flow agree.
    """
    grey = grey_of_rgb(np.asarray(video))
    forward = _flow_of_pairs(grey[:-1], grey[1:])
    backward = _flow_of_pairs(grey[1:], grey[:-1])
    return forward, forward_backward_valid(forward, backward)


def _flow_of_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,H,W,2), some pairs at a time; the last ones padded, so that one shape is compiled."""
    count = min(_PAIRS_AT_ONCE, len(first))
    parts = []
    for start in range(0, len(first), count):
        pairs = [frames[start : start + count] for frames in (first, second)]
        missing = count - len(pairs[0])
        padded = [np.pad(p, ((0, missing), (0, 0), (0, 0)), mode="edge") for p in pairs]
        parts.append(np.asarray(brox_flow(*padded))[: count - missing])
    return np.concatenate(parts)


def forward_backward_valid(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Where going along the forward flow and back ends near the start; elsewhere: occluded.

    The test of Sundaram, Brox and Keutzer (ECCV 2010, equation 5):
    |f + b|² < 0.01 (|f|² + |b|²) + 0.5, with b the backward flow at the end point.

    Args:
      forward: (T,H,W,2) from frame t to t+1.
      backward: (T,H,W,2) from frame t+1 to t.

    Returns:
      (T,H,W) bool; False also where the forward flow leaves the frame.
    """
    t, h, w, _ = forward.shape
    placeholder = np.empty((t + 1, h, w), np.uint8)
    x, y, inside = _end_points(placeholder, forward, np.isfinite(forward).all(-1), 3)
    back = bilinear(backward.astype(np.float64), x, y)
    squared = lambda v: (v.astype(np.float64) ** 2).sum(-1)
    with np.errstate(invalid="ignore"):
        agree = squared(forward + back) < 0.01 * (squared(forward) + squared(back)) + 0.5
    return inside & agree
