"""The report page: complete, self-contained, well-formed; its numbers and its clips are right."""

import base64
import io
import json
import re

import av
import jax
import numpy as np
import pytest
from PIL import Image

from tests.pages import ALWAYS, check
from tests.tiny import ROOT
from v2v_jax.cli import commands
from v2v_jax.drawing import colors
from v2v_jax.drawing.legends import Words
from v2v_jax.evaluation.evaluator import Evaluator, best_params, evaluate
from v2v_jax.evaluation.report import embedded_media
from v2v_jax.evaluation.report.curves import distribution, learning_curves, read_curves
from v2v_jax.evaluation.report.page import Report, ReportedClip, page, ranks, side_by_side
from v2v_jax.run.experiment import make_experiment
from v2v_jax.run.sessions import Training
from v2v_jax.tasks import Picture
from v2v_jax.tasks.metric_names import in_words

OF_CLASSES = ("Metrics", "Classes", "Confusion matrix", "Learning curves", "Clips", "Configuration")


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
    parsed = check(text, OF_CLASSES if name == "seg" else ALWAYS)
    experiment = make_experiment(run.config, "test")
    task = experiment.task
    assert parsed.texts["h1"] == [f"{task.name} on scenes"]
    assert len(text) < 4_000_000
    values = json.loads((run.workdir / "eval" / "metrics.json").read_text())
    head, *rows = parsed.tables[0]
    assert head == ["metric", run.config.model.name, task.baseline]
    shown = {row[0].split(" (")[0]: row[1:] for row in rows}
    assert shown.keys() == {
        in_words(n)
        for n in values
        if "/" not in n and not n.startswith("baseline_") and n != "step"
    }
    assert shown[in_words(task.headline)] == [
        f"{values[task.headline]:.4f}", f"{values['baseline_' + task.headline]:.4f}",
    ]  # fmt: skip
    # Three windows: each is one of best, median, worst. Loss and metric are drawn.
    videos = [decode(video["src"]) for video in parsed.all("video")]
    assert [len(video) for video in videos] == [8, 8, 8]
    assert [t.split(":")[0] for t in parsed.texts["h3"]] == ["Best", "Median", "Worst"]
    svg_texts = parsed.texts["text"]
    assert {"loss", in_words(task.headline), "step", task.baseline} <= set(svg_texts)
    assert {"best", "median", "worst"} <= set(", ".join(svg_texts).split(", "))
    assert task.units in parsed.texts["p"]
    assert parsed.texts["dt"][:5] == [
        "parameters", "trained on", "training took", "steps", "clips/s in training",
    ]  # fmt: skip
    params = best_params(experiment, run.workdir)[1]
    assert parsed.texts["dd"][0] == f"{sum(x.size for x in jax.tree.leaves(params)):,}"
    assert "cores" in parsed.texts["dd"][1] and parsed.texts["dd"][3] == "60"
    # The configuration is the one of training, not that of eval.py, which has no pictures.
    config = json.loads("".join(parsed.texts["pre"]))
    assert config["task"] == task.name and config["num_pictures"] == run.config.num_pictures


def test_tables_of_classes_and_confusions_agree_with_the_metrics(reports):
    run, text = reports("seg")
    parsed = check(text, OF_CLASSES)
    values = json.loads((run.workdir / "eval" / "metrics.json").read_text())
    names = make_experiment(run.config, "test").task.label_names
    head, *rows = parsed.tables[1]
    assert head == ["class", "accuracy", "IoU", "share of all"]
    number = lambda x: "–" if x is None else f"{x:.4f}"
    metrics = ("accuracy", "iou", "share")
    assert rows == [[n, *(number(values[f"{metric}/{n}"]) for metric in metrics)] for n in names]
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
    sections = OF_CLASSES if name == "seg" else ALWAYS
    assert [t.split(": ")[1] for t in check(text, sections).texts["h3"]] == order


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
    assert len(parsed.tables) == 1
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
    assert parsed.texts["dt"] == ["top1"]
    assert parsed.texts["dd"] == ["0.5000", "the commonest class: 0.1000"]
    assert "Best clip, a clip: input." in parsed.texts["figcaption"]


NAN = float("nan")


def places(svg, labels):
    """label → (x, y) of its text in the drawing."""
    found = re.findall(r'<text[^>]*?x="([-\d.]+)" y="([-\d.]+)"[^>]*>([a-z ]+)</text>', svg)
    return {label: (float(x), float(y)) for x, y, label in found if label in labels}


def test_every_mark_has_its_label_above_its_own_line():
    """Those of equal or near scores stand one above the other, not between."""
    scores = [0.0, 0.02, 0.9, 1.0]
    marks = {"worst": 0.0, "median": 0.02, "best": 1.0}
    found = places(distribution(scores, marks, NAN, "top", "d"), marks)
    assert found.keys() == marks.keys()
    (worst, low), (median, high), (best, _) = (found[name] for name in marks)
    assert median - worst == pytest.approx(0.02 * (best - worst), abs=0.5)
    assert low - high > 10  # y goes down
    apart = places(distribution(scores, marks | {"median": 0.5}, NAN, "top", "d"), marks)
    assert len({y for _, y in apart.values()}) == 1


