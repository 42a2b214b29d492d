"""Weights by name: the index, the check of their SHA-256, `v2v models`, errors that list names."""

import dataclasses
import re
import zipfile

import numpy as np
import pytest

import v2v_jax
from tests import zoo_files
from tests.tiny import ROOT, SMALLEST, tiny_config
from tests.zoo_files import write_index
from v2v_jax import zoo
from v2v_jax.cli import commands
from v2v_jax.errors import CheckpointError
from v2v_jax.inference.network import from_checkpoint
from v2v_jax.run.experiment import make_experiment
from v2v_jax.training import fine_tuning
from v2v_jax.zoo import cards, index

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module")
def network(trained):
    return from_checkpoint(trained("seg").workdir)


@pytest.fixture(scope="module")
def shipped(network, tmp_path_factory):
    """A zoo with one network in it: (folder, its entry)."""
    folder = tmp_path_factory.mktemp("zoo")
    entry = zoo_files.entry("tiny-scenes", network, folder)
    write_index(folder, entry)
    return folder, entry


@pytest.fixture
def installed(shipped, monkeypatch):
    """The zoo as if it came with the package."""
    folder, entry = shipped
    monkeypatch.setattr(index, "FOLDER", folder)
    return folder, entry


def test_loading_by_name(installed, network, tmp_path, monkeypatch):
    _, entry = installed
    monkeypatch.chdir(tmp_path)
    video = np.random.default_rng(0).integers(0, 256, (9, 40, 50, 3), np.uint8)
    predictor = v2v_jax.load(entry.name, batch_size=1)
    assert predictor.task == entry.task and predictor.network.step == network.step
    expected = v2v_jax.inference.predictor.Predictor(network, batch_size=1)(video)
    np.testing.assert_array_equal(predictor(video), expected)


def test_a_file_or_folder_of_that_name_comes_first(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / installed[1].name).mkdir()
    with pytest.raises(CheckpointError, match="No checkpoint in"):
        v2v_jax.load(installed[1].name)


def test_unknown_names_list_the_known_ones(installed, monkeypatch, tmp_path):
    with pytest.raises(CheckpointError, match="No checkpoint in tiny:.*known names: tiny-scenes"):
        v2v_jax.load("tiny")
    with pytest.raises(CheckpointError, match="No weights are called 'x'; known names: tiny"):
        zoo.find("x")
    write_index(tmp_path)
    monkeypatch.setattr(index, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="none ship with this version"):
        v2v_jax.load("tiny-scenes")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_files_that_are_not_what_was_shipped(shipped, tmp_path, damage):
    folder, entry = shipped
    data = bytearray((folder / entry.file).read_bytes())
    write_index(tmp_path, entry)
    data[len(data) // 2] ^= 1
    if damage != "gone":
        (tmp_path / entry.file).write_bytes(data if damage == "flipped" else data[:-1])
    message = "cannot be read from" if damage == "gone" else "their SHA-256 is not the index's"
    with pytest.raises(CheckpointError, match=f"tiny-scenes.*{message}.*install the package again"):
        zoo.find(entry.name, tmp_path)
    assert zoo.find(entry.name, folder) == folder / entry.file


@pytest.mark.parametrize("text", ["[{}]", "{", "[1]", None, '[{"name": "x"}]'])
def test_a_damaged_index(tmp_path, text):
    if text is not None:
        (tmp_path / index.INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="index of shipped weights .* is damaged"):
        zoo.read_index(tmp_path)


def test_a_wrong_type_in_the_index(shipped, tmp_path):
    write_index(tmp_path, dataclasses.replace(shipped[1], bytes="many"))
    with pytest.raises(CheckpointError, match="tiny-scenes: bytes is 'many'"):
        zoo.read_index(tmp_path)


def test_the_list(installed, capsys, monkeypatch, tmp_path):
    _, entry = installed
    assert commands.execute(["models"]) == 0
    printed = capsys.readouterr().out
    for text in (entry.name, entry.score, f"{entry.parameters:,}", entry.sha256, "Apache-2.0"):
        assert text in printed
    write_index(tmp_path)
    monkeypatch.setattr(index, "FOLDER", tmp_path)
    assert commands.execute(["models"]) == 0
    assert "No weights ship with this version" in capsys.readouterr().out


def test_a_card(installed, capsys):
    _, entry = installed
    assert commands.execute(["models", f"--card={entry.name}"]) == 0
    printed = capsys.readouterr().out
    for text in ("How it was trained.", entry.sha256, "0.499 as shipped, 0.5 in 32", "0.20% off"):
        assert text in printed
    assert commands.execute(["models", "--card=none"]) == 1
    assert "known names: tiny-scenes" in capsys.readouterr().err


def test_a_training_starts_from_a_name(installed, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny_config("seg", SMALLEST, init_from=installed[1].name)
    experiment = make_experiment(config, "train")
    state = fine_tuning.initialize(experiment, experiment.init_state())
    for name in network.params:
        np.testing.assert_array_equal(
            np.asarray(state.params[name]["kernel"]), network.params[name]["kernel"]
        )


def test_the_index_of_this_version():
    """Every entry has its file, its card and the right sum, and lost 1 % at most in its bits."""
    entries = zoo.read_index()
    assert [entry.name for entry in entries] == ["color", "depth", "flow", "people", "scenes"]
    for entry in entries:
        path = zoo.find(entry.name)
        assert path.stat().st_size == entry.bytes
        assert entry.loss <= 0.01 and entry.licence and entry.data_licence
        record = zipfile.ZipFile(path).read("about.json").decode()
        assert not re.search(r'"/(home|tmp|work|root|dev|mnt)', record)
    assert sum(entry.bytes for entry in entries) <= 45e6


def test_every_network_of_this_version_loads():
    for entry in zoo.read_index():
        network = v2v_jax.load(entry.name).network
        assert network.task.name == entry.task and network.any_size
        leaves = [leaf for layer in network.params.values() for leaf in layer.values()]
        assert sum(leaf.size for leaf in leaves) == entry.parameters
        assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.slow
@pytest.mark.parametrize("entry", zoo.read_index(), ids=lambda entry: entry.name)
def test_a_training_starts_from_every_network_of_this_version(entry):
    """All layers but the last, where the number of classes is another one."""
    config = tiny_config({"segmentation": "seg"}.get(entry.task, entry.task), init_from=entry.name)
    config.model.width = 0.5
    experiment = make_experiment(config, "train")
    state = fine_tuning.initialize(experiment, experiment.init_state())
    network = v2v_jax.load(entry.name).network
    if network.task.num_outputs != experiment.task.num_outputs:
        del network.params["conv_pre"]
    for name, layer in network.params.items():
        np.testing.assert_array_equal(np.asarray(state.params[name]["kernel"]), layer["kernel"])


@pytest.mark.slow
def test_every_network_of_this_version_predicts():
    """On the clip that ships: finite, and not the same everywhere."""
    video = v2v_jax.read_video(ROOT / "examples" / "dance-twirl.mp4")[0][:16]
    for entry in zoo.read_index():
        values = v2v_jax.load(entry.name)(video)
        assert values.shape[:3] == video.shape[:3] and np.isfinite(values).all()
        assert np.float32(values).std() > 0


def test_the_page_is_that_of_the_index():
    assert (ROOT / "docs" / "reference" / "models.md").read_text() == cards.page(zoo.read_index())
