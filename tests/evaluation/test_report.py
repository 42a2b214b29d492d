"""The report page: complete, self-contained, well-formed; its numbers and its clips are right."""

import base64
import html.parser
import io
import json
import re

import av
import numpy as np
import pytest
from PIL import Image

from tests.tiny import ROOT
from v2v_jax.cli import commands
from v2v_jax.evaluation.evaluator import Evaluator, best_params, evaluate
from v2v_jax.evaluation.report import embedded_media
from v2v_jax.evaluation.report.curves import distribution, learning_curves, read_curves
from v2v_jax.evaluation.report.page import Report, ReportedClip, page, ranks, side_by_side
from v2v_jax.run.experiment import make_experiment
from v2v_jax.tasks import Picture

SECTIONS = (
    "Metrics", "Classes", "Confusion matrix", "Learning curves", "Clips", "Configuration",
)  # fmt: skip
_VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Parses a page strictly: every element is closed in order; collects what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tables, self.texts = [], [], [], {}
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def check(text) -> Page:
    """What holds of every page: sections, no outside resource, unique ids, names for everything."""
    assert text.startswith("<!DOCTYPE html>")
    assert "http:" not in text and "https:" not in text and "//" not in re.sub(
        r"base64,[A-Za-z0-9+/=]*", "", text
    )  # fmt: skip
    parsed = Page(text)
    assert tuple(t for t in parsed.texts["h2"] if t) == SECTIONS
    for _, attributes in parsed.elements:
        for name in ("src", "href", "poster", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes[name][:80]
        assert attributes.get("style", "").count("url(") == 0
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert all(image.get("alt") for image in parsed.all("img"))
    assert all(video.get("aria-label") for video in parsed.all("video"))
    assert len(parsed.all("caption")) == len(parsed.tables)
    return parsed


def decode(uri, start="data:video/mp4;base64,"):
    assert uri.startswith(start)
    with av.open(io.BytesIO(base64.b64decode(uri[len(start) :], validate=True))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])


# ------------------------------------------------------------------------------------------------
# The page of a real run


@pytest.fixture(scope="module")
def reports(trained):
    """Configuration → (run, text of its report)."""
    texts = {}

    def get(name):
        run = trained(name)
        if name not in texts:
            config = run.config.copy_and_resolve_references()
            with config.unlocked():
                config.num_pictures = 0
            evaluate(config, run.workdir, report=True)
            texts[name] = (run.workdir / "eval" / "report.html").read_text()
        return run, texts[name]

    return get


SLOW = ("flow", "color", "depth")
TASKS = ("seg", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW))


@pytest.mark.parametrize("name", TASKS)
def test_page_of_a_run(reports, name):
    run, text = reports(name)
    parsed = check(text)
    experiment = make_experiment(run.config, "test")
    task = experiment.task
    assert parsed.texts["h1"] == [f"{task.name} on scenes"]
    assert len(text) < 4_000_000
    values = json.loads((run.workdir / "eval" / "metrics.json").read_text())
    head, *rows = parsed.tables[0]
    assert head == ["metric", run.config.model.name, task.baseline]
    shown = {row[0].split(" (")[0]: row[1:] for row in rows}
    assert shown.keys() == {
        n for n in values if "/" not in n and not n.startswith("baseline_") and n != "step"
    }
    assert shown[task.headline] == [
        f"{values[task.headline]:.4f}", f"{values['baseline_' + task.headline]:.4f}",
    ]  # fmt: skip
    # Three windows: each is one of best, median, worst. Loss and metric are drawn.
    videos = [decode(video["src"]) for video in parsed.all("video")]
    assert [len(video) for video in videos] == [8, 8, 8]
    assert [t.split(":")[0] for t in parsed.texts["h3"]] == ["Best", "Median", "Worst"]
    svg_texts = parsed.texts["text"]
    assert {"loss", task.headline, "step"} <= set(svg_texts)
    assert {"best", "median", "worst"} <= set(", ".join(svg_texts).split(", "))
    assert task.units in parsed.texts["p"]
    # The configuration is the one of training, not that of eval.py, which has no pictures.
    config = json.loads("".join(parsed.texts["pre"]))
    assert config["task"] == task.name and config["num_pictures"] == run.config.num_pictures


