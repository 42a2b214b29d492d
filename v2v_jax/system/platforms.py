"""Programs that have a way for each platform, and which of the ways is traced."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_traced_for: contextvars.ContextVar[str | None] = contextvars.ContextVar("traced_for", default=None)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """What is traced inside will run on that platform alone.

    For "cpu" only the CPU's way is traced then: a third of the time that it takes to trace the
    network. Others are told apart when the program is lowered, as always.
    """
    token = _traced_for.set(platform)
    try:
        yield
    finally:
        _traced_for.reset(token)


def by_platform(*args: Any, default: Callable, **on: Callable) -> Any:
    """`lax.platform_dependent`, for programs that may run on any platform or on a known one."""
    if _traced_for.get() == "cpu":
        return on.get("cpu", default)(*args)
    return lax.platform_dependent(*args, default=default, **on)
