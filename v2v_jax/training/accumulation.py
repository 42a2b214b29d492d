"""What is a sum over clips, added up over parts of a batch and over devices.

A gradient of the loss's sum is such a sum, so that neither changes anything but rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from v2v_jax.errors import ConfigError
from v2v_jax.system import sharding

# Clips that keep a data-centre GPU busy; more are not faster (docs/results/performance.md).
GPU_CLIPS = 32
_SMALL = 2**16  # elements of an array that is sent in float32: nothing is gained by rounding it


def parts_of_batch(batch_size: int, mesh: Mesh, accumulate: int, recompute: int) -> int:
    """Into how many parts a device splits its share of the batch: `accumulate`, 0: automatic.

    Raises:
      ConfigError: the devices cannot share the batch evenly, `accumulate` does not divide a
        device's share, or `recompute` does not divide a part.
    """
    sharding.local_rows(batch_size, mesh)
    share = batch_size // mesh.size
    parts = accumulate or automatic_parts(share, mesh.devices.flat[0].platform)
    if share % parts:
        raise ConfigError(
            f"accumulate is {parts}; it must divide the {share} clips of the batch on each device."
        )
    if share // parts % recompute:
        raise ConfigError(
            f"recompute is {recompute}; it must divide the {share // parts} clips of the "
            "batch that a device computes at a time."
        )
    return parts


def automatic_parts(clips: int, platform: str) -> int:
    """The fewest parts of a device's `clips` that are no larger than `GPU_CLIPS`; 1 elsewhere."""
    if platform != "gpu":
        return 1
    return next(n for n in range(1, clips + 1) if clips % n == 0 and clips // n <= GPU_CLIPS)


def summed_over_parts(function: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """`function(*shared, batch)`, added up over `parts` of the batch, one after the other.

    Compared with the whole batch at once this keeps the activations of one part only, and the
    compiler tries its algorithms at the part's size: at 128 clips that alone took it minutes on a
    GPU.

    Args:
      function: (…, a pytree of arrays (B,…)) → a pytree of sums over B.
      parts: divides B; 1 changes nothing.
    """
    if parts == 1:
        return function

    def total(*args: Any) -> Any:
        *shared, batch = args
        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
        of_part = lambda part: function(*shared, part)
        shapes = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], split))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        add = lambda sums, part: (jax.tree.map(jnp.add, sums, of_part(part)), None)
        return lax.scan(add, zeros, split)[0]

    return total


def add_up(sums: Any) -> Any:
    """A pytree of one device's sums → that of all devices' together, in one all-reduce."""
    return lax.psum(sums, "data")


def add_up_gradient_in_bfloat16(sums: Any) -> Any:
    """The same, with the large arrays of the gradient, its first part, sent in bfloat16.

    Each device adds up its share of them in float32, and sends the sums in bfloat16 again: half the
    bytes, and two roundings of each number, however many devices there are.
    """
    gradient, *rest = sums
    large = lambda x: _scattered_sum(x) if x.size > _SMALL else lax.psum(x, "data")
    return jax.tree.map(large, gradient), *lax.psum(tuple(rest), "data")


def _scattered_sum(x: jax.Array) -> jax.Array:
    devices = lax.axis_size("data")
    rows = jnp.pad(x.ravel(), (0, -x.size % devices)).reshape(devices, -1)
    parts = lax.all_to_all(rows.astype(jnp.bfloat16), "data", 0, 0)  # this device's row of each
    share = parts.astype(jnp.float32).sum(0).astype(jnp.bfloat16)
    return lax.all_gather(share, "data", tiled=True)[: x.size].reshape(x.shape).astype(x.dtype)


# By `config.all_reduce`.
ADD_UP: dict[str, Callable[[Any], Any]] = {
    "float32": add_up,
    "bfloat16": add_up_gradient_in_bfloat16,
}


def summed_over_devices(
    function: Callable[[Any, Any, Any], Any], mesh: Mesh, add_up: Callable[[Any], Any] = add_up
) -> Callable[[Any, Any, Any], Any]:
    """`function(params, store, batch)`, each device its rows, added up.

    Args:
      function: (params and store, which every device holds whole, and a pytree of its (B,…)) → a
        pytree of sums over B.
      add_up: what adds them up, for each device, over the mesh's axis `data`.

    Returns:
      The same function of global arrays; every device gets the result.
    """
    whole, split = PartitionSpec(), PartitionSpec("data")

    def total(params: Any, store: Any, batch: Any) -> Any:
        return add_up(function(params, store, batch))

    # check_vma would add an all-reduce to the gradient of every parameter, in bfloat16; without it
    # each device keeps its own until the one all-reduce of `total`.
    return jax.shard_map(
        total, mesh=mesh, in_specs=(whole, whole, split), out_specs=whole, check_vma=False
    )
