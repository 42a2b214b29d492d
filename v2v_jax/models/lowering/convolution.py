"""The stride-1 3D convolution and its gradient, each in the form that `choice` has for it.

The gradient with respect to the input is again a stride-1 convolution, with the flipped kernel, and
picks its own form. Arrays are (B,T,H,W,C), kernels (T,H,W,in,out). Convolution means
cross-correlation, as in Caffe.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from v2v_jax.models.kernels.gather_taps import can_gather, gather_taps
from v2v_jax.models.lowering import choice, forms, winograd_planes
from v2v_jax.models.lowering.forms import Form, Padding
from v2v_jax.system import triton
from v2v_jax.system.platforms import by_platform


def conv3d(
    x: jax.Array, kernel: jax.Array, padding: Padding, form: Form | None = None
) -> jax.Array:
    """Stride-1 3D convolution (cross-correlation).

    Args:
      x: (B,T,H,W,Cin), floating point.
      kernel: (kt,kh,kw,Cin,Cout), the same dtype.
      padding: zeros added (before, after) each of T, H, W.
      form: how it is lowered, also for the gradients; None chooses by platform and shape.

    Returns:
      (B,T',H',W',Cout) with T' = T + before + after - kt + 1, likewise H', W'.
    """
    return _conv3d(padding, form, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv3d(padding: Padding, form: Form | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return forward(padding, form, x, kernel)


def _conv3d_forward(padding, form, x, kernel):
    return forward(padding, form, x, kernel), (x, kernel)


def _conv3d_backward(padding, form, residuals, dy):
    def one_by_one(x, kernel, dy):
        dx = input_gradient(padding, form, dy, kernel)
        return dx, weight_gradient(padding, form, x, dy, kernel.shape[:3])

    x, kernel = residuals
    if form is None and choice.pays_planes(x, kernel.shape):
        together = lambda x, kernel, dy: winograd_planes.gradients(x, kernel, padding, dy)
        return by_platform(x, kernel, dy, cpu=together, default=one_by_one)
    return one_by_one(x, kernel, dy)


_conv3d.defvjp(_conv3d_forward, _conv3d_backward)


def forward(padding: Padding, form: Form | None, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3d` without a gradient of its own."""
    if form is not None:
        return forms.convolve(padding, form, x, kernel)
    on = {
        platform: functools.partial(forms.convolve, padding, chosen)
        for platform, chosen in choice.convolution_forms(x, kernel.shape).items()
    }
    return by_platform(x, kernel, **on)


def input_gradient(
    padding: Padding, form: Form | None, dy: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Gradient (B,T,H,W,Cin) from `conv3d`'s kernel and its output's gradient dy."""
    flipped = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    full = tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(kernel.shape[:3], padding))
    # An input padded by more than its kernel has a gradient of which the padding's part is cropped.
    at_least_zero = tuple((max(lo, 0), max(hi, 0)) for lo, hi in full)
    cut = [(min(lo, 0), min(hi, 0), 0) for lo, hi in full]
    dx = forward(at_least_zero, form, dy, flipped)
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *cut, (0, 0, 0)])


def weight_gradient(
    padding: Padding, form: Form | None, x: jax.Array, dy: jax.Array, kernel_size: Sequence[int]
) -> jax.Array:
    """Gradient (kt,kh,kw,Cin,Cout) from `conv3d`'s input x and its output's gradient dy."""
    if form is not None:
        return forms.weight_gradient(padding, form, x, dy)
    chosen = choice.weight_gradient_forms(x, dy, kernel_size)
    on = {
        platform: functools.partial(forms.weight_gradient, padding, form)
        for platform, form in chosen.items()
    }
    if chosen["default"] == "gathered" and can_gather(x.shape):
        gather = functools.partial(gather_taps, kernel_size=tuple(kernel_size), padding=padding)

        def by_kernel(x, dy):
            taps = triton.per_device(gather, x)
            return forms.weight_gradient_of_taps(taps, dy, kernel_size)

        on["cuda"] = by_kernel
    return by_platform(x, dy, **on)
