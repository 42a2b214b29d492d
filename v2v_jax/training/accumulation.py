"""Large batches a part at a time: what is a sum over clips is added up over parts of the batch.

A gradient of the loss's sum is such a sum, so that this changes nothing but rounding. Compared with
the whole batch at once it keeps the activations of one part only, and the compiler tries its
algorithms at the part's size: at 128 clips that alone took it minutes on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Clips that keep a data-centre GPU busy; more at a time are not faster (docs/performance.md).
GPU_CLIPS = 32


def automatic_parts(clips: int, platform: str) -> int:
    """The fewest parts of a device's `clips` that are no larger than `GPU_CLIPS`; 1 elsewhere."""
    if platform != "gpu":
        return 1
    return next(n for n in range(1, clips + 1) if clips % n == 0 and clips // n <= GPU_CLIPS)


def summed_over_parts(function: Callable[[Any], Any], parts: int) -> Callable[[Any], Any]:
    """`function(batch)`, added up over `parts` of the batch, one after the other.

    Args:
      function: a pytree of arrays (B,…) → a pytree of sums over B.
      parts: divides B; 1 changes nothing.
    """
    if parts == 1:
        return function

    def total(batch: Any) -> Any:
        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], split))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        add = lambda sums, part: (jax.tree.map(jnp.add, sums, function(part)), None)
        return lax.scan(add, zeros, split)[0]

    return total
