"""Ways to add up the gradients of several devices, which `experiments.scaling` compares.

The step's own is one `psum` of float32 arrays, one a parameter, which XLA gathers into all-reduces
of some 30 MB on GPUs. Others differ in what XLA is told (`options`) or in what is sent (`add_up`).
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


def not_at_all(sums: Any) -> Any:
    """Every device keeps its own: what the devices could do if nothing had to be sent."""
    return sums


_OVERLAPPED: Options = {"xla_gpu_enable_latency_hiding_scheduler": True}
_BUCKETS: Options = _OVERLAPPED | {"xla_gpu_all_reduce_combine_threshold_bytes": 16 * 2**20}

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
    "none": Way("not at all: every device trains alone", not_at_all),
}
