"""The forms in which a stride-1 3D convolution can be computed, and its weights' gradient.

XLA's own 5-D convolutions are 10 to 70 times slower than needed on CPU and GPU. The forms differ in
where the kernel's taps go:

* ``taps_in_input``: the T-shifted inputs are stacked into the input channels; one 2D convolution.
* ``taps_in_output``: one 2D convolution to kt·out channels, then kt shifted adds. Better where
  there are fewer output than input channels.
* ``per_tap``: one 2D convolution a temporal tap over the frames that it touches, summed.
* ``gathered``: all taps, of T, H and W, are stacked into the input channels; one matrix product.
* ``native``: XLA's own 5-D convolution, which is what TPUs are quick at.

All compute the same function; layers.py chooses. Arrays are (B,T,H,W,C), kernels (T,H,W,in,out).
Convolution means cross-correlation, as in Caffe.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

Form = Literal["taps_in_input", "taps_in_output", "per_tap", "gathered", "native"]
FORMS: tuple[Form, ...] = ("taps_in_input", "taps_in_output", "per_tap", "gathered", "native")
_NATIVE = ("NTHWC", "THWIO", "NTHWC")
Padding = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def convolve(padding: Padding, form: Form, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(B,T,H,W,Cin) * (kt,kh,kw,Cin,Cout) → (B,T',H',W',Cout), see `layers.conv3d`."""
    kt, kh, kw, cin, cout = kernel.shape
    (before, after), *pad2d = padding
    t_out = x.shape[1] + before + after - kt + 1
    if form == "native":
        return lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=_NATIVE)
    if form == "gathered":
        return gather_taps(x, kernel.shape[:3], padding) @ kernel.reshape(-1, cout)
    if kt == 1 and (before, after) == (0, 0):
        return _conv2d(x, kernel[0], pad2d)
    if form == "taps_in_input":
        stacked = _stack_taps(x, kt, padding[0])
        return _conv2d(
            stacked, kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * cin, cout), pad2d
        )
    if form == "taps_in_output":
        y = _conv2d(x, kernel.transpose(1, 2, 3, 0, 4).reshape(kh, kw, cin, kt * cout), pad2d)
        taps = jnp.split(y, kt, axis=-1)
        return sum(_shift(tap, before - k, t_out) for k, tap in enumerate(taps))
    if form == "per_tap":
        return _sum_per_tap(x, kernel, padding, t_out)
    raise ValueError(f"Unknown form {form!r}; expected one of {', '.join(FORMS)}.")


def weight_gradient(padding: Padding, form: Form, x: jax.Array, dy: jax.Array) -> jax.Array:
    """(kt,kh,kw,Cin,Cout) from the input x (B,T,H,W,Cin) and the output's gradient dy."""
    k = tuple(n + lo + hi - m + 1 for n, m, (lo, hi) in zip(x.shape[1:4], dy.shape[1:4], padding))
    if form == "per_tap":
        return _weight_gradient_per_tap(padding, k, x, dy)
    if form == "gathered":
        return weight_gradient_of_taps(gather_taps(x, k, padding), dy, k)
    kernel = jax.ShapeDtypeStruct((*k, x.shape[-1], dy.shape[-1]), x.dtype)
    transpose = jax.linear_transpose(lambda kernel: convolve(padding, form, x, kernel), kernel)
    return transpose(dy)[0]


def _sum_per_tap(x: jax.Array, kernel: jax.Array, padding: Padding, t_out: int) -> jax.Array:
    (before, _), *pad2d = padding
    total = None
    for k in range(kernel.shape[0]):
        start, stop = max(k - before, 0), min(t_out + k - before, x.shape[1])  # frames it touches
        if stop <= start:
            continue
        y = _shift(_conv2d(x[:, start:stop], kernel[k], pad2d), start + before - k, t_out)
        total = y if total is None else total + y
    if total is None:  # every tap reads padding only
        h_out, w_out = (
            n + sum(p) - k + 1 for n, p, k in zip(x.shape[2:4], pad2d, kernel.shape[1:3])
        )
        total = jnp.zeros((x.shape[0], t_out, h_out, w_out, kernel.shape[-1]), x.dtype)
    return total


def _weight_gradient_per_tap(padding, k, x, dy):
    """One matrix product a kernel tap: XLA's own CPU weight gradient takes ten times longer."""
    b, t, h, w, cout = dy.shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    dy = dy.reshape(-1, cout)

    def tap(i, j, l):
        window = padded[:, i : i + t, j : j + h, l : l + w].reshape(b * t * h * w, -1)
        return lax.dot_general(window, dy, (((0,), (0,)), ((), ())))

    taps = [tap(*offset) for offset in itertools.product(*map(range, k))]
    return jnp.stack(taps).reshape(*k, x.shape[-1], cout)


