"""Learning curves and the distribution of a metric over clips, as SVG to put into a page.

Text and axes have the page's own colour (`currentColor`) and the background is left out, so that
one drawing is readable on a light and on a dark page.
"""

from __future__ import annotations

import dataclasses
import html
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np

from v2v_jax.system.json_files import parse_object
from v2v_jax.tasks.metric_names import in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # stands for the page's text colour
_TRAIN, _TEST, _MARKS = "#5b8def", "#e2711d", "#8a8f98"  # legible on white and on black
_LABEL_WIDTH = 0.17  # of a mark's label, as a share of the drawing's width
_CHART = (4.1, 3.0)  # inches; 394 pixels wide
_FAR = 2  # times the scores' range, beyond which a baseline is not drawn
_MAX_POINTS = 600  # a curve's; more would not be seen
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _MARKS,
    "grid.alpha": 0.35,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
    ),
}

Curve = tuple[np.ndarray, np.ndarray]  # steps and values, each (N,)


def read_curves(path: str | pathlib.Path) -> dict[str, Curve]:
    """The curves in a run's metrics.jsonl: name such as "train/loss" → steps, values.

    Values that were not finite (null) are left out, and lines that are no JSON, which a killed run
    leaves; a file that does not exist has no curves.
    """
    path = pathlib.Path(path)
    points: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            values = parse_object(line)
            step = values.pop("step")
        except (ValueError, KeyError):
            continue
        for name, value in values.items() if _is_number(step) else ():
            if _is_number(value):
                points.setdefault(name, []).append((step, value))
    return {name: tuple(np.array(pairs, np.float64).T) for name, pairs in points.items()}


