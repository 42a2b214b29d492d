"""All taps of a convolution side by side, in one kernel: for weight gradients as one product."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from v2v_jax.models.kernels.coverage import available
from v2v_jax.system import triton


def can_gather(x_shape: Sequence[int]) -> bool:
    """Whether `gather_taps` covers an input."""
    channels = x_shape[-1]
    return available() and 16 <= channels <= 1024 and channels & (channels - 1) == 0


def gather_taps(
    x: jax.Array,
    kernel_size: tuple[int, int, int],
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    interpret: bool = False,
) -> jax.Array:
    """(B,T,H,W,C) → (B,T',H',W',kt·kh·kw·C), all that an output voxel of a convolution sees.

    The taps are in the kernel's order. XLA's concatenation takes four times longer.
    """
    size = [n + sum(p) - k + 1 for n, p, k in zip(x.shape[1:4], padding, kernel_size)]
    elements = math.prod(size) * math.prod(kernel_size) * x.shape[-1]
    gather = functools.partial(
        _gather_taps, kernel_size=kernel_size, padding=padding, size=size, interpret=interpret
    )
    parts = triton.in_parts(gather, elements, x)
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _gather_taps(x, kernel_size, padding, size, interpret):
    b, t, h, w, c = x.shape
    n = b * math.prod(size)
    tile = max(1, 4096 // c)
    taps = list(itertools.product(*map(range, kernel_size)))
    before = [lo for lo, _ in padding]

    def gather_taps(x_ref, out_ref):
        p = pl.program_id(0) * tile + jnp.arange(tile)
        clip, *start = triton.unravel(p, *size)
        channels = jnp.arange(c)[None, :]
        for column, tap in enumerate(taps):
            i, j, l = (s + k - lo for s, k, lo in zip(start, tap, before))
            inside = (i >= 0) & (i < t) & (j >= 0) & (j < h) & (l >= 0) & (l < w) & (p < n)
            at = (((clip * t + i) * h + j) * w + l) * c
            source = x_ref.at[at[:, None] + channels]
            taken = triton.load(source, mask=triton.each(inside, c), other=0.0)
            to = p * (len(taps) * c) + column * c
            triton.store(out_ref.at[to[:, None] + channels], taken, mask=triton.each(p < n, c))

    gathered = triton.call(
        gather_taps,
        grid=(-(-n // tile),),
        out_shape=jax.ShapeDtypeStruct((n * len(taps) * c,), x.dtype),
        interpret=interpret,
    )(x.reshape(-1))
    return gathered.reshape(b, *size, len(taps) * c)
