"""Learning curves and the distribution of a metric over clips, as SVG to put into a page.

Text and axes have the page's own colour (`currentColor`) and the background is left out, so that
one drawing is readable on a light and on a dark page.
"""

from __future__ import annotations

import io
import pathlib
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from v2v_jax.system.json_files import parse_object

_INK = "#010203"  # stands for the page's text colour
_TRAIN, _TEST, _MARKS = "#5b8def", "#e2711d", "#8a8f98"  # legible on white and on black
_LABEL_WIDTH = 0.1  # of a mark's label, as a share of the drawing's width
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


def learning_curves(curves: Mapping[str, Curve], headline: str, baseline: str, name: str) -> str:
    """Draws the loss and the headline metric over the steps, in training and in evaluation.

    Evaluation is on the validation split, or on test in runs from before there was one.

    Args:
      curves: as `read_curves` gives them.
      headline: the task's metric; its evaluation's curve is `eval/<headline>`, the trivial answer's
        `eval/baseline_<headline>`.
      baseline: what the trivial answer is called.
      name: of the drawing, a prefix of its ids.

    Returns:
      An <svg> element, or "" where there is nothing to draw.
    """
    shown = {
        "loss": [("train/loss", "training", _TRAIN)],
        headline: [
            (f"train/{headline}", "training", _TRAIN),
            (f"eval/{headline}", "evaluation", _TEST),
            (f"eval/baseline_{headline}", baseline, _MARKS),
        ],
    }
    shown = {title: [c for c in lines if c[0] in curves] for title, lines in shown.items()}
    shown = {title: lines for title, lines in shown.items() if lines}
    if not shown:
        return ""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * len(shown), 3.1), layout="constrained")
        for axes, (title, lines) in zip(figure.subplots(1, len(shown), squeeze=False)[0],
                                        shown.items(), strict=True):  # fmt: skip
            for key, label, color in lines:
                _draw(axes, curves[key], label, color, dashed="baseline_" in key)
            losses = np.concatenate([curves[key][1] for key, _, _ in lines])
            if title == "loss" and 0 < losses.min() < losses.max() / 20:
                axes.set_yscale("log")
            axes.set(xlabel="step", title=title)
            axes.grid(True)
            axes.legend()
        return _svg(figure, name)


def _draw(axes, curve: Curve, label: str, color: str, dashed: bool) -> None:
    steps, values = (x[:: -(-len(x) // _MAX_POINTS)] for x in curve)
    few = len(steps) <= 30
    axes.plot(
        steps, values, color=color, label=label, linewidth=1.4, marker="o" if few else None,
        markersize=3.5, linestyle="--" if dashed else "-",
    )  # fmt: skip


def distribution(scores: Sequence[float], marks: Mapping[str, float], title: str, name: str) -> str:
    """Draws how many clips have which score, with vertical lines at `marks` (label → score).

    `scores` are finite, at least one. Returns an <svg> element; `name` is a prefix of its ids.
    """
    scores = np.asarray(scores, np.float64)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.hist(scores, bins=min(30, max(5, round(len(scores) ** 0.5) * 2)), color=_TRAIN)
        for value in marks.values():
            axes.axvline(value, color=_TEST, linewidth=1.2)
        low, high = axes.get_xlim()
        for label, value in _merged(marks, _LABEL_WIDTH * (high - low)):
            axes.annotate(
                label, (value, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom"
            )
        axes.set(xlabel=title, ylabel="clips")
        axes.yaxis.get_major_locator().set_params(integer=True)
        return _svg(figure, name)


def _merged(marks: Mapping[str, float], distance: float) -> list[tuple[str, float]]:
    """(label, place) of every mark; those nearer than `distance` share a label, "median, worst"."""
    groups: list[list[tuple[str, float]]] = []
    for mark in sorted(marks.items(), key=lambda mark: mark[1]):
        if groups and mark[1] - groups[-1][-1][1] < distance:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    return [
        (", ".join(label for label, _ in group), sum(value for _, value in group) / len(group))
        for group in groups
    ]


def _svg(figure: Figure, name: str) -> str:
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
    svg = f'<svg role="img" aria-labelledby="{name}" style="width:{width}px"{svg[head.end() :]}'
    return "\n".join(line.strip() for line in svg.splitlines() if line.strip())
