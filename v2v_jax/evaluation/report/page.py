"""The report of an evaluation: one HTML page that needs nothing beside itself.

`Report` holds what the page says, `page` turns it into HTML by the template page.html. Pictures,
videos and drawings are inside the file; nothing is fetched. Every section is there whatever the
task: what a run does not have is said in a sentence.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jinja2
import numpy as np

from v2v_jax.evaluation.report.curves import Curve, distribution, learning_curves
from v2v_jax.evaluation.report.embedded_media import WEBP, png_uri, poster_uri, video_uri
from v2v_jax.tasks import Picture

_BASELINE = "baseline_"
_LARGEST_MATRIX = 24  # classes; above, a table of the commonest confusions says more
_MOST_CONFUSIONS = 30  # rows of that table
_CLIP_FPS, _LEAST_HEIGHT, _GAP = 8, 192, 8
_WIDEST_VIDEO = 1600  # px


@dataclasses.dataclass(frozen=True)
class ReportedClip:
    """One clip: its rank ("best"), name, metrics on it alone, and what is drawn of it."""

    rank: str
    name: str
    values: Mapping[str, float]
    picture: Picture


@dataclasses.dataclass(frozen=True)
class Report:
    """What a page says.

    Attributes:
      task, dataset, model, step: what was evaluated.
      version, date: by which version of the package, when.
      config: the configuration as text, the run's own where that is known.
      headline, better, baseline, units: of the task, see `Task`.
      values: metric → value over the whole split, as `Task.summarize` gives them: `baseline_…` the
        trivial answer's, `metric/group` those of a class or another part.
      label_names: K class names, index = label; empty where there are none.
      label_colors: (K,3) uint8 RGB, their colours in the clips; None where they have none.
      confusion: (K,K) counts by true (row) and predicted class, or None.
      curves: as `learning_curves.read_curves` gives them.
      scores: the headline metric of every clip; NaN where there was nothing to judge.
      clips: those to show.
    """

    task: str
    dataset: str
    model: str
    step: int
    version: str
    date: str
    config: str
    headline: str
    better: Literal["max", "min"]
    baseline: str
    units: str
    values: Mapping[str, float]
    label_names: Sequence[str]
    label_colors: np.ndarray | None
    confusion: np.ndarray | None
    curves: Mapping[str, Curve]
    scores: Sequence[float]
    clips: Sequence[ReportedClip]


def ranks(scores: Sequence[float], better: Literal["max", "min"]) -> dict[str, int]:
    """Which clips to show: "best", "median", "worst" → index; fewer where there are fewer clips.

    NaN, a clip with nothing to judge, has no rank. Of an even number the better of the two in the
    middle is the median; of equal scores the earlier clip is the better one.
    """
    scores = np.asarray(scores, np.float64)
    known = np.flatnonzero(np.isfinite(scores))
    keys = -scores[known] if better == "max" else scores[known]
    order = known[np.argsort(keys, kind="stable")]
    if len(order) == 0:
        return {}
    if len(order) == 1:
        return {"only": int(order[0])}
    chosen = {"best": order[0], "median": order[(len(order) - 1) // 2], "worst": order[-1]}
    if len(order) == 2:
        del chosen["median"]
    return {name: int(index) for name, index in chosen.items()}


def page(report: Report) -> str:
    """The whole HTML document, a few megabytes at most."""
    classes, parts = _groups(report)
    matrix = report.confusion if report.confusion is not None and report.confusion.sum() else None
    small = matrix is not None and len(matrix) <= _LARGEST_MATRIX
    return _template().render(
        report=report,
        title=f"{report.task} on {report.dataset}",
        about=f"{report.model}, step {report.step}, test split, {len(report.scores)} clips",
        metrics=_metrics(report),
        classes=classes,
        parts=parts,
        confusion=_confusion(report) if small else None,
        confusions=_commonest_confusions(report) if matrix is not None and not small else None,
        curves=_curves(report),
        scores=_scores(report),
        clips=[_clip(clip, report) for clip in report.clips],
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _number(value: float | None) -> str:
    """Four decimals; empty for what does not exist, a dash for what is not known."""
    if value is None:
        return ""
    return f"{value:.4f}" if math.isfinite(value) else "–"


# ------------------------------------------------------------------------------------------------
# Tables


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row of a table: its name, with a note if it is the one to look at, and its cells."""

    name: str
    cells: Sequence[str]
    note: str = ""
    color: tuple[int, ...] | None = None  # RGB of a patch before the name


