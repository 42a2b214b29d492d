"""Voxel-wise losses: sums over valid voxels beside their counts, so that means can be pooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from v2v_jax.errors import ConfigError

Sum = tuple[jax.Array, jax.Array]  # (float32 sum, float32 count)


def softmax_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    class_weights: Sequence[float] | None = None,
) -> Sum:
    """Voxel-wise softmax loss (paper section 4).

    Args:
      logits: (…,K) float32.
      labels: (…) integer in 0..K-1 where valid; anything elsewhere.
      valid: (…) bool.
      class_weights: K numbers, what a voxel of each class counts; None: each is one.

    Returns:
      Sum over valid voxels of -log softmax(logits)[label], and their number, both weighted.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    # A one-hot product instead of a gather: its gradient is no scatter, which GPUs are slow at.
    truth = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    loss = -jnp.where(valid, (truth * log_probabilities).sum(-1), 0.0)
    if class_weights is None:
        return loss.sum(), valid.sum(dtype=jnp.float32)
    weights = jnp.where(valid, truth @ jnp.array(class_weights, jnp.float32), 0.0)
    return (weights * loss).sum(), weights.sum()


def soft_cross_entropy(
    logits: jax.Array,
    probabilities: jax.Array,
    valid: jax.Array,
    class_weights: Sequence[float] | None = None,
) -> Sum:
    """Voxel-wise softmax loss where a teacher's probabilities are the truth (Hinton et al., 2015).

    Of probabilities that are 0 and 1 it is `softmax_cross_entropy` of their classes.

    Args:
      logits: (…,K) float32.
      probabilities: (…,K), of any scale: each voxel's are divided by their sum; all 0 where nothing
        is known.
      valid: (…) bool; voxels whose probabilities are all 0 are left out, too.
      class_weights: K numbers, what the share of each class counts; None: each is one.

    Returns:
      Sum over valid voxels of -Σ p log softmax(logits), and their number, both weighted.
    """
    shares = probabilities.astype(jnp.float32)
    total = shares.sum(-1, keepdims=True)
    shares = jnp.where(valid[..., None] & (total > 0), shares / jnp.maximum(total, 1e-6), 0.0)
    if class_weights is not None:
        shares *= jnp.array(class_weights, jnp.float32)
    loss = -(shares * jax.nn.log_softmax(logits.astype(jnp.float32))).sum()
    return loss, shares.sum()


def soft_dice(
    logits: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    class_weights: Sequence[float] | None = None,
) -> Sum:
    """1 - Dice of a clip's class probabilities: a small class counts as much as a large one.

    Dice is 2 Σ p y / (Σ p + Σ y), over the clip's valid voxels, of the probability p of a class and
    its truth y, 0 or 1 (after Milletari et al., 3DV 2016); its mean is over the classes that the
    clip has. Each clip counts as much as its voxels do in `softmax_cross_entropy`, so that the two
    can be added.

    Args:
      logits: (B,…,K) float32.
      labels, valid: (B,…), as there.
      class_weights: as there; only of how much a clip counts.

    Returns:
      Sum over clips of their voxels' number times 1 - Dice, and the number of all voxels, weighted.
    """
    k = logits.shape[-1]
    known = valid.reshape(len(valid), -1, 1)
    probabilities = jax.nn.softmax(logits.astype(jnp.float32)).reshape(len(valid), -1, k)
    truth = jnp.where(known, jax.nn.one_hot(labels.reshape(len(valid), -1), k), 0.0)
    both = 2 * (probabilities * truth).sum(1)  # (B,K)
    size = truth.sum(1)
    dice = both / jnp.maximum(jnp.where(known, probabilities, 0.0).sum(1) + size, 1e-6)
    present = size > 0
    loss = 1 - jnp.where(present, dice, 0.0).sum(1) / jnp.maximum(present.sum(1), 1)
    counts = size.sum(1) if class_weights is None else size @ jnp.array(class_weights, jnp.float32)
    return (counts * loss).sum(), counts.sum()


