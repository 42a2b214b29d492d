"""Max pooling, alone and after convolution, bias and ReLU, and their gradients.

Pooling keeps for its gradient only which voxel won, one byte a window. Arrays are (B,T,H,W,C),
kernels (T,H,W,in,out).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from v2v_jax.models.kernels import conv_relu_pool as kernels
from v2v_jax.models.lowering import choice, convolution, few_frames
from v2v_jax.models.lowering.forms import Padding, convolve, max_pool_native
from v2v_jax.system import triton
from v2v_jax.system.platforms import by_platform


def max_pool3d(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Max pooling with stride = window; a remainder that fills no window is left out.

    Where several voxels of a window are the largest, the first gets the gradient (as in Caffe).

    Args:
      x: (B,T,H,W,C).
      window: sizes in T, H, W.

    Returns:
      (B,T//wt,H//wh,W//ww,C).
    """
    return _max_pool3d(tuple(window), x.shape[1:4], x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _max_pool3d(window, size, x):
    return _max_pool3d_forward(window, size, x)[0]


def _max_pool3d_forward(window, size, x):
    forward = functools.partial(_pool_with_winner, window=window)
    y, winner = choice.unless_tpu(functools.partial(max_pool_native, window), forward, x)
    return y, (x, winner)


def _max_pool3d_backward(window, size, residuals, dy):
    x, winner = residuals
    backward = lambda winner, args, dy: (_unpool(dy, winner, window, size),)
    return choice.gradient_unless_tpu(
        functools.partial(max_pool_native, window), backward, winner, (x,), dy
    )


_max_pool3d.defvjp(_max_pool3d_forward, _max_pool3d_backward)


def conv_relu_pool(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: Padding, window: Sequence[int]
) -> jax.Array:
    """max_pool3d(relu(conv3d(x, kernel, padding) + bias), window).

    Apart from the shorter way that some platforms have, the gradient needs less memory: nothing of
    the size before pooling is kept for it.

    Args:
      x: (B,T,H,W,Cin), floating point.
      kernel: (kt,kh,kw,Cin,Cout), the same dtype.
      bias: (Cout,) float32.
      padding, window: see `conv3d` and `max_pool3d`.

    Returns:
      (B,T'//wt,H'//wh,W'//ww,Cout) in x's dtype.
    """
    return _conv_relu_pool(padding, tuple(window), x, kernel, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv_relu_pool(padding, window, x, kernel, bias):
    forward = functools.partial(_compute_conv_relu_pool, padding, window, False)
    native = functools.partial(_conv_relu_pool_native, padding, window)
    return choice.unless_tpu(native, lambda *args: (forward(*args)[0], ()), x, kernel, bias)[0]


def _conv_relu_pool_native(padding, window, x, kernel, bias):
    y = convolve(padding, "native", x, kernel) + bias.astype(x.dtype)
    return max_pool_native(window, nn.relu(y))


def _conv_relu_pool_forward(padding, window, x, kernel, bias):
    forward = functools.partial(_compute_conv_relu_pool, padding, window, True)
    native = functools.partial(_conv_relu_pool_native, padding, window)
    pooled, winner = choice.unless_tpu(native, lambda *args: tuple(forward(*args)), x, kernel, bias)
    return pooled, (x, kernel, bias, winner)


def _compute_conv_relu_pool(padding, window, with_winner, x, kernel, bias):
    """[pooled, winner] or [pooled]."""

    def by_forms(x, kernel, bias):
        def pooled(y):
            return _pool_with_winner(y + bias.astype(x.dtype), window, relu=True)[: 1 + with_winner]

        def few_at_a_time(x, kernel):
            form = choice.convolution_forms(x, kernel.shape)["cpu"]
            return few_frames.conv_then(x, kernel, padding, form, pooled, window[0])

        whole = lambda x, kernel: pooled(convolution.forward(padding, None, x, kernel))
        return by_platform(x, kernel, cpu=few_at_a_time, default=whole)

    def by_kernel(x, kernel, bias):
        whole = functools.partial(kernels.conv_relu_pool, with_winner=with_winner)
        return triton.per_device(whole, x, whole=(kernel, bias))

    covered = kernels.can_pool(x.shape, kernel.shape, window, padding, x.dtype)
    return choice.by_kernel_on_cuda(covered, by_kernel, by_forms, x, kernel, bias)


def _conv_relu_pool_backward(padding, window, residuals, dy):
    *args, winner = residuals
    return choice.gradient_unless_tpu(
        functools.partial(_conv_relu_pool_native, padding, window),
        functools.partial(_conv_relu_pool_backward_by_winner, padding, window),
        winner,
        tuple(args),
        dy,
    )


def _conv_relu_pool_backward_by_winner(padding, window, winner, args, dy):
    x, kernel, _ = args
    size = [n + lo + hi - k + 1 for n, k, (lo, hi) in zip(x.shape[1:4], kernel.shape, padding)]
    dz = _unpool(dy, winner, window, size)
    dbias = jnp.where(winner == jnp.iinfo(winner.dtype).max, 0, dy).sum(
        (0, 1, 2, 3), dtype=jnp.float32
    )
    dx = convolution.input_gradient(padding, None, dz, kernel)

    def by_forms(x, dy, winner, dz):
        return convolution.weight_gradient(padding, None, x, dz, kernel.shape[:3])

    def by_kernel(x, dy, winner, dz):
        gradient = functools.partial(kernels.conv_relu_pool_weight_gradient, kt=kernel.shape[0])
        return triton.per_device(gradient, x, dy, winner, summed=True).astype(kernel.dtype)

    covered = kernels.can_pool(x.shape, kernel.shape, window, padding, x.dtype)
    dkernel = choice.by_kernel_on_cuda(covered, by_kernel, by_forms, x, dy, winner, dz)
    return dx, dkernel, dbias


_conv_relu_pool.defvjp(_conv_relu_pool_forward, _conv_relu_pool_backward)


def _pool_with_winner(
    x: jax.Array, window: Sequence[int], relu: bool = False
) -> tuple[jax.Array, jax.Array]:
    """The maximum of every window, after ReLU if wanted, and which voxel it was.

    The winner is the kernel's, uint8, or uint32 for windows of more than 255 voxels; the largest
    value says: none.
    """
    b, t, h, w, c = x.shape
    wt, wh, ww = window
    dtype = jnp.uint8 if wt * wh * ww <= kernels.NO_WINNER else jnp.uint32
    t, h, w = t // wt, h // wh, w // ww
    x = x[:, : t * wt, : h * wh, : w * ww].reshape(b, t, wt, h, wh, w, ww, c)
    places = itertools.product(range(wt), range(wh), range(ww))
    largest = winner = None
    for index, (i, j, l) in enumerate(places):
        candidate = x[:, :, i, :, j, :, l]
        if largest is None:
            largest, winner = candidate, jnp.zeros(candidate.shape, dtype)
        else:
            winner = jnp.where(candidate > largest, dtype(index), winner)
            largest = jnp.maximum(largest, candidate)
    if relu:
        winner = jnp.where(largest > 0, winner, dtype(jnp.iinfo(dtype).max))
        largest = jnp.maximum(largest, 0)
    return largest, winner


def _unpool(
    dy: jax.Array, winner: jax.Array, window: Sequence[int], size: Sequence[int]
) -> jax.Array:
    """Gradients (B,T,H,W,C) of pooled voxels, put where the winner was in an input of `size`."""
    b, t, h, w, c = dy.shape
    wt, wh, ww = window
    place = jnp.arange(wt * wh * ww, dtype=winner.dtype).reshape(1, 1, wt, 1, wh, 1, ww, 1)
    spread = lambda x: x[:, :, None, :, None, :, None]
    dx = jnp.where(spread(winner) == place, spread(dy), jnp.zeros((), dy.dtype))
    dx = dx.reshape(b, t * wt, h * wh, w * ww, c)
    rest = [(0, n - m) for n, m in zip(size, dx.shape[1:4])]
    return jnp.pad(dx, ((0, 0), *rest, (0, 0))) if any(map(any, rest)) else dx
