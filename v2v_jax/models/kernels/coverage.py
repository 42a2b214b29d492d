"""What the network's kernels fit: which GPUs and which convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp

from v2v_jax.system import triton

_SHARED_MEMORY = 156  # KB a block, the most that one of them takes


def available() -> bool:
    """Whether this process computes on a GPU that the kernels fit, and they are not switched off.

    Where it does not (a CPU that exports a program for GPUs), forms that run on all are used.
    """
    return triton.available(_SHARED_MEMORY)


def is_same_convolution(kernel_shape: Sequence[int], padding, dtype) -> bool:
    """Whether it is in bfloat16, with kernels of 3x3x3 or 1x3x3 and as large as its input."""
    size = tuple(kernel_shape[:3])
    return (
        available()
        and dtype == jnp.bfloat16
        and size in ((1, 3, 3), (3, 3, 3))
        and tuple(padding) == tuple((k // 2, k // 2) for k in size)
    )
