"""Two runs beside each other: metrics, learning curves, what differs in their configurations.

    v2v eval --compare runs/a runs/b

Reads what training and evaluation have written, and computes nothing anew.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from v2v_jax.errors import ConfigError, DataError
from v2v_jax.evaluation.report.curves import Curve, compared_curves, read_curves
from v2v_jax.evaluation.report.facts import facts
from v2v_jax.evaluation.report.page import Figure, template
from v2v_jax.evaluation.report.tables import Row, Table, number
from v2v_jax.run.sessions import Training, read_training
from v2v_jax.system.console import console, print_table
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.whole_files import write_text
from v2v_jax.tasks import TASKS
from v2v_jax.tasks.metric_names import in_words


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """What a run's folder says of it.

    Attributes:
      name: for people.
      step: of the checkpoint that was evaluated.
      config: the configuration, dotted key → value as JSON.
      values: metric → value; None: not known.
      curves: as `read_curves` gives them.
      training: None: not recorded.
    """

    name: str
    step: int
    config: Mapping[str, str]
    values: Mapping[str, float | None]
    curves: Mapping[str, Curve]
    training: Training | None


def compare(first: str, second: str) -> pathlib.Path:
    """Prints two runs' metrics and writes SECOND/eval/compared_with_FIRST.html.

    Args:
      first, second: folders of runs that were evaluated, of one task.

    Returns:
      The page.

    Raises:
      DataError: a run was not evaluated, or its files are damaged.
      ConfigError: the runs are of different tasks, or both are the same folder.
    """
    if os.path.realpath(first) == os.path.realpath(second):
        raise ConfigError(f"--compare got the same run twice, {first}; name two runs.")
    names = _names(first, second)
    runs = [read_run(folder, name) for folder, name in zip((first, second), names, strict=True)]
    tasks = [json.loads(run.config["task"]) for run in runs]
    if tasks[0] != tasks[1]:
        raise ConfigError(
            f"{first} is a run of {tasks[0]}, {second} of {tasks[1]}; only runs of one task can be "
            "compared."
        )
    name = f"compared_with_{pathlib.Path(first).resolve().name}.html"
    path = pathlib.Path(second) / "eval" / name
    write_text(path, comparison_page(tasks[0], *runs))
    table = metrics_table(tasks[0], *runs)
    print_table(table.caption, table.columns, [(row.name, *row.cells) for row in table.rows])
    console.print(f"The comparison, with curves and configurations, is in {path}")
    return path


def _names(*folders: str) -> list[str]:
    """The folders' own names, or their whole paths where those are the same."""
    names = [pathlib.Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else list(folders)


def read_run(workdir: str, name: str) -> EvaluatedRun:
    """What a run's folder says.

    Raises:
      DataError: it was not evaluated, or a file of it is damaged.
    """
    folder = pathlib.Path(workdir)
    metrics = folder / "eval" / "metrics.json"
    if not metrics.is_file():
        raise DataError(
            f"{metrics} does not exist; evaluate that run first: v2v eval --config=RECIPE "
            f"--workdir={workdir}"
        )
    values, config = _read(metrics), _read_config(folder / "config.json")
    return EvaluatedRun(
        name=name,
        step=values.pop("step", 0),
        config=dict(_flattened(config)),
        values={n: v for n, v in values.items() if v is None or type(v) in (int, float)},
        curves=read_curves(folder / "metrics.jsonl"),
        training=read_training(folder),
    )


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    config = _read(path)
    if not isinstance(config.get("task"), str):
        raise DataError(f"{path} is damaged: it names no task.")
    return config


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return parse_object(path.read_text(errors="replace"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the run.") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}.") from error


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------
# The page


def comparison_page(task: str, first: EvaluatedRun, second: EvaluatedRun) -> str:
    """The whole HTML document, which needs nothing beside itself."""
    runs = {first.name: first, second.name: second}
    headline = TASKS[task].headline if task in TASKS else ""
    drawn = compared_curves({name: run.curves for name, run in runs.items()}, headline, "compared")
    caption = f"Loss in training and {in_words(headline)} in evaluation, over the steps."
    differences = differences_table(first, second)
    other_data = any(row.name.startswith("data.") for row in differences.rows)
    sections = {"metrics": "Metrics", "runs": "Runs", "curves": "Learning curves"}
    if not drawn:
        del sections["curves"]
    return template("comparison.html").render(
        title=f"{first.name} and {second.name}",
        task=task,
        sections=sections | {"configuration": "Configuration"},
        metrics=metrics_table(task, first, second),
        parts_of_metrics=parts_table(task, first, second),
        units=TASKS[task].units if task in TASKS else "",
        other_data=other_data,
        runs=_facts_table(first, second),
        curves=Figure(drawn, caption),
        differences=differences,
    )


def metrics_table(task: str, first: EvaluatedRun, second: EvaluatedRun) -> Table:
    """A row for each metric that a run has; the better headline is marked."""
    names = [name for name in _all_metrics(first, second) if "/" not in name]
    rows = [_metric_row(name, task, first.values, second.values) for name in names]
    columns = ("metric", first.name, second.name, "difference")
    return Table("The whole test split of each run", columns, rows)


def parts_table(task: str, first: EvaluatedRun, second: EvaluatedRun) -> Table:
    """A row for each metric of a class or another part that is not the same in both runs."""
    names = [
        name
        for name in _all_metrics(first, second)
        if "/" in name and first.values.get(name) != second.values.get(name)
    ]
    names.sort(key=lambda name: name.partition("/")[0])  # one metric after the other
    rows = [_metric_row(name, task, first.values, second.values) for name in names]
    columns = ("metric", first.name, second.name, "difference")
    return Table("By class or part, where they differ", columns, rows)


def _all_metrics(first: EvaluatedRun, second: EvaluatedRun) -> list[str]:
    return list(dict.fromkeys([*first.values, *second.values]))


def _metric_row(
    name: str, task: str, first: Mapping[str, float | None], second: Mapping[str, float | None]
) -> Row:
    pair = [run.get(name) for run in (first, second)]
    known = all(value is not None and math.isfinite(value) for value in pair)
    # Not known (None) is not the same as not there.
    cells = [
        "" if name not in run else number(math.nan if value is None else value)
        for run, value in zip((first, second), pair, strict=True)
    ]
    cells.append(f"{pair[1] - pair[0]:+.4f}" if known else "")
    words = name.removeprefix("baseline_")
    title = in_words(words) + (", trivial answer" if words != name else "")
    best = None
    if known and task in TASKS and name == TASKS[task].headline and pair[0] != pair[1]:
        best = int((pair[1] > pair[0]) == (TASKS[task].better == "max"))
    return Row(title, cells, key=name, best=best)


def _facts_table(first: EvaluatedRun, second: EvaluatedRun) -> Table:
    found = [facts(run.training, run.curves) for run in (first, second)]
    rows = [Row("step that was evaluated", [f"{run.step:,}" for run in (first, second)])]
    for name in dict.fromkeys([*found[0], *found[1]]):
        rows.append(Row(name, [run.get(name, "not recorded") for run in found]))
    return Table("How they were trained", ("", first.name, second.name), rows)


def differences_table(first: EvaluatedRun, second: EvaluatedRun) -> Table:
    """A row for each field of the configurations that differs."""
    keys = dict.fromkeys([*first.config, *second.config])
    rows = [
        Row(key, [run.config.get(key, "–") for run in (first, second)])
        for key in keys
        if first.config.get(key) != second.config.get(key)
    ]
    return Table("Fields that differ", ("field", first.name, second.name), rows)
