"""Making entries of the zoo: what is measured, what is refused, what ends up in the package."""

import hashlib
import json
import zipfile

import numpy as np
import pytest

import v2v_jax
from experiments import zoo as making
from v2v_jax import zoo
from v2v_jax.inference.network import from_checkpoint
from v2v_jax.run.weight_file import read_weights
from v2v_jax.zoo import cards, index

pytestmark = pytest.mark.usefixtures("compilation_cache")
TEXTS = ["--trained_on=rendered scenes", "--data_licence=none needed", "--score=0.5 on scenes"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty zoo as if it came with the package, with a card's text."""
    (tmp_path / index.INDEX).write_text("[]")
    (tmp_path / "tiny.md").write_text("It knows nothing.\n")
    monkeypatch.setattr(index, "FOLDER", tmp_path)
    return tmp_path


def add(folder, weights, *options, name="tiny"):
    arguments = ["add", f"--name={name}", f"--weights={weights}", f"--zoo={folder}", *TEXTS]
    return making.main([*arguments, f"--page={folder / 'models.md'}", *options])


def as_npz(workdir, path):
    """A run's weights in 16 bits, as training elsewhere sends them."""
    network = from_checkpoint(workdir)
    about = dict(network.about) | {"seen_at": "/home/someone/data"}
    arrays = {
        f"{layer}/{leaf}": np.asarray(value, np.float16)
        for layer, leaves in network.params.items()
        for leaf, value in leaves.items()
    }
    np.savez(path, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return network


def test_an_entry_of_half_precision_weights(trained, folder, capsys):
    run = trained("seg").workdir
    network = as_npz(run, folder / "w.npz")
    assert add(folder, folder / "w.npz", "--most=1") == 0
    (entry,) = zoo.read_index()
    assert "It knows nothing." in capsys.readouterr().out
    content = (folder / entry.file).read_bytes()
    assert entry.bytes == len(content) and entry.sha256 == hashlib.sha256(content).hexdigest()
    leaves = [leaf for layer in network.params.values() for leaf in layer.values()]
    assert entry.parameters == sum(leaf.size for leaf in leaves)
    # What was measured is what evaluation says of the run, 16 bits apart.
    own = making.evaluate([making.read_source(str(run))])[0]
    assert entry.metric == "accuracy" and abs(entry.value_before - own["accuracy"]) < 0.01
    assert entry.baseline == pytest.approx(own["baseline_accuracy"], abs=1e-5)
    assert v2v_jax.load("tiny").task == "segmentation"
    with zipfile.ZipFile(folder / entry.file) as archive:
        record = archive.read("about.json").decode()
    assert "/home" not in record and '"seen_at": "data"' in record
    page = (folder / "models.md").read_text()
    assert page == cards.page([entry]) and entry.sha256 in page and "It knows nothing." in page


def test_measured_on_the_split_that_is_asked_for(trained, folder, monkeypatch):
    asked = []
    monkeypatch.setattr(making, "evaluate", lambda *a: asked.append(a[2]) or measured(0.5, 0.5)(a))
    run = trained("seg").workdir
    assert add(folder, run) == add(folder, run, "--split=validation") == 0
    assert asked == ["test", "validation"]
    about = making.read_source(str(run)).about
    for split in asked:
        videos = making.experiment_of(about, None, split).dataset.videos
        assert videos and all(f"-{split}-" in info.name for info in videos)


def measured(before, after):
    """In the place of `evaluate`: so much accuracy, of 0.2 that nothing needs."""
    rest = {"baseline_accuracy": 0.2}
    return lambda *_: [{"accuracy": before} | rest, {"accuracy": after} | rest]


def test_a_run_and_a_weight_file_are_sources_too(trained, folder, monkeypatch):
    run = trained("seg").workdir
    monkeypatch.setattr(making, "evaluate", measured(0.5, 0.5))
    assert add(folder, run, "--most=1", "--bits=32") == 0
    assert add(folder, folder / "tiny.v2v", "--most=1", "--bits=16") == 0
    first, second = read_weights(folder / "tiny.v2v"), making.read_source(str(run))
    for layer, leaves in second.params.items():
        np.testing.assert_allclose(first.params[layer]["kernel"], leaves["kernel"], atol=1e-2)
    assert [entry.bits for entry in zoo.read_index()] == [16]


def test_what_is_refused(trained, folder, monkeypatch, capsys):
    run = trained("seg").workdir
    monkeypatch.setattr(making, "evaluate", measured(0.50, 0.49))
    assert add(folder, run) == 1
    assert "8 bits change accuracy by 2.00%" in capsys.readouterr().err
    assert add(folder, run, name="other") == 1
    assert "Write the card's text first" in capsys.readouterr().err
    assert add(folder, folder / "none.npz") == 1
    assert "cannot be read" in capsys.readouterr().err
    assert add(folder, run, "--set=root=x") == 1
    assert "name that, too" in capsys.readouterr().err
    monkeypatch.setattr(making, "evaluate", measured(1.0, 1.0))
    monkeypatch.setattr(making, "MOST_BYTES", 1000)
    assert add(folder, run) == 1
    assert "45 MB are the most" in capsys.readouterr().err
    assert zoo.read_index() == [] and not list(folder.glob("*.v2v")) and not list(folder.glob(".*"))
