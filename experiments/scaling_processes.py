"""Weak scaling with real processes: as many as devices, connected as `v2v train --multihost` is.

    python -m experiments.scaling_processes --processes=2,4,8 --json=processes.json
    python -m experiments.scaling_processes --processes=2,4,8 --compare=scaling.json

Each of the N processes of this machine sees one device (CUDA_VISIBLE_DEVICES) and runs the training
step of `experiments.scaling` over the mesh of all, from the same state on the same random batch:
first the steps whose losses are compared, then --rounds of --steps. Compared are losses and clips/s
with those of one process that has N devices: from the JSON of `experiments.scaling`, which must
have run with the same options, or started here where there is none. Sets of processes that together
need no more than the largest set's devices run at the same time, on devices of their own.

This program itself touches no device. On a machine without accelerators, to see that it runs:

    python -m experiments.scaling_processes --processes=2 --arg=size=small --clips_per_device=1 \\
        --crop=32 --steps=2 --rounds=2
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from experiments.scaling_report import Report, greatest_difference

_GRACE = 10  # seconds in which the others may end by themselves after one has failed


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table, and returns what --json writes."""
    args = parse(argv)
    if args.process_id is not None:
        return be_one(args)
    report = Report(args.json, "experiments.scaling_processes", vars(args))
    for sets in at_the_same_time(args.processes):
        report.attempt(f"{sets} processes", run_sets, sets, 1, args, report)
    if args.compare:
        report.attempt(f"reading {args.compare}", read_one_process, args, report)
    else:
        for sets in at_the_same_time([1, *args.processes]):
            report.attempt(f"one process, {sets} devices", run_sets, sets, None, args, report)
    print(markdown(report.result), flush=True)
    return report.result


def at_the_same_time(numbers: list[int]) -> list[list[int]]:
    """Sets that run one after the other; those of one set together need at most the largest."""
    groups: list[list[int]] = []
    for number in sorted(numbers, reverse=True):
        room = [group for group in groups if sum(group) + number <= max(numbers)]
        if room:
            room[0].append(number)
        else:
            groups.append([number])
    return groups


# ------------------------------------------------------------------------------------------------
# Starting them


def run_sets(
    sizes: list[int], devices_each: int | None, args: argparse.Namespace, report: Report
) -> None:
    """Runs, for each N of `sizes`, N processes of one device, or one of N where that is None."""
    with tempfile.TemporaryDirectory() as folder:
        started: dict[int, list[subprocess.Popen]] = {}
        try:
            first = 0
            for size in sizes:
                output = pathlib.Path(folder) / f"{size}.json"
                started[size] = start(size, devices_each or size, first, output, args)
                first += size
            wait([process for of_size in started.values() for process in of_size], args.timeout)
        finally:
            for process in (process for of_size in started.values() for process in of_size):
                process.kill()
                process.wait()
            for size in sizes:  # also what is there of those beside one that has failed
                output = pathlib.Path(folder) / f"{size}.json"
                if output.exists():
                    report.result["rows"].append(json.loads(output.read_text()))


def start(
    size: int, devices_each: int, first: int, output: pathlib.Path, args: argparse.Namespace
) -> list[subprocess.Popen]:
    """Starts size / devices_each processes on the devices from number `first` on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    count = size // devices_each
    options = [
        f"--{name}={getattr(args, name)}"
        for name in ("arg", "clips_per_device", "crop", "losses", "steps", "rounds")
    ]
    processes = []
    for index in range(count):
        cards = visible_devices(first + index * devices_each, devices_each)
        flags = f"--xla_force_host_platform_device_count={devices_each}"
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "experiments.scaling_processes", *options,
                 f"--coordinator=localhost:{port}", f"--num_processes={count}",
                 f"--process_id={index}", f"--json={output}"],
                env=os.environ | {
                    "CUDA_VISIBLE_DEVICES": cards,
                    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
                },
            )
        )  # fmt: skip
    return processes


def visible_devices(first: int, count: int) -> str:
    """CUDA_VISIBLE_DEVICES of `count` devices, of those that this process may see."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = own.split(",") if own else [str(index) for index in range(first + count)]
    return ",".join(names[first : first + count])


def wait(processes: list[subprocess.Popen], seconds: float) -> None:
    """Waits until all have ended.

    Raises:
      RuntimeError: one has failed, or they took longer than `seconds`.
    """
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes):
        failed = [process for process in processes if process.poll()]
        if failed:
            deadline = min(deadline, time.monotonic() + _GRACE)
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    codes = [process.poll() for process in processes]
    if any(codes) or None in codes:
        raise RuntimeError(
            f"exit codes {codes} after at most {seconds:.0f} s (None: had not ended)"
        )


