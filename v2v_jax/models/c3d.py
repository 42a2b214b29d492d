"""C3D's convolutional trunk (Tran et al. 2015), the lower half of V2V."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from v2v_jax.models.layers import max_pool3d

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


def trunk(
    x: jax.Array, conv: Callable[[int, str], nn.Module], *, temporal: bool
) -> list[jax.Array]:
    """Runs conv1a … conv5b with ReLU and the pools between the stages.

    Called inside a module's compact method, so that the layers' parameters become that module's.

    Args:
      x: (B,T,H,W,C).
      conv: makes the convolution for (filters, name).
      temporal: False pools in H and W only (2D-V2V).

    Returns:
      The output of each of the five stages before its pooling: (B,T,H,W,64), (B,T,H/2,W/2,128),
      (B,T/2,H/4,W/4,256), (B,T/4,H/8,W/8,512), (B,T/8,H/16,W/16,512).
    """
    stages = []
    for index, stage in enumerate(TRUNK):
        if index > 0:
            window = (2 if temporal and index > 1 else 1, 2, 2)  # pool1 keeps every frame
            x = max_pool3d(x, window)
        for name, filters in stage:
            x = nn.relu(conv(filters, name)(x))
        stages.append(x)
    return stages
