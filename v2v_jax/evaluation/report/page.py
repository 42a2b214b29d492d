"""The report of an evaluation: one HTML page that needs nothing beside itself.

`Report` holds what the page says, `page` turns it into HTML by the template page.html. Pictures,
videos and drawings are inside the file; nothing is fetched. What a task or a run does not have has
no section; what a run ought to have and has not is said in a sentence.
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
from v2v_jax.evaluation.report.embedded_media import WEBP, poster_uri, video_uri
from v2v_jax.evaluation.report.facts import facts
from v2v_jax.evaluation.report.legend_markup import markup
from v2v_jax.evaluation.report.tables import Row, Table, number
from v2v_jax.run.sessions import Training
from v2v_jax.tasks import Picture
from v2v_jax.tasks.metric_names import in_words

_BASELINE = "baseline_"
_LARGEST_MATRIX = 24  # classes; above, a table of the commonest confusions says more
_MOST_CONFUSIONS = 30  # rows of that table
_CLIP_FPS, _LEAST_HEIGHT, _GAP = 8, 192, 8
_WIDEST_VIDEO = 1600  # px
_LEAST_COLUMN = 115  # px, of a clip: three fit a telephone, more are scrolled there


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
      parameters: how many the network has; None: not known.
      training: on what and how long it was trained; None: not recorded.
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
    parameters: int | None = None
    training: Training | None = None


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
    there = {
        "metrics": "Metrics",
        "classes": "Classes" if classes else "Parts" if parts else "",
        "confusion": "" if matrix is None else "Confusion matrix" if small else "Confusions",
        "curves": "Learning curves",
        "clips": "Clips",
        "configuration": "Configuration",
    }
    return template("page.html").render(
        report=report,
        title=f"{report.task} on {report.dataset}",
        about=f"{report.model}, step {report.step}, test split, {len(report.scores)} clips",
        sections={key: title for key, title in there.items() if title},
        facts=facts(report.training, report.curves, report.parameters),
        metrics=_metrics(report),
        classes=classes,
        parts_of_metrics=parts,
        confusion=_confusion(report) if small else None,
        confusions=_commonest_confusions(report) if matrix is not None and not small else None,
        curves=_curves(report),
        scores=_scores(report),
        clips=[_clip(clip, report) for clip in report.clips],
    )


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


# ------------------------------------------------------------------------------------------------
# Tables


def _metrics(report: Report) -> Table:
    values = report.values
    note = {"max": "↑, more is better", "min": "↓, less is better"}[report.better]
    rows = [
        Row(
            in_words(name),
            (number(value), number(values.get(_BASELINE + name))),
            note=note if name == report.headline else "",
            key=name,
        )
        for name, value in values.items()
        if "/" not in name and not name.startswith(_BASELINE)
    ]
    columns = ("metric", report.model, report.baseline)
    return Table("The whole test split, beside the trivial answer", columns, rows)


def _groups(report: Report) -> tuple[Table | None, Table | None]:
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
) -> Table | None:
    if not cells:
        return None
    metrics = list(dict.fromkeys(metric for row in cells.values() for metric in row))
    rows = [
        Row(part, [number(row.get(metric)) for metric in metrics], color=colors.get(part))
        for part, row in cells.items()
    ]
    return Table(caption, (kind, *map(in_words, metrics)), rows)


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


def _commonest_confusions(report: Report) -> Table:
    wrong = report.confusion * (1 - np.eye(len(report.confusion), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    rows = []
    for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[i, j]:
            part = wrong[i, j] / report.confusion[i].sum()
            cells = (report.label_names[j], f"{wrong[i, j]:,}", f"{100 * part:.1f} %")
            rows.append(Row(report.label_names[i], cells))
    caption = f"The commonest confusions of {len(wrong)} classes"
    return Table(caption, ("true class", "taken for", "number", "share of the true class"), rows)


# ------------------------------------------------------------------------------------------------
# Figures


@dataclasses.dataclass(frozen=True)
class Figure:
    """Drawings and their caption."""

    drawings: Sequence[str]
    caption: str


def _curves(report: Report) -> Figure | None:
    headline = in_words(report.headline)
    drawn = learning_curves(report.curves, report.headline, report.baseline, "curves")
    if not drawn:
        return None
    last = [
        f"{what} {number(values[-1])} at step {steps[-1]:.0f}"
        for what, key in (
            ("loss", "train/loss"),
            (f"{headline} in training", f"train/{report.headline}"),
            (f"{headline} in evaluation", f"eval/{report.headline}"),
        )
        if key in report.curves
        for steps, values in [report.curves[key]]
    ]
    caption = f"Loss and {headline} over the training steps; last: {'; '.join(last)}."
    return Figure(drawn, caption)


def _scores(report: Report) -> Figure | None:
    scores = np.asarray(report.scores, np.float64)
    known = scores[np.isfinite(scores)]
    if not len(known):
        return None
    headline = in_words(report.headline)
    quartiles = np.percentile(known, (25, 50, 75))
    marks = {c.rank: c.values[report.headline] for c in report.clips} | {"median": quartiles[1]}
    if len(known) < 2:
        del marks["median"]
    baseline = report.values.get(_BASELINE + report.headline, math.nan)
    caption = f"{_capitalized(headline)} of each of {len(known)} clips alone; quartiles "
    caption += f"{', '.join(map(number, quartiles))}."
    if math.isfinite(baseline):
        caption += f" Dashed: {report.baseline}, {number(baseline)} over all clips."
    if len(known) < len(scores):
        caption += f" {len(scores) - len(known)} further clips have no known target."
    drawn = distribution(known, marks, baseline, headline, "scores")
    return Figure([drawn], caption)


def _capitalized(text: str) -> str:
    """With a capital at the beginning, and the others as they are."""
    return text[:1].upper() + text[1:]


def _clip(clip: ReportedClip, report: Report) -> Mapping[str, Any]:
    columns = clip.picture.columns
    label = f"{clip.rank.capitalize()} clip, {clip.name}: {', '.join(columns)}"
    frames = side_by_side(list(columns.values()))
    uri = video_uri(frames, _CLIP_FPS)
    return {
        "title": f"{clip.rank.capitalize()}: {clip.name}",
        "numbers": _numbers(clip, report),
        "columns": list(columns),
        "least_width": _LEAST_COLUMN * len(columns),
        "label": label + (", side by side" if len(columns) > 1 else ""),
        "width": frames.shape[2],
        "height": frames.shape[1],
        "video": uri,
        "poster": "" if uri.startswith(WEBP) else poster_uri(frames[0]),  # "": a moving picture
        "legends": [markup(legend) for legend in clip.picture.legends],
    }


def _numbers(clip: ReportedClip, report: Report) -> list[tuple[str, str, str]]:
    """(metric, value, the trivial answer's as text or "") of what is known, the headline first."""
    known = {n: v for n, v in clip.values.items() if "/" not in n and math.isfinite(v)}
    names = [name for name in known if not name.startswith(_BASELINE)]
    trivial = {
        name: f"{report.baseline}: {number(known[_BASELINE + name])}"
        for name in names
        if _BASELINE + name in known
    }
    return [
        (in_words(name), number(known[name]), trivial.get(name, ""))
        for name in sorted(names, key=lambda name: name != report.headline)
    ]


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
