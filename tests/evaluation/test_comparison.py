"""Two runs beside each other: the table, the page, and what is no pair of runs."""

import json

import pytest

from tests.pages import check
from v2v_jax.cli import commands
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.evaluation.comparison import compare

CONFIG = {
    "task": "flow",
    "batch_size": 4,
    "data": {"name": "scenes", "root": ""},
    "optimizer": {"learning_rate": 0.1},
}
VALUES = {"step": 20, "epe": 0.5, "baseline_epe": 1.0, "epe_s0-10": 0.25, "epe_s40+": None}


def make_run(folder, config=CONFIG, values=VALUES, curves=True):
    (folder / "eval").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "eval" / "metrics.json").write_text(json.dumps(values))
    if curves:
        lines = [{"step": s, "train/loss": 1 / s, "eval/epe": 2 / s} for s in (10, 20)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        begin = {"first_step": 0, "hardware": "2 × H100", "parameters": 1234}
        lines = [begin, {"step": 20, "seconds": 90.0}]
        (folder / "sessions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_a_page_of_two_runs(tmp_path, capsys):
    first = make_run(tmp_path / "first")
    config = CONFIG | {"batch_size": 8, "optimizer": {"learning_rate": 0.2}, "new": [1, 2]}
    values = VALUES | {"epe": 0.75, "epe/part": 0.25}
    second = make_run(tmp_path / "<second>", config, values)
    path = compare(first, second)
    assert path == tmp_path / "<second>" / "eval" / "compared_with_first.html"
    sections = ("Metrics", "Runs", "Learning curves", "Configuration")
    parsed = check(path.read_text(), sections)
    assert parsed.texts["h1"] == ["first and <second>"]
    metrics, parts, runs, differences = parsed.tables
    assert metrics == [
        ["metric", "first", "<second>", "difference"],
        ["EPE", "0.5000", "0.7500", "+0.2500"],
        ["EPE, trivial answer", "1.0000", "1.0000", "+0.0000"],
        ["EPE at 0 to 10 px", "0.2500", "0.2500", "+0.0000"],
        ["EPE at 40 px and more", "–", "–", ""],
    ]
    assert parts[1:] == [["EPE, part", "", "0.2500", ""]]
    # Of end-point errors the smaller is the better one.
    (best,) = (a for a in parsed.all("td") if a.get("class") == "best")
    assert '<td class="best">0.5000</td>' in path.read_text()
    assert ["trained on", "2 × H100", "2 × H100"] in runs
    assert ["training took", "1 min 30 s", "1 min 30 s"] in runs
    assert differences == [
        ["field", "first", "<second>"],
        ["batch_size", "4", "8"],
        ["optimizer.learning_rate", "0.1", "0.2"],
        ["new", "–", "[1, 2]"],
    ]
    assert parsed.texts["text"].count("first") == 2  # a curve in both charts
    assert "differ in their data" not in path.read_text()
    printed = capsys.readouterr().out
    assert "0.7500" in printed and "compared_with_first.html" in printed


def test_runs_alike_without_curves_and_on_other_data(tmp_path):
    first = make_run(tmp_path / "first", curves=False)
    second = make_run(tmp_path / "second", curves=False)
    text = compare(first, second).read_text()
    parsed = check(text, ("Metrics", "Runs", "Configuration"))
    assert "Both runs have the same configuration." in parsed.texts["p"]
    assert not any(a.get("class") == "best" for a in parsed.all("td"))  # equal
    other = make_run(tmp_path / "other", CONFIG | {"data": {"name": "ucf101", "root": "x"}})
    assert "The runs differ in their data" in compare(first, other).read_text()


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")
    sections = ("Metrics", "Runs", "Learning curves", "Configuration")
    parsed = check(compare(first, second).read_text(), sections)
    assert parsed.tables[0][0][1:3] == [first, second]


def test_what_cannot_be_compared(tmp_path):
    first = make_run(tmp_path / "first")
    with pytest.raises(ConfigError, match="the same run twice"):
        compare(first, str(tmp_path / "x" / ".." / "first"))
    with pytest.raises(DataError, match="none.*does not exist; evaluate that run first: v2v eval"):
        compare(first, str(tmp_path / "none"))
    depth = make_run(tmp_path / "depth", CONFIG | {"task": "depth"})
    with pytest.raises(ConfigError, match="is a run of flow, .* of depth; only runs of one task"):
        compare(first, depth)
    (tmp_path / "depth" / "config.json").write_text("[")
    with pytest.raises(DataError, match="config.json is damaged: it is not JSON"):
        compare(first, depth)
    assert not list(tmp_path.rglob("*.html"))


def test_the_command(tmp_path, capsys):
    runs = make_run(tmp_path / "first"), make_run(tmp_path / "second")
    assert commands.execute(["eval", "--compare", *runs]) == 0
    assert (tmp_path / "second" / "eval" / "compared_with_first.html").exists()
    capsys.readouterr()
    for more, message in (
        (["--config=seg"], "two runs alone, without --config"),
        (["--report"], "two runs alone, without --config"),
        (["--config.batch_size=3"], "Unknown option"),
    ):
        assert commands.execute(["eval", "--compare", *runs, *more]) == 2
        assert message in capsys.readouterr().err
    assert commands.execute(["eval", "--compare", runs[0]]) == 2
    assert "expected 2 arguments" in capsys.readouterr().err
