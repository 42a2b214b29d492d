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
    """Gradients are sent, and added up on their way, in bfloat16."""
    return _gradient_by(lambda x: lax.psum(x.astype(jnp.bfloat16), "data").astype(x.dtype), sums)


def in_bfloat16_summed_in_float32(sums: Any) -> Any:
    """Gradients are sent in bfloat16; every device adds up its share of them in float32."""
    return _gradient_by(_scattered_sum, sums)


def _scattered_sum(x: jax.Array) -> jax.Array:
    devices = lax.axis_size("data")
    rows = jnp.pad(x.ravel(), (0, -x.size % devices)).reshape(devices, -1)
    parts = lax.all_to_all(rows.astype(jnp.bfloat16), "data", 0, 0)  # this device's row of each
    share = parts.astype(jnp.float32).sum(0).astype(jnp.bfloat16)
    return lax.all_gather(share, "data", tiled=True)[: x.size].reshape(x.shape).astype(x.dtype)


def _gradient_by(add_up: Callable[[jax.Array], jax.Array], sums: Any) -> Any:
    """The large arrays of the gradient by `add_up`, all else in float32."""
    gradient, *rest = sums
    large = lambda x: add_up(x) if x.size > _SMALL else lax.psum(x, "data")
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
    "bfloat16_sums": Way("sent in bfloat16, float32 sums", in_bfloat16_summed_in_float32),
    "none": Way("not at all: every device trains alone", not_at_all),
}
