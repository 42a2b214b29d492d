"""`v2v pack`: the caches that training would build, and their verification."""

from tests.tiny import ROOT, tiny_arguments, tiny_config
from v2v_jax import datasets
from v2v_jax.cli import commands
from v2v_jax.datasets.scenes import Scenes


def test_it_builds_what_training_would_build(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Scenes, "python_share", 0.0)  # starting processes takes long
    cache = tmp_path / "cache"
    overrides = tiny_arguments(data__cache=str(cache), data__num_validation_videos=2)
    arguments = ["pack", f"--config={ROOT}/configs/seg.py", *overrides]
    assert commands.execute(arguments) == 0
    printed = capsys.readouterr().out
    for split, count in (("train", 4), ("validation", 2), ("test", 3)):
        assert f"{count} videos of the {split} split" in printed
    built = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")}
    assert len(built) == 3 * 2
    config = tiny_config(data__cache=str(cache), data__num_validation_videos=2)
    dataset = datasets.load(config.data, "train", (48, 64))
    dataset.prepare_fields(("video", "labels"))
    assert commands.execute(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npy")} == built

    capsys.readouterr()
    assert commands.execute(["pack", f"--verify={cache}"]) == 0
    assert capsys.readouterr().out.count("is sound: labels, video") == 3


def test_mistakes(tmp_path, capsys):
    for arguments, status, message in (
        ([f"--verify={tmp_path}"], 1, "holds no caches; give what data.cache names"),
        ([f"--verify={tmp_path}", "--config=seg"], 2, "--verify takes no configuration"),
        (["--config=seg"], 1, "data.cache is empty; set --config.data.cache=DIR"),
        ([], 2, "--config=RECIPE is needed"),
    ):
        assert commands.execute(["pack", *arguments]) == status
        assert message in capsys.readouterr().err
