"""C3D's convolutional trunk (Tran et al. 2015), the lower half of V2V."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from v2v_jax.models.layers import max_pool3d, normal

# (layer, filters) in stages; a stage ends where a pooling layer follows (SPEC: paper figure 3).
TRUNK = (
    (("conv1a", 64),),
    (("conv2a", 128),),
    (("conv3a", 256), ("conv3b", 256)),
    (("conv4a", 512), ("conv4b", 512)),
    (("conv5a", 512), ("conv5b", 512)),
)
TRUNK_LAYERS = tuple(name for stage in TRUNK for name, _ in stage)


def scaled(filters: int, width: float) -> int:
    """`filters` times the width multiplier, at least 1."""
    return max(1, round(filters * width))


def initializers(initialization: str, name: str, he_kernel: Any) -> dict[str, Any]:
    """The `kernel_init` and `bias_init` of layer `name`.

    Args:
      initialization: "he" (`he_kernel` and zero biases) or "release" (Gaussian with standard
        deviation 0.01; biases 1, conv1a's 0), as the authors' Caffe files have it.
      he_kernel: the kernel's initialiser where "he" is wanted.
    """
    if initialization == "he":
        return dict(kernel_init=he_kernel, bias_init=nn.initializers.zeros_init())
    bias = 0.0 if name == TRUNK_LAYERS[0] else 1.0
    return dict(kernel_init=normal(0.01), bias_init=nn.initializers.constant(bias))


def trunk(
    x: jax.Array, conv: Callable[..., nn.Module], *, temporal: bool, last: str = "conv5b"
) -> tuple[jax.Array, ...]:
    """Runs conv1a … `last` with ReLU and the pools between the stages.

    Called inside a module's compact method, so that the layers' parameters become that module's.

    Args:
      x: (B,T,H,W,C).
      conv: makes the convolution for (filters, name, pool=window or None), with its ReLU and pool.
      temporal: False pools in H and W only (2D-V2V).
      last: "conv3b", "conv4b", "conv5a" or "conv5b".

    Returns:
      conv3b (B,T/2,H/4,W/4,256), conv4b (B,T/4,H/8,W/8,512) and conv5b (B,T/8,H/16,W/16,512), up to
      `last`, before any pooling.
    """
    window = (2 if temporal else 1, 2, 2)
    # Nobody else reads these two, so that pooling can be one with them. pool1 keeps every frame.
    for ((name, filters),), pool in zip(TRUNK[:2], ((1, 2, 2), window)):
        x = conv(filters, name, pool=pool)(x)
    stages = []
    for index, stage in enumerate(TRUNK[2:]):
        if index > 0:
            x = max_pool3d(x, window)
        for name, filters in stage:
            if name <= last:
                x = conv(filters, name)(x)
        stages.append(x)
        if stage[-1][0] >= last:
            break
    return tuple(stages)
