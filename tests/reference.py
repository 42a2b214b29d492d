"""Slow references (float64, NumPy), straight from the definitions, that tests compare with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np


def conv3d(x: np.ndarray, kernel: np.ndarray, padding: Sequence[tuple[int, int]]) -> np.ndarray:
    """Stride-1 cross-correlation of (B,T,H,W,I) with (kt,kh,kw,I,O), one kernel tap at a time."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    kernel = np.asarray(kernel, np.float64)
    size = [n - k + 1 for n, k in zip(x.shape[1:4], kernel.shape[:3])]
    y = np.zeros((x.shape[0], *size, kernel.shape[4]))
    for t, h, w in np.ndindex(*kernel.shape[:3]):
        window = x[:, t : t + size[0], h : h + size[1], w : w + size[2]]
        y += np.einsum("bthwi,io->bthwo", window, kernel[t, h, w])
    return y


def conv3d_transpose(
    x: np.ndarray, kernel: np.ndarray, strides: Sequence[int], padding: Sequence[int]
) -> np.ndarray:
    """Every input voxel adds its kernel, times its value, to the output; then `padding` is cut."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    full = [(n - 1) * s + k for n, s, k in zip(x.shape[1:4], strides, kernel.shape[:3])]
    y = np.zeros((x.shape[0], *full, kernel.shape[4]))
    for place in itertools.product(*(range(n) for n in x.shape[1:4])):
        window = tuple(slice(i * s, i * s + k) for i, s, k in zip(place, strides, kernel.shape[:3]))
        y[(slice(None), *window)] += np.einsum("bi,thwio->bthwo", x[(slice(None), *place)], kernel)
    cut = tuple(slice(p, n - p) for p, n in zip(padding, full))
    return y[(slice(None), *cut)]


def max_pool3d(x: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """Maximum over each whole window of (B,T,H,W,C), stride = window."""
    size = [n // k for n, k in zip(x.shape[1:4], window)]
    y = np.empty((x.shape[0], *size, x.shape[4]))
    for place in itertools.product(*(range(n) for n in size)):
        part = tuple(slice(i * k, (i + 1) * k) for i, k in zip(place, window))
        y[(slice(None), *place)] = x[(slice(None), *part)].max(axis=(1, 2, 3))
    return y


def derivative(function, x: np.ndarray, direction: np.ndarray, step: float = 1e-6) -> float:
    """Central difference of a scalar function at x along a direction, in float64."""
    x = np.asarray(x, np.float64)
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def softmax_cross_entropy(
    logits: np.ndarray, labels: np.ndarray, valid: np.ndarray
) -> tuple[float, int]:
    """Sum of -log softmax(logits)[label] over valid voxels, one voxel at a time; their number."""
    total = 0.0
    for place in zip(*np.nonzero(valid)):
        z = np.asarray(logits[place], np.float64)
        total += z.max() + np.log(np.exp(z - z.max()).sum()) - z[labels[place]]
    return total, int(valid.sum())


def soft_cross_entropy(logits, probabilities, valid, weights=None):
    """Sum over valid voxels of -Σ w p log softmax(logits), and of Σ w p; p sums to one."""
    logits, shares = np.float64(logits), np.float64(probabilities)
    known = valid & (shares.sum(-1) > 0)
    shares, logits = shares[known] / shares[known].sum(-1, keepdims=True), logits[known]
    shares = shares * (np.ones(shares.shape[-1]) if weights is None else np.float64(weights))
    shifted = logits - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -(shares * logs).sum(), shares.sum()


def weighted_softmax_cross_entropy(
    logits: np.ndarray, labels: np.ndarray, valid: np.ndarray, weights: Sequence[float]
) -> tuple[float, float]:
    """As `softmax_cross_entropy`, every voxel and the number of them by its class's weight."""
    total = count = 0.0
    for place in zip(*np.nonzero(valid)):
        one = np.zeros(valid.shape, bool)
        one[place] = True
        total += weights[labels[place]] * softmax_cross_entropy(logits, labels, one)[0]
        count += weights[labels[place]]
    return total, count


