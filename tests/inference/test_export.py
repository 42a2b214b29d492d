"""Exported files: the same results, no model code, and what is said of files that do not fit."""

import io
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

import v2v_jax
from v2v_jax.cli import commands
from v2v_jax.errors import CheckpointError
from v2v_jax.inference import export
from v2v_jax.inference.network import from_checkpoint
from v2v_jax.inference.predictor import Predictor
from v2v_jax.system.sealed_archive import digest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# With JAX alone, then with this package, but none of its models.
PROGRAM = """
import io, json, sys, zipfile
import jax, jax.export, numpy as np

with zipfile.ZipFile(sys.argv[1]) as archive:
    about = json.loads(archive.read("about.json"))
    network = jax.export.deserialize(bytearray(archive.read("network.bin")))
    weights = {}
    for name in archive.namelist():
        if name.startswith("weights/"):
            layer, kind = name[len("weights/"):-len(".npy")].split("/")
            array = np.load(io.BytesIO(archive.read(name)))
            weights.setdefault(layer, {})[kind] = array
clips = np.load("clips.npy")  # (B,T,H,W,3) uint8 RGB
np.save("bare.npy", jax.jit(network.call)(weights, clips))
assert "v2v_jax" not in sys.modules

import v2v_jax

predictor = v2v_jax.load(sys.argv[1])
np.save("loaded.npy", predictor.probabilities(np.load("video.npy")))
models = [name for name in sys.modules if name.startswith(("v2v_jax.models", "flax"))]
assert not models, models
"""


def run(*arguments: str) -> int:
    """`v2v export …` in this process; its exit status."""
    return commands.execute(["export", *arguments])


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """(checkpoint's network, file)."""
    network = from_checkpoint(trained("seg").workdir)
    path = tmp_path_factory.mktemp("export") / "seg.v2v"
    assert run(f"--checkpoint={trained('seg').workdir}", f"--output={path}") == 0
    return network, path


def test_results_equal_the_checkpoints_without_its_model_code(exported, tmp_path):
    network, path = exported
    video = np.random.default_rng(0).integers(0, 256, (11, 50, 71, 3), dtype=np.uint8)
    clips = np.stack([video[:8, :32, :32], video[3:, 18:, 39:], video[1:9, :32, 20:52]])
    np.save(tmp_path / "video.npy", video)
    np.save(tmp_path / "clips.npy", clips)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    expected = Predictor(network, full_frame=False).probabilities(video)
    np.testing.assert_allclose(np.load(tmp_path / "loaded.npy"), expected, atol=1e-5)
    expected = jax.jit(network.apply)(network.params, clips)
    np.testing.assert_allclose(np.load(tmp_path / "bare.npy"), expected, atol=1e-5)


def test_the_file_is_for_all_platforms_and_says_what_it_is(exported):
    network, path = exported
    with zipfile.ZipFile(path) as archive:
        record = json.loads(archive.read("about.json"))
        program = jax.export.deserialize(bytearray(archive.read("network.bin")))
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert record["about"]["label_names"] == list(network.task.label_names)
    assert record["version"] == v2v_jax.__version__ and record["clip"] == [8, 32, 32]
    assert "triton" not in program.mlir_module()
    loaded = v2v_jax.load(path)
    assert loaded.label_names == network.task.label_names and loaded.network.step == network.step
    with pytest.raises(ValueError, match="full_frame"):
        v2v_jax.load(path, full_frame=True)
    with pytest.raises(ValueError, match="dtype is 'float32', but .* export the checkpoint again"):
        v2v_jax.load(path, dtype="float32")


def test_the_same_network_gives_the_same_file_wherever_it_is_written(exported, tmp_path):
    network, path = exported
    write = lambda: export.write_export(network, tmp_path / "again.v2v")
    write()
    assert (tmp_path / "again.v2v").read_bytes() == path.read_bytes()
    for place in (str(ROOT).encode(), str(tmp_path).encode()):
        assert place not in path.read_bytes()