def huber(prediction: jax.Array, target: jax.Array, valid: jax.Array) -> Sum:
    """Huber loss with δ = 1: ½x² for |x| ≤ 1, |x| - ½ beyond, on every channel.

    The paper's equation 1 has |x| beyond 1, which jumps there; its gradient is the Huber loss's,
    so the continuous form is used.

    Args:
      prediction, target: (…,C) float32; target is ignored where not valid (may be NaN or inf).
      valid: (…) bool, over voxels.

    Returns:
      Sum over valid voxels and their channels, and the number of these terms.
    """
    x = _difference(prediction, target, valid)
    magnitude = jnp.abs(x)
    loss = jnp.where(magnitude <= 1.0, 0.5 * x * x, magnitude - 0.5)
    return loss.sum(), valid.sum(dtype=jnp.float32) * x.shape[-1]


def half_squared(prediction: jax.Array, target: jax.Array, valid: jax.Array) -> Sum:
    """Half the squared difference, Caffe's Euclidean loss (paper section 6), on every channel.

    Arguments and results as for `huber`.
    """
    x = _difference(prediction, target, valid)
    return 0.5 * (x * x).sum(), valid.sum(dtype=jnp.float32) * x.shape[-1]


def distance(prediction: jax.Array, target: jax.Array, valid: jax.Array) -> Sum:
    """Euclidean distance between two vectors, smooth where they meet: √(|x|² + ε²) - ε, ε = 1e-3.

    It is the metric itself: the end-point error of flow in pixels, the average distance error of
    RGB in [0,1], the absolute error of log depth.

    Args:
      prediction, target, valid: as for `huber`.

    Returns:
      Sum over valid voxels, and their number.
    """
    x = _difference(prediction, target, valid)
    length = jnp.sqrt((x * x).sum(-1) + _SMOOTH**2) - _SMOOTH  # 0 where not valid
    return length.sum(), valid.sum(dtype=jnp.float32)


def robust(prediction: jax.Array, target: jax.Array, valid: jax.Array) -> Sum:
    """`distance` + 0.01 to the power of 0.4, less at large errors (Sun et al., PWC-Net, 2018).

    For flow whose speeds differ by orders of magnitude: what moves fast and cannot be followed
    counts less, a small error where nothing moves counts more. 0 where they meet.

    Arguments and results as for `distance`.
    """
    x = _difference(prediction, target, valid)
    length = jnp.sqrt((x * x).sum(-1) + _SMOOTH**2) - _SMOOTH  # 0 where not valid
    loss = (length + _ROBUST_OFFSET) ** _ROBUST_POWER - _ROBUST_OFFSET**_ROBUST_POWER
    return loss.sum(), valid.sum(dtype=jnp.float32)


_SMOOTH = 1e-3
_ROBUST_OFFSET, _ROBUST_POWER = 0.01, 0.4
Loss = Callable[[jax.Array, jax.Array, jax.Array], Sum]
# `config.task_options.loss` of the tasks that predict numbers.
REGRESSION: dict[str, Loss] = {
    "huber": huber,
    "half_squared": half_squared,
    "distance": distance,
    "robust": robust,
}


def check(name: str) -> None:
    """Raises ConfigError unless it is one of `REGRESSION`."""
    if name not in REGRESSION:
        raise ConfigError(f"task_options.loss is {name!r}; known: {', '.join(REGRESSION)}.")


def _difference(prediction: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    # The target is replaced before subtracting: 0 · NaN would still be NaN in the gradient.
    target = jnp.where(valid[..., None], target.astype(jnp.float32), 0.0)
    prediction = jnp.where(valid[..., None], prediction.astype(jnp.float32), 0.0)
    return prediction - target


def mean(total_and_count: Sum) -> jax.Array:
    """Sum / count; 0 where nothing is valid."""
    total, count = total_and_count
    return total / jnp.maximum(count, 1.0)
