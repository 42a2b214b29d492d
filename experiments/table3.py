"""The paper's table 3: end-point error on MPI-Sintel's training set, beside ours.

    python -m experiments.table3 --sintel=data/sintel --network=runs/flow --workdir=runs/table3

Rows: the paper's figures; zero flow; the teacher, Brox's method as it made the paper's labels and
with more warps; the network of --network as it is; and the same fine-tuned by cross-validation over
sequences: with --folds=3, as in the paper, every third sequence is held out in turn, and the three
networks' errors on what they have not seen are pooled. The last checkpoint is taken, so that
nothing is chosen on the held-out sequences.

Everything is measured on whole frames of Sintel's own 1024x436 pixels. The network reads them as
`v2v_jax.load` does: scaled so that the shorter side is that of its training frames, in overlapping
windows, the flow scaled back. --partial takes an incomplete copy of the dataset. Writes
WORKDIR/table3.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

import v2v_jax
from configs import flow
from experiments.flow_methods import (
    TEACHERS,
    Score,
    open_sintel,
    pairs_of,
    sintel_sequences,
    sintel_truth,
)
from v2v_jax.datasets.readers.sintel import Sintel
from v2v_jax.errors import ConfigError
from v2v_jax.system import compilation_cache
from v2v_jax.system.console import console
from v2v_jax.training.loop import train_and_evaluate

PAPER = {
    "paper: Brox": 8.89,
    "paper: V2V": 8.86,
    "paper: V2V, fine-tuned by 3-fold cross-validation": 8.38,
    "paper: FlowFields": 5.81,
}
COLUMNS = {
    "epe_native": "EPE, px",
    "epe_matched": "matched",
    "epe_unmatched": "unmatched",
    "epe_s0-10": "0–10 px",
    "epe_s10-40": "10–40 px",
    "epe_s40+": "40+ px",
    "outliers_1px": "> 1 px",
    "outliers_3px": "> 3 px",
    "outliers_5px": "> 5 px",
    "fl_all": "Fl-all",
}
Method = Callable[[np.ndarray, list[int]], np.ndarray]  # (T,H,W,3), indices → (N,H,W,2)


def measure(dataset: Sintel, method: Method) -> Score:
    """A method's score over all labelled frames."""
    score = Score()
    for _, frames, truth in sintel_truth(dataset):
        flows = method(frames, list(truth))
        for found, (true, valid, occluded) in zip(flows, truth.values(), strict=True):
            score.add(found, true, valid, occluded)
    return score


def network(path: pathlib.Path) -> Method:
    """The flow of a trained network."""
    predictor = v2v_jax.load(path, full_frame=False)
    if predictor.task != "flow":
        raise ConfigError(f"{path} is a network for {predictor.task}; expected one for flow.")
    return lambda frames, indices: predictor(frames)[indices]


def zero(frames: np.ndarray, indices: list[int]) -> np.ndarray:
    """No motion anywhere."""
    return np.zeros((len(indices), *frames.shape[1:3], 2), np.float32)


def fine_tuning(args: argparse.Namespace, held_out: list[str]) -> ConfigDict:
    """The configuration of one fold: the network's own, on the sequences that are not held out."""
    config = flow.get_config("dataset=sintel")
    trained = v2v_jax.load(args.network).network.about["config"]
    for key in ("model", "preprocessing"):
        config[key] = ConfigDict(trained[key])
    config.init_from = str(args.network)
    config.data.update(root=args.sintel, render_pass=args.render_pass, partial=args.partial)
    config.data.held_out = ",".join(held_out)
    config.feed = "device"
    config.num_steps = config.eval_every = args.steps
    config.batch_size = config.eval_batch_size = args.batch_size
    config.log_every = max(1, args.steps // 10)
    config.optimizer.learning_rate = args.learning_rate
    config.optimizer.warmup_steps = args.steps // 10
    return config


def fine_tuned(args: argparse.Namespace, sequences: list[str]) -> Score:
    """Trains a network a fold and pools their scores on the sequences that each has not seen."""
    total = None
    for fold in range(args.folds):
        held_out = sequences[fold :: args.folds]
        folder = args.workdir / f"fold{fold}of{args.folds}"
        train_and_evaluate(fine_tuning(args, held_out), folder)
        unseen = open_sintel(args.sintel, held_out, args.render_pass, args.partial)
        score = measure(unseen, network(folder))
        total = score if total is None else total + score
    return total


def rows(args: argparse.Namespace, sequences: list[str]) -> dict[str, dict[str, float]]:
    """Name → metrics, and seconds."""
    dataset = open_sintel(args.sintel, sequences, args.render_pass, args.partial)
    methods: dict[str, Callable[[], Score]] = {"zero flow": lambda: measure(dataset, zero)}
    for name in TEACHERS:
        methods[name] = lambda name=name: measure(dataset, lambda f, i: pairs_of(f, i, name))
    if args.network:
        methods["V2V"] = lambda: measure(dataset, network(args.network))
    if args.network and args.folds:
        name = f"V2V, fine-tuned by {args.folds}-fold cross-validation"
        methods[name] = lambda: fine_tuned(args, sequences)
    result = {}
    for name, method in methods.items():
        start = time.perf_counter()
        result[name] = method().values() | {"seconds": time.perf_counter() - start}
        console.print(f"{name}: {result[name]['epe_native']:.2f} px")
    return result


def markdown(result: dict[str, dict[str, float]]) -> str:
    """The table, the paper's figures first; shares in %."""
    columns = {k: v for k, v in COLUMNS.items() if any(k in values for values in result.values())}
    lines = ["| | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, epe in PAPER.items():
        lines.append(f"| {name} | {epe:.2f} |" + " |" * (len(columns) - 1))
    for name, values in result.items():
        lines.append(f"| {name} | " + " | ".join(_cell(values, k) for k in columns) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: dict[str, float], key: str) -> str:
    value = values.get(key, math.nan)
    if math.isnan(value):
        return "–"
    return f"{value:.2f}" if key.startswith("epe") else f"{100 * value:.1f} %"


def main(argv: list[str] | None = None) -> None:
    """Measures every row, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sintel", required=True, help="folder that holds training/")
    parser.add_argument("--network", type=pathlib.Path, help="a run of configs/flow.py")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--render_pass", choices=("clean", "final", "both"), default="both")
    parser.add_argument("--partial", action="store_true", help="an incomplete copy of Sintel")
    parser.add_argument("--folds", type=int, default=3, help="0: no fine-tuning")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning, a fold")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    args = parser.parse_args(argv)
    sequences = sintel_sequences(args.sintel, args.render_pass)
    if args.network and (args.folds == 1 or args.folds > len(sequences)):
        parser.error(f"--folds is {args.folds}; expected 0 or 2 to {len(sequences)} (sequences)")
    compilation_cache.enable()
    args.workdir.mkdir(parents=True, exist_ok=True)
    result = rows(args, sequences)
    device = jax.devices()[0].device_kind
    about = {"sequences": sequences, "device": device, "steps": args.steps, "folds": args.folds}
    known = {
        name: {key: None if math.isnan(value) else value for key, value in values.items()}
        for name, values in result.items()
    }
    text = json.dumps({**about, "rows": known}, indent=2)
    (args.workdir / "table3.json").write_text(text + "\n")
    (args.workdir / "table3.md").write_text(markdown(result))
    print(f"{len(sequences)} sequences, {args.render_pass}, {device}\n\n{markdown(result)}")


if __name__ == "__main__":
    main()
