"""JSON of another type, nested deeply, no text, or a folder, wherever the package reads JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import v2v_jax
from tests.tiny import SMALLEST, tiny_config
from v2v_jax.cli import commands
from v2v_jax.datasets.cache.cache_files import MANIFEST, Unusable, open_cache
from v2v_jax.errors import CheckpointError, DataError, UserError, WeightsError
from v2v_jax.evaluation import evaluator
from v2v_jax.evaluation.report.curves import read_curves
from v2v_jax.inference.export import read_export
from v2v_jax.media.label_files import read_info, read_set
from v2v_jax.pretrained import read_weights
from v2v_jax.run.metrics_log import MetricsLog
from v2v_jax.run.stored_checkpoints import METRICS, StoredCheckpoints
from v2v_jax.run.weight_file import is_weights
from v2v_jax.run.weight_file import read_weights as read_weight_file
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.sealed_archive import write_sealed
from v2v_jax.system.whole_files import is_temporary
from v2v_jax.training.loop import train_and_evaluate
from v2v_jax.zoo.index import INDEX, read_index

CONTENTS = {
    "list": b"[]",
    "text": b'"text"',
    "number": b"7",
    "null": b"null",
    "nested": b"[" * 200_000 + b"]" * 200_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "empty": b"",
    "half": b'{"step": 1, "x',
    "no text": bytes(range(128, 256)),
    "empty object": b"{}",
    "digits": b'{"step": ' + b"9" * 5000 + b"}",
    # Few enough for Python's own reader, too many for who then walks through it.
    "101 levels": b'{"task": ' * 101 + b"1" + b"}" * 101,
}


def metrics_of(folder: Path, data: bytes) -> Any:
    (folder / "checkpoints" / "3").mkdir(parents=True)
    (folder / "checkpoints" / "3" / METRICS).write_bytes(data)
    found = StoredCheckpoints(folder, {}, headline="x").metrics(3)
    assert found == {}


def curves_of(folder: Path, data: bytes) -> Any:
    (folder / "metrics.jsonl").write_bytes(data + b'\n{"step": 2, "a": 1.0}\n')
    curves = read_curves(folder / "metrics.jsonl")
    np.testing.assert_array_equal(curves.pop("a"), [[2], [1]])
    assert curves == {}


def log_of(folder: Path, data: bytes) -> Any:
    (folder / "metrics.jsonl").write_bytes(data + b'\n{"step": 2, "a": 1.0}\n')
    MetricsLog(folder, 2).close()
    assert (folder / "metrics.jsonl").read_text() == '{"step": 2, "a": 1.0}\n'


def labels_of(folder: Path, data: bytes) -> Any:
    (folder / "labels.json").write_bytes(data)
    found = read_set(folder)
    assert data == b"{}" and found.keys() == {"field", "label_names"}
    raise DataError("no JSON of its own")


def info_of(folder: Path, data: bytes) -> Any:
    (folder / "zarr.json").write_bytes(data)
    read_info(folder)


def cache_of(folder: Path, data: bytes) -> Any:
    (folder / MANIFEST).write_bytes(data)
    open_cache(folder, {}, None)


def converted_of(folder: Path, data: bytes) -> Any:
    (folder / "about.json").write_bytes(data)
    (folder / "weights.npz").write_bytes(b"")
    read_weights(folder)


def export_of(folder: Path, data: bytes) -> Any:
    write_sealed(folder / "a.v2v", {"about.json": data, "network.bin": b""})
    read_export(folder / "a.v2v")


def weights_of(folder: Path, data: bytes) -> Any:
    write_sealed(folder / "a.weights", {"about.json": data}, compress=True)
    assert not is_weights(folder / "a.weights")
    read_weight_file(folder / "a.weights")


def index_of(folder: Path, data: bytes) -> Any:
    (folder / INDEX).write_bytes(data)
    assert read_index(folder) == [] and data in (b"[]", b"{}", b'""')
    raise CheckpointError("an index of nothing")


READERS: dict[Callable[[Path, bytes], Any], type[Exception] | None] = {
    metrics_of: None,
    curves_of: None,
    log_of: None,
    labels_of: DataError,
    info_of: DataError,
    cache_of: Unusable,
    converted_of: WeightsError,
    export_of: CheckpointError,
    weights_of: CheckpointError,
    index_of: CheckpointError,
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_whatever_stands_there_is_one_error_or_left_out(tmp_path, read, name):
    expected = READERS[read]
    if expected is None:
        read(tmp_path, CONTENTS[name])
        return
    with pytest.raises(expected) as caught:
        read(tmp_path, CONTENTS[name])
    if issubclass(expected, UserError):
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 + len(str(tmp_path))


def test_objects_are_read_and_all_else_is_said():
    assert parse_object('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert parse_object(json.dumps({"ä": 1}).encode()) == {"ä": 1}
    for name, message in (
        ("list", r"another type \(list\)"),
        ("null", r"another type \(NoneType\)"),
        ("nested", "nested too deeply"),
        ("half", "not JSON"),
        ("no text", "not JSON"),
        ("digits", "not JSON"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            parse_object(CONTENTS[name])
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_a_hundred_levels_are_read():
    for name, opening, end in (("objects", b'{"a":', b"}"), ("lists", b"[", b"]")):
        data = lambda levels, opening=opening, end=end: (
            b'{"x": ' + opening * (levels - 1) + b"0" + end * (levels - 1) + b"}"
        )
        assert parse_object(data(100)).keys() == {"x"}, name
        assert parse_object(data(100).decode()).keys() == {"x"}, name
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_object(data(101))
    assert parse_object(json.dumps({"x": [[{}]] * 500})).keys() == {"x"}  # many, not deep


# ------------------------------------------------------------------------------------------------
# config.json

FOLDER = "a folder"
CONFIGS = CONTENTS | {"task of another type": b'{"task": ["seg"]}'}


def place_config(workdir: Path, name: str) -> None:
    path = workdir / "config.json"
    path.unlink(missing_ok=True)
    if name == FOLDER:
        path.mkdir()
    else:
        path.write_bytes(CONFIGS[name])


@pytest.mark.parametrize("name", [*CONFIGS, FOLDER])
def test_two_runs_are_not_compared_by_a_broken_configuration(tmp_path, name, capsys):
    for run in ("one", "two"):
        (tmp_path / run / "eval").mkdir(parents=True)
        (tmp_path / run / "eval" / "metrics.json").write_text('{"step": 1, "accuracy": 0.5}')
        (tmp_path / run / "config.json").write_text('{"task": "seg"}')
    place_config(tmp_path / "two", name)
    runs = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert commands.execute(["eval", "--compare", *runs]) == 1
    error = capsys.readouterr().err.removesuffix("\n")
    assert error.startswith(f"Error: {tmp_path / 'two' / 'config.json'} ")
    assert "\n" not in error and len(error) < 500 + len(str(tmp_path))
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("name", [*CONFIGS, FOLDER])
def test_the_report_leaves_out_a_broken_configuration(tmp_path, name, caplog):
    """And says so, once, in one line."""
    place_config(tmp_path, name)
    shown = evaluator.trained_config(tmp_path)
    if name in ("empty object", "task of another type"):  # an object all the same
        assert shown == CONFIGS[name].decode() and not caplog.messages
        return
    (message,) = caplog.messages
    assert shown == "" and f"{tmp_path / 'config.json'} cannot be shown (" in message
    assert "\n" not in message and len(message) < 500 + len(str(tmp_path))


def test_training_says_what_is_in_the_way_of_its_configuration(tmp_path):
    place_config(tmp_path, FOLDER)
    with pytest.raises(CheckpointError) as caught:
        train_and_evaluate(tiny_config("seg", SMALLEST), tmp_path)
    path = tmp_path / "config.json"
    assert str(caught.value).startswith(f"Cannot write {path} (Is a directory); move what is in")
    assert path.is_dir() and not [p for p in tmp_path.iterdir() if is_temporary(p.name)]


@pytest.mark.slow
def test_a_run_whose_configuration_is_broken(trained, caplog):
    """Prediction does not need it, evaluation shows its own, training replaces it."""
    run = trained("seg")
    path = run.workdir / "config.json"
    whole = path.read_text()
    place_config(run.workdir, "list")
    assert v2v_jax.load(run.workdir).task == "segmentation"
    evaluator.evaluate(run.config, run.workdir, report=True)
    assert sum("config.json cannot be shown" in message for message in caplog.messages) == 1
    report = (run.workdir / "eval" / "report.html").read_text()
    assert "optimizer" in report and "learning_rate" in report
    train_and_evaluate(run.config, run.workdir)
    assert path.read_text() == whole