def test_tables_of_classes_and_confusions_agree_with_the_metrics(reports):
    run, text = reports("seg")
    parsed = check(text)
    values = json.loads((run.workdir / "eval" / "metrics.json").read_text())
    names = make_experiment(run.config, "test").task.label_names
    head, *rows = parsed.tables[1]
    assert head == ["class", "accuracy", "iou", "share"]
    number = lambda x: "–" if x is None else f"{x:.4f}"
    assert rows == [
        [n, *(number(values[f"{metric}/{n}"]) for metric in head[1:])] for n in names
    ]
    head, *rows = parsed.tables[2]
    assert head == ["true", *names, "number"]
    total = sum(int(row[-1].replace(",", "")) for row in rows)
    assert total == 3 * 8 * 32 * 32
    for i, (name, row) in enumerate(zip(names, rows, strict=True)):
        recall = values[f"accuracy/{name}"]
        if recall is None:
            assert row == [name, "does not occur", "0"]
        else:
            assert float(row[1 + i]) == pytest.approx(100 * recall, abs=0.06)
            assert sum(map(float, row[1:-1])) == pytest.approx(100, abs=0.5)


# Accuracy: more is better; end-point error: less is.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["seg", "flow"])
def test_windows_add_up_to_the_whole_and_are_ranked_by_their_own_metric(reports, name):
    """Against NumPy, on the fields and predictions that the evaluator reads back."""
    run, text = reports(name)
    experiment = make_experiment(run.config, "test")
    _, params = best_params(experiment, run.workdir)
    evaluator = Evaluator(experiment)
    sums, windows = evaluator.windows(params)
    assert experiment.task.summarize(sums) == pytest.approx(evaluator(params), nan_ok=True)
    scores = {}
    for window in windows:
        fields, prediction = evaluator.clip(params, window.plan, window.row)
        if name == "seg":
            expected = np.mean(prediction.argmax(-1) == fields["labels"])
        else:
            distance = np.linalg.norm(prediction - fields["flow"].astype(np.float64), axis=-1)
            expected = distance[fields["flow_valid"]].mean()
        headline = experiment.task.headline
        assert window.values[headline] == pytest.approx(expected, rel=1e-4)
        scores[window.name] = expected
    assert len(scores) == 3
    order = sorted(scores, key=scores.get, reverse=name == "seg")
    assert [t.split(": ")[1] for t in check(text).texts["h3"]] == order


def test_option_of_the_program(monkeypatch, capsys, tmp_path):
    """--report asks for the page; the help names it; without the dashes it is an error."""
    seen = []
    monkeypatch.setattr(
        "v2v_jax.evaluation.evaluator.evaluate",
        lambda config, workdir, report: seen.append((workdir, report)),
    )
    run = lambda *arguments: commands.execute(["eval", *arguments])
    arguments = [f"--config={ROOT / 'configs' / 'seg.py'}", f"--workdir={tmp_path}"]
    assert run(*arguments) == run("--report", *arguments) == 0
    assert seen == [(str(tmp_path), False), (str(tmp_path), True)]
    assert run(*arguments, "report") == 2
    assert "'report'" in capsys.readouterr().err
    assert run("--help") == 0
    assert "--report" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------
# Pages of runs that lack something, and of other tasks


def make_report(**changes) -> Report:
    rng = np.random.default_rng(0)
    columns = {n: rng.integers(0, 256, (5, 16, 20, 3), np.uint8) for n in ("input", "<guess> & co")}
    values = {"top1": 0.5, "baseline_top1": 0.1}
    clip = ReportedClip("best", 'a "clip" <1>', values, Picture(columns))
    fields = dict(
        task="classification", dataset="<b>", model="c3d", step=7, version="1", date="today",
        config="{}", headline="top1", better="max", baseline="the commonest class",
        units="Shares < 1.", values=values, label_names=(), label_colors=None, confusion=None,
        curves={}, scores=[0.5], clips=[clip],
    )  # fmt: skip
    return Report(**(fields | changes))


