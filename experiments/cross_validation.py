r"""Cross-validation over videos: trains once a fold, and prints mean and spread of what they score.

    python -m experiments.cross_validation --config=seg:dataset=frames \
        --config.data.root=data/camvid --folds=5 --workdir=runs/folds

Every fold of the dataset's training videos is the test split of one run (`data.num_folds`,
`data.fold`); the checkpoint is chosen on a validation split that is held back from the other folds,
as in any run, so that nothing is chosen on what is scored. The dataset's own test split is not
used. Folds that are done are not trained again: the same command goes on.

In WORKDIR: foldKofN, the runs; folds.json and folds.md, the table. The spread is the standard
deviation of the folds, divided by N - 1. Rendered scenes have no folds: they take other seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from v2v_jax.cli import config_options
from v2v_jax.errors import ConfigError, UserError
from v2v_jax.evaluation.evaluator import evaluate
from v2v_jax.system import compilation_cache
from v2v_jax.system.console import console, print_table
from v2v_jax.system.whole_files import write_text
from v2v_jax.training.loop import train_and_evaluate

Metrics = dict[str, float | None]  # name → value; None: there was nothing to measure


def run_fold(config: ConfigDict, fold: int, folds: int, workdir: pathlib.Path) -> Metrics:
    """Trains without a fold and scores it; only reads the scores if that is done."""
    folder = workdir / f"fold{fold}of{folds}"
    scores = folder / "eval" / "metrics.json"
    if not scores.exists():
        config = config.copy_and_resolve_references()
        config.data.num_folds, config.data.fold = folds, fold
        console.print(f"Fold {fold} of {folds}")
        train_and_evaluate(config, folder)
        evaluate(config, folder)
    found = json.loads(scores.read_text())
    return {name: value for name, value in found.items() if name != "step"}


def summarize(results: Sequence[Metrics]) -> dict[str, dict[str, float | int]]:
    """metric → mean, spread, least, largest and in how many folds it is known."""
    summary = {}
    for name in dict.fromkeys(name for result in results for name in result):
        values = [result[name] for result in results if result.get(name) is not None]
        if values:
            summary[name] = {
                "mean": statistics.fmean(values),
                "spread": statistics.stdev(values) if len(values) > 1 else math.nan,
                "least": min(values),
                "largest": max(values),
                "folds": len(values),
            }
    return summary


def rows(summary: dict[str, dict[str, float | int]]) -> list[tuple[str, ...]]:
    """The table's: metric, mean ± spread, least to largest, number of folds."""
    return [
        (
            name,
            f"{of['mean']:.4f} ± {of['spread']:.4f}" if of["folds"] > 1 else f"{of['mean']:.4f}",
            f"{of['least']:.4f} to {of['largest']:.4f}",
            str(of["folds"]),
        )
        for name, of in summary.items()
    ]


def cross_validate(
    config: ConfigDict, folds: int, workdir: pathlib.Path
) -> dict[str, dict[str, float | int]]:
    """Runs all folds, prints the table and writes it; see `summarize`.

    Raises:
      ConfigError: the dataset has no folds, or there are fewer than two.
    """
    if "num_folds" not in config.data:
        raise ConfigError(
            f"The dataset {config.data.name} has no folds; choose a dataset of videos (of rendered "
            "scenes train with other seeds)."
        )
    if folds < 2:
        raise ConfigError(f"--folds is {folds}; it must be at least 2.")
    results = [run_fold(config, fold, folds, workdir) for fold in range(folds)]
    summary, columns = summarize(results), ("metric", "mean ± spread", "range", "folds")
    device = jax.devices()[0].device_kind
    about = {"config": json.loads(config.to_json_best_effort()), "device": device, "folds": results}
    known = {
        name: {key: value if math.isfinite(value) else None for key, value in of.items()}
        for name, of in summary.items()
    }
    write_text(workdir / "folds.json", json.dumps({**about, "summary": known}, indent=2) + "\n")
    lines = [columns, ("---",) * len(columns), *rows(summary)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_text(workdir / "folds.md", text)
    print_table(f"{folds} folds of {config.data.name}", columns, rows(summary))
    return summary


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="a recipe, as v2v train takes it")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    args, overrides = parser.parse_known_args(argv)
    try:
        config = config_options.read(args.config, overrides)
        compilation_cache.enable()
        cross_validate(config, args.folds, args.workdir)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
