"""Weak scaling under settings of NCCL and XLA that hold for a process: one process for each.

    python -m experiments.scaling_settings --json=settings.json             # all, on cards 0 and 1
    python -m experiments.scaling_settings --gpus=0+1,2+3 --seconds=300     # two at the same time
    python -m experiments.scaling_settings --settings=default,ctas_8 --reduce=as_is,bfloat16_sums

Every process is an `experiments.scaling` of its own on one card and on all of its cards, so that
the speed-up is to one card of the same process. --gpus names the cards of a process, joined by "+",
and processes that run side by side, with commas; these share the host's cores and the cards' power,
so that two that are nearly equal want measuring once more one after the other. No setting is begun
after --seconds. --json is written whenever a process has ended, with what was measured until then
where it had to be stopped; its output is in the folder --logs.

On a machine without accelerators, to see that it runs:

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m experiments.scaling_settings \\
        --arg=size=small --clips_per_device=1 --crop=32 --steps=2 --rounds=2 --settings=default
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from experiments.scaling_report import Report

# Environment variables, of which XLA_FLAGS is added to what there is. More settings of XLA are ways
# of `experiments/all_reduce.py`, which take turns in one process.
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    # Thread blocks of NCCL: fewer leave more of a card to what is computed meanwhile.
    "ctas_8": {"NCCL_MAX_CTAS": "8"},
    "ctas_16": {"NCCL_MAX_CTAS": "16"},
    "ctas_4": {"NCCL_MAX_CTAS": "4"},
    "ctas_from_32": {"NCCL_MIN_CTAS": "32"},
    "simple": {"NCCL_PROTO": "Simple"},
    "ll128": {"NCCL_PROTO": "LL128"},
    "tree": {"NCCL_ALGO": "Tree"},
    # Gradients lie where NCCL has registered the memory and needs no copy of its own.
    "registered": {
        "XLA_FLAGS": "--xla_gpu_enable_nccl_user_buffers=true",
        "XLA_PYTHON_CLIENT_COLLECTIVE_MEM_SIZE_MB": "1024",
    },
    "registered_ctas_8": {
        "XLA_FLAGS": "--xla_gpu_enable_nccl_user_buffers=true",
        "XLA_PYTHON_CLIENT_COLLECTIVE_MEM_SIZE_MB": "1024",
        "NCCL_MAX_CTAS": "8",
    },
    "default_again": {},  # how far two equal settings are apart
}
# A program that uses NVLink's multicast can put cards out of service that others share.
_ALWAYS = {"NCCL_NVLS_ENABLE": "0"}
_SHARED = ("arg", "clips_per_device", "crop", "reduce", "losses", "steps", "rounds")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a table, and returns what --json writes."""
    args = parse(argv)
    report = Report(args.json, "experiments.scaling_settings", vars(args))
    report.result["settings"] = {}
    free: queue.SimpleQueue[str] = queue.SimpleQueue()
    for group in args.gpus.split(","):
        free.put(group)
    end = time.monotonic() + args.seconds

    def measure(name: str, logs: pathlib.Path) -> tuple[dict[str, Any] | None, str]:
        group = free.get()
        try:
            return run(name, group, logs, args) if time.monotonic() < end else (None, "")
        finally:
            free.put(group)

    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(free.qsize()) as pool,
    ):
        logs = pathlib.Path(args.logs or folder)
        logs.mkdir(parents=True, exist_ok=True)
        futures = {pool.submit(measure, name, logs): name for name in args.settings}
        for future in concurrent.futures.as_completed(futures):
            report.attempt(futures[future], note, futures[future], *future.result(), report)
    print(markdown(report.result), flush=True)
    return report.result