@dataclasses.dataclass(frozen=True)
class _Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[_Row]


def _metrics(report: Report) -> _Table:
    values = report.values
    note = {"max": "↑, more is better", "min": "↓, less is better"}[report.better]
    rows = [
        _Row(
            name,
            (_number(value), _number(values.get(_BASELINE + name))),
            note=note if name == report.headline else "",
        )
        for name, value in values.items()
        if "/" not in name and not name.startswith(_BASELINE)
    ]
    columns = ("metric", report.model, report.baseline)
    return _Table("The whole test split, beside the trivial answer", columns, rows)


def _groups(report: Report) -> tuple[_Table | None, _Table | None]:
    """Metrics of parts (`metric/part`): a table of the classes, another of all other parts."""
    cells: dict[str, dict[str, float]] = {}
    for name, value in report.values.items():
        metric, slash, part = name.partition("/")
        if slash:
            cells.setdefault(part, {})[metric] = value
    classes = {n: cells.pop(n) for n in report.label_names if n in cells}
    colors: dict[str, tuple[int, ...]] = {}
    if report.label_colors is not None:
        colors = {
            name: tuple(map(int, color))
            for name, color in zip(report.label_names, report.label_colors, strict=True)
        }
    return (
        _parts_table("By class", "class", classes, colors),
        _parts_table("By part", "part", cells, {}),
    )


def _parts_table(
    caption: str,
    kind: str,
    cells: Mapping[str, Mapping[str, float]],
    colors: Mapping[str, tuple[int, ...]],
) -> _Table | None:
    if not cells:
        return None
    metrics = list(dict.fromkeys(metric for row in cells.values() for metric in row))
    rows = [
        _Row(part, [_number(row.get(metric)) for metric in metrics], color=colors.get(part))
        for part, row in cells.items()
    ]
    return _Table(caption, (kind, *metrics), rows)


@dataclasses.dataclass(frozen=True)
class _Share:
    """A cell of the confusion matrix: per cent as text, right or wrong, colour in per cent."""

    text: str
    hit: bool
    strength: int


@dataclasses.dataclass(frozen=True)
class _MatrixRow:
    """A true class; without shares if it does not occur."""

    name: str
    shares: Sequence[_Share]
    total: str


def _confusion(report: Report) -> Mapping[str, Any]:
    counts = report.confusion
    totals = counts.sum(1)
    share = counts / np.maximum(totals, 1)[:, None]
    rows = [
        _MatrixRow(
            name,
            [_share(s, i == j) for j, s in enumerate(share[i])] if totals[i] else (),
            f"{totals[i]:,}",
        )
        for i, name in enumerate(report.label_names)
    ]
    caption = "What each class is taken for, per cent: true class down, predicted class across"
    return {"caption": caption, "rows": rows}


def _share(share: float, hit: bool) -> _Share:
    text = f"{100 * share:.1f}" if share >= 0.0005 else "0"
    return _Share(text, hit, round(100 * float(share) ** 0.7))


