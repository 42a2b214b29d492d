"""What starting to train costs: compiling the real training step, its memory, the largest batch.

    python -m benchmarks.startup                             # configs/seg.py, batch 32 and 128
    python -m benchmarks.startup --batch 32 --autotune 4 2   # XLA's levels of autotuning compared
    python -m benchmarks.startup --batch 32 --largest        # also the largest batch that fits
    python -m benchmarks.startup --config=configs/seg.py:demo --batch 4       # a CPU

Every case is a process of its own. It begins with an empty cache of compiled programs ("cold");
the next one finds what that left ("cached"). Seconds are those of `compile`, tracing apart. Then
the step is timed with feed=device on random clips. `--largest` divides the accelerator's memory by
what a clip of the first case took, and trains that many clips at once (accumulate=1), or fewer,
until a step runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax

from benchmarks.random_videos import RandomVideos
from benchmarks.tpu_compile.step import load_config
from v2v_jax.input.feeds import make_feed
from v2v_jax.run.experiment import make_experiment
from v2v_jax.training.setup import make_sampler
from v2v_jax.training.step import make_train_step


def measure(
    config_path: str, batch: int, accumulate: int, recompute: int, steps: int
) -> dict[str, Any]:
    """Compiles and times the training step of a configuration in this process.

    Returns:
      Seconds to lower and to compile, bytes of temporaries and arguments, seconds a step.
    """
    config = load_config(config_path)
    config.batch_size, config.accumulate, config.recompute = batch, accumulate, recompute
    experiment = make_experiment(config, "train")
    data = RandomVideos(frame_size=config.preprocessing.frame_size)
    experiment = dataclasses.replace(experiment, dataset=data)
    sampler, mesh = make_sampler(experiment), experiment.mesh
    fields, preprocessing = experiment.task.fields, experiment.preprocessing
    feed = make_feed(config.feed, data, fields, preprocessing, mesh)
    state = experiment.init_state()
    batches = feed.batches(sampler.plan(step) for step in range(steps + 3))
    start = time.perf_counter()
    lowered = make_train_step(experiment, feed).lower(state, feed.store, next(batches))
    lowered_at = time.perf_counter()
    step = lowered.compile()
    compiled_at = time.perf_counter()
    memory = step.memory_analysis()
    figures = {
        "device": mesh.devices.flat[0].device_kind,
        "lower_seconds": lowered_at - start,
        "compile_seconds": compiled_at - lowered_at,
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }
    for number, clips in enumerate(batches):
        state, metrics = step(state, feed.store, clips)
        if number < 2:
            jax.block_until_ready(state)
            start = time.perf_counter()
    figures["loss"] = float(metrics["loss"])
    figures["step_seconds"] = (time.perf_counter() - start) / steps
    stats = mesh.local_devices[0].memory_stats() or {}
    return figures | {k: stats[k] for k in ("bytes_limit", "peak_bytes_in_use") if k in stats}


@dataclasses.dataclass(frozen=True)
class Case:
    """One process: batch, level of autotuning (None: the program's), parts of the batch."""

    batch: int
    autotune: int | None = None
    accumulate: int = 0
    recompute: int = 1

    def run(self, args: argparse.Namespace, cache: str) -> dict[str, Any]:
        """`measure`'s result, or what went wrong as `error`."""
        flags = os.environ.get("XLA_FLAGS", "")
        if self.autotune is not None:
            flags += f" --xla_gpu_autotune_level={self.autotune}"
        command = [sys.executable, "-m", "benchmarks.startup", "--here", "--config", args.config]
        command += ["--batch", str(self.batch), "--steps", str(args.steps)]
        command += ["--accumulate", str(self.accumulate), "--recompute", str(self.recompute)]
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": cache}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=args.timeout
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not finished after {args.timeout:.0f} s"}
        if done.returncode:
            full = "RESOURCE_EXHAUSTED" in done.stderr or "Out of memory" in done.stderr
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"error": "out of memory" if full else last[:200]}
        return json.loads(done.stdout.strip().splitlines()[-1])


def largest(first: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Tries to train ever smaller batches, whole, from the largest that should fit."""
    clip = first["temporary_bytes"] / first["batch"]
    fits = (first["bytes_limit"] - 1.2 * first["argument_bytes"]) / clip
    rows = []
    for share in (0.98, 0.94, 0.88, 0.8):
        batch = int(fits * share) // 8 * 8
        tried = Case(batch, args.largest_autotune, accumulate=1)
        with tempfile.TemporaryDirectory() as cache:
            figures = tried.run(args, cache)
        rows.append({**dataclasses.asdict(tried), "cache": "cold", **figures})
        show(rows[-1])
        if "error" not in figures:
            break
    return rows


HEAD = (
    "| batch | accumulate | recompute | autotuning | cache | compile, s | step, ms | clips/s "
    "| temporaries, MB a clip |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def show(row: dict[str, Any]) -> None:
    """Prints a row of the Markdown table."""
    level = "as it is" if row["autotune"] is None else row["autotune"]
    parts = row["accumulate"] or "automatic"
    begin = f"| {row['batch']} | {parts} | {row['recompute']} | {level} | {row['cache']} "
    if "error" in row:
        print(f"{begin}| {row['error']} | | | |", flush=True)
        return
    ms, clip = 1e3 * row["step_seconds"], row["temporary_bytes"] / row["batch"] / 1e6
    print(
        f"{begin}| {row['compile_seconds']:.1f} | {ms:.2f} | {1e3 * row['batch'] / ms:.0f} "
        f"| {clip:.0f} |",
        flush=True,
    )


def main(argv: list[str] | None = None) -> None:
    """Prints the table; --json writes all figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/seg.py")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--autotune", type=int, nargs="+", default=[None], metavar="LEVEL")
    parser.add_argument("--accumulate", type=int, nargs="+", default=[0], metavar="PARTS")
    parser.add_argument("--recompute", type=int, nargs="+", default=[1], metavar="PARTS")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds a process")
    parser.add_argument("--no_cached", action="store_true", help="leave the cached runs out")
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--largest_autotune", type=int, metavar="LEVEL")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.here:
        parts = args.accumulate[0], args.recompute[0]
        figures = measure(args.config, args.batch[0], *parts, args.steps)
        print(json.dumps(figures))
        return
    print(HEAD, flush=True)
    rows = []
    cases = itertools.product(args.batch, args.autotune, args.accumulate, args.recompute)
    for case in cases:
        rows += pair(Case(*case), args)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=2) + "\n")
    if args.largest and "error" not in rows[0]:
        rows += largest(rows[0], args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


def pair(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A case with an empty cache, and again with what that left there."""
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold",) if args.no_cached else ("cold", "cached"):
            rows.append({**dataclasses.asdict(case), "cache": state, **case.run(args, cache)})
            show(rows[-1])
            if "error" in rows[-1]:
                break
    return rows


if __name__ == "__main__":
    main()
