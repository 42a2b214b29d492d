"""C3D (Tran et al. 2015): its convolutional trunk, the lower half of V2V, and its classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from v2v_jax.models.layers import Conv3D, fan_in_normal, normal
from v2v_jax.models.lowering.pooling import max_pool3d
from v2v_jax.models.standardization import kernel_of

# (layer, filters) in stages; a stage ends where a pooling layer follows (paper, figure 3).
TRUNK = (
    (("conv1a", 64),),
    (("conv2a", 128),),
    (("conv3a", 256), ("conv3b", 256)),
    (("conv4a", 512), ("conv4b", 512)),
    (("conv5a", 512), ("conv5b", 512)),
)
TRUNK_LAYERS = tuple(name for stage in TRUNK for name, _ in stage)
INPUT_LAYER = TRUNK_LAYERS[0]  # the one that sees the picture


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
    bias = 0.0 if name == INPUT_LAYER else 1.0
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


class C3D(nn.Module):
    """C3D with its classifier: one answer a clip, unlike this package's other networks.

    pool5 rounds its size up, as Caffe does: 2×7×7 → 1×4×4. fc6 reads it in the order (T,H,W,C);
    `pretrained` permutes the weights of files that have it as (C,T,H,W). So a trained fc6 takes
    clips of one size only.

    Attributes:
      num_classes: K.
      width: multiplies every layer's number of filters (1.0 is the paper's network, with 4096 in
        fc6 and fc7).
      dropout: share of fc6's and fc7's outputs that training drops.
      dtype: of the computation; parameters are float32.
      initialization: "he", with fc8 at zero so that every class is as likely at first; or "release"
        (see `initializers`; fc6 and fc7 Gaussian with standard deviation 0.005, fc8 0.01, fc8's
        biases zero).
      standardized: whether new parameters have standardised kernels, in all layers but fc8 (see
        `standardization`).
    """

    num_classes: int
    width: float = 1.0
    dropout: float = 0.5
    dtype: Any = jnp.float32
    initialization: Literal["he", "release"] = "he"
    standardized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """(B,T,H,W,C) → logits (B,K) float32; any T, H and W of at least 8, 16 and 16.

        train: drops outputs at random, for which apply takes rngs={"dropout": key}.
        """
        x = trunk(x.astype(self.dtype), self._conv, temporal=True)[-1]
        # Zeros beside the outputs of a ReLU change no maximum: this is rounding up.
        x = jnp.pad(x, [(0, 0), *((0, n % 2) for n in x.shape[1:4]), (0, 0)])
        x = max_pool3d(x, (2, 2, 2))
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(self._dense(scaled(4096, self.width), name, gain=2.0, std=0.005)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self._dense(self.num_classes, "fc8", gain=0.0, std=0.01)(x).astype(jnp.float32)

    def _conv(self, filters: int, name: str, pool: tuple[int, int, int] | None = None) -> Conv3D:
        return Conv3D(
            scaled(filters, self.width),
            relu=True,
            pool=pool,
            dtype=self.dtype,
            standardized=self.standardized,
            name=name,
            **initializers(self.initialization, name, fan_in_normal(2.0)),
        )

    def _dense(self, features: int, name: str, gain: float, std: float) -> Dense:
        kernel_init = nn.initializers.zeros_init()
        if gain:
            kernel_init = nn.initializers.variance_scaling(gain, "fan_in", "normal")
        bias = 0.0
        if self.initialization == "release":
            kernel_init, bias = normal(std), float(name != "fc8")
        return Dense(
            features,
            dtype=self.dtype,
            standardized=self.standardized and gain > 0,
            name=name,
            kernel_init=kernel_init,
            bias_init=nn.initializers.constant(bias),
        )


class Dense(nn.Module):
    """A fully connected layer: (B,in) → (B,features); attributes as of `layers.Conv3D`."""

    features: int
    kernel_init: Any
    bias_init: Any
    dtype: Any = jnp.float32
    standardized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        kernel = kernel_of(self, kernel, self.standardized)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return y + bias.astype(self.dtype)