def run(
    name: str, group: str, logs: pathlib.Path, args: argparse.Namespace
) -> tuple[dict[str, Any] | None, str]:
    """Runs one setting on the cards of `group`.

    Returns:
      What it wrote, if anything, and why it failed: "" where it did not.
    """
    cards, log, found = group.split("+"), logs / f"{name}.log", logs / f"{name}.json"
    found.unlink(missing_ok=True)
    options = [f"--{option}={getattr(args, option)}" for option in _SHARED]
    devices = ",".join(map(str, sorted({1, len(cards)})))
    command = [sys.executable, "-m", "experiments.scaling", f"--devices={devices}", *options]
    own = environment(os.environ, SETTINGS[name]) | {"CUDA_VISIBLE_DEVICES": ",".join(cards)}
    with open(log, "w") as output:
        try:
            code = subprocess.run(
                [*command, f"--json={found}"],
                env=own,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=args.timeout,
                check=False,
            ).returncode
            ended = f"ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"took over {args.timeout:.0f} s"
    if ended:
        ended += "".join(f": {line}" for line in log.read_text(errors="replace").splitlines()[-1:])
    return json.loads(found.read_text()) | {"cards": group} if found.exists() else None, ended


def note(name: str, result: dict[str, Any] | None, failure: str, report: Report) -> None:
    """Puts what `run` returns into the report.

    Raises:
      RuntimeError: it failed.
    """
    if result is not None:
        report.result["settings"][name] = result
        print(f"{name}: {summary(result)}", flush=True)
    if failure:
        raise RuntimeError(failure)


def environment(own: Mapping[str, str], setting: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process: its parent's, the setting's, and what always holds."""
    together = {**own, **setting, **_ALWAYS}
    flags = [source.get("XLA_FLAGS", "") for source in (own, setting)]
    together["XLA_FLAGS"] = " ".join(filter(None, flags))
    return together


def summary(result: Mapping[str, Any]) -> str:
    """The rates of one process on a line."""
    return ", ".join(
        f"{r['devices']} x {r['reduce']} {r['milliseconds']:.2f} ms ({r['speedup']:.3f})"
        for r in result["rows"]
    )


def markdown(result: Mapping[str, Any]) -> str:
    """A table of all settings and ways, under a line that says where and when."""
    settings = result["settings"]
    about = next((s["options"] for s in settings.values()), {"device": "nothing", "jax": "?"})
    lines = [
        f"{about['device']}, JAX {about['jax']}, {result['date']}",
        "",
        "| setting | cards | each alone, ms | devices | all-reduce | ms a step | clips/s "
        "| speed-up |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in settings.items():
        alone = [r["milliseconds"] for r in one["rows"] if r["devices"] == 1]
        for r in (r for r in one["rows"] if r["devices"] > 1):
            cells = [
                name,
                one["cards"],
                ", ".join(f"{ms:.2f}" for ms in alone),
                f"{r['devices']}",
                r["reduce"],
                f"{r['milliseconds']:.2f}",
                f"{r['clips_per_second']:.0f}",
                f"{r['speedup']:.3f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    failures = [f"FAILED {f['what']}: {f['error']}" for f in result["failures"]]
    return "\n".join([*lines, *failures])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; argparse's own errors for what cannot be understood."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = lambda text: text.split(",")
    parser.add_argument(
        "--settings", type=words, default=[*SETTINGS], help="of " + ", ".join(SETTINGS)
    )
    parser.add_argument("--gpus", default="0+1", help="e.g. 0+1,2+3: two processes, two cards each")
    parser.add_argument("--seconds", type=float, default=1e9, help="then no setting is begun")
    parser.add_argument("--timeout", type=float, default=150, help="seconds a process may take")
    parser.add_argument("--logs", help="folder for the processes' output; default: none is kept")
    parser.add_argument("--arg", default="", help="configs/seg.py's argument, e.g. size=small")
    parser.add_argument("--clips_per_device", type=int, default=32)
    parser.add_argument("--crop", type=int, default=0, help="the crop's height and width")
    parser.add_argument("--reduce", default="as_is,bfloat16_sums", help="see experiments.scaling")
    parser.add_argument("--losses", type=int, default=5, help="steps whose losses are compared")
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv)
    if unknown := {*args.settings} - {*SETTINGS}:
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(SETTINGS)}")
    return args


if __name__ == "__main__":
    main()