def test_page_of_a_task_with_nothing_but_a_headline():
    parsed = check(page(make_report()))
    assert "This task has no metrics by class." in parsed.texts["p"]
    assert "This task has no confusion matrix." in parsed.texts["p"]
    assert any("metrics.jsonl is missing" in text for text in parsed.texts["p"])
    assert parsed.texts["h1"] == ["classification on <b>"]
    assert parsed.texts["h3"] == ['Best: a "clip" <1>']


def test_headings_are_as_wide_as_the_video_below():
    """The figure has the video's width: a long caption would otherwise stretch the headings."""
    parsed = check(page(make_report()))
    (video,) = parsed.all("video")
    (figure,) = [a for a in parsed.all("figure") if a.get("class") == "clip"]
    assert figure["style"] == f"width:{video['width']}px"
    (heads,) = [a for a in parsed.all("div") if a.get("class") == "heads"]
    assert heads["style"] == "grid-template-columns:repeat(2,minmax(0,1fr))"


def test_of_a_clip_only_what_is_known_is_shown():
    values = {"top1": 0.5, "top5": float("nan"), "baseline_top1": 0.1}
    columns = {"input": np.zeros((5, 16, 20, 3), np.uint8)}
    clip = ReportedClip("best", "a clip", values, Picture(columns))
    parsed = check(page(make_report(clips=[clip])))
    assert parsed.texts["dt"] == ["top1", "top1, the commonest class"]
    assert "best clip, a clip: input." in parsed.texts["figcaption"]


def test_marks_that_are_close_share_a_label():
    texts = lambda marks: re.findall(r"<text[^>]*>([a-z, ]+)</text>", drawn(marks))
    drawn = lambda marks: distribution([0.0, 0.0, 1.0], marks, "top", "d")
    assert {"best", "median, worst"} <= set(texts({"best": 1.0, "median": 0.0, "worst": 0.0}))
    assert {"best", "median", "worst"} <= set(texts({"best": 1.0, "median": 0.5, "worst": 0.0}))


def test_page_where_nothing_is_known():
    """No clip has anything to judge: dashes and a sentence."""
    nothing = {"top1": float("nan"), "baseline_top1": float("nan")}
    parsed = check(page(make_report(values=nothing, scores=[float("nan")] * 3, clips=[])))
    assert parsed.tables[0][1][1:] == ["–", "–"]
    assert "No clip of the test split has anything to judge." in parsed.texts["p"]


def test_whatever_names_hold_is_text():
    """Names and texts of a run, of clips and classes are never taken for HTML."""
    evil = '<script src="&">'
    values = {evil: 1.0, f"top1/{evil}": 0.5, "top1": 0.5}
    clip = ReportedClip("best", evil, {"top1": 0.5}, Picture({evil: np.zeros((2, 8, 8, 3), "u1")}))
    text = page(
        make_report(
            task=evil, dataset=evil, model=evil, version=evil, date=evil, config=evil, units=evil,
            baseline=evil, values=values, label_names=[evil, "b"], clips=[clip],
            label_colors=np.array([[1, 2, 3], [4, 5, 6]], np.uint8),
            confusion=np.array([[3, 1], [0, 0]]), curves={"train/loss": np.ones((2, 3))},
        )
    )  # fmt: skip
    parsed = check(text)
    assert not parsed.all("script") and "<script" not in text
    assert parsed.texts["pre"] == [evil] and evil in parsed.texts["h3"][0]
    assert parsed.tables[1][1] == [evil, "0.5000"]
    assert [a["style"] for a in parsed.all("span") if a.get("class") == "chip"] == [
        "background:rgb(1,2,3)"
    ]
    assert parsed.tables[2] == [
        ["true", evil, "b", "number"], [evil, "75.0", "25.0", "4"], ["b", "does not occur", "0"],
    ]  # fmt: skip
    hit, miss = (a["style"] for a in parsed.all("td") if "style" in a)
    assert "var(--hit) 82%" in hit and "var(--miss) 38%" in miss


