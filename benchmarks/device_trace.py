"""Device time of a program's kernels, from JAX's profiler."""

from __future__ import annotations

import collections
import glob
import re
import tempfile
from collections.abc import Callable

import jax


def kernels(run: Callable[[], object], steps: int = 5) -> list[dict]:
    """Every GPU kernel of `run`, the longest first, after three runs that are not counted.

    Returns:
      ms and calls a run, the kernel's name and the operation it comes from, where XLA says so.
    """
    for _ in range(3):
        jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                value = run()
            jax.block_until_ready(value)
        (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        data = jax.profiler.ProfileData.from_file(file)
    time_of: collections.Counter = collections.Counter()
    calls: collections.Counter = collections.Counter()
    for plane in data.planes:
        for line in plane.lines:
            if "GPU" in plane.name and "Stream" in line.name:
                for event in line.events:
                    operation = str(dict(event.stats).get("hlo_op", ""))
                    key = (
                        event.name.split("<")[0][:60],
                        re.sub(r"^command_buffer.*", "", operation),
                    )
                    time_of[key] += event.duration_ns
                    calls[key] += 1
    return [
        {"ms": ns / steps / 1e6, "calls": calls[key] / steps, "kernel": key[0], "operation": key[1]}
        for key, ns in time_of.most_common()
    ]


def print_table(records: list[dict], rows: int) -> None:
    """The first rows in Markdown, under the sum of all."""
    print(f"{sum(r['ms'] for r in records):.2f} ms of kernels a run\n")
    print("| ms | calls | kernel | operation |\n|---|---|---|---|")
    for r in records[:rows]:
        print(f"| {r['ms']:.3f} | {r['calls']:.0f} | {r['kernel']} | {r['operation']} |")