def _commonest_confusions(report: Report) -> _Table:
    wrong = report.confusion * (1 - np.eye(len(report.confusion), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    rows = []
    for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[i, j]:
            part = wrong[i, j] / report.confusion[i].sum()
            cells = (report.label_names[j], f"{wrong[i, j]:,}", f"{100 * part:.1f} %")
            rows.append(_Row(report.label_names[i], cells))
    caption = f"The commonest confusions of {len(wrong)} classes"
    return _Table(caption, ("true class", "taken for", "number", "share of the true class"), rows)


# ------------------------------------------------------------------------------------------------
# Figures


@dataclasses.dataclass(frozen=True)
class _Figure:
    """A drawing, the id of its caption, and that."""

    svg: str
    name: str
    caption: str


def _curves(report: Report) -> _Figure | None:
    name = "curves-drawing"
    svg = learning_curves(report.curves, report.headline, report.baseline, name)
    if not svg:
        return None
    last = [
        f"{key} {_number(values[-1])} at step {steps[-1]:.0f}"
        for key in ("train/loss", f"train/{report.headline}", f"eval/{report.headline}")
        if key in report.curves
        for steps, values in [report.curves[key]]
    ]
    caption = f"Loss and {report.headline} over the training steps; last: {'; '.join(last)}."
    return _Figure(svg, name, caption)


def _scores(report: Report) -> _Figure | None:
    scores = np.asarray(report.scores, np.float64)
    known = scores[np.isfinite(scores)]
    if not len(known):
        return None
    headline, name = report.headline, "scores-drawing"
    marks = {clip.rank: clip.values[headline] for clip in report.clips}
    quartiles = [_number(q) for q in np.percentile(known, (25, 50, 75))]
    caption = f"{headline} of each of {len(known)} clips alone; quartiles {', '.join(quartiles)}."
    if len(known) < len(scores):
        caption += f" {len(scores) - len(known)} further clips have nothing to judge."
    return _Figure(distribution(known, marks, headline, name), name, caption)


def _clip(clip: ReportedClip, report: Report) -> Mapping[str, Any]:
    names = [n for n, value in clip.values.items() if "/" not in n and math.isfinite(value)]
    shown = sorted(names, key=lambda n: n != report.headline)  # the headline metric first
    columns = clip.picture.columns
    label = f"{clip.rank} clip, {clip.name}: {', '.join(columns)}"
    frames = side_by_side(list(columns.values()))
    uri = video_uri(frames, _CLIP_FPS)
    return {
        "title": f"{clip.rank.capitalize()}: {clip.name}",
        "numbers": [(_readable(n, report), _number(clip.values[n])) for n in shown],
        "columns": list(columns),
        "label": label + (", side by side" if len(columns) > 1 else ""),
        "width": frames.shape[2],
        "height": frames.shape[1],
        "video": uri,
        "poster": "" if uri.startswith(WEBP) else poster_uri(frames[0]),  # "": a moving picture
        "legends": [png_uri(legend) for legend in clip.picture.legends],
    }


def _readable(name: str, report: Report) -> str:
    if name.startswith(_BASELINE):
        return f"{name.removeprefix(_BASELINE)}, {report.baseline}"
    return name


def side_by_side(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Videos (T,H,W,3) uint8 of one shape as one (T,H',W',3), W' and H' even.

    Enlarged by a whole number to at least 192 rows, so that voxels stay visible, unless the whole
    became too wide for a page; what is far too wide is thinned out.
    """
    _, h, w, _ = videos[0].shape
    width = len(videos) * w
    scale = max(1, min(-(-_LEAST_HEIGHT // h), _WIDEST_VIDEO // width))
    step = -(-width // (2 * _WIDEST_VIDEO))
    cells = [
        video[:, ::step, ::step].repeat(scale, axis=1).repeat(scale, axis=2) for video in videos
    ]
    # Half a gap on both sides: the columns then have the same width as their headings.
    cells = [
        np.pad(cell, ((0, 0), (0, 0), (_GAP // 2, _GAP // 2), (0, 0)), constant_values=128)
        for cell in cells
    ]
    frames = np.concatenate(cells, axis=2)
    _, h, w, _ = frames.shape
    return np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
