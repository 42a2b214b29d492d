"""Which rate, steps and width? Many short trainings side by side, judged on held-out scenes.

    python -m experiments.search --plan=rates --workdir=runs/search --gpus=0,1,2,3 --slots=2

A plan (`search_plans`) is a list of groups; a group is one program (task, network, optimiser,
data), compiled once, and the runs that it does: rate, steps and seed are its input. Groups go to
whichever of the `--slots` processes a GPU is free, so that one compiles while another trains. A run
is a line of WORKDIR/results.jsonl as soon as it ends; groups that were begun are not begun again.
Nothing is chosen on the test split: runs are judged on the validation split.

`python -m experiments.search --table --workdir=runs/search` prints what is there as Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

from experiments.search_plans import PLANS, Group
from experiments.search_worker import Worker, prepare


def table(workdir: pathlib.Path) -> str:
    """What was found, as Markdown, the best run of every group first."""
    lines = (workdir / "results.jsonl").read_text().splitlines()
    results = [r for r in map(json.loads, lines) if "held_out" in r]
    heads = ("group", "rate", "steps", "seed", "metric", "held out", "training", "test", "grid")
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in sorted(results, key=lambda r: (r["group"], r["steps"], r["rate"])):
        grid = r.get("grid")
        shown = f"{grid['rows']:.2f}, {grid['columns']:.2f}" if grid else ""
        numbers = (f"{r[k]:.4f}" for k in ("held_out", "train"))
        test = f"{r['test']:.4f}" if r.get("test") is not None else ""
        cells = (r["group"], f"{r['rate']:g}", r["steps"], r["seed"], r["metric"], *numbers)
        cells += (test, shown)
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Renders, starts the workers and waits for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=tuple(PLANS), default="rates")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, help="default: WORKDIR/data")
    parser.add_argument(
        "--gpus", default="0", help="numbers, with commas; 0+1,2+3: processes of two cards each"
    )
    parser.add_argument("--slots", type=int, default=1, help="processes a GPU")
    parser.add_argument("--seconds", type=float, default=math.inf, help="then training ends")
    parser.add_argument("--until", type=float, default=math.inf, help=argparse.SUPPRESS)
    parser.add_argument(
        "--seconds_a_step",
        type=float,
        default=0.0,
        help="groups whose first run would not end in time are left out; 0: all are begun",
    )
    parser.add_argument(
        "--scenes",
        choices=("render", "only", "wait"),
        default="render",
        help="render what is not there; do nothing else; wait for another process that does",
    )
    parser.add_argument("--only", default="", help="groups by name, with semicolons")
    parser.add_argument("--table", action="store_true", help="nothing but the table")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    plan, workdir = selected(PLANS[args.plan], args.only), args.workdir.absolute()
    data = (args.data or workdir / "data").absolute()
    if args.table:
        print(table(workdir))
        return 0
    if args.worker:
        from v2v_jax.system import compilation_cache

        compilation_cache.enable()
        Worker(workdir, data, args.until).run_groups(plan, args.seconds_a_step)
        return 0
    workdir.mkdir(parents=True, exist_ok=True)
    if args.scenes == "only":
        prepare(plan, data)
        return 0
    options = [f"--plan={args.plan}", f"--workdir={workdir}", f"--data={data}"]
    options += [f"--only={args.only}"]
    options += [f"--until={time.time() + args.seconds}", f"--seconds_a_step={args.seconds_a_step}"]
    workers = [
        spawn("experiments.search", options, workdir, gpu, slot, args.slots)
        for slot in range(args.slots)
        for gpu in args.gpus.split(",")
    ]
    if args.scenes == "render":
        prepare(plan, data)  # the workers wait for what they need
    return max(process.wait() for process in workers)


def selected(plan: Sequence[Group], only: str) -> list[Group]:
    """The groups whose names `only` lists, with semicolons; all where it is empty."""
    return [group for group in plan if not only or group.name in only.split(";")]


def spawn(
    module: str, options: Sequence[str], workdir: pathlib.Path, gpu: str, slot: int, slots: int
) -> subprocess.Popen:
    """Starts one of `slots` workers of a GPU, or of several such as "0+1".

    Its log is WORKDIR/gpuG-S.log.
    """
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpu.replace("+", ",")}
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.92 / slots:.3f}")
    command = [sys.executable, "-m", module, "--worker", *options]
    with open(workdir / f"gpu{gpu}-{slot}.log", "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main())
