"""Less memory for training: activations of a part of the batch at a time, computed twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax


def in_parts(apply: Callable[[Any, Any], jax.Array], parts: int) -> Callable:
    """`apply(params, x)`, whose gradient needs the activations of only 1/parts of the batch.

    Forward, the parts run one after the other and nothing but their outputs is kept; for the
    gradient every part runs forward again. Results are the same but for rounding.

    Args:
      apply: (params, a pytree of (B,…)) → (B,…), each clip on its own.
      parts: divides the batch, on every device; 1 changes nothing.

    Returns:
      A function like `apply`.
    """
    if parts == 1:
        return apply

    def apply_in_parts(params, x):
        # Every part takes some clips of each device: the first axis stays where the devices are.
        divide = lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        y = lax.map(jax.checkpoint(lambda part: apply(params, part)), jax.tree.map(divide, x))
        return y.swapaxes(0, 1).reshape(-1, *y.shape[2:])

    return apply_in_parts