def changed(path, target, change, recompute=False):
    """A copy of an export of which `change` altered the members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        comment = archive.comment
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.comment = digest(members).encode() if recompute else comment
    return target


def test_files_that_do_not_fit_are_one_clear_sentence(exported, tmp_path):
    _, path = exported
    data = bytearray(path.read_bytes())
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="not an exported network, or is damaged"):
        v2v_jax.load(tmp_path / "half")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match="not an exported network"):
        v2v_jax.load(tmp_path / "text")

    def flip(members):
        name = next(name for name in members if name.startswith("weights/conv2a"))
        weights = bytearray(members[name])
        weights[-3] ^= 16
        members[name] = bytes(weights)

    with pytest.raises(CheckpointError, match="SHA-256"):
        v2v_jax.load(changed(path, tmp_path / "flipped", flip))
    data[len(data) // 2] ^= 1  # in the archive itself, which has checksums of its own
    (tmp_path / "bit").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        v2v_jax.load(tmp_path / "bit")

    def of_another(**changes):
        def change(members):
            record = json.loads(members["about.json"]) | changes
            members["about.json"] = json.dumps(record).encode()

        return change

    newer = changed(path, tmp_path / "newer", of_another(format=2, version="9.9"), True)
    with pytest.raises(CheckpointError, match="format 2, written by version 9.9"):
        v2v_jax.load(newer)
    lacking = changed(path, tmp_path / "lacking", of_another(about={"task": "flow"}), True)
    with pytest.raises(CheckpointError, match="cannot be used by version"):
        v2v_jax.load(lacking)
    nonsense = lambda members: members.update({"network.bin": b"\0" * 64})
    with pytest.raises(CheckpointError, match="cannot read it"):
        v2v_jax.load(changed(path, tmp_path / "nonsense", nonsense, True))


def record_with(**changes):
    """Changes members so that the record inside has other values: keys lead to nested ones."""

    def change(members):
        record = json.loads(members["about.json"])
        for key, value in changes.items():
            place, *rest = key.split("__")
            inner = record["about"][place]
            if rest:
                inner[rest[0]] = value
            else:
                record["about"][place] = value
        members["about.json"] = json.dumps(record).encode()

    return change


def array(value):
    data = io.BytesIO()
    np.save(data, value)
    return data.getvalue()


CONV = "weights/conv1a/kernel.npy"
MISFITS = {
    "crop": (record_with(preprocessing__crop_size=[48, 32]), "takes clips of .8, 32, 32, 3., not"),
    "length": (record_with(preprocessing__clip_length=16), "takes clips of"),
    "std": (record_with(preprocessing__std=[60, 0, 60]), "std is .60, 0, 60."),
    "mean": (record_with(preprocessing__mean=[float("nan")] * 3), "mean is"),
    "colours": (record_with(preprocessing__color_order="gbr"), "color_order is 'gbr'"),
    "size": (record_with(preprocessing__frame_size=[0, 0]), "are not sizes"),
    "classes": (record_with(label_names=["a", "b"]), "the task segmentation needs 2 values"),
    "missing": (lambda members: members.pop(CONV), "takes other weights than it holds"),
    "more": (lambda m: m.update({"weights/x/kernel.npy": array(np.ones(3, "f4"))}), "takes other"),
    "shape": (lambda m: m.update({CONV: array(np.ones((3, 3, 3, 3, 9), "f4"))}), "takes conv1a"),
    "type": (lambda m: m.update({CONV: array(np.ones((3, 3, 3, 3, 3), "f8"))}), "takes conv1a"),
    "nan": (lambda m: m.update({CONV: array(np.load(io.BytesIO(m[CONV])) * np.nan)}), "not finite"),
    "claim": (lambda m: m.update({CONV: m[CONV][:-8]}), "claims"),
    "deep": (lambda m: m.update({"about.json": b"[" * 10**5 + b"]" * 10**5}), "nested too deeply"),
    "list": (lambda m: m.update({"about.json": b"[]"}), "not an exported network"),
    "none": (lambda m: m.update({"about.json": b'{"format":1,"version":1}'}), "not an exported"),
    "about": (lambda m: m.update({"about.json": b'{"format":1,"version":1,"about":7}'}), "be used"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_together_is_said_when_it_is_loaded(exported, tmp_path, name):
    """Files whose sum is right, by somebody who changed what is inside."""
    change, message = MISFITS[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        v2v_jax.load(changed(exported[1], tmp_path / "misfit", change, True))
    assert "misfit" in str(caught.value) and len(str(caught.value)) <= 500 + len(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_compressed_exports_are_refused_unread(exported, tmp_path):
    with zipfile.ZipFile(exported[1]) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "small", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.comment = digest(members).encode()
    with pytest.raises(CheckpointError, match="is compressed in another way"):
        v2v_jax.load(tmp_path / "small")


def test_an_export_is_not_written_over_nor_half_written(exported, tmp_path, capsys, monkeypatch):
    network, path = exported
    before = path.read_bytes()
    arguments = [f"--checkpoint={path}", f"--output={tmp_path / 'copy'}"]
    assert run(*arguments) == 1  # an export is no checkpoint
    assert "No checkpoint in" in capsys.readouterr().err
    monkeypatch.setattr("v2v_jax.inference.network.from_checkpoint", lambda _: network)
    assert run("--checkpoint=x", f"--output={path}") == 1
    assert "exists" in capsys.readouterr().err and path.read_bytes() == before
    monkeypatch.setattr(export, "_export", lambda *_: pytest.fail("too late"))
    assert run("--checkpoint=x", f"--output={tmp_path / 'no' / 'file'}") == 1
    assert "Cannot write" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_saved_model_gives_the_same(exported, tmp_path):
    network, _ = exported
    tf = pytest.importorskip("tensorflow")
    export.write_saved_model(network, tmp_path / "saved")
    clips = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    expected = jax.jit(network.apply)(network.params, clips)
    np.testing.assert_allclose(served(video=clips)["values"].numpy(), expected, atol=1e-5)