def test_the_median_is_drawn_where_it_is():
    """Of an even number it lies between the two in the middle, where no clip is."""
    values = [{"top1": v, "baseline_top1": 0.1} for v in (0.9, 0.8, 0.2, 0.1)]
    columns = {"input": np.zeros((5, 16, 20, 3), np.uint8)}
    clips = [
        ReportedClip(rank, rank, values[i], Picture(columns))
        for rank, i in (("best", 0), ("median", 1), ("worst", 3))
    ]
    text = page(make_report(clips=clips, scores=[0.9, 0.8, 0.2, 0.1]))
    found = places(text, ("best", "median", "worst"))
    share = (found["median"][0] - found["worst"][0]) / (found["best"][0] - found["worst"][0])
    assert share == pytest.approx(0.5, abs=0.01)
    assert "quartiles 0.1750, 0.5000, 0.8250" in text


def test_the_baseline_is_a_line_in_both_charts():
    steps = np.array([0.0, 10.0])
    curves = {"eval/top1": (steps, steps), "eval/baseline_top1": (steps, steps * 0 + 4)}
    (svg,) = learning_curves(curves, "top1", "zero", "d")
    assert "zero" in svg and svg.count("stroke-dasharray") >= 1
    dashes = lambda baseline: distribution([0.0, 1.0], {}, baseline, "top", "d").count("dasharray")
    assert dashes(1.5) == 1 and dashes(NAN) == 0
    assert dashes(50.0) == 0  # so far away that the clips would all be in one bar
    assert "Dashed: the commonest class, 0.1000 over all clips." in page(make_report())


def test_legends_are_set_in_the_colours_of_the_page():
    """No picture of black text on white: a dark page would have a white box."""
    legends = (
        colors.label_legend(["sky", "<ground>"]), colors.depth_legend(0.5, 80),
        colors.flow_legend(96, 3.25), Words(("truth: a", "b: 0.25")), np.zeros((5, 9, 3), np.uint8),
    )  # fmt: skip
    columns = {"input": np.zeros((5, 16, 20, 3), np.uint8)}
    clip = ReportedClip("best", "a", {"top1": 0.5}, Picture(columns, legends))
    parsed = check(page(make_report(clips=[clip])))
    assert parsed.texts["li"][-3:] == ["sky", "<ground>", "ignored"]
    ticks = [tick for tick in parsed.texts["span"] if tick.endswith(" m")]
    assert ticks == ["≤ 0.5 m", "1.78 m", "6.32 m", "22.5 m", "≥ 80 m"]
    assert "full colour: 3.25 px/frame (faster: darker)" in parsed.texts["span"]
    assert parsed.texts["strong"][-1] == "truth: a"
    wheels = [i for i in parsed.all("img") if i["alt"].startswith("Wheel")]
    data = base64.b64decode(wheels[0]["src"].partition(",")[2])
    wheel = np.asarray(Image.open(io.BytesIO(data)))
    assert wheel.shape == (96, 96, 4) and wheel[0, 0, 3] == 0 and wheel[48, 48, 3] == 255
    own = [i for i in parsed.all("img") if i.get("class") == "legend"]
    assert len(own) == 1


def test_facts_that_are_not_recorded_are_left_out():
    assert "dt" in check(page(make_report())).texts and "parameters" not in page(make_report())
    training = Training(("2 × H100", "CPU: x, 4 cores"), 1_234_567, 3725.0)
    parsed = check(page(make_report(training=training)))
    assert list(zip(parsed.texts["dt"], parsed.texts["dd"]))[:3] == [
        ("parameters", "1,234,567"), ("trained on", "2 × H100; then CPU: x, 4 cores"),
        ("training took", "1 h 2 min"),
    ]  # fmt: skip


def test_page_where_nothing_is_known():
    """No clip has anything to judge: dashes and a sentence."""
    nothing = {"top1": float("nan"), "baseline_top1": float("nan")}
    parsed = check(page(make_report(values=nothing, scores=[float("nan")] * 3, clips=[])))
    assert parsed.tables[0][1][1:] == ["–", "–"]
    assert "No clip of the test split has a known target." in parsed.texts["p"]


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
    parsed = check(text, OF_CLASSES)
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
    sections = ("Metrics", "Parts", *ALWAYS[1:])
    parsed = check(page(make_report(values=values)), sections)
    assert parsed.tables[1] == [
        ["part", "top1", "count"], ["slow", "0.2500", ""], ["fast", "0.7500", "3.0000"],
    ]  # fmt: skip


def test_of_many_classes_the_commonest_confusions_are_shown():
    names = [f"c{i}" for i in range(101)]
    confusion = np.eye(101, dtype=np.int64) * 10
    confusion[3, 5], confusion[7, 0] = 90, 30
    sections = ("Metrics", "Confusions", *ALWAYS[1:])
    parsed = check(page(make_report(label_names=names, confusion=confusion)), sections)
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
    drawn = learning_curves(curves, "epe", "zero flow", "drawing")
    loss, metric = drawn
    assert loss.startswith("<svg") and "loss" in loss and metric.startswith("<svg")
    assert "EPE" in metric and "EPE" not in loss
    assert drawn == learning_curves(curves, "epe", "zero flow", "drawing")
    assert read_curves(tmp_path / "none") == {} and learning_curves({}, "epe", "zero", "d") == []
