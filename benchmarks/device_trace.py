"""Device time of a program's kernels, from JAX's profiler."""

from __future__ import annotations

import collections
import glob
import re
import tempfile
from collections.abc import Callable
from typing import Any

import jax

# Kinds of kernels by name; what matches none is "other": fused loops, reductions, copies.
KINDS = {
    "all-reduce": r"nccl|all_?reduce|all_?to_?all|all_?gather",
    "own kernels": r"conv_of_blocks|_of_lines|conv_relu_pool|gather_taps",
    "convolutions and products": r"conv(?!ert)|xmma|cudnn|cutlass|gemm|nvjet|[fdw](prop|grad)",
}


def trace(run: Callable[[], object], steps: int) -> jax.profiler.ProfileData:
    """The profile of `steps` runs, after three that are not in it."""
    for _ in range(3):
        jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                value = run()
            jax.block_until_ready(value)
        (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        return jax.profiler.ProfileData.from_file(file)


def kernels(run: Callable[[], object], steps: int = 5) -> list[dict]:
    """Every GPU kernel of `run`, the longest first, after three runs that are not counted.

    Returns:
      ms and calls a run, the kernel's name and the operation it comes from, where XLA says so.
    """
    data = trace(run, steps)
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


def times_by_kind(data: jax.profiler.ProfileData, steps: int) -> dict[str, dict[str, float]]:
    """Of each GPU of a profile of `steps` runs: how long it did what, in ms a run.

    Returns:
      For each plane: `span`, from its first kernel to the end of its last; the time in which
      kernels of each of `KINDS`, or others, ran, which may overlap; `computing`, in which any did
      but all-reduces; `exposed all-reduce`, in which only these did; and `idle`, in which none
      did. The last three are all of `span`.
    """
    return {
        plane.name: _times(_intervals(plane), steps)
        for plane in data.planes
        if "GPU" in plane.name and _intervals(plane)
    }


Interval = tuple[float, float, str]  # start and end in ns, and the kind


def _intervals(plane: Any) -> list[Interval]:
    return [
        (event.start_ns, event.start_ns + event.duration_ns, _kind(event.name))
        for line in plane.lines
        if "Stream" in line.name
        for event in line.events
    ]


def _kind(kernel: str) -> str:
    return next((k for k, names in KINDS.items() if re.search(names, kernel, re.I)), "other")


def _times(intervals: list[Interval], steps: int) -> dict[str, float]:
    of = lambda kinds: _covered([(a, b) for a, b, kind in intervals if kind in kinds])
    kinds = (*KINDS, "other")
    span = max(b for _, b, _ in intervals) - min(a for a, _, _ in intervals)
    busy, without = of(kinds), of([kind for kind in kinds if kind != "all-reduce"])
    times = {"span": span} | {kind: of([kind]) for kind in kinds}
    times |= {"computing": without, "exposed all-reduce": busy - without, "idle": span - busy}
    return {name: ns / steps / 1e6 for name, ns in times.items()}


def _covered(intervals: list[tuple[float, float]]) -> float:
    """The length of the intervals' union."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def print_table(records: list[dict], rows: int) -> None:
    """The first rows in Markdown, under the sum of all."""
    print(f"{sum(r['ms'] for r in records):.2f} ms of kernels a run\n")
    print("| ms | calls | kernel | operation |\n|---|---|---|---|")
    for r in records[:rows]:
        print(f"| {r['ms']:.3f} | {r['calls']:.0f} | {r['kernel']} | {r['operation']} |")
