"""Weak scaling: clips/s of the real training step on more and more devices, as many clips on each.

    python -m experiments.scaling                         # 1, 2, 4, … and all devices; two minutes
    python -m experiments.scaling --devices=1,2 --clips_per_device=32 --json=scaling.json

The step is `configs/seg.py`'s (with --arg), full size by default: forward, gradient, one
all-reduce, optimiser. Its batch stays on the devices, so that the network between them is measured
and not the reading of data; no TensorFlow is needed. The sizes take turns within a round, so that
another program slows all of them; clips/s are medians over the rounds. Efficiency is clips/s a
device over those of the smallest size. Prints a Markdown table.

On a machine without accelerators, to see that it runs (its efficiency there means nothing):

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m experiments.scaling \\
        --arg=size=small --clips_per_device=1 --crop=32 --steps=2 --rounds=2
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from configs import seg
from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.input.tf_data_feed import TfDataFeed
from v2v_jax.run.experiment import Experiment, make_experiment
from v2v_jax.system import sharding
from v2v_jax.training.step import make_train_step


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table, and returns what --json writes."""
    args = parse(argv)
    sizes = args.devices or default_sizes(jax.device_count())
    print(f"{sizes} devices of {jax.devices()[0].device_kind}, {args.clips_per_device} clips each")
    runs = {size: prepare(args, size) for size in sizes}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(args.rounds):
        for size, run in runs.items():
            seconds[size].append(run(args.steps) / args.steps)
    result = summarize(args, seconds)
    print(markdown(result))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return result


def default_sizes(count: int) -> list[int]:
    """1, 2, 4, … below `count`, and `count`."""
    return [n for n in (2**i for i in range(count.bit_length())) if n < count] + [count]


def make(args: argparse.Namespace, size: int) -> Experiment:
    """The experiment of --arg on the first `size` devices."""
    config = seg.get_config(args.arg)
    config.batch_size = args.clips_per_device * size
    if args.crop:
        config.preprocessing.crop_size = (args.crop, args.crop)
    mesh = sharding.make_mesh(jax.devices()[:size])
    return make_experiment(config.lock(), "train", mesh)


def prepare(args: argparse.Namespace, size: int) -> Callable[[int], float]:
    """Compiles the step; returns a function that runs it n times and says how many seconds."""
    experiment = make(args, size)
    with jax.set_mesh(experiment.mesh):
        step, batch = make_synthetic_step(experiment)
        state = experiment.init_state()
        for _ in range(3):
            state, metrics = step(state, (), batch)
        jax.block_until_ready(state)

    def run(count: int) -> float:
        nonlocal state
        with jax.set_mesh(experiment.mesh):
            start = time.perf_counter()
            for _ in range(count):
                state, _ = step(state, (), batch)
            jax.block_until_ready(state)
            return time.perf_counter() - start

    return run


def make_synthetic_step(experiment: Experiment) -> tuple[Callable[..., Any], dict[str, jax.Array]]:
    """The jitted training step and a random batch for it that lies on the devices already."""
    config, mesh, task = experiment.config, experiment.mesh, experiment.task
    # It reads nothing, and does on the devices what streaming leaves to them: mirroring.
    feed = TfDataFeed(experiment.dataset, task.fields, experiment.preprocessing, mesh)
    b = config.batch_size
    size = (b, experiment.preprocessing.clip_length, *experiment.preprocessing.crop_size)

    def make_batch() -> dict[str, jax.Array]:
        keys = iter(jax.random.split(jax.random.key(0), len(task.fields) + 1))
        batch = {}
        for field in task.fields:
            spec = FIELDS[field]
            limit = len(task.label_names) if field == "labels" else 255
            shape = size + spec.channels
            batch[field] = jax.random.randint(next(keys), shape, 0, limit).astype(spec.dtype)
        batch["mirror"] = jax.random.bernoulli(next(keys), shape=(b,))
        return batch | {"mask": jnp.ones(b, bool)}

    batch = jax.jit(make_batch, out_shardings=sharding.batch_sharded(mesh))()
    return make_train_step(experiment, feed), batch


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured on some devices; efficiency is relative to the smallest number of them."""

    devices: int
    batch_size: int
    milliseconds: float
    clips_per_second: float
    speedup: float
    efficiency: float


def summarize(args: argparse.Namespace, seconds: dict[int, list[float]]) -> dict[str, Any]:
    """JSON-ready: the medians over the rounds, and what was run where."""
    speed = {n: args.clips_per_device * n / statistics.median(s) for n, s in seconds.items()}
    least = min(speed)
    rows = [
        Row(
            devices=n,
            batch_size=args.clips_per_device * n,
            milliseconds=1e3 * statistics.median(seconds[n]),
            clips_per_second=speed[n],
            speedup=speed[n] / speed[least],
            efficiency=speed[n] / speed[least] / (n / least),
        )
        for n in sorted(speed)
    ]
    return {
        "command": "python -m experiments.scaling",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
        **{key: getattr(args, key) for key in ("arg", "clips_per_device", "steps", "rounds")},
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def markdown(result: dict[str, Any]) -> str:
    """The table, under a line that says where and when."""
    lines = [
        f"{result['device']}, JAX {result['jax']}, {result['date']}, "
        f"{result['clips_per_device']} clips a device",
        "",
        "| devices | batch | ms a step | clips/s | speed-up | efficiency |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['devices']} | {row['batch_size']} | {row['milliseconds']:.1f} | "
            f"{row['clips_per_second']:.1f} | {row['speedup']:.2f} | {row['efficiency']:.1%} |"
        )
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; argparse's own errors for what cannot be understood."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser.add_argument("--devices", type=numbers, help="how many, e.g. 1,2,4")
    parser.add_argument("--clips_per_device", type=int, default=32)
    parser.add_argument("--arg", default="", help="configs/seg.py's argument, e.g. size=small")
    parser.add_argument("--crop", type=int, default=0, help="the crop's height and width")
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv)
    if args.devices and max(args.devices) > jax.device_count():
        parser.error(f"--devices={args.devices}: there are {jax.device_count()}")
    return args


if __name__ == "__main__":
    main()
