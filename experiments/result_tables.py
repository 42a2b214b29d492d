"""The paper's tables of methods beside ours: rows, the paper's numbers, its order, Markdown."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import re
import statistics
from collections.abc import Sequence
from typing import Any

from v2v_jax.system.whole_files import write_text


@dataclasses.dataclass(frozen=True)
class Row:
    """A method of a table: its network, whether it starts from C3D, the paper's number."""

    name: str
    model: str
    pretrained: bool
    paper: float | None

    @property
    def slug(self) -> str:
        """The name of its folder."""
        return re.sub(r"\W+", "-", self.name).strip("-").lower()


@dataclasses.dataclass(frozen=True)
class Table:
    """A comparison of the paper.

    Attributes:
      title: what is compared, with the paper's place.
      config: which file of configs/.
      metric: the task's headline metric, `scale` times which is shown, in `unit`.
      better: "max" or "min".
      order: (worse, better) pairs that the paper found.
    """

    title: str
    config: str
    metric: str
    better: str
    scale: float
    unit: str
    rows: tuple[Row, ...]
    order: tuple[tuple[str, str], ...]

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


TABLES = {
    "segmentation": Table(
        "Segmentation (paper, Table 1)",
        config="seg",
        metric="accuracy",
        better="max",
        scale=100.0,
        unit="voxel accuracy, %",
        rows=(
            Row("2D-V2V", "v2v_2d", False, 55.7),
            Row("V2V-0", "v2v", False, 66.7),
            Row("Conv3b-up", "conv3b_up", True, 69.7),
            Row("Conv4b-up", "conv4b_up", True, 72.7),
            Row("Conv5b-up", "conv5b_up", True, 72.1),
            Row("V2V", "v2v", True, 76.0),
        ),
        order=(
            ("2D-V2V", "V2V-0"),
            ("V2V-0", "V2V"),
            ("Conv3b-up", "V2V"),
            ("Conv4b-up", "V2V"),
            ("Conv5b-up", "V2V"),
        ),
    ),
    "color": Table(
        "Colouring (paper, section 6)",
        config="color",
        metric="ade",
        better="min",
        scale=1.0,
        unit="average distance error",
        rows=(Row("2D-V2V", "v2v_2d", False, 0.1495), Row("V2V", "v2v", False, 0.1375)),
        order=(("2D-V2V", "V2V"),),
    ),
    "flow": Table(
        "Flow from scratch and from C3D (paper, section 5, Observation)",
        config="flow",
        metric="epe",
        better="min",
        scale=1.0,
        unit="end-point error, px",
        rows=(
            Row("V2V from C3D", "v2v", True, None),
            Row("V2V from scratch", "v2v", False, None),
        ),
        order=(("V2V from C3D", "V2V from scratch"),),
    ),
}


def write_tables(workdir: pathlib.Path, settings: Any) -> None:
    """Writes table.json and table.md of the runs that are there."""
    table = TABLES[settings.task]
    results = {row.name: _results(workdir / row.slug) for row in table.rows}
    summary = {
        "settings": dataclasses.asdict(settings),
        "date": datetime.date.today().isoformat(),
        "pretraining": _read(workdir / "c3d.json"),
        "rows": {name: _summary(runs, table) for name, runs in results.items()},
        "order": [check_order(table, *pair, results) for pair in table.order],
    }
    write_text(workdir / "table.json", json.dumps(summary, indent=1) + "\n")
    write_text(workdir / "table.md", markdown(table, summary, results))


def _results(folder: pathlib.Path) -> dict[int, dict[str, Any]]:
    """Seed → result."""
    found = (json.loads(path.read_text()) for path in folder.glob("seed*.json"))
    return {result["seed"]: result for result in sorted(found, key=lambda r: r["seed"])}


