"""V2V, the voxel-to-voxel network (paper section 3, figure 3; kernel sizes as in the release)."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from v2v_jax.models.c3d import initializers, scaled, trunk
from v2v_jax.models.layers import Conv3D, ConvTranspose3D, fan_in_normal
from v2v_jax.models.lowering.transposed import ReluOfTranspose
from v2v_jax.models.transposed_kernels import interpolating_normal


class V2V(nn.Module):
    """C3D's convolutions below, three transposed convolutions with skip connections above.

    Attributes:
      num_outputs: K, outputs a voxel.
      width: multiplies every layer's number of filters (1.0 is the paper's network).
      temporal: False is 2D-V2V, where each frame is seen alone (paper section 4, Baselines).
      dtype: of the computation; parameters are float32.
      initialization: "he" (He et al. 2015, zero biases, conv_pre all zero, transposed kernels that
        interpolate) or "release" (Gaussian
        with standard deviation 0.01; biases 1, conv1a's 0), as the authors' Caffe files have it.
      variant: "paper", or "release": the segmentation net of the authors' Caffe files, where
        deconv5 reads conv5a and there is no conv5b (C3D-v1.0/examples/v2v of facebook/C3D).
      standardized: whether new parameters have standardised kernels, in all layers but conv_pre
        (see `standardization`).
    """

    num_outputs: int
    width: float = 1.0
    temporal: bool = True
    dtype: Any = jnp.float32
    initialization: Literal["he", "release"] = "he"
    variant: Literal["paper", "release"] = "paper"
    standardized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B,T,H,W,C) → (B,T,H,W,K) float32.

        T must be a multiple of 8 (any T if not `temporal`), H and W multiples of 16.

        Raises:
          ValueError: T, H or W is not such a multiple.
        """
        self._check_size(x)
        x = x.astype(self.dtype)
        last = "conv5a" if self.variant == "release" else "conv5b"
        conv3b, conv4b, conv5 = trunk(x, self._conv, temporal=self.temporal, last=last)
        x = self._deconv(2, 2, "deconv5")(conv5)
        x = jnp.concatenate([x, self._conv(64, "conv4c", relu=False)(conv4b)], axis=-1)
        x = self._deconv(2, 2, "deconv4")(x)
        x = jnp.concatenate([x, self._conv(64, "conv3c", relu=False)(conv3b)], axis=-1)
        x = self._deconv(2, 4, "deconv3", for_conv=True)(x)
        return self._predict(x).astype(jnp.float32)

    def _check_size(self, x: jax.Array) -> None:
        _, t, h, w, _ = x.shape
        if h % 16 or w % 16 or (self.temporal and t % 8):
            raise ValueError(
                f"V2V got a clip of T,H,W = {t},{h},{w}; T must be a multiple of "
                f"{8 if self.temporal else 1}, H and W of 16."
            )

    def _conv(
        self,
        filters: int,
        name: str,
        relu: bool = True,
        pool: tuple[int, int, int] | None = None,
    ) -> Conv3D:
        gain = 2.0 if relu else 1.0
        return self._conv3d(
            scaled(filters, self.width),
            name,
            gain,
            relu=relu,
            pool=pool,
            standardized=self.standardized,
        )

    def _predict(self, x: ReluOfTranspose) -> jax.Array:
        # He's recipe starts this layer at zero: with random outputs the first thing that training
        # learns is to silence them, and for flow it then silences the features for good.
        return self._conv3d(self.num_outputs, "conv_pre", gain=0.0, standardized=False)(x)

    def _conv3d(self, features: int, name: str, gain: float, **then: Any) -> Conv3D:
        return Conv3D(
            features,
            (3 if self.temporal else 1, 3, 3),
            dtype=self.dtype,
            name=name,
            **then,
            **initializers(self.initialization, name, fan_in_normal(gain)),
        )

    def _deconv(
        self, t_stride: int, stride: int, name: str, for_conv: bool = False
    ) -> ConvTranspose3D:
        """Kernel 2·stride and padding stride/2, which upsample by exactly the stride; ReLU."""
        strides = (t_stride if self.temporal else 1, stride, stride)
        return ConvTranspose3D(
            scaled(64, self.width),
            kernel_size=tuple(2 * s if s > 1 else 1 for s in strides),
            strides=strides,
            padding=tuple(s // 2 for s in strides),
            relu=True,
            for_conv=for_conv,
            dtype=self.dtype,
            standardized=self.standardized,
            name=name,
            **initializers(self.initialization, name, interpolating_normal(strides)),
        )
