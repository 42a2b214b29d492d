"""Trains and evaluates the full-size network on every task, on rendered and on real video.

    python -m experiments.tasks --workdir=runs/tasks --ucf101=data/ucf101 --davis=data/davis \\
        --held_out=libby,drift-chicane

Prints a Markdown table: the metric beside the trivial baseline's, steps, minutes and clips/s; the
pictures are in WORKDIR/<row>/eval. A row whose data is not given is left out. Runs that were
interrupted go on where they stopped.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from configs import color, depth, flow, seg
from v2v_jax.evaluation.evaluator import evaluate
from v2v_jax.run.experiment import make_experiment
from v2v_jax.training.loop import train_and_evaluate

Row = tuple[str, ConfigDict]


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """(name, configuration) of every run that the arguments ask for."""
    scenes: dict[str, Callable[[str], ConfigDict]] = {
        "segmentation, scenes": seg.get_config,
        "flow, scenes": flow.get_config,
        "depth, scenes": depth.get_config,
    }
    for name, get_config in scenes.items():
        yield name, get_config("")
    if args.ucf101:
        yield "color, UCF101", color_on_ucf101(args.ucf101)
    if args.davis:
        yield "segmentation, DAVIS", foreground_on_davis(args.davis, args.held_out)


def color_on_ucf101(root: str) -> ConfigDict:
    """Colouring with what is at hand of UCF101's split 1, kept in the accelerator's memory."""
    config = color.get_config("dataset=ucf101")
    config.data.root = root
    config.data.allow_missing = True
    config.feed = "device"
    return config


def foreground_on_davis(root: str, held_out: str) -> ConfigDict:
    """Foreground segmentation on DAVIS, tested on the sequences that are held out."""
    config = seg.get_config("dataset=davis")
    config.data.root = root
    config.data.held_out = held_out
    config.feed = "device"
    config.num_steps, config.eval_every = 500, 100
    config.optimizer.warmup_steps = 50
    return config


def run(name: str, config: ConfigDict, workdir: pathlib.Path) -> str:
    """Trains and evaluates one row; returns its line of the table."""
    folder = workdir / name.replace(", ", "-").lower()
    start = time.perf_counter()
    train_and_evaluate(config, folder)
    minutes = (time.perf_counter() - start) / 60
    values = evaluate(config, folder)
    task = make_experiment(config, "test").task
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    speeds = [s for line in lines if (s := line.get("train/clips_per_second"))]
    metric = task.headline
    cells = (
        name,
        metric,
        f"{values[metric]:.4f}",
        f"{values[f'baseline_{metric}']:.4f} ({task.baseline})",
        f"{config.num_steps} × {config.batch_size}",
        f"{minutes:.1f}",
        f"{statistics.median(speeds):.0f}" if speeds else "–",
    )
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> None:
    """Runs every row and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--ucf101", help="folder of UCF101; left out: no such row")
    parser.add_argument("--davis", help="folder of DAVIS; left out: no such row")
    parser.add_argument("--held_out", default="", help="DAVIS sequences to test on, with commas")
    args = parser.parse_args(argv)
    lines = [run(name, config, args.workdir) for name, config in rows(args)]
    print("| run | metric | V2V | trivial baseline | steps × clips | minutes | clips/s |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
