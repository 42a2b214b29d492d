"""Scaled weight standardisation: a network's kernels, written so that large rates train them.

Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization"
(2019), scaled as by Brock et al., "Characterizing signal propagation to close the performance gap
in unnormalized ResNets" (ICLR 2021). A layer with a parameter `gain` g (out,) beside its kernel W
and bias convolves with

    W' = g · √c · (W - mean(W)) / √(max(fan_in · var(W), 1e-4))

mean and variance over all axes but the last; c = 2 before a ReLU and 1 elsewhere; fan_in counts the
inputs that one output voxel sees, so that of a transposed layer it is divided by the product of its
strides. Outputs then keep their variance whatever W's scale is.

The parameters say themselves what they are: a layer without `gain` is plain. So every network takes
plain weights too, and a layer that was started from plain weights stays plain, exact to the bit
(training.fine_tuning). `fold` makes all layers plain: what is used, exported and compared.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from v2v_jax.models.transposed_kernels import strides_of

GAIN = "gain"  # the parameter's name
_SMALLEST = 1e-4  # of fan_in · variance
# Of V2V and its baselines, by name: what of a layer its parameters do not tell.
_WITHOUT_RELU = frozenset({"conv4c", "conv3c"})
_TRANSPOSED = "deconv"

Layers = dict[str, dict[str, Any]]


def standardize(
    kernel: jax.Array, gain: jax.Array, *, relu: bool = True, strides: Sequence[int] = (1, 1, 1)
) -> jax.Array:
    """W' of the module's docstring.

    Args:
      kernel: W, (T,H,W,in,out) or (in,out), float32.
      gain: g, (out,) float32.
      relu: whether a ReLU follows.
      strides: of a transposed layer.

    Returns:
      The kernel to convolve with, float32, as large as W.
    """
    fan_in = math.prod(kernel.shape[:-1]) / math.prod(strides)
    return _standardize(fan_in, 2.0 if relu else 1.0, jnp.asarray(kernel), jnp.asarray(gain))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _standardize(fan_in: float, c: float, kernel: jax.Array, gain: jax.Array) -> jax.Array:
    return _forward(fan_in, c, kernel, gain)[0]


def _forward(fan_in: float, c: float, kernel: jax.Array, gain: jax.Array):
    """Statistics in one pass over the kernel, the result in a second."""
    axes = tuple(range(kernel.ndim - 1))
    shift = kernel[(0,) * (kernel.ndim - 1)]  # one of the values, so that nothing cancels
    first = (kernel - shift).mean(axes)
    second = jnp.square(kernel - shift).mean(axes)
    mean, spread = shift + first, fan_in * (second - jnp.square(first))
    scale = jnp.sqrt(c / jnp.maximum(spread, _SMALLEST))
    return (kernel - mean) * (gain * scale), (kernel, gain, mean, spread, scale)


def _backward(fan_in: float, c: float, residuals: tuple[jax.Array, ...], gradient: jax.Array):
    """As in the forward direction, one pass for sums and one for the result.

    With K = W - mean(W) and W' = g·s·K, the gradient of g is s·ΣK·dW', and that of W
    g·s·(dW' - mean(dW')) less, where the variance decides s, what changes it: along K.
    """
    del c
    kernel, gain, mean, spread, scale = residuals
    axes = tuple(range(kernel.ndim - 1))
    count = math.prod(kernel.shape[:-1])
    average = gradient.mean(axes)
    along = (gradient * (kernel - mean)).sum(axes)
    stretch = along * fan_in / (jnp.maximum(spread, _SMALLEST) * count)
    stretch = jnp.where(spread > _SMALLEST, stretch, 0.0)
    dkernel = gain * scale * (gradient - average - (kernel - mean) * stretch)
    return dkernel, scale * along


_standardize.defvjp(_forward, _backward)


def kernel_of(
    layer: nn.Module,
    kernel: jax.Array,
    standardized: bool,
    *,
    relu: bool = True,
    strides: Sequence[int] = (1, 1, 1),
) -> jax.Array:
    """The kernel that a layer computes with; called inside its compact method.

    Creates the layer's `gain`, 1 at first, if `standardized`. Given parameters decide themselves.

    Args:
      kernel, relu, strides: see `standardize`.
      standardized: whether a new layer is.
    """
    wanted = standardized if layer.is_initializing() else layer.has_variable("params", GAIN)
    if not wanted:
        return kernel
    gain = layer.param(GAIN, nn.initializers.ones_init(), kernel.shape[-1:], jnp.float32)
    return standardize(kernel, gain, relu=relu, strides=strides)


def fold(params: Mapping[str, Mapping[str, Any]]) -> Layers:
    """The same network with plain layers: {"kernel", "bias"} of each, float32.

    Args:
      params: layer → parameters of V2V, ConvUp or C3D; plain layers are returned as they are.
    """
    return {name: _folded(name, layer) for name, layer in params.items()}


def _folded(name: str, layer: Mapping[str, Any]) -> dict[str, Any]:
    if GAIN not in layer:
        return dict(layer)
    strides: tuple[int, ...] = (1, 1, 1)
    if name.startswith(_TRANSPOSED):
        strides = strides_of(layer["kernel"].shape[:3])
    kernel = standardize(
        layer["kernel"], layer[GAIN], relu=name not in _WITHOUT_RELU, strides=strides
    )
    return {"kernel": kernel, "bias": layer["bias"]}


def plain_layers(params: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of the layers without `gain`."""
    return [name for name, layer in params.items() if GAIN not in layer]


def without_gain(tree: Any, names: Collection[str]) -> Any:
    """The tree without the `gain` of these layers, wherever it holds such a layer's values.

    Args:
      tree: parameters, or what has their form inside, as a training state has.
    """

    def is_layer(node: Any) -> bool:
        return isinstance(node, Mapping) and GAIN in node

    def strip(path: tuple[Any, ...], node: Any) -> Any:
        if is_layer(node) and getattr(path[-1], "key", None) in names:
            return {leaf: value for leaf, value in node.items() if leaf != GAIN}
        return node

    return jax.tree.map_with_path(strip, tree, is_leaf=is_layer)
