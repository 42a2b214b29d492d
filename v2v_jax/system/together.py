"""Programs that several processes compile, each in its own time, and then run together."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax

_TIMEOUT = 3600  # seconds that a process waits for the others to have compiled
_numbers = itertools.count()  # all processes compile the same programs in the same order


def compiled_together(function: Callable[..., Any]) -> Callable[..., Any]:
    """A jitted function of which no process runs a program before all of them have compiled it.

    Only the first process keeps programs in the compilation cache, so that it may be minutes ahead
    of the others; and on CPUs (Gloo) those that run a program wait half a minute for the rest.

    Args:
      function: of `jax.jit`, called with arrays alone, by all processes in the same order.

    Returns:
      The function itself where there is one process.
    """
    if jax.process_count() == 1:
        return function
    programs: dict[Any, Callable[..., Any]] = {}

    def call(*args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        key = structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
        if key not in programs:
            programs[key] = function.lower(*args).compile()
            _wait_for_others(f"compiled-{next(_numbers)}")
        return programs[key](*args)

    return call


def _wait_for_others(name: str) -> None:
    """Waits at a barrier of the coordination service, which needs no program."""
    import orbax.checkpoint as ocp

    ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * _TIMEOUT)
