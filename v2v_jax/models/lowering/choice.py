"""Which form computes which operation where; the only module that decides it.

What is computed never depends on the platform, how it is does:

* CPU: Winograd's method where frames are large, otherwise the form that is quickest there.
* NVIDIA GPU: the form that copies fewer channels; in bfloat16 the network's first and last
  convolution are kernels of their own (`v2v_jax.models.kernels`).
* TPU: XLA's own convolutions and pooling (docs/records/scaling.md).
* elsewhere: the GPU's forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

from v2v_jax.models.lowering.forms import Form
from v2v_jax.system.platforms import by_platform


def convolution_forms(x: jax.Array, kernel_shape: Sequence[int]) -> dict[str, Form]:
    """Platform ("default": all others) → the form of a convolution.

    Args:
      x: (B,T,H,W,Cin), of which shape and dtype count.
      kernel_shape: (kt,kh,kw,Cin,Cout).
    """
    return {
        "cpu": _cpu_form(x, kernel_shape),
        "tpu": "native",
        "default": _by_channels(*kernel_shape[3:]),
    }


def weight_gradient_forms(
    x: jax.Array, dy: jax.Array, kernel_size: Sequence[int]
) -> dict[str, Form]:
    """Platform ("default": all others) → the form of a convolution's weight gradient.

    Args:
      x: (B,T,H,W,Cin) and
      dy: (B,T',H',W',Cout), of which shapes and dtypes count.
      kernel_size: (kt,kh,kw).
    """
    accelerator = _by_channels(x.shape[-1], dy.shape[-1])
    if math.prod(kernel_size) <= 8:
        # A transposed convolution's: cuDNN has no quick one for kernels of two taps.
        accelerator = "gathered"
    cpu = "rows" if 8 * dy.shape[-1] <= x.shape[-1] and min(kernel_size) > 1 else "product"
    if _suits_winograd(x, kernel_size) and min(x.shape[-1], dy.shape[-1]) >= 32:
        cpu = "winograd"
    return {"cpu": cpu, "tpu": "native", "default": accelerator}


def _cpu_form(x: jax.Array, kernel_shape: Sequence[int]) -> Form:
    """By measurement on two AVX-512 cores in float32, batch 1 (docs/results/performance.md)."""
    *kernel_size, cin, cout = kernel_shape
    if _pays_winograd(x, kernel_shape):
        return "winograd"
    if pays_planes(x, kernel_shape):
        return "winograd_planes"
    if cin >= 1024 and math.prod(kernel_size) * cout <= cin:
        return "product"  # XLA's convolutions are ten times too slow there
    if 4 * cin <= cout:
        return "taps_in_input"
    # A product with fewer columns than two of a processor's vectors takes as long as with more.
    if 4 * cout <= cin or cout <= min(cin, 16):
        return "taps_in_output"
    # Of an exported program the batch is not known: taken for a clip alone, as CPUs mostly have it.
    batch = 1 if is_symbolic_dim(x.shape[0]) else x.shape[0]
    return "gathered_by_axis" if batch * math.prod(x.shape[1:4]) < 512 else "per_tap"


def _pays_winograd(x: jax.Array, kernel_shape: Sequence[int]) -> bool:
    """Whether it saves more in products, cin·cout a voxel, than it moves more, cin + cout."""
    *kernel_size, cin, cout = kernel_shape
    least = 40 if x.shape[2] * x.shape[3] >= 2000 else 60
    return _suits_winograd(x, kernel_size) and cin * cout >= least * (cin + cout)


def _suits_winograd(x: jax.Array, kernel_size: Sequence[int]) -> bool:
    large = x.shape[2] * x.shape[3] >= 400
    return x.dtype == jnp.float32 and tuple(kernel_size[1:]) == (3, 3) and large


def pays_planes(x: jax.Array, kernel_shape: Sequence[int]) -> bool:
    """Whether a CPU computes it, and both of its gradients together, by `winograd_planes`."""
    *kernel_size, cin, cout = kernel_shape
    many = cin >= 96 and cout >= 8 * cin  # with fewer, reading and writing is what takes long
    large = x.shape[2] * x.shape[3] >= 400
    return x.dtype == jnp.float32 and tuple(kernel_size) == (2, 2, 2) and many and large


def _by_channels(cin: int, cout: int) -> Form:
    """Stacks the taps on the side with fewer channels, since they are copied kt times there."""
    return "taps_in_output" if 2 * cout <= cin else "taps_in_input"


def by_kernel_on_cuda(covered: bool, by_kernel: Callable, by_forms: Callable, *args: Any) -> Any:
    """by_forms(*args), or by_kernel(*args) on NVIDIA GPUs where a kernel covers the operation."""
    if covered:
        return by_platform(*args, cuda=by_kernel, default=by_forms)
    return by_forms(*args)


def unless_tpu(native: Callable, forward: Callable, *args: jax.Array) -> tuple[Any, Any]:
    """forward(*args) → (y, residuals), or on TPUs native(*args) and residuals that nobody reads."""

    def on_tpu(*args: jax.Array) -> tuple[Any, Any]:
        kept = jax.eval_shape(forward, *args)[1]
        return native(*args), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kept)

    return by_platform(*args, tpu=on_tpu, default=forward)


def gradient_unless_tpu(
    native: Callable, backward: Callable, residuals: Any, args: Any, dy: jax.Array
) -> Any:
    """backward(residuals, args, dy) → gradients of args, or on TPUs those of native(*args).

    What native computes a second time here is XLA's to find and to merge.
    """
    return by_platform(
        residuals,
        args,
        dy,
        tpu=lambda residuals, args, dy: jax.vjp(native, *args)[1](dy),
        default=backward,
    )
