"""Metrics as sums and counts (or one confusion matrix), divided once at the end.

A batch's sums are computed on the device, one value a clip, so that float32 is exact enough; the
host adds them up in float64 and int64. Padded clips and uneven batches then change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, jax.Array]
VOXELS = (1, 2, 3)  # axes T,H,W


def confusion_matrix(
    labels: jax.Array, predictions: jax.Array, valid: jax.Array, num_classes: int
) -> jax.Array:
    """Counts voxels by true and predicted class.

    Args:
      labels, predictions: (B,T,H,W) integers in 0..K-1 where valid.
      valid: (B,T,H,W) bool.
      num_classes: K.

    Returns:
      (K,K) int32; row = true class, column = predicted class. Exact for clips of up to 2^24 voxels.
    """
    flat = lambda x: x.reshape(x.shape[0], -1)
    truth = jax.nn.one_hot(flat(labels), num_classes) * flat(valid)[..., None]
    guess = jax.nn.one_hot(flat(predictions), num_classes)
    # HIGHEST: the default would let a GPU add up in tf32.
    counts = jnp.einsum("bni,bnj->bij", truth, guess, precision=jax.lax.Precision.HIGHEST)
    return counts.astype(jnp.int32).sum(0)


def distance_sums(prediction: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Sum over valid voxels of the Euclidean distance between two vectors, one value a clip.

    With flow in pixels this is the end-point error (EPE), with RGB in [0,1] the average distance
    error (ADE; paper section 6), before the division by the number of voxels.

    Args:
      prediction, target: (B,T,H,W,C).
      valid: (B,T,H,W) bool; the target may be anything, NaN too, where not valid.

    Returns:
      (B,) float32.
    """
    difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
    distance = jnp.sqrt((difference**2).sum(-1))
    return jnp.where(valid, distance, 0.0).sum(VOXELS)


def regression_sums(outputs: jax.Array, target: jax.Array, valid: jax.Array) -> Sums:
    """Squared errors, and what the error of the best constant follows from; one value a clip.

    Args:
      outputs, target: (B,T,H,W,K); the target may be anything, NaN too, where not valid.
      valid: (B,T,H,W) bool.

    Returns:
      "squared" and "target_squared", sums over voxels and channels, "target_0" …, sums of each
      channel: (B,) float32; and "count": (B,) int32 voxels.
    """
    known = valid[..., None]
    target = jnp.where(known, target.astype(jnp.float32), 0.0)
    error = jnp.where(known, outputs.astype(jnp.float32) - target, 0.0)
    total = lambda x: x.sum(VOXELS)
    return {
        "squared": total((error**2).sum(-1)),
        "target_squared": total((target**2).sum(-1)),
        **{f"target_{k}": total(target[..., k]) for k in range(target.shape[-1])},
        "count": count(valid),
    }


def regression_errors(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Root mean squared errors from pooled `regression_sums`: "rmse" and "baseline_rmse".

    The constant with the smallest error is the mean; its error is the standard deviation.
    """
    mean = lambda name: ratio(sums[name], sums["count"])
    means = (mean(name) for name in sums if name.startswith("target_") and name[7:].isdigit())
    variance = mean("target_squared") - sum(value**2 for value in means)
    return {
        "rmse": float(np.sqrt(mean("squared"))),
        # The maximum is for rounding, which may end below 0.
        "baseline_rmse": float(np.sqrt(np.maximum(variance, 0.0))),
    }


def count(valid: jax.Array) -> jax.Array:
    """Number of valid voxels of each clip: (B,T,H,W) bool → (B,) int32."""
    return valid.sum(VOXELS, dtype=jnp.int32)


def add(total: Mapping[str, np.ndarray] | None, sums: Mapping[str, jax.Array]) -> dict:
    """Adds one batch's sums to the running total, on the host in int64 or float64.

    Per-clip values (B,) are summed; confusion matrices (K,K) are kept as they are.
    """
    new = {}
    for name, value in sums.items():
        value = np.asarray(value)
        value = value.astype(np.int64 if value.dtype.kind in "iub" else np.float64)
        new[name] = value.sum() if value.ndim == 1 else value
    return new if total is None else {name: total[name] + value for name, value in new.items()}


def accuracy(confusion: np.ndarray) -> float:
    """Correct voxels / labelled voxels, from a (K,K) confusion matrix; NaN if there are none."""
    return _ratio(np.trace(confusion), confusion.sum())


def per_class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """(K,) share of each class's voxels that are right; NaN for a class that does not occur."""
    return _ratio(np.diagonal(confusion), confusion.sum(1))


def intersection_over_union(confusion: np.ndarray) -> np.ndarray:
    """(K,) intersection / union of each class; NaN for a class in neither truth nor prediction."""
    hits = np.diagonal(confusion)
    return _ratio(hits, confusion.sum(0) + confusion.sum(1) - hits)


def class_scores(
    confusion: np.ndarray, label_names: Sequence[str], **more: np.ndarray
) -> dict[str, float]:
    """`metric/class` → each class's accuracy and share of the truth, from a (K,K) confusion matrix.

    Args:
      label_names: K names, index = class.
      more: further metrics by name, (K,) each.
    """
    share = _ratio(confusion.sum(1), confusion.sum())
    columns = {"accuracy": per_class_accuracy(confusion), **more, "share": share}
    return {
        f"{metric}/{name}": float(values[i])
        for i, name in enumerate(label_names)
        for metric, values in columns.items()
    }


def mean_iou(confusion: np.ndarray) -> float:
    """Mean over the classes that occur of the pooled intersection over union."""
    return mean_of_known(intersection_over_union(confusion))


def majority_accuracy(confusion: np.ndarray) -> float:
    """Accuracy of always answering the class that is commonest in the truth."""
    return _ratio(confusion.sum(1).max(), confusion.sum())


def _ratio(numerator, denominator):
    with np.errstate(invalid="ignore", divide="ignore"):
        result = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    return float(result) if result.ndim == 0 else result


def mean_of_known(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def ratio(numerator: float, denominator: float) -> float:
    """numerator / denominator; NaN where nothing was counted."""
    return _ratio(numerator, denominator)
