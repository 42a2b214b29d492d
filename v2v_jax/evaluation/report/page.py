"""The report of an evaluation: one HTML page that needs nothing beside itself.

`Report` holds what the page says, `page` turns it into HTML. Pictures, videos and drawings are
inside the file; nothing is fetched. Every section is there whatever the task: what a run does not
have is said in a sentence.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from v2v_jax.evaluation.report.curves import Curve, distribution, learning_curves
from v2v_jax.evaluation.report.embedded_media import WEBP, png_uri, poster_uri, video_uri
from v2v_jax.evaluation.report.style import STYLE
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
    title = f"{report.task} on {report.dataset}"
    sections = {
        "metrics": ("Metrics", _metrics(report)),
        "classes": ("Classes", _groups(report)),
        "confusion": ("Confusion matrix", _confusion(report)),
        "curves": ("Learning curves", _curves(report)),
        "clips": ("Clips", _clips(report)),
        "configuration": ("Configuration", f"<pre>{_text(report.config)}</pre>"),
    }
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, (name, _) in sections.items())
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{name}</h2>\n{content}\n</section>\n'
        for key, (name, content) in sections.items()
    )
    about = f"{report.model}, step {report.step}, test split, {len(report.scores)} clips"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{_text(title)} – {_text(about)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
<p>{_text(about)} · v2v_jax {_text(report.version)} · {_text(report.date)}</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}</main>
</body>
</html>
"""


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: float | None) -> str:
    """Four decimals; empty for what does not exist, a dash for what is not known."""
    if value is None:
        return ""
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]], style: str = ""
) -> str:
    """A table; its cells are HTML, the first one of each row its header."""
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    lines = [
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    ]
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table class="{style or "numbers"}"><caption>{caption}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _metrics(report: Report) -> str:
    values = report.values
    names = [n for n in values if "/" not in n and not n.startswith(_BASELINE)]
    arrow = {"max": "↑, more is better", "min": "↓, less is better"}[report.better]
    label = lambda n: f"<strong>{_text(n)}</strong> ({arrow})" if n == report.headline else _text(n)
    rows = [
        (label(n), _number(values[n]), _number(values.get(_BASELINE + n))) for n in names
    ]
    columns = ("metric", _text(report.model), _text(report.baseline))
    table = _table("The whole test split, beside the trivial answer", columns, rows)
    return f"{table}\n<p class=\"note\">{_text(report.units)}</p>"


def _groups(report: Report) -> str:
    """Metrics of parts (`metric/part`): a table of the classes, another of all other parts."""
    cells: dict[str, dict[str, float]] = {}
    for name, value in report.values.items():
        metric, slash, part = name.partition("/")
        if slash:
            cells.setdefault(part, {})[metric] = value
    classes = {n: cells.pop(n) for n in report.label_names if n in cells}
    tables = []
    if classes:
        chips = {} if report.label_colors is None else _chips(report)
        tables.append(_parts_table("By class", "class", classes, chips))
    else:
        tables.append("<p>This task has no metrics by class.</p>")
    if cells:
        tables.append(_parts_table("By part", "part", cells, {}))
    return "\n".join(tables)


def _parts_table(
    caption: str, kind: str, cells: Mapping[str, Mapping[str, float]], chips: Mapping[str, str]
) -> str:
    metrics = list(dict.fromkeys(metric for row in cells.values() for metric in row))
    rows = [
        (chips.get(part, "") + _text(part), *(_number(row.get(metric)) for metric in metrics))
        for part, row in cells.items()
    ]
    return _table(caption, (kind, *map(_text, metrics)), rows)


def _chips(report: Report) -> dict[str, str]:
    """Class → a patch of the colour that it has in the clips."""
    return {
        name: f'<span class="chip" style="background:rgb({r},{g},{b})"></span>'
        for name, (r, g, b) in zip(report.label_names, report.label_colors, strict=True)
    }


def _confusion(report: Report) -> str:
    if report.confusion is None or not report.confusion.sum():
        return "<p>This task has no confusion matrix.</p>"
    if len(report.confusion) > _LARGEST_MATRIX:
        return _commonest_confusions(report)
    totals = report.confusion.sum(1, keepdims=True)
    share = report.confusion / np.maximum(totals, 1)
    names = [_text(name) for name in report.label_names]
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    lines = []
    for i, name in enumerate(names):
        cells = "".join(_share_cell(s, i == j) for j, s in enumerate(share[i]))
        if not totals[i]:
            cells = f'<td class="none" colspan="{len(names)}">does not occur</td>'
        lines.append(f'<tr><th scope="row">{name}</th>{cells}<td>{totals[i, 0]:,}</td></tr>')
    caption = "What each class is taken for, per cent: true class down, predicted class across"
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f'<table class="matrix"><caption>{caption}</caption>\n<thead><tr><th scope="col">true</th>'
        f'{head}<th scope="col">number</th></tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _share_cell(share: float, hit: bool) -> str:
    """Blue for what is right, orange for what is not, the stronger the more."""
    color = "var(--hit)" if hit else "var(--miss)"
    strength = round(100 * float(share) ** 0.7)
    text = f"{100 * share:.1f}" if share >= 0.0005 else "0"
    mixed = f"color-mix(in srgb, {color} {strength}%, transparent)"
    return f'<td style="background:{mixed}">{text}</td>'


