"""Which checkpoint a path stands for."""

import os
import shutil

import numpy as np
import pytest

from v2v_jax.errors import CheckpointError
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.which_checkpoint import find_checkpoint

ABOUT = {"task": "a task of one's own", "num_outputs": 2}
SCORES = {1: 0.2, 2: 0.9, 3: 0.4, 4: None}  # kept: the best and the latest two


def state(step: int):
    return {"step": np.int32(step), "params": {"conv": {"kernel": np.full((2, 3), step, "f4")}}}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with Checkpoints(folder, ABOUT, headline="score", better="max", writable=True) as checkpoints:
        for step, score in SCORES.items():
            checkpoints.save(state(step), step, None if score is None else {"score": score})
    return folder


@pytest.mark.parametrize(
    "path, step", [("", 2), ("checkpoints", 2), ("checkpoints/2", 2), ("checkpoints/4", 4)]
)
def test_every_way_to_name_one(workdir, path, step):
    """The best one although its task is not known: how to compare is stored with it."""
    found = find_checkpoint(workdir / path)
    assert (found.workdir, found.step) == (workdir, step)
    assert found.folder == workdir / "checkpoints" / str(step)
    assert found.about.items() >= ABOUT.items()
    np.testing.assert_array_equal(found.params()["conv"]["kernel"], np.full((2, 3), step))


def test_relative_to_the_current_folder_and_the_home_folder(workdir, monkeypatch):
    monkeypatch.chdir(workdir / "checkpoints")
    monkeypatch.setenv("HOME", str(workdir.parent))
    for path in (".", "2", f"~/{workdir.name}"):
        assert find_checkpoint(path).step == 2


@pytest.mark.parametrize("better, best", [("max", 2), ("min", 3)])
def test_best_by_what_was_stored(tmp_path, better, best):
    with Checkpoints(tmp_path, {}, headline="x", better=better, writable=True) as checkpoints:
        for step, score in ((1, 0.5), (2, 0.9), (3, 0.1)):
            checkpoints.save(state(step), step, {"x": score})
    assert find_checkpoint(tmp_path).step == best


def test_latest_where_none_was_evaluated(tmp_path):
    with Checkpoints(tmp_path, {}, headline="x", better="max", writable=True) as checkpoints:
        checkpoints.save(state(1), 1)
        checkpoints.save(state(2), 2)
    assert find_checkpoint(tmp_path).step == 2


def test_damaged_ones_are_left_out(workdir, tmp_path, caplog):
    copy = shutil.copytree(workdir, tmp_path / "copy")
    os.truncate(copy / "checkpoints" / "2" / "metrics.json", 1)
    assert find_checkpoint(copy).step == 3 and "checkpoints/2 is damaged" not in caplog.text
    (copy / "checkpoints" / "4" / "SHA256SUMS").unlink()
    assert find_checkpoint(copy).step == 3
    for step in (2, 4, 9):
        with pytest.raises(CheckpointError, match="missing or damaged|No checkpoint in"):
            find_checkpoint(copy / "checkpoints" / str(step))
    assert sorted(p.name for p in (copy / "checkpoints").iterdir()) == ["2", "3", "4"]


def test_errors_say_what_is_expected(tmp_path):
    with pytest.raises(CheckpointError, match="No checkpoint in .*or one step's folder in there.$"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="one step's folder in there, or a file.$"):
        find_checkpoint(tmp_path / "missing", also="a file")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="No finished checkpoint in .*: train first"):
        find_checkpoint(tmp_path)


def test_another_experiment_is_refused(workdir):
    found = find_checkpoint(workdir)
    found.check_fits(ABOUT)
    with pytest.raises(CheckpointError, match="num_outputs is 2, the configuration's 3"):
        found.check_fits(ABOUT | {"num_outputs": 3})
