"""How strongly a colouring network should paint: its colour times a factor, by ADE.

    python -m experiments.real_color_scale --data=/dev/shm/real --weights=color.npz [--test]
    python -m experiments.real_color_scale --weights=color.npz --write=scaled.npz --scale=0.4

The first chooses the factor as `experiments.real_runs.scaled` does after training, on the
validation videos of the set `color shipped` of `experiments.real_data`, and prints ADE for every
factor there; with --test also for the chosen one on the test videos. The second writes a factor
into the weights.

The factor 0.4 of the network that ships, and the figures beside it in docs/results/real_video.md,
were chosen and taken otherwise, by this script of commit bcabf24: on at most two windows of each
validation video and four of each test video. All other factors there are those of `scaled`, which
finds 0.2 and 0.4 as good for that network: 0.0784 and 0.0785.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import half_precision, real_data, zoo
from experiments.real_runs import over_windows, scaled, times
from v2v_jax.system import compilation_cache

SET = "color shipped"


def measure(root: pathlib.Path, weights: pathlib.Path, test: bool) -> dict[str, Any]:
    """What `scaled` says of weights of `experiments.half_precision`.

    Args:
      root: what `experiments.real_data` unpacked.
      test: whether the test videos are judged, too, at the chosen factor.
    """
    import jax

    from v2v_jax.evaluation.evaluator import Evaluator
    from v2v_jax.models.standardization import fold

    about, params = half_precision.read(weights)
    data = dict(name="real", root=str(root), set=SET)
    data["validation"] = real_data.validating(root, SET)
    splits = ("validation", "test") if test else ("validation",)
    experiments = [zoo.experiment_of(about, data, split) for split in splits]
    with jax.set_mesh(experiments[0].mesh):
        return scaled([Evaluator(one) for one in experiments], jax.device_put(fold(params)))


def row(name: str, sources: Mapping[str, Mapping[str, float]]) -> str:
    """A line of the table: a factor's ADE, over all windows and by source, beside grey's."""
    cells = [f"{over_windows(sources, 'ade'):.4f} ({over_windows(sources, 'baseline'):.4f})"]
    for source, values in sources.items():
        windows = f"{values['windows']} windows"
        cells.append(f"{source}, {windows}: {values['ade']:.4f} ({values['baseline']:.4f})")
    return f"| {name} | " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> None:
    """Prints a table, or writes scaled weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    doing = parser.add_mutually_exclusive_group(required=True)
    doing.add_argument("--data", type=pathlib.Path, help="choose on these videos")
    doing.add_argument("--write", type=pathlib.Path, help="scaled weights")
    parser.add_argument("--test", action="store_true", help="judge the chosen factor, too")
    parser.add_argument("--scale", type=float, default=1.0, help="of --write")
    args = parser.parse_args(argv)
    if args.write:
        about, params = half_precision.read(args.weights)
        half_precision.write(args.write, about, times(params, args.scale))
        return
    compilation_cache.enable()
    found = measure(args.data, args.weights, args.test)
    print("| factor | all windows (grey) | by source |\n|---|---|---|")
    for scale, sources in found["held out by source"].items():
        print(row(f"{scale:g}", sources))
    print(f"\nThe best on the validation videos is {found['scale']:g}.")
    if args.test:
        print(row(f"{found['scale']:g}, test", found["by source"]))


if __name__ == "__main__":
    main()
