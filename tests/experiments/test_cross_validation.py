"""Cross-validation's script: which runs it makes, and what it makes of their scores."""

import json
import statistics

import numpy as np
import pytest
from PIL import Image

from experiments import cross_validation
from tests.tiny import SMALLEST, tiny_config
from v2v_jax import datasets
from v2v_jax.errors import ConfigError

SIZE = (48, 64)


def frame_folders(root, count=5):
    """Videos of 12 frames, light on the left: class 1; one more is the official test split."""
    videos = [f"video{i}" for i in range(count)]
    labels = np.broadcast_to(np.uint8(np.arange(SIZE[1]) < 32), SIZE)
    rng = np.random.default_rng(0)
    for video in (*videos, "official"):
        for kind in ("images", "labels"):
            (root / kind / video).mkdir(parents=True)
        for n in range(12):
            frame = labels[..., None] * 120 + rng.integers(0, 100, (*SIZE, 3))
            Image.fromarray(frame.astype(np.uint8)).save(root / "images" / video / f"{n}.png")
            Image.fromarray(labels).save(root / "labels" / video / f"{n}.png")
    (root / "classes.txt").write_text("dark\nlight\n")
    (root / "train.txt").write_text("\n".join(videos))
    (root / "test.txt").write_text("official\n")
    return videos


def frames_config(root, **overrides):
    return tiny_config("seg", f"dataset=frames,{SMALLEST}", data__root=str(root), **overrides)


@pytest.fixture
def scripted(monkeypatch):
    """Runs that score as they are told: the calls of training, fold after fold."""
    calls, scores = [], [0.5, 0.7, 0.9]

    def evaluate(config, folder):
        values = {"step": 9, "accuracy": scores[config.data.fold], "iou/tram": None}
        if config.data.fold == 1:
            values["iou/tram"] = 0.25
        (folder / "eval").mkdir(parents=True)
        (folder / "eval" / "metrics.json").write_text(json.dumps(values))

    def train(config, folder):
        calls.append((config.data.num_folds, config.data.fold, folder.name))

    monkeypatch.setattr(cross_validation, "train_and_evaluate", train)
    monkeypatch.setattr(cross_validation, "evaluate", evaluate)
    return calls


def test_mean_and_spread_of_the_folds(scripted, tmp_path, capsys):
    config = frames_config("nowhere")
    summary = cross_validation.cross_validate(config, 3, tmp_path)
    assert scripted == [(3, fold, f"fold{fold}of3") for fold in range(3)]
    assert config.data.num_folds == 0  # the caller's is left as it was
    assert list(summary) == ["accuracy", "iou/tram"]
    expected = dict(mean=0.7, spread=statistics.stdev([0.5, 0.7, 0.9]), least=0.5, largest=0.9)
    assert summary["accuracy"] == pytest.approx(expected | {"folds": 3})
    stored = json.loads((tmp_path / "folds.json").read_text())
    assert stored["summary"]["accuracy"] == pytest.approx(expected | {"folds": 3})
    assert stored["summary"]["iou/tram"]["spread"] is None  # one fold has that class
    text = (tmp_path / "folds.md").read_text()
    assert "| accuracy | 0.7000 ± 0.2000 | 0.5000 to 0.9000 | 3 |\n" in text
    assert "| iou/tram | 0.2500 | 0.2500 to 0.2500 | 1 |\n" in text
    assert "0.7000 ± 0.2000" in capsys.readouterr().out
    assert cross_validation.cross_validate(config, 3, tmp_path)["accuracy"] == summary["accuracy"]
    assert len(scripted) == 3  # what is done is not done again


def test_what_has_no_folds_is_one_clear_sentence(tmp_path):
    with pytest.raises(ConfigError, match="The dataset scenes has no folds; choose a dataset of"):
        cross_validation.cross_validate(tiny_config("seg"), 3, tmp_path)
    with pytest.raises(ConfigError, match="--folds is 1; it must be at least 2"):
        cross_validation.cross_validate(frames_config("nowhere"), 1, tmp_path)
    with pytest.raises(SystemExit, match="Recipe sge does not exist"):
        cross_validation.main(["--config=sge", f"--workdir={tmp_path}"])


def test_a_folds_runs_see_what_they_should(tmp_path):
    videos = frame_folders(tmp_path)
    tested = []
    for fold in range(2):
        config = frames_config(tmp_path, data__num_folds=2, data__fold=fold)
        parts = [datasets.load(config.data, s, SIZE, 8) for s in ("train", "validation", "test")]
        named = [[info.name for info in part.videos] for part in parts]
        assert sorted(sum(named, [])) == videos
        tested += named[2]
    assert sorted(tested) == videos


@pytest.mark.slow
def test_two_folds_from_files_to_the_table(tmp_path, capsys):
    frame_folders(tmp_path / "data")
    options = [f"--config.{key}={value}" for key, value in OPTIONS.items()]
    cross_validation.main(
        [f"--config=seg:dataset=frames,{SMALLEST}", f"--config.data.root={tmp_path / 'data'}",
         "--folds=2", f"--workdir={tmp_path / 'runs'}", *options]
    )  # fmt: skip
    stored = json.loads((tmp_path / "runs" / "folds.json").read_text())
    assert [set(of) >= {"accuracy", "miou", "iou/light"} for of in stored["folds"]] == [True] * 2
    assert stored["summary"]["accuracy"]["mean"] > 0.8  # light is told from dark
    assert "2 folds of frames" in capsys.readouterr().out


OPTIONS = {
    "model.width": 0.05,
    "preprocessing.frame_size": "(48,64)",
    "preprocessing.crop_size": "(32,32)",
    "preprocessing.clip_length": 8,
    "batch_size": 4,
    "eval_batch_size": 2,
    "num_steps": 40,
    "num_evaluations": 1,
    "num_pictures": 1,
    "feed": "device",
}