def _read(path: pathlib.Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def values(runs: dict[int, dict[str, Any]], metric: str) -> dict[int, float]:
    """Seed → metric of the runs that have it."""
    found = {seed: run["metrics"].get(metric) for seed, run in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _summary(runs: dict[int, dict[str, Any]], table: Table) -> dict[str, Any]:
    of_seeds = values(runs, table.metric)
    return {
        "metric": of_seeds,
        "mean": statistics.fmean(of_seeds.values()) if of_seeds else None,
        "spread": statistics.stdev(of_seeds.values()) if len(of_seeds) > 1 else None,
        "diverged": {s: run["diverged"] for s, run in runs.items() if run["diverged"]},
        "compilations": sorted({run["compilations"] for run in runs.values()}),
    }


def check_order(
    table: Table, worse: str, better: str, results: dict[str, dict[int, dict[str, Any]]]
) -> dict[str, Any]:
    """Whether one row is below another as in the paper, in the mean and seed by seed.

    Returns:
      `worse`, `better`; `paper` and `ours`: by how much `better` is better (None where unknown);
      `seeds`: for every seed that both rows have, the same; `holds`: whether ours is positive.
    """
    sign = 1.0 if table.better == "max" else -1.0
    low, high = (values(results[name], table.metric) for name in (worse, better))
    by_seed = {s: sign * table.scale * (high[s] - low[s]) for s in sorted(low.keys() & high.keys())}
    papers = [table.row(name).paper for name in (worse, better)]
    ours = statistics.fmean(by_seed.values()) if by_seed else None
    return {
        "worse": worse,
        "better": better,
        "paper": None if None in papers else sign * (papers[1] - papers[0]),
        "ours": ours,
        "seeds": by_seed,
        "holds": None if ours is None else ours > 0,
    }


# ------------------------------------------------------------------------------------------------
# Markdown


def markdown(table: Table, summary: dict[str, Any], results: dict[str, Any]) -> str:
    """All that is known so far."""
    parts = [
        f"# {table.title}",
        _conditions(summary, results),
        _main_table(table, summary, results),
        "## The paper's order\n\n" + "\n".join(order_line(o) for o in summary["order"]),
        _curves(table, results),
    ]
    classes = _class_table(table, results)
    return "\n\n".join(part for part in [*parts, classes] if part) + "\n"


def _conditions(summary: dict[str, Any], results: dict[str, Any]) -> str:
    settings = summary["settings"]
    runs = [run for of_row in results.values() for run in of_row.values()]
    devices = sorted({f"{run['device']}, jax {run['jax']}" for run in runs})
    lines = [
        f"Dataset {settings['dataset']}, {settings['steps']} steps a run, "
        f"{'; '.join(devices) or 'no run yet'}, {summary['date']}."
    ]
    if settings["options"]:
        lines.append(f"With {', '.join(settings['options'])}.")
    if settings["init_from"]:
        lines.append(f"Fine-tuned rows start from {pathlib.Path(settings['init_from']).name}.")
    elif pretraining := summary["pretraining"]:
        shown = ", ".join(
            f"{name} {value:.3f}"
            for name, value in pretraining["metrics"].items()
            if "/" not in name and value is not None
        )
        lines.append(
            f"Fine-tuned rows start from a C3D trained for {pretraining['steps']} steps on the "
            f"dataset's video-level labels ({shown})."
        )
    counts = sorted({run["compilations"] for run in runs})
    if counts:
        lines.append(f"Training steps compiled a process: {', '.join(map(str, counts))}.")
    return " ".join(lines)


def _main_table(table: Table, summary: dict[str, Any], results: dict[str, Any]) -> str:
    rows = []
    for row in table.rows:
        ours, runs = summary["rows"][row.name], results[row.name]
        each = [_number(table, run["metrics"].get(table.metric)) for run in runs.values()]
        baseline = next(
            (run["metrics"].get(f"baseline_{table.metric}") for run in runs.values()), None
        )
        rows.append(
            [
                row.name,
                "fine-tuned" if row.pretrained else "from scratch",
                "–" if row.paper is None else f"{row.paper:g}",
                _number(table, ours["mean"]),
                _number(table, ours["spread"]),
                ", ".join(each) or "–",
                _number(table, baseline),
            ]
        )
    head = ("method", "training", "paper", "ours, mean", "standard deviation", "each seed")
    return f"{table.unit}:\n\n" + table_of((*head, "trivial answer"), rows)


def order_line(order: dict[str, Any]) -> str:
    """One sentence for one pair."""
    pair = f"- {order['worse']} below {order['better']}"
    if order["ours"] is None:
        return f"{pair}: not both there yet."
    paper = "" if order["paper"] is None else f" (paper: {order['paper']:+.4g})"
    seeds = list(order["seeds"].values())
    right = sum(value > 0 for value in seeds)
    verdict = "holds" if order["holds"] else "DIFFERS"
    return f"{pair}: {verdict}, {order['ours']:+.4g}{paper}, in {right} of {len(seeds)} seeds."


def _curves(table: Table, results: dict[str, Any]) -> str:
    """The metric on the test split during training: whether the schedule was too short."""
    steps = sorted({s for runs in results.values() for r in runs.values() for s, _ in r["curve"]})
    if not steps:
        return ""
    rows = []
    for name, runs in results.items():
        of_step = {s: [v for r in runs.values() for t, v in r["curve"] if t == s] for s in steps}
        known = {s: [v for v in found if v is not None] for s, found in of_step.items()}
        cells = [_number(table, statistics.fmean(known[s]) if known[s] else None) for s in steps]
        loss = [run["loss"][-1][1] for run in runs.values() if run["loss"] and run["loss"][-1][1]]
        rows.append([name, *cells, f"{statistics.fmean(loss):.4f}" if loss else "–"])
    head = ("method", *(f"step {s}" for s in steps), "last training loss")
    return "## During training (mean over the seeds)\n\n" + table_of(head, rows)


def _class_table(table: Table, results: dict[str, Any]) -> str:
    names = [
        name.partition("/")[2]
        for runs in results.values()
        for run in list(runs.values())[:1]
        for name in run["metrics"]
        if name.startswith("accuracy/")
    ]
    names = list(dict.fromkeys(names))
    if not names:
        return ""
    rows = []
    for method, runs in results.items():
        cells = []
        for name in names:
            known = values(runs, f"accuracy/{name}").values()
            cells.append(f"{100 * statistics.fmean(known):.1f}" if known else "–")
        rows.append([method, *cells])
    return "## Accuracy by class, %, mean over the seeds\n\n" + table_of(("method", *names), rows)


def _number(table: Table, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{table.scale * value:.2f}" if table.scale > 1 else f"{value:.4f}"


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