def gather_taps(x: jax.Array, kernel_size: Sequence[int], padding: Padding) -> jax.Array:
    """(B,T,H,W,C) → (B,T',H',W',kt·kh·kw·C): all that an output voxel sees, in kernel order."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    t, h, w = (n - m + 1 for n, m in zip(padded.shape[1:4], kernel_size))
    windows = [
        padded[:, i : i + t, j : j + h, l : l + w]
        for i, j, l in itertools.product(*map(range, kernel_size))
    ]
    return jnp.concatenate(windows, axis=-1)


def weight_gradient_of_taps(
    taps: jax.Array, dy: jax.Array, kernel_size: Sequence[int]
) -> jax.Array:
    """(kt,kh,kw,Cin,Cout) from the gathered taps of the input and the output's gradient."""
    taps, dy = taps.reshape(-1, taps.shape[-1]), dy.reshape(-1, dy.shape[-1])
    products = lax.dot_general(taps, dy, (((0,), (0,)), ((), ())))
    return products.reshape(*kernel_size, -1, dy.shape[-1])


def _conv2d(x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """(B,T,H,W,Cin) * (kh,kw,Cin,Cout): a 2D convolution of every frame."""
    b, t = x.shape[:2]
    y = lax.conv_general_dilated(
        x.reshape(b * t, *x.shape[2:]),
        kernel,
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(b, t, *y.shape[1:])


def _stack_taps(x: jax.Array, kt: int, padding: tuple[int, int]) -> jax.Array:
    """(B,T,H,W,C) → (B,T',H,W,kt·C): frame t beside t+1 … t+kt-1, after padding T."""
    padded = jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
    t_out = padded.shape[1] - kt + 1
    return jnp.concatenate([padded[:, k : k + t_out] for k in range(kt)], axis=-1)


def _shift(x: jax.Array, offset: int, length: int) -> jax.Array:
    """Places x's frames at `offset` in `length` frames; zeros elsewhere, what sticks out is cut."""
    pad = (offset, length - offset - x.shape[1], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), pad, (0, 0, 0), (0, 0, 0), (0, 0, 0)])


# ------------------------------------------------------------------------------------------------
# Transposed convolution as a convolution to blocks


def block_kernel(kernel: jax.Array, strides: Sequence[int], taps: Sequence[int]) -> jax.Array:
    """(kt,kh,kw,Cin,Cout) → (taps…,Cin,st·sh·sw·Cout): the kernel that computes whole blocks."""
    (mt, mh, mw), (st, sh, sw) = taps, strides
    kt, kh, kw, cin, cout = kernel.shape
    kernel = jnp.pad(
        kernel, ((0, mt * st - kt), (0, mh * sh - kh), (0, mw * sw - kw), (0, 0), (0, 0))
    )
    kernel = kernel.reshape(mt, st, mh, sh, mw, sw, cin, cout)
    kernel = jnp.flip(kernel, (0, 2, 4)).transpose(0, 2, 4, 6, 1, 3, 5, 7)
    return kernel.reshape(mt, mh, mw, cin, math.prod(strides) * cout)


def depth_to_space(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """(B,T,H,W,st·sh·sw·C) → (B,T·st,H·sh,W·sw,C)."""
    b, t, h, w, _ = x.shape
    st, sh, sw = strides
    x = x.reshape(b, t, h, w, st, sh, sw, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t * st, h * sh, w * sw, -1)


def space_to_depth(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """(B,T·st,H·sh,W·sw,C) → (B,T,H,W,st·sh·sw·C), the reverse of `depth_to_space`."""
    b, t, h, w, c = x.shape
    st, sh, sw = strides
    x = x.reshape(b, t // st, st, h // sh, sh, w // sw, sw, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, t // st, h // sh, w // sw, -1)


# ------------------------------------------------------------------------------------------------
# XLA's own operations, for TPUs


def transpose_native(
    strides: tuple[int, ...], padding: tuple[int, ...], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """`layers.conv3d_transpose` as the gradient of a strided convolution: no depth-to-space."""
    return _transpose_native(strides, padding, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _transpose_native(strides, padding, x, kernel):
    size = [
        (n - 1) * s + k - 2 * p
        for n, s, k, p in zip(x.shape[1:4], strides, kernel.shape[:3], padding)
    ]
    y = jax.ShapeDtypeStruct((x.shape[0], *size, kernel.shape[4]), x.dtype)
    return jax.linear_transpose(lambda y: _strided(strides, padding, y, kernel), y)(x)[0]


def _transpose_native_backward(strides, padding, residuals, dy):
    # Written out: JAX's own gradient of the convolution above would reverse dy in memory.
    x, kernel = residuals
    of_kernel = functools.partial(_strided, strides, padding, dy)
    return _strided(strides, padding, dy, kernel), jax.linear_transpose(of_kernel, kernel)(x)[0]


_transpose_native.defvjp(
    lambda strides, padding, *operands: (_transpose_native(strides, padding, *operands), operands),
    _transpose_native_backward,
)


def _strided(strides, padding, y, kernel):
    """The convolution (B,T',H',W',out) → (B,T,H,W,in) whose transpose is wanted."""
    pad = [(p, p) for p in padding]
    numbers = ("NTHWC", "THWOI", "NTHWC")  # kernel (T,H,W,in,out) reads `out`
    return lax.conv_general_dilated(y, kernel, strides, pad, dimension_numbers=numbers)


def max_pool_native(window: Sequence[int], x: jax.Array) -> jax.Array:
    """`layers.max_pool3d`, ties included, by reduce-window and select-and-scatter."""
    window = (1, *window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