def test_metrics_of_parts_that_are_no_classes():
    values = {"top1": 0.5, "top1/slow": 0.25, "top1/fast": 0.75, "count/fast": 3.0}
    parsed = check(page(make_report(values=values)))
    assert parsed.tables[1] == [
        ["part", "top1", "count"], ["slow", "0.2500", ""], ["fast", "0.7500", "3.0000"],
    ]  # fmt: skip


def test_of_many_classes_the_commonest_confusions_are_shown():
    names = [f"c{i}" for i in range(101)]
    confusion = np.eye(101, dtype=np.int64) * 10
    confusion[3, 5], confusion[7, 0] = 90, 30
    parsed = check(page(make_report(label_names=names, confusion=confusion)))
    (table,) = (t for t in parsed.tables if "taken for" in t[0])
    assert table[1:] == [["c3", "c5", "90", "90.0 %"], ["c7", "c0", "30", "75.0 %"]]


@pytest.mark.parametrize(
    "scores, better, expected",
    [
        ([3, 1, 2], "max", dict(best=0, median=2, worst=1)),
        ([3, 1, 2], "min", dict(best=1, median=2, worst=0)),
        ([4, 1, np.nan, 3, 2], "max", dict(best=0, median=3, worst=1)),
        ([1, 1, 1], "max", dict(best=0, median=1, worst=2)),
        ([2, 1], "min", dict(best=1, worst=0)),
        ([np.nan, 5], "min", dict(only=1)),
        ([np.nan, np.inf], "min", {}),
        ([], "max", {}),
    ],
)
def test_ranks(scores, better, expected):
    assert ranks(scores, better) == expected


# ------------------------------------------------------------------------------------------------
# What the page is made of


def test_video_shows_the_frames():
    t, h, w = 6, 33, 47  # odd: padded
    y, x = np.mgrid[:h, :w]
    frames = np.stack([np.stack([x * 5, y * 7, x + y + 20 * i], -1) for i in range(t)])
    frames = frames.clip(0, 255).astype(np.uint8)
    found = decode(embedded_media.video_uri(frames, fps=8))
    assert found.shape == (t, 34, 48, 3)
    assert np.abs(found[:, :h, :w].astype(int) - frames).mean() < 4


def test_video_gets_smaller_until_it_fits():
    noise = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), np.uint8)
    large, small = (len(embedded_media.video_uri(noise, 8, limit)) for limit in (10**7, 30_000))
    assert small < 30_000 * 4 / 3 + 100 < large


def test_without_an_encoder_the_video_is_an_animated_picture(monkeypatch):
    monkeypatch.setattr(av, "codecs_available", set())
    parsed = check(page(make_report()))
    assert not parsed.all("video")
    (uri,) = (i["src"] for i in parsed.all("img") if "webp" in i["src"])
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.n_frames == 5


def test_side_by_side_enlarges_by_a_whole_number_and_bounds_the_width():
    video = np.random.default_rng(0).integers(0, 256, (2, 64, 50, 3), np.uint8)
    wide = side_by_side([video, video])
    assert wide.shape == (2, 192, 2 * (150 + 8), 3)
    np.testing.assert_array_equal(wide[:, 1::3, 5:154:3], video)
    huge = np.zeros((1, 20, 5001, 3), np.uint8)
    assert side_by_side([huge]).shape[2] <= 3210


def test_curves_skip_what_is_not_known(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 1, "train/loss": 2.0}', '{"step": 2, "train/loss": null, "note": "x"}', "[1]",
        '{"step": 3, "train/loss": 0.5, "eval/epe": 1.0}', '{"step": 4, "train/lo',
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    curves = read_curves(path)
    assert curves.keys() == {"train/loss", "eval/epe"}
    np.testing.assert_array_equal(curves["train/loss"], [[1, 3], [2.0, 0.5]])
    svg = learning_curves(curves, "epe", "zero flow", "drawing")
    assert svg.startswith("<svg") and "loss" in svg and "epe" in svg
    assert svg == learning_curves(curves, "epe", "zero flow", "drawing")
    assert read_curves(tmp_path / "none") == {} and learning_curves({}, "epe", "zero", "d") == ""
