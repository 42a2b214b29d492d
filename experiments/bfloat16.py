"""Does training in bfloat16 end where training in float32 does?

    python -m experiments.bfloat16 [--arg=demo] [--steps=300] --workdir=runs/bfloat16

Trains configs/seg.py on scenes twice, from the same seed on the same clips: once computing in
float32 (with full precision in the products, which GPUs otherwise shorten), once in bfloat16.
Prints both losses over the last tenth of the steps and draws both curves to WORKDIR/loss.png. Exits
with 1 if they differ by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics

import jax
import matplotlib

from configs import seg
from v2v_jax.system import compilation_cache
from v2v_jax.training.loop import train_and_evaluate

TOLERANCE = 0.02


def losses(workdir: pathlib.Path, arg: str, dtype: str, steps: int) -> list[float]:
    """Trains and returns the loss of every step."""
    config = seg.get_config(arg)
    config.dtype, config.num_steps = dtype, steps
    config.optimizer.warmup_steps = steps // 10
    config.log_every, config.eval_every = 1, steps
    config.num_pictures = 0
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        train_and_evaluate(config.lock(), workdir / dtype)
    lines = (workdir / dtype / "metrics.jsonl").read_text().splitlines()
    found = {r["step"]: r["train/loss"] for r in map(json.loads, lines) if "train/loss" in r}
    return [found[step] for step in sorted(found)]


def draw(curves: dict[str, list[float]], path: pathlib.Path) -> None:
    """Both curves in one picture."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=0.8)
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def main(argv: list[str] | None = None) -> int:
    """Returns 1 if the two end more than 2 % apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arg", default="", help="what follows configs/seg.py:")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    compilation_cache.enable()
    curves = {
        dtype: losses(args.workdir, args.arg, dtype, args.steps)
        for dtype in ("float32", "bfloat16")
    }
    draw(curves, args.workdir / "loss.png")
    last = max(1, args.steps // 10)
    ends = {name: statistics.mean(values[-last:]) for name, values in curves.items()}
    difference = ends["bfloat16"] / ends["float32"] - 1
    device = jax.devices()[0].device_kind
    print(
        f"{device}, configs/seg.py:{args.arg}, {args.steps} steps, mean loss of the last {last}: "
        f"float32 {ends['float32']:.4f}, bfloat16 {ends['bfloat16']:.4f}, {difference:+.2%}"
    )
    return int(abs(difference) > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
