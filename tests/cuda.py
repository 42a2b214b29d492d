"""Programs for a GPU that is not there."""

from __future__ import annotations

from typing import Any

import jax


def lowered_for_cuda(function: jax.stages.Wrapped, *arguments: Any) -> str:
    """The program of a jitted function; JAX 0.11 wants to know for which GPU its kernels are."""
    gpu = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu)):
        return function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