def read_one_process(args: argparse.Namespace, report: Report) -> None:
    """What --compare says of one process with as many devices.

    Raises:
      ValueError: it was measured with other options, or without these numbers of devices.
    """
    found = json.loads(pathlib.Path(args.compare).read_text())
    for name in ("arg", "crop", "losses"):
        if found["options"][name] != getattr(args, name):
            raise ValueError(f"--{name} is {getattr(args, name)}, there {found['options'][name]}")
    way, clips = found["options"]["reduce"][0], args.clips_per_device
    if found["losses"]["clips_per_device"] != clips:
        raise ValueError(f"its losses are not of {clips} clips a device")
    losses = {s["devices"]: s["losses"] for s in found["losses"]["series"] if s["reduce"] == way}
    rates = {
        row["devices"]: row["milliseconds"]
        for row in found["rows"]
        if (row["clips_per_device"], row["reduce"], row["first"]) == (clips, way, 0)
    }
    for size in sorted({1, *args.processes}):
        if size in losses and size in rates:
            report.result["rows"].append(row(size, 1, clips, rates[size], losses[size]))
    if missing := {*args.processes} - ({*losses} & {*rates}):
        raise ValueError(f"it has nothing for {sorted(missing)} devices")


# ------------------------------------------------------------------------------------------------
# One of them


def be_one(args: argparse.Namespace) -> dict[str, Any]:
    """Joins the others, measures; the first process writes --json."""
    import jax
    import numpy as np

    from experiments import scaling_step
    from v2v_jax.cli import processes
    from v2v_jax.system import compilation_cache

    compilation_cache.enable()
    if args.num_processes > 1:
        processes.join(args)
    experiment = scaling_step.make(args.arg, args.clips_per_device, args.crop)
    with jax.set_mesh(experiment.mesh):
        step = scaling_step.make_step(experiment)
        batch = scaling_step.make_batch(experiment)()
        state = scaling_step.initial_state(experiment)
        state, values = scaling_step.run(step, state, batch, args.losses)
        losses = [float(np.asarray(value)) for value in values]
        seconds = []
        for _ in range(args.rounds):
            begun = time.perf_counter()
            state, _ = scaling_step.run(step, state, batch, args.steps)
            seconds.append((time.perf_counter() - begun) / args.steps)
    milliseconds = 1e3 * statistics.median(seconds)
    result = row(
        jax.device_count(), jax.process_count(), args.clips_per_device, milliseconds, losses
    )
    result |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    if jax.process_index() == 0:
        pathlib.Path(args.json).write_text(json.dumps(result))
    return result


# ------------------------------------------------------------------------------------------------
# What it says


def row(
    devices: int, processes: int, clips: int, milliseconds: float, losses: list[float]
) -> dict[str, Any]:
    """What was measured of some processes."""
    return {
        "devices": devices,
        "processes": processes,
        "clips_per_device": clips,
        "milliseconds": milliseconds,
        "clips_per_second": 1e3 * clips * devices / milliseconds,
        "losses": losses,
    }


def markdown(result: dict[str, Any]) -> str:
    """A table: rates, and the greatest relative difference of losses from one process's."""
    rows = sorted(result["rows"], key=lambda r: (r["devices"], r["processes"]))
    one = {r["devices"]: r for r in rows if r["processes"] == 1}
    about = next((f"{r['device']}, JAX {r['jax']}" for r in rows if "device" in r), "")
    lines = [
        f"{about}, {result['date']}",
        "",
        "| devices | processes | batch | ms a step | clips/s | speed-up | efficiency "
        "| losses differ by at most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        speedup = r["clips_per_second"] / one[1]["clips_per_second"] if 1 in one else None
        same = one.get(r["devices"])
        difference = greatest_difference(r["losses"], same["losses"]) if same else None
        cells = [
            f"{r['devices']}",
            f"{r['processes']}",
            f"{r['devices'] * r['clips_per_device']}",
            f"{r['milliseconds']:.1f}",
            f"{r['clips_per_second']:.1f}",
            "" if speedup is None else f"{speedup:.2f}",
            "" if speedup is None else f"{speedup / r['devices']:.1%}",
            "" if difference is None else f"{difference:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\nFAILED {f['what']}: {f['error']}" for f in result["failures"]]
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; argparse's own errors for what cannot be understood."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser.add_argument("--processes", type=numbers, default=[2], help="how many, e.g. 2,4,8")
    parser.add_argument("--clips_per_device", type=int, default=32)
    parser.add_argument("--arg", default="", help="configs/seg.py's argument, e.g. size=small")
    parser.add_argument("--crop", type=int, default=0, help="the crop's height and width")
    parser.add_argument("--losses", type=int, default=10, help="steps whose losses are compared")
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compare", help="what experiments.scaling --json wrote")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for a set of processes")
    parser.add_argument("--json", help="file to write")
    for name, kind in (("coordinator", str), ("num_processes", int), ("process_id", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)  # of one of them
    parser.set_defaults(multihost=False, heartbeat_timeout=60)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
