"""Ways to add up the gradients of several devices, which `experiments.scaling` compares.

The step's own is one `psum` of float32 arrays, one a parameter, which XLA gathers into all-reduces
of some 30 MB on GPUs. Others differ in what XLA is told (`options`) or in what is sent (`add_up`).
What is told to NCCL, or to XLA for a whole process, is `experiments.scaling_settings`'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from v2v_jax.system.compiler_options import Options
from v2v_jax.training import accumulation

_SMALL = 2**16  # elements of an array that is left in float32: nothing is gained by rounding it


@dataclasses.dataclass(frozen=True)
class Way:
    """How gradients are added up: `add_up` in the step, `options` for its compiler."""

    what: str
    add_up: Callable[[Any], Any] = accumulation.add_up
    options: Options = dataclasses.field(default_factory=dict)


def in_bfloat16(sums: Any) -> Any:
    """Large gradients are sent, and added up on their way, in bfloat16."""
    gradient, *rest = sums

    def large(x: jax.Array) -> jax.Array:
        if x.size <= _SMALL:
            return lax.psum(x, "data")
        return lax.psum(x.astype(jnp.bfloat16), "data").astype(x.dtype)

    return jax.tree.map(large, gradient), *lax.psum(tuple(rest), "data")


def exchanged(sums: Any) -> Any:
    """Pairs of devices send one another all they have, which each adds to its own, in float32.

    With n devices, a power of two, log2(n) times, of ever larger groups. Sending is a copy, for
    which a GPU has engines beside those that compute. a + b is b + a: all devices get the same to
    the bit.
    """
    gradient, *rest = sums
    return jax.tree.map(_doubled, gradient), *lax.psum(tuple(rest), "data")


def exchanged_in_bfloat16(sums: Any) -> Any:
    """The same, large arrays rounded to bfloat16 before each exchange, and added in float32."""
    gradient, *rest = sums

    def large(x: jax.Array) -> jax.Array:
        return _doubled(x, jnp.bfloat16 if x.size > _SMALL else x.dtype)

    return jax.tree.map(large, gradient), *lax.psum(tuple(rest), "data")


def _doubled(x: jax.Array, sent_as: Any = jnp.float32) -> jax.Array:
    devices = lax.axis_size("data")
    distance = 1
    while distance < devices:
        mine = x.astype(sent_as)
        theirs = lax.ppermute(mine, "data", [(i, i ^ distance) for i in range(devices)])
        x = mine.astype(x.dtype) + theirs.astype(x.dtype)
        distance *= 2
    return x


def not_at_all(sums: Any) -> Any:
    """Every device keeps its own: what the devices could do if nothing had to be sent."""
    return sums


def scalars_alone(sums: Any) -> Any:
    """Every device keeps its gradient, but waits once a step for the others' loss and sums."""
    gradient, *rest = sums
    return gradient, *lax.psum(tuple(rest), "data")


def written_whole(sums: Any) -> Any:
    """Every device keeps its own, written to memory before the update, as for sending it."""
    return lax.optimization_barrier(sums)


_OVERLAPPED: Options = {"xla_gpu_enable_latency_hiding_scheduler": True}
_BUCKETS: Options = _OVERLAPPED | {"xla_gpu_all_reduce_combine_threshold_bytes": 16 * 2**20}
_EARLY: Options = {"xla_gpu_experimental_collective_start_as_early_as_possible": True}
_STREAMS: Options = {
    "xla_gpu_experimental_enable_collective_multi_streaming": True,
    "xla_gpu_experimental_parallel_collective_overlap_limit": 2,
}

WAYS = {
    "as_is": Way("as the step does it, float32"),
    "serial": Way(
        "nothing is computed meanwhile", options={"xla_gpu_enable_latency_hiding_scheduler": False}
    ),
    "one": Way("all of it at once", options={"xla_gpu_all_reduce_combine_threshold_bytes": 2**30}),
    "overlap": Way("XLA's latency-hiding scheduler", options=_OVERLAPPED),
    "buckets": Way("the same, all-reduces of 16 MiB", options=_BUCKETS),
    "bfloat16": Way("bfloat16", in_bfloat16),
    "bfloat16_buckets": Way("bfloat16, overlapped, 16 MiB", in_bfloat16, _BUCKETS),
    "bfloat16_sums": Way("all_reduce=bfloat16", accumulation.add_up_gradient_in_bfloat16),
    # Worth joining, as in bfloat16_sums+each+early.
    "each": Way("one a parameter", options={"xla_gpu_all_reduce_combine_threshold_bytes": 1}),
    "early": Way("begun as early as possible", options=_OVERLAPPED | _EARLY),
    "streams": Way("two at a time", options=_OVERLAPPED | _STREAMS),
    "modelled": Way(
        "scheduled by XLA's model of the cards' speed of light",
        options=_OVERLAPPED | {"xla_gpu_enable_analytical_sol_latency_estimator": True},
    ),
    "no_graphs": Way("no CUDA graphs", options={"xla_gpu_enable_command_buffer": ""}),
    "graphs": Way(
        "CUDA graphs in the scheduler's order",
        options=_OVERLAPPED | {"xla_gpu_command_buffer_scheduling_mode": "LHS"},
    ),
    # For exchanges: what is sent lies where the other device's copy engine can read it.
    "exchange": Way("exchanged between pairs", exchanged),
    "bfloat16_exchange": Way("exchanged in bfloat16", exchanged_in_bfloat16),
    "peer": Way(
        "by copies from device to device",
        options={"xla_gpu_collective_permute_mode": "COLLECTIVES_PEER_MEMORY"},
    ),
    "apart": Way(
        "an exchange a parameter",
        options={"xla_gpu_collective_permute_combine_threshold_bytes": 1},
    ),
    # What each part of it costs.
    "none": Way("not at all: every device trains alone", not_at_all),
    "scalars": Way("all but the gradient", scalars_alone),
    "written": Way("not at all, but gradients are written whole", written_whole),
}


def find_way(name: str) -> Way:
    """One of `WAYS`; or several, joined by "+": what the first sends, with the options of all.

    Raises:
      KeyError: there is no such way.
    """
    parts = [WAYS[part] for part in name.split("+")]
    options = {key: value for part in parts for key, value in part.options.items()}
    return Way(", ".join(part.what for part in parts), parts[0].add_up, options)
