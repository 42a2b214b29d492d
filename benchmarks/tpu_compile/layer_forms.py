"""Single layers of V2V, compiled in every form for one chip."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.tpu_compile.figures import analyse
from benchmarks.tpu_compile.topology import CHIPS, topology_mesh
from v2v_jax.models.lowering.convolution import conv3d
from v2v_jax.models.lowering.transposed import conv3d_transpose
from v2v_jax.system import sharding

CONVOLUTIONS = {  # name: input's (T,H,W,C) and output channels; kernels of 3×3×3, padding 1
    "conv1a": ((16, 112, 112, 3), 64),
    "conv2a": ((16, 56, 56, 64), 128),
    "conv3a": ((8, 28, 28, 128), 256),
    "conv3b": ((8, 28, 28, 256), 256),
    "conv4a": ((4, 14, 14, 256), 512),
    "conv4b": ((4, 14, 14, 512), 512),
    "conv5a": ((2, 7, 7, 512), 512),
    "conv4c": ((4, 14, 14, 512), 64),
    "conv3c": ((8, 28, 28, 256), 64),
    "conv_pre": ((16, 112, 112, 64), 8),
}
TRANSPOSED = {  # to 64 channels; name: input's (T,H,W,C) and strides: kernels of 2·, padding of ½·
    "deconv5": ((2, 7, 7, 512), (2, 2, 2)),
    "deconv4": ((4, 14, 14, 128), (2, 2, 2)),
    "deconv3": ((8, 28, 28, 128), (2, 4, 4)),
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution of V2V: its shapes, and (x, kernel, form) → y."""

    name: str
    input_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    apply: Callable[[jax.Array, jax.Array, str], jax.Array]


def network_layers() -> list[Layer]:
    """The layers of the full V2V by their shapes."""
    same = ((1, 1),) * 3
    convolve = lambda x, kernel, form: conv3d(x, kernel, same, form)
    found = [
        Layer(name, shape, (3, 3, 3, shape[-1], outputs), convolve)
        for name, (shape, outputs) in CONVOLUTIONS.items()
    ]
    for name, (shape, strides) in TRANSPOSED.items():
        kernel = (*(2 * s for s in strides), shape[-1], 64)
        padding = tuple(s // 2 for s in strides)
        transpose = functools.partial(_transpose, strides, padding)
        found.append(Layer(name, shape, kernel, transpose))
    return found


def _transpose(strides, padding, x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
    return conv3d_transpose(x, kernel, strides, padding, form)


def compare_forms(forms: Sequence[str], names: Sequence[str], clips: int) -> list[dict]:
    """Compiles layers' outputs and gradients in every form, for one chip; prints a table."""
    from jax.experimental.layout import Format, Layout

    chip, mesh = CHIPS["v5e"], topology_mesh("v5e:2x2")
    # As between two layers, the compiler chooses how arrays lie in memory.
    free = Format(Layout.AUTO, sharding.replicated(mesh))
    rows = []
    print(f"ms by the compiler's cycles / GB accessed / GB of temporaries, {clips} clips, bfloat16")
    for layer in (layer for layer in network_layers() if layer.name in names):
        x = jax.ShapeDtypeStruct((clips, *layer.input_shape), jnp.bfloat16)
        kernel = jax.ShapeDtypeStruct(layer.kernel_shape, jnp.bfloat16)
        for part in ("forward", "input gradient", "weight gradient"):
            line = f"{layer.name:9} {part:16}"
            for form in forms:
                function, operands = _part(layer, part, form, x, kernel)
                step = jax.jit(function, in_shardings=free, out_shardings=free)
                figures = analyse(step.lower(*operands).compile(), clips, chip)
                rows.append({"layer": layer.name, "part": part, "form": form} | figures)
                line += (
                    f"  {form} {1e3 * figures['seconds_by_compiler']:.2f} / "
                    f"{figures['bytes_accessed'] / 1e9:.2f} / "
                    f"{figures['memory']['temporaries'] / 1e9:.2f}"
                )
            print(line, flush=True)
    return rows


def _part(layer: Layer, part: str, form: str, x: Any, kernel: Any) -> tuple[Callable, tuple]:
    """What computes a part of a layer, and what it takes."""
    apply = lambda x, kernel: layer.apply(x, kernel, form)
    if part == "forward":
        return apply, (x, kernel)
    dy = jax.eval_shape(apply, x, kernel)
    zeros = lambda like: jnp.zeros(like.shape, like.dtype)  # linear: the value does not matter
    input_gradient = lambda kernel, dy: jax.vjp(lambda x: apply(x, kernel), zeros(x))[1](dy)[0]
    weight_gradient = lambda x, dy: jax.vjp(lambda k: apply(x, k), zeros(kernel))[1](dy)[0]
    if part == "input gradient":
        return input_gradient, (kernel, dy)
    return weight_gradient, (x, dy)