def _is_number(value: object) -> bool:
    """Also whether a float can hold it."""
    return type(value) in (int, float) and abs(value) < 1 << 1000


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve of a chart: what it is called, its colour, its steps and values."""

    label: str
    color: str
    curve: Curve


def learning_curves(
    curves: Mapping[str, Curve], headline: str, baseline: str, name: str
) -> list[str]:
    """Draws the loss and the headline metric over the steps, in training and in evaluation.

    Evaluation is on the validation split, or on test in runs from before there was one. The trivial
    answer's metric is a line across the chart.

    Args:
      curves: as `read_curves` gives them.
      headline: the task's metric; its evaluation's curve is `eval/<headline>`, the trivial answer's
        `eval/baseline_<headline>`.
      baseline: what the trivial answer is called.
      name: of the drawings, a prefix of their ids.

    Returns:
      <svg> elements, one a chart; fewer or none where there is nothing to draw.
    """
    loss = [Line("training", _TRAIN, curves[key]) for key in ("train/loss",) if key in curves]
    metric = [
        Line(label, color, curves[key])
        for key, label, color in (
            (f"train/{headline}", "training", _TRAIN),
            (f"eval/{headline}", "evaluation", _TEST),
        )
        if key in curves
    ]
    trivial = curves.get(f"eval/baseline_{headline}")
    level = None if trivial is None else (baseline, float(trivial[1][-1]))
    return [
        *([chart("loss", loss, f"{name}-loss")] if loss else []),
        *([chart(in_words(headline), metric, f"{name}-metric", level)] if metric else []),
    ]


def compared_curves(runs: Mapping[str, Mapping[str, Curve]], headline: str, name: str) -> list[str]:
    """Draws the loss and the headline metric's evaluation of two runs, a chart for each.

    Args:
      runs: run → its curves, as `read_curves` gives them.
      headline: the task's metric.
      name: of the drawings, a prefix of their ids.

    Returns:
      <svg> elements, fewer or none where no run has such curves.
    """
    drawn = []
    for key, title in (("train/loss", "loss"), (f"eval/{headline}", in_words(headline))):
        lines = [
            Line(run, color, curves[key])
            for (run, curves), color in zip(runs.items(), (_TRAIN, _TEST), strict=True)
            if key in curves
        ]
        if lines:
            drawn.append(chart(title, lines, f"{name}-{len(drawn)}"))
    return drawn


def chart(
    title: str, lines: Sequence[Line], name: str, level: tuple[str, float] | None = None
) -> str:
    """Draws curves over the steps, and a dashed line across at a level (its name, its value).

    Narrow enough to be read on a telephone: pages put charts beside each other where there is room.
    Returns an <svg> element; `name` is a prefix of its ids.
    """
    with matplotlib.rc_context(_STYLE):
        figure = _empty_figure()
        axes = figure.subplots()
        for line in lines:
            _draw(axes, line)
        if level is not None:
            axes.axhline(level[1], color=_MARKS, linewidth=1.4, linestyle="--", label=level[0])
        values = np.concatenate([line.curve[1] for line in lines])
        if title == "loss" and 0 < values.min() < values.max() / 20:
            axes.set_yscale("log")
        axes.set(xlabel="step", title=title)
        axes.grid(True)
        # Outside: within, it would lie over the curves.
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
        return _svg(figure, name, title)


def _draw(axes, line: Line) -> None:
    steps, values = (x[:: -(-len(x) // _MAX_POINTS)] for x in line.curve)
    few = len(steps) <= 30
    axes.plot(
        steps, values, color=line.color, label=line.label, linewidth=1.4,
        marker="o" if few else None, markersize=3.5,
    )  # fmt: skip


def distribution(
    scores: Sequence[float], marks: Mapping[str, float], baseline: float, title: str, name: str
) -> str:
    """Draws how many clips have which score, with a vertical line and a label at each mark.

    Every label stands above its own line; those that would touch stand one above the other.

    Args:
      scores: finite, at least one.
      marks: label → score.
      baseline: the trivial answer's score, a dashed line without label; NaN, or one so far away
        that nothing else could be told apart: none.
      title: what the scores are.
      name: of the drawing, a prefix of its ids.

    Returns:
      An <svg> element.
    """
    scores = np.asarray(scores, np.float64)
    width = float(np.ptp(scores)) or 1.0
    with matplotlib.rc_context(_STYLE):
        figure = _empty_figure()
        axes = figure.subplots()
        axes.hist(scores, bins=min(30, max(5, round(len(scores) ** 0.5) * 2)), color=_TRAIN)
        if scores.min() - _FAR * width <= baseline <= scores.max() + _FAR * width:
            axes.axvline(baseline, color=_MARKS, linewidth=1.4, linestyle="--")
        for value in marks.values():
            axes.axvline(value, color=_TEST, linewidth=1.2)
        low, high = axes.get_xlim()
        for label, value, row in _rows(marks, _LABEL_WIDTH * (high - low)):
            axes.annotate(
                label, (value, 1.0), (0, 2 + 13 * row), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="center", va="bottom",
            )  # fmt: skip
        axes.set(xlabel=title, ylabel="clips")
        axes.yaxis.get_major_locator().set_params(integer=True)
        return _svg(figure, name, title)


def _rows(marks: Mapping[str, float], distance: float) -> list[tuple[str, float, int]]:
    """(label, place, row) of every mark: the lowest row whose last label is far enough away."""
    ends: list[float] = []
    placed = []
    for label, value in sorted(marks.items(), key=lambda mark: mark[1]):
        row = next((i for i, end in enumerate(ends) if value - end >= distance), len(ends))
        ends[row : row + 1] = [value]
        placed.append((label, value, row))
    return placed


def _empty_figure() -> Figure:
    # Here, as training's start would wait 0.2 s for what its end draws.
    from matplotlib.figure import Figure

    return Figure(figsize=_CHART, layout="constrained")


def _svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> element without prologue, comments and fixed size."""
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids that do not change from run to run
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # Its style sheet would be for the whole page.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # HTML knows them
    svg = svg.replace(_INK, "currentColor")
    for before in (' id="', "url(#", 'href="#'):
        svg = svg.replace(before, f"{before}{name}-")
    head = re.match(r'<svg width="([\d.]+)pt" height="[\d.]+pt"', svg)
    width = round(float(head[1]) * 4 / 3)
    label = html.escape(title)
    svg = f'<svg role="img" aria-label="{label}" style="width:{width}px"{svg[head.end() :]}'
    return "\n".join(line.strip() for line in svg.splitlines() if line.strip())
