"""Do trainings end alike when gradients are sent in bfloat16? Seeds of both, on validation scenes.

    python -m experiments.search --plan=all_reduce --gpus=0+1,2+3 --workdir=runs/all_reduce
    python -m experiments.all_reduce_trainings --workdir=runs/all_reduce --json=trainings.json

The first trains Table 1's V2V-0, on two cards at a time; each run is a line of results.jsonl as
soon as it ends. The second says how far the means of the two ways are apart, beside how far the
seeds of one way are (standard deviation), and by how many standard errors. It may be asked while
the first is running. A rehearsal on CPUs: XLA_FLAGS=--xla_force_host_platform_device_count=2 and
--plan=tiny --only="all-reduce in float32;all-reduce in bfloat16".
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

METRICS = ("accuracy", "miou")
_NAME = "all-reduce in "


def compare(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of both ways say.

    Args:
      lines: of results.jsonl; other groups and runs that were not measured are passed over.

    Returns:
      metric → `runs` (way → seed → value), `mean` and `spread` of each way (the seeds' standard
      deviation; None for one seed), `difference` (the second way's mean less the first's) and its
      `standard_error`, None where a way has fewer than two seeds.
    """
    found: dict[str, Any] = {}
    for metric in METRICS:
        runs: dict[str, dict[str, float]] = {}
        for line in lines:
            if line["group"].startswith(_NAME) and metric in line.get("held_out_metrics", {}):
                of_way = runs.setdefault(line["group"].removeprefix(_NAME), {})
                of_way[str(line["seed"])] = line["held_out_metrics"][metric]
        values = {way: list(of_way.values()) for way, of_way in sorted(runs.items(), reverse=True)}
        spread = {w: statistics.stdev(v) if len(v) > 1 else None for w, v in values.items()}
        mean = {w: statistics.fmean(v) for w, v in values.items()}
        difference = error = None
        if len(values) == 2:
            first, second = mean
            difference = mean[second] - mean[first]
            if all(s is not None for s in spread.values()):
                error = math.sqrt(sum(s**2 / len(values[w]) for w, s in spread.items()))
        found[metric] = {
            "runs": runs,
            "mean": mean,
            "spread": spread,
            "difference": difference,
            "standard_error": error,
        }
    return found


def markdown(found: dict[str, Any]) -> str:
    """A table a metric, and the difference under it."""
    parts = []
    for metric, of in found.items():
        seeds = sorted({seed for runs in of["runs"].values() for seed in runs}, key=int)
        heads = [metric, *(f"seed {seed}" for seed in seeds), "mean", "spread"]
        lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for way in of["mean"]:
            cells = [_shown(of["runs"][way].get(seed)) for seed in seeds]
            cells += [_shown(of["mean"][way]), _shown(of["spread"][way])]
            lines.append(f"| {way} | {' | '.join(cells)} |")
        if of["difference"] is not None:
            lines += [
                "",
                f"Difference {of['difference']:+.4f}, its error {_shown(of['standard_error'])}.",
            ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the tables; returns what --json writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="of experiments.search")
    parser.add_argument("--json", type=pathlib.Path, help="file to write")
    args = parser.parse_args(argv)
    found = compare(
        [json.loads(line) for line in (args.workdir / "results.jsonl").read_text().splitlines()]
    )
    print(markdown(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    main()
