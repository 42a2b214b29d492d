"""The Linen layers: 3D convolution and transposed convolution, with bias, and their initialisers.

How they are computed on each platform is decided in `v2v_jax.models.lowering`. Arrays are
(B,T,H,W,C), kernels (T,H,W,in,out). Convolution means cross-correlation, as in Caffe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from v2v_jax.models.lowering.convolution import conv3d
from v2v_jax.models.lowering.pooling import conv_relu_pool
from v2v_jax.models.lowering.transposed import ReluOfTranspose, conv3d_transpose, conv_of_relu
from v2v_jax.models.standardization import kernel_of

Initializer = Callable[..., jax.Array]


class Conv3D(nn.Module):
    """A stride-1 3D convolution with bias, and what follows it.

    Attributes:
      features: output channels.
      kernel_size: (T,H,W); "same" zero padding of k//2 on both sides, so sizes must be odd.
      relu: whether a ReLU follows.
      pool: window of the max pooling that follows the ReLU; None for none.
      kernel_init, bias_init: parameters are float32, kernel (T,H,W,in,out), bias (out,); by default
        He et al. 2015 and zeros.
      dtype: of the computation and the output.
      standardized: whether a new layer's kernel is, see `standardization`.
    """

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    relu: bool = False
    pool: tuple[int, int, int] | None = None
    kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = jnp.float32
    standardized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array | ReluOfTranspose) -> jax.Array:
        """(B,T,H,W,in) → (B,T,H,W,features), or the pooled size; float32 of ReluOfTranspose."""
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"Conv3D {self.name}: kernel size {self.kernel_size} must be odd.")
        if self.pool is not None and not self.relu:
            raise ValueError(f"Conv3D {self.name}: pool without relu is not supported.")
        channels = x.kernel.shape[-1] if isinstance(x, ReluOfTranspose) else x.shape[-1]
        shape = (*self.kernel_size, channels, self.features)
        kernel = self.param("kernel", self.kernel_init or fan_in_normal(), shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        kernel = kernel_of(self, kernel, self.standardized, relu=self.relu).astype(self.dtype)
        padding = tuple((k // 2, k // 2) for k in self.kernel_size)
        if isinstance(x, ReluOfTranspose):
            y = conv_of_relu(x, kernel, padding) + bias
        elif self.pool is not None:
            return conv_relu_pool(x.astype(self.dtype), kernel, bias, padding, self.pool)
        else:
            y = conv3d(x.astype(self.dtype), kernel, padding) + bias.astype(self.dtype)
        return nn.relu(y) if self.relu else y


class ConvTranspose3D(nn.Module):
    """A transposed 3D convolution with bias and ReLU; see `conv3d_transpose` for its exact meaning.

    Attributes:
      features: output channels.
      kernel_size, strides, padding: for (T,H,W).
      relu: whether a ReLU follows.
      for_conv: whether a single Conv3D is all that reads the output, which then comes as the
        ReluOfTranspose that this Conv3D takes; only with relu.
      kernel_init, bias_init: parameters are float32, kernel (T,H,W,in,out), bias (out,); by default
        He et al. 2015 and zeros.
      dtype: of the computation and the output.
      standardized: whether a new layer's kernel is, see `standardization`.
    """

    features: int
    kernel_size: tuple[int, int, int]
    strides: tuple[int, int, int]
    padding: tuple[int, int, int]
    relu: bool = False
    for_conv: bool = False
    kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = jnp.float32
    standardized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | ReluOfTranspose:
        """(B,T,H,W,in) → (B,T',H',W',features), T' = (T-1)·stride + kernel - 2·padding."""
        if self.for_conv and not self.relu:
            raise ValueError(f"ConvTranspose3D {self.name}: for_conv needs relu.")
        shape = (*self.kernel_size, x.shape[-1], self.features)
        init = self.kernel_init or fan_in_normal(strides=self.strides)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        kernel = kernel_of(self, kernel, self.standardized, relu=self.relu, strides=self.strides)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.for_conv:
            return ReluOfTranspose(x, kernel, bias, tuple(self.strides), tuple(self.padding))
        y = conv3d_transpose(x, kernel, self.strides, self.padding) + bias.astype(self.dtype)
        return nn.relu(y) if self.relu else y


def normal(stddev: float) -> Initializer:
    """Gaussian with mean 0, drawn flat: XLA's CPU compiler takes five times longer in 5-D."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return stddev * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return init


def fan_in_normal(gain: float = 2.0, strides: Sequence[int] = (1, 1, 1)) -> Initializer:
    """Gaussian with variance gain / fan-in, for kernels (T,H,W,in,out).

    A gain of 2 is He et al. 2015's for a ReLU; 1 keeps the variance where there is none.

    Args:
      strides: of a transposed convolution: an output voxel is reached by kernel/stride taps an
        axis, so the fan-in is smaller than a convolution's by the product of the strides.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        fan_in = math.prod(shape[:4]) / math.prod(strides)
        return normal(math.sqrt(gain / fan_in))(key, shape, dtype)

    return init
