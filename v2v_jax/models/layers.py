"""Conv3D, ConvTranspose3D and max pooling; the only file that knows how a convolution is lowered.

XLA's own 5-D convolutions are 10 to 70 times slower than needed on CPU and GPU, so a 3D convolution
is written here as 2D convolutions over the frames, in one of several *forms* that differ in where
the kernel's temporal taps go:

* ``taps_in_input``: the T-shifted inputs are stacked into the input channels; one 2D convolution.
* ``taps_in_output``: one 2D convolution to kt·out channels, then kt shifted adds. Better where
  there are far fewer output than input channels.
* ``per_tap``: one 2D convolution a temporal tap over the frames that it touches, summed.

All forms compute the same function. The gradient with respect to the input is again a stride-1
convolution, with the flipped kernel, and picks its own form. A transposed convolution is a stride-1
convolution to stride³·C channels followed by a depth-to-space, for any kernel, stride and padding.

Arrays are (B,T,H,W,C), kernels (T,H,W,in,out). Convolution means cross-correlation, as in Caffe.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Form = Literal["taps_in_input", "taps_in_output", "per_tap"]
FORMS: tuple[Form, ...] = ("taps_in_input", "taps_in_output", "per_tap")
Padding = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Initializer = Callable[..., jax.Array]


# ------------------------------------------------------------------------------------------------
# The convolution and its gradient


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
    return _by_platform(_forward, padding, form, x, kernel)


def _conv3d_forward(padding, form, x, kernel):
    return _conv3d(padding, form, x, kernel), (x, kernel)


def _conv3d_backward(padding, form, residuals, dy):
    x, kernel = residuals
    flipped = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    full = tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(kernel.shape[:3], padding))
    dx = _crop_padding(_conv3d(_at_least_zero(full), form, dy, flipped), full)
    return dx, _by_platform(_weight_gradient, padding, form, x, dy)


_conv3d.defvjp(_conv3d_forward, _conv3d_backward)


def _at_least_zero(padding: Padding) -> Padding:
    # An input padded by more than its kernel has a gradient of which the padding's part is cropped.
    return tuple((max(lo, 0), max(hi, 0)) for lo, hi in padding)


def _crop_padding(x: jax.Array, padding: Padding) -> jax.Array:
    """Removes what negative padding stands for from T, H and W."""
    cut = [(min(lo, 0), min(hi, 0), 0) for lo, hi in padding]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *cut, (0, 0, 0)])


def _by_platform(compute, padding, form, a, b):
    """Runs `compute` in the given form, or in the best one of the platform it is compiled for."""
    if form is not None:
        return compute(padding, form, a, b)
    return lax.platform_dependent(
        a,
        b,
        cpu=functools.partial(compute, padding, "per_tap"),
        default=lambda a, b: compute(padding, _accelerator_form(compute, a, b), a, b),
    )


def _accelerator_form(compute, a, b) -> Form:
    """Stacks the taps on the side that has far fewer channels: they are copied kt times there."""
    cin, cout = a.shape[-1], b.shape[-1]
    return "taps_in_output" if 4 * cout <= cin else "taps_in_input"


def _forward(padding: Padding, form: Form, x: jax.Array, kernel: jax.Array) -> jax.Array:
    kt, kh, kw, cin, cout = kernel.shape
    (before, after), *pad2d = padding
    t_out = x.shape[1] + before + after - kt + 1
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


def _weight_gradient(padding: Padding, form: Form, x: jax.Array, dy: jax.Array) -> jax.Array:
    """(kt,kh,kw,Cin,Cout) from the input x (B,T,H,W,Cin) and the output's gradient dy."""
    k = tuple(n + lo + hi - m + 1 for n, m, (lo, hi) in zip(x.shape[1:4], dy.shape[1:4], padding))
    if form == "per_tap":
        return _weight_gradient_by_products(padding, k, x, dy)
    kernel = jax.ShapeDtypeStruct((*k, x.shape[-1], dy.shape[-1]), x.dtype)
    transpose = jax.linear_transpose(lambda kernel: _forward(padding, form, x, kernel), kernel)
    return transpose(dy)[0]


def _weight_gradient_by_products(padding, k, x, dy):
    """One matrix product a kernel tap: XLA's own CPU weight gradient takes ten times longer."""
    b, t, h, w, cout = dy.shape
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    dy = dy.reshape(-1, cout)

    def tap(i, j, l):
        window = padded[:, i : i + t, j : j + h, l : l + w].reshape(b * t * h * w, -1)
        return lax.dot_general(window, dy, (((0,), (0,)), ((), ())))

    taps = [tap(i, j, l) for i in range(k[0]) for j in range(k[1]) for l in range(k[2])]
    return jnp.stack(taps).reshape(*k, x.shape[-1], cout)


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
# Transposed convolution and pooling


