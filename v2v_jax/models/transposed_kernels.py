"""Kernels of transposed convolutions that draw no grid.

A transposed convolution with stride s reaches its output voxels through s³ different sets of taps,
one for each place modulo s. Where the taps of these sets have different sums, an even input has an
output with a pattern of period s.

Source of the problem: Odena et al., "Deconvolution and Checkerboard Artifacts" (Distill, 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def strides_of(size: Sequence[int]) -> tuple[int, ...]:
    """The strides of V2V's transposed convolutions by their kernels' (T,H,W): half, 1 for 1."""
    return tuple(max(1, k // 2) for k in size)


def balanced(kernel: jax.Array, strides: Sequence[int] | None = None) -> jax.Array:
    """The nearest kernel (T,H,W,in,out) whose sets of taps have equal sums.

    Args:
      kernel: its sizes are multiples of the strides.
      strides: for T, H, W; default: as V2V's are.
    """
    strides = strides_of(kernel.shape[:3]) if strides is None else strides
    *size, cin, cout = kernel.shape
    taps = [k // s for k, s in zip(size, strides)]  # that an output voxel sees, for each axis
    split = [n for pair in zip(taps, strides) for n in pair]
    sums = kernel.reshape(*split, cin, cout).sum((0, 2, 4), keepdims=True)  # one for each set
    excess = (sums - sums.mean((1, 3, 5), keepdims=True)) / math.prod(taps)
    return kernel - jnp.broadcast_to(excess, (*split, cin, cout)).reshape(kernel.shape)


def interpolation(size: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """(T,H,W) weights of linear interpolation; of kernels of twice the stride, or 1 for stride 1.

    Those that reach one output voxel sum to 1.
    """
    axes = []
    for k, s in zip(size, strides):
        if k not in (2 * s, s):
            raise ValueError(f"A kernel of {k} with stride {s} cannot interpolate linearly.")
        place = np.arange(k) - (k - 1) / 2
        axes.append(1 - np.abs(place) / s if k == 2 * s else np.ones(k))
    return np.einsum("t,h,w->thw", *axes)


def interpolating_normal(strides: Sequence[int], gain: float = 2.0):
    """Initialiser: linear interpolation of randomly mixed channels, variance gain / fan-in.

    Args:
      strides: of the transposed convolution; see `layers.fan_in_normal` for the fan-in.
      gain: 2 before a ReLU.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        *size, cin, cout = shape
        weights = interpolation(size, strides)
        fan_in = math.prod(shape[:4]) / math.prod(strides)
        scale = math.sqrt(gain / fan_in / np.square(weights).mean())
        mix = scale * jax.random.normal(key, (cin * cout,), dtype).reshape(cin, cout)
        return jnp.asarray(weights, dtype)[..., None, None] * mix

    return init