def _commonest_confusions(report: Report) -> str:
    wrong = report.confusion * (1 - np.eye(len(report.confusion), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    rows = []
    for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[i, j]:
            names = _text(report.label_names[i]), _text(report.label_names[j])
            part = wrong[i, j] / report.confusion[i].sum()
            rows.append((*names, f"{wrong[i, j]:,}", f"{100 * part:.1f} %"))
    caption = f"The commonest confusions of {len(wrong)} classes"
    columns = ("true class", "taken for", "number", "share of the true class")
    return _table(caption, columns, rows)


def _curves(report: Report) -> str:
    svg = learning_curves(report.curves, report.headline, report.baseline, "curves-drawing")
    if not svg:
        return "<p>The run's metrics.jsonl is missing or empty, so there are no curves.</p>"
    last = [
        f"{_text(name)} {_number(values[-1])} at step {steps[-1]:.0f}"
        for name in ("train/loss", f"train/{report.headline}", f"eval/{report.headline}")
        if name in report.curves
        for steps, values in [report.curves[name]]
    ]
    caption = f"Loss and {_text(report.headline)} over the training steps; last: {'; '.join(last)}."
    return _figure(svg, "curves-drawing", caption)


def _figure(content: str, name: str, caption: str) -> str:
    return f'<figure>{content}\n<figcaption id="{name}">{caption}</figcaption></figure>'


def _clips(report: Report) -> str:
    scores = np.asarray(report.scores, np.float64)
    known = scores[np.isfinite(scores)]
    if not len(known) or not report.clips:
        return "<p>No clip of the test split has anything to judge.</p>"
    headline = report.headline
    marks = {clip.rank: clip.values[headline] for clip in report.clips}
    quartiles = [_number(q) for q in np.percentile(known, (25, 50, 75))]
    caption = (
        f"{_text(headline)} of each of {len(known)} clips alone; quartiles {', '.join(quartiles)}."
    )
    if len(known) < len(scores):
        caption += f" {len(scores) - len(known)} further clips have nothing to judge."
    svg = distribution(known, marks, headline, "scores-drawing")
    parts = [_figure(svg, "scores-drawing", caption)]
    return "\n".join([*parts, *(_clip(clip, report) for clip in report.clips)])


def _clip(clip: ReportedClip, report: Report) -> str:
    names = [n for n, value in clip.values.items() if "/" not in n and math.isfinite(value)]
    shown = sorted(names, key=lambda n: n != report.headline)  # the headline metric first
    numbers = "".join(
        f"<div><dt>{_text(_readable(n, report))}</dt><dd>{_number(clip.values[n])}</dd></div>"
        for n in shown
    )
    columns = clip.picture.columns
    label = f"{clip.rank} clip, {clip.name}: {', '.join(columns)}"
    label += ", side by side" if len(columns) > 1 else ""
    heads = "".join(f"<span>{_text(name)}</span>" for name in columns)
    legends = "".join(
        f'<img class="legend" src="{png_uri(legend)}" alt="Legend of the colours">'
        for legend in clip.picture.legends
    )
    frames = side_by_side(list(columns.values()))
    # As wide as the video, so that its headings stand over its columns and the caption wraps.
    return f"""<article>
<h3>{_text(clip.rank.capitalize())}: {_text(clip.name)}</h3>
<dl>{numbers}</dl>
<figure class="clip" style="width:{frames.shape[2]}px">
<div class="heads" aria-hidden="true" \
style="grid-template-columns:repeat({len(columns)},minmax(0,1fr))">{heads}</div>
{_video(frames, label)}
<figcaption>{_text(label)}.</figcaption>
</figure>
{legends}
</article>"""


def _readable(name: str, report: Report) -> str:
    if name.startswith(_BASELINE):
        return f"{name.removeprefix(_BASELINE)}, {report.baseline}"
    return name


def _video(frames: np.ndarray, label: str) -> str:
    _, h, w, _ = frames.shape
    uri = video_uri(frames, _CLIP_FPS)
    if uri.startswith(WEBP):
        return f'<img src="{uri}" width="{w}" height="{h}" alt="{_text(label)}">'
    return (
        f'<video src="{uri}" poster="{poster_uri(frames[0])}" width="{w}" height="{h}" '
        f'controls autoplay loop muted playsinline aria-label="{_text(label)}">'
        "This browser shows no videos.</video>"
    )


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