def conv3d_transpose(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[int],
    form: Form | None = None,
) -> jax.Array:
    """Transposed 3D convolution ("deconvolution", paper section 3), as depth-to-space.

    Input voxel n adds `kernel[t,h,w,i,o]` times its channel i to channel o of the output voxel
    n·stride + (t,h,w) - padding: PyTorch's ConvTranspose3d and Caffe's Deconvolution.

    Args:
      x: (B,T,H,W,Cin), floating point.
      kernel: (kt,kh,kw,Cin,Cout), the same dtype.
      strides: of the output, for T, H, W.
      padding: voxels cut from both ends of the output, for T, H, W.
      form: see `conv3d`.

    Returns:
      (B,T',H',W',Cout) with T' = (T-1)·stride + kt - 2·padding, likewise H', W'.
    """
    cin, cout = kernel.shape[3:]
    taps = [-(-k // s) for k, s in zip(kernel.shape[:3], strides)]  # input voxels a output one sees
    blocks = conv3d(
        x,
        _block_kernel(kernel, strides, taps),
        tuple((m - 1, m - 1) for m in taps),
        form,
    )
    y = _depth_to_space(blocks, strides, cout)
    for axis, (n, k, s, p) in enumerate(zip(x.shape[1:4], kernel.shape[:3], strides, padding), 1):
        y = lax.slice_in_dim(y, p, (n - 1) * s + k - p, axis=axis)
    return y


def _block_kernel(kernel: jax.Array, strides: Sequence[int], taps: Sequence[int]) -> jax.Array:
    """(kt,kh,kw,Cin,Cout) → (taps…,Cin,st·sh·sw·Cout): the kernel that computes whole blocks."""
    (mt, mh, mw), (st, sh, sw) = taps, strides
    kt, kh, kw, cin, cout = kernel.shape
    kernel = jnp.pad(
        kernel, ((0, mt * st - kt), (0, mh * sh - kh), (0, mw * sw - kw), (0, 0), (0, 0))
    )
    kernel = kernel.reshape(mt, st, mh, sh, mw, sw, cin, cout)
    kernel = jnp.flip(kernel, (0, 2, 4)).transpose(0, 2, 4, 6, 1, 3, 5, 7)
    return kernel.reshape(mt, mh, mw, cin, st * sh * sw * cout)


def _depth_to_space(x: jax.Array, strides: Sequence[int], channels: int) -> jax.Array:
    """(B,T,H,W,st·sh·sw·C) → (B,T·st,H·sh,W·sw,C)."""
    b, t, h, w, _ = x.shape
    st, sh, sw = strides
    x = x.reshape(b, t, h, w, st, sh, sw, channels).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t * st, h * sh, w * sw, channels)


def max_pool3d(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Max pooling with stride = window; a remainder that fills no window is left out.

    Written as reshape and max: `reduce_window`'s gradient is slow on GPUs. Where several voxels of
    a window are the largest, each gets an equal share of the gradient.

    Args:
      x: (B,T,H,W,C).
      window: sizes in T, H, W.

    Returns:
      (B,T//wt,H//wh,W//ww,C).
    """
    b, t, h, w, c = x.shape
    wt, wh, ww = window
    t, h, w = t // wt, h // wh, w // ww
    x = x[:, : t * wt, : h * wh, : w * ww].reshape(b, t, wt, h, wh, w, ww, c)
    return x.max(axis=(2, 4, 6))


# ------------------------------------------------------------------------------------------------
# Linen layers


class Conv3D(nn.Module):
    """A stride-1 3D convolution with bias.

    Attributes:
      features: output channels.
      kernel_size: (T,H,W); "same" zero padding of k//2 on both sides, so sizes must be odd.
      kernel_init, bias_init: parameters are float32, kernel (T,H,W,in,out), bias (out,); by default
        He et al. 2015 and zeros.
      dtype: of the computation and the output.
    """

    features: int
    kernel_size: tuple[int, int, int] = (3, 3, 3)
    kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B,T,H,W,in) → (B,T,H,W,features)."""
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"Conv3D {self.name}: kernel size {self.kernel_size} must be odd.")
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init or fan_in_normal(), shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        padding = tuple((k // 2, k // 2) for k in self.kernel_size)
        return conv3d(x.astype(self.dtype), kernel.astype(self.dtype), padding) + bias.astype(
            self.dtype
        )


class ConvTranspose3D(nn.Module):
    """A transposed 3D convolution with bias; see `conv3d_transpose` for its exact meaning.

    Attributes:
      features: output channels.
      kernel_size, strides, padding: for (T,H,W).
      kernel_init, bias_init: parameters are float32, kernel (T,H,W,in,out), bias (out,); by default
        He et al. 2015 and zeros.
      dtype: of the computation and the output.
    """

    features: int
    kernel_size: tuple[int, int, int]
    strides: tuple[int, int, int]
    padding: tuple[int, int, int]
    kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros_init()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B,T,H,W,in) → (B,T',H',W',features), T' = (T-1)·stride + kernel - 2·padding."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        init = self.kernel_init or fan_in_normal(strides=self.strides)
        kernel = self.param("kernel", init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
        y = conv3d_transpose(
            x.astype(self.dtype), kernel.astype(self.dtype), self.strides, self.padding
        )
        return y + bias.astype(self.dtype)


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
