"""How many processors this process may use."""

from __future__ import annotations

import contextlib
import os
import pathlib

_LIMIT = pathlib.Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds, of so many


def count() -> int:
    """At least 1; less than the machine has where it was given a share, as Slurm and Docker do."""
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    else:
        found = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # another system; or no limit, "max 100000"
        quota, period = map(int, _LIMIT.read_text().split())
        found = min(found, -(-quota // period))
    return max(1, found)
