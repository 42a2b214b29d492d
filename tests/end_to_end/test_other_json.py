"""JSON of another type, nested deeply, no text, or a folder, wherever the package reads JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from v2v_jax.datasets.cache.cache_files import MANIFEST, Unusable, open_cache
from v2v_jax.errors import CheckpointError, DataError, UserError, WeightsError
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
