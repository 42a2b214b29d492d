"""Conv3b-up, Conv4b-up, Conv5b-up: the baselines without a decoder (paper section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from v2v_jax.models.c3d import initializers, scaled, trunk
from v2v_jax.models.layers import Conv3D, fan_in_normal

# What each layer's output is smaller by than the clip, in T, H, W.
STRIDES = {"conv3b": (2, 4, 4), "conv4b": (4, 8, 8), "conv5b": (8, 16, 16)}


class ConvUp(nn.Module):
    """C3D's convolutions up to one layer, a 3×3×3 prediction there, and linear upsampling.

    Attributes:
      stage: the last layer of the trunk.
      num_outputs: K, outputs a voxel.
      width: multiplies the trunk's numbers of filters (1.0 is the paper's network).
      temporal: False sees each frame alone, with kernels and strides of 1 in time.
      dtype: of the convolutions; parameters are float32, upsampling is too.
      initialization: "he" (He et al. 2015, zero biases, conv_pre all zero) or "release", see
        `c3d.initializers`.
      standardized: as of V2V.
    """

    stage: Literal["conv3b", "conv4b", "conv5b"]
    num_outputs: int
    width: float = 1.0
    temporal: bool = True
    dtype: Any = jnp.float32
    initialization: Literal["he", "release"] = "he"
    standardized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B,T,H,W,C) → (B,T,H,W,K) float32.

        T, H and W must be multiples of the stage's `STRIDES` (any T if not `temporal`), so that
        the layer's voxels lie evenly in the clip.

        Raises:
          ValueError: the stage is not known, or T, H or W is not such a multiple.
        """
        size = x.shape[1:4]
        self._check_size(size)
        x = trunk(x.astype(self.dtype), self._conv, temporal=self.temporal, last=self.stage)[-1]
        x = self._conv3d(self.num_outputs, "conv_pre", gain=0.0)(x)  # zero as V2V's
        return upsample_linear(x, size)

    def _check_size(self, size: Sequence[int]) -> None:
        if self.stage not in STRIDES:
            raise ValueError(f"ConvUp's stage is {self.stage!r}; known: {', '.join(STRIDES)}.")
        t, h, w = STRIDES[self.stage]
        strides = (t if self.temporal else 1, h, w)
        if any(n % stride for n, stride in zip(size, strides)):
            raise ValueError(
                f"ConvUp({self.stage!r}) got a clip of T,H,W = {','.join(map(str, size))}; they "
                f"must be multiples of {','.join(map(str, strides))}."
            )

    def _conv(self, filters: int, name: str, pool: tuple[int, int, int] | None = None) -> Conv3D:
        return self._conv3d(
            scaled(filters, self.width),
            name,
            2.0,
            relu=True,
            pool=pool,
            standardized=self.standardized,
        )

    def _conv3d(self, features: int, name: str, gain: float, **then: Any) -> Conv3D:
        return Conv3D(
            features,
            (3 if self.temporal else 1, 3, 3),
            dtype=self.dtype,
            name=name,
            **then,
            **initializers(self.initialization, name, fan_in_normal(gain)),
        )


def upsample_linear(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Linear interpolation in T, H and W.

    Voxels are aligned by their extents, not by their corners: voxel i of n covers [i/n, (i+1)/n] of
    the clip and its value stands at the middle, (i+½)/n. Outside the outermost middles the border
    voxel's value is repeated.

    Args:
      x: (B,T,H,W,C), floating point.
      size: (T',H',W'), each at least as large as x's.

    Returns:
      (B,T',H',W',C) float32.
    """
    b, _, _, _, c = x.shape
    return jax.image.resize(x.astype(jnp.float32), (b, *size, c), "linear")
