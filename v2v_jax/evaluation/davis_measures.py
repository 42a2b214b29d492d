"""The official measures of DAVIS 2016: region J and boundary F, their mean, recall and decay.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation"
(CVPR 2016), as the benchmark's own programs compute them: on masks at the sequence's own size,
without its first and last frame, averaged over the frames of a sequence and then over sequences.

    results = {name: measure(masks, truth) for name, masks, truth in sequences}
    summary = summarize(results)            # {"J": Statistics(mean=…, recall=…, decay=…), "F": …}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

TOLERANCE = 0.008  # of the frame's diagonal, how far apart boundaries may lie
RECALL_ABOVE = 0.5
_QUARTERS = 4


class Statistics(NamedTuple):
    """Of a measure over the frames of a sequence, or their means over sequences.

    Attributes:
      mean: over the frames.
      recall: share of the frames that are above `RECALL_ABOVE`.
      decay: mean of the first quarter of the frames minus that of the last.
    """

    mean: float
    recall: float
    decay: float


def region(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """J, intersection over union of each frame; 1 where both are empty.

    Args:
      masks, truth: (T,H,W) bool.

    Returns:
      (T,) float64.
    """
    count = lambda x: x.sum((1, 2), dtype=np.int64)
    union = count(masks | truth)
    return np.where(union == 0, 1.0, count(masks & truth) / np.maximum(union, 1))


def boundary(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """F, harmonic mean of the boundary's precision and recall in each frame.

    A boundary pixel is right if the other mask's boundary is at most `TOLERANCE` of the diagonal
    away, rounded up to whole pixels. Without any boundary in one mask alone F is 0, in both 1.

    Args:
      masks, truth: (T,H,W) bool.

    Returns:
      (T,) float64.
    """
    reach = math.ceil(TOLERANCE * math.hypot(*truth.shape[1:]))
    return np.array([_boundary_of_frame(m, t, reach) for m, t in zip(masks, truth, strict=True)])


def _boundary_of_frame(mask: np.ndarray, truth: np.ndarray, reach: int) -> float:
    found, wanted = contour(mask), contour(truth)
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = (found & _near(wanted, reach)).sum() / found.sum()
    recall = (wanted & _near(found, reach)).sum() / wanted.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(edge: np.ndarray, reach: int) -> np.ndarray:
    """Where a pixel of (H,W) bool is at most `reach` away: its dilation by a disk.

    By shifts, which for the few pixels of `reach` takes a tenth of a distance transform's time.
    """
    h, w = edge.shape
    padded = np.pad(edge, reach)
    result = np.zeros_like(edge)
    for y in range(-reach, reach + 1):
        for x in range(-reach, reach + 1):
            if x * x + y * y <= reach * reach:
                result |= padded[reach + y : reach + y + h, reach + x : reach + x + w]
    return result


def contour(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from the one on the right, below, or right below: (H,W) bool → the same.

    The last row and column have fewer neighbours; the last pixel of all has none.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def statistics(values: np.ndarray) -> Statistics:
    """Of a measure's (T,) values over the frames of a sequence that count."""
    ends = np.round(np.linspace(1, len(values), _QUARTERS + 1) + 1e-10).astype(int) - 1
    quarter = lambda k: values[ends[k] : ends[k + 1] + 1].mean()
    return Statistics(
        mean=float(values.mean()),
        recall=float((values > RECALL_ABOVE).mean()),
        decay=float(quarter(0) - quarter(_QUARTERS - 1)),
    )


def measure(masks: np.ndarray, truth: np.ndarray) -> dict[str, Statistics]:
    """Both measures, "J" and "F", of one sequence.

    Args:
      masks: (T,H,W), what was predicted for every frame; what is not 0 is foreground.
      truth: (T,H,W), likewise.

    Raises:
      ValueError: the shapes differ, or there are fewer than three frames.
    """
    if masks.shape != truth.shape or masks.ndim != 3 or len(truth) < 3:
        raise ValueError(
            f"The masks are {masks.shape}, the truth {truth.shape}; expected the same (T,H,W) with "
            "at least three frames."
        )
    masks, truth = masks[1:-1] != 0, truth[1:-1] != 0
    return {"J": statistics(region(masks, truth)), "F": statistics(boundary(masks, truth))}


def summarize(sequences: Mapping[str, Mapping[str, Statistics]]) -> dict[str, Statistics]:
    """Both measures, "J" and "F": the means of each statistic over the sequences."""
    return {
        name: Statistics(*np.mean([found[name] for found in sequences.values()], 0).tolist())
        for name in ("J", "F")
    }