def soft_dice(
    logits: np.ndarray, labels: np.ndarray, valid: np.ndarray, weights: Sequence[float]
) -> tuple[float, float]:
    """Sum over clips of weighted voxels times 1 - mean Dice, class by class; weighted voxels."""
    total = count = 0.0
    for z, truth, known in zip(np.asarray(logits, np.float64), labels, valid, strict=True):
        p = np.exp(z - z.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        p, truth = p[known], truth[known]
        scores = [
            2 * p[truth == k, k].sum() / (p[:, k].sum() + (truth == k).sum())
            for k in range(logits.shape[-1])
            if (truth == k).any()
        ]
        voxels = sum(weights[k] for k in truth)
        total += voxels * (1 - np.mean(scores)) if scores else 0.0
        count += voxels
    return total, count


def huber(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> tuple[float, int]:
    """Sum over valid voxels and channels of ½x² up to 1 and |x| - ½ beyond; number of terms."""
    x = [abs(float(p) - float(t)) for p, t in _valid_pairs(prediction, target, valid)]
    return sum(0.5 * d * d if d <= 1 else d - 0.5 for d in x), len(x)


def half_squared(
    prediction: np.ndarray, target: np.ndarray, valid: np.ndarray
) -> tuple[float, int]:
    """Sum over valid voxels and channels of half the squared difference; number of terms."""
    x = [float(p) - float(t) for p, t in _valid_pairs(prediction, target, valid)]
    return sum(0.5 * d * d for d in x), len(x)


def distance(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> tuple[float, int]:
    """Sum over valid voxels of √(|difference|² + ε²) - ε, ε = 1e-3; number of voxels."""
    pairs = zip(prediction[valid].astype(np.float64), target[valid].astype(np.float64), strict=True)
    x = [math.sqrt(((p - t) ** 2).sum() + 1e-6) - 1e-3 for p, t in pairs]
    return sum(x), len(x)


def robust(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> tuple[float, int]:
    """Sum over valid voxels of (`distance` of one + 0.01)^0.4 - 0.01^0.4; number of voxels."""
    pairs = zip(prediction[valid].astype(np.float64), target[valid].astype(np.float64), strict=True)
    x = [math.sqrt(((p - t) ** 2).sum() + 1e-6) - 1e-3 for p, t in pairs]
    return sum((d + 0.01) ** 0.4 - 0.01**0.4 for d in x), len(x)


def _valid_pairs(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> list:
    return list(zip(prediction[valid].ravel(), target[valid].ravel(), strict=True))


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, valid: np.ndarray, num_classes: int
) -> np.ndarray:
    """(K,K) int64, row = truth, column = prediction, counted one voxel at a time."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    for truth, guess in zip(labels[valid], predictions[valid], strict=True):
        counts[truth, guess] += 1
    return counts


def mean_distance(prediction: np.ndarray, target: np.ndarray, valid: np.ndarray) -> float:
    """Mean Euclidean distance over the valid voxels of all clips (EPE, ADE)."""
    pairs = zip(prediction[valid].astype(np.float64), target[valid].astype(np.float64), strict=True)
    return float(np.mean([np.linalg.norm(a - b) for a, b in pairs]))


def crop_and_mirror(
    clip: Mapping[str, np.ndarray], top: int, left: int, mirror: bool, crop_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Crops a clip's fields (T,H,W,…) and mirrors them left to right; u then changes its sign."""
    h, w = crop_size
    result = {}
    for name, value in clip.items():
        value = value[:, top : top + h, left : left + w]
        if mirror:
            value = value[:, :, ::-1]
            if name == "flow":
                value = value * np.array([-1, 1], value.dtype)
        result[name] = np.ascontiguousarray(value)
    return result


def flow_metrics(
    prediction: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray,
    occluded: np.ndarray | None,
    scale: tuple[float, float],
) -> dict[str, float]:
    """Sintel's and KITTI's metrics of (…,2) flows, voxel by voxel, in native pixels."""
    chosen: dict[str, list[float]] = {
        name: [] for name in ("native", "matched", "unmatched", "s0-10", "s10-40", "s40+")
    }
    wrong = {"outliers_1px": 0, "outliers_3px": 0, "outliers_5px": 0, "fl_all": 0}
    for i in map(tuple, np.argwhere(valid)):
        true = [float(truth[i][c]) * scale[c] for c in (0, 1)]
        error = float(np.hypot(*[float(prediction[i][c]) * scale[c] - true[c] for c in (0, 1)]))
        speed = float(np.hypot(*true))
        chosen["native"].append(error)
        if occluded is not None:
            chosen["unmatched" if occluded[i] else "matched"].append(error)
        chosen["s0-10" if speed < 10 else "s10-40" if speed < 40 else "s40+"].append(error)
        for pixels in (1, 3, 5):
            wrong[f"outliers_{pixels}px"] += error > pixels
        wrong["fl_all"] += error > 3 and error > 0.05 * speed
    known = {k: v for k, v in chosen.items() if occluded is not None or "matched" not in k}
    means = {f"epe_{k}": np.mean(v) if v else np.nan for k, v in known.items()}
    total = int(valid.sum())
    return means | {k: v / total if total else np.nan for k, v in wrong.items()}
