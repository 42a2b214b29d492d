"""Checkpoints: which are kept, what is refused."""

import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from v2v_jax.errors import CheckpointError
from v2v_jax.evaluation import evaluator as evaluation
from v2v_jax.run import manifest
from v2v_jax.run.checkpoint import Checkpoints

ABOUT = {
    "task": "segmentation",
    "num_outputs": 8,
    "label_names": ["sky"],
    "model": {"name": "v2v", "width": 1.0},
    "preprocessing": {"crop_size": [112, 112]},
    "version": "1",
}


def make_state(value: float):
    return {
        "step": jnp.int32(value),
        "params": {"kernel": jnp.linspace(0, value, 600).reshape(20, 30), "bias": jnp.ones(3)},
    }


def opened(folder, about=ABOUT, better="max", writable=True) -> Checkpoints:
    return Checkpoints(folder, about, headline="score", better=better, writable=writable)


def save(folder, scores, better="max"):
    with opened(folder, better=better) as checkpoints:
        for step, score in enumerate(scores, 1):
            checkpoints.save(make_state(step), step, None if score is None else {"score": score})


def names(folder) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def files_of(folder, step) -> list[pathlib.Path]:
    return sorted(p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file())


@pytest.mark.parametrize("better, best", [("max", 2), ("min", 3)])
def test_latest_two_and_best_are_kept(tmp_path, better, best):
    save(tmp_path, [0.5, 0.9, 0.1, 0.3, None, 0.4], better)
    assert names(tmp_path) == {str(best), "5", "6"}
    with opened(tmp_path, better=better, writable=False) as checkpoints:  # from disk
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (best, 6)
        assert checkpoints.metrics(6) == {"score": 0.4} and checkpoints.metrics(5) == {}


@pytest.mark.parametrize("better", ["max", "min"])
def test_a_score_that_is_not_a_number_is_not_the_best(tmp_path, better):
    save(tmp_path, [float("nan"), 0.5, float("nan")], better)
    with opened(tmp_path, better=better) as checkpoints:
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 3)


def test_restore_gives_equal_arrays(tmp_path):
    save(tmp_path, [0.1])
    with opened(tmp_path) as checkpoints:
        restored = checkpoints.restore(1, make_state(0))
        assert checkpoints.read_about(1).items() >= ABOUT.items()
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(1))
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(
        lambda x: x.dtype, make_state(1)
    )


@pytest.mark.parametrize(
    "key, value, named",
    [
        ("num_outputs", 2, ("num_outputs is 8", "2")),
        ("task", "flow", ("'segmentation'", "'flow'")),
        ("model", {"name": "v2v", "width": 0.5}, ("'width': 1.0", "'width': 0.5")),
        ("preprocessing", {"crop_size": [64, 64]}, ("[112, 112]", "[64, 64]")),
    ],
)
def test_another_experiment_is_refused(tmp_path, key, value, named):
    save(tmp_path, [0.1])
    with opened(tmp_path, ABOUT | {key: value}) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(1, make_state(0))
    for text in (*named, key, str(tmp_path / "checkpoints" / "1")):
        assert text in str(error.value)


def flip(file: pathlib.Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def test_any_flipped_bit_in_any_file_is_noticed(tmp_path):
    """Every file, its first and last bit and some between; all bits of the manifest's last line."""
    save(tmp_path, [0.1])
    folder = tmp_path / "checkpoints" / "1"
    random, tried = np.random.default_rng(0), 0
    for file in files_of(tmp_path, 1):
        bits = 8 * file.stat().st_size
        chosen = {0, bits - 1, *random.integers(0, bits, 8).tolist()} if bits else set()
        if file.name == "SHA256SUMS":
            chosen |= set(range(bits - 8 * 98, bits))
        for bit in chosen:
            flip(file, bit)
            with pytest.raises(manifest.Damaged):
                manifest.verify(folder, "v2v_jax checkpoint of step 1")
            flip(file, bit)
            tried += 1
    assert tried > 850
    manifest.verify(folder, "v2v_jax checkpoint of step 1")


def test_manifest_is_what_sha256sum_reads(tmp_path):
    save(tmp_path, [0.1])
    folder = tmp_path / "checkpoints" / "1"
    done = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(files_of(tmp_path, 1)) - 1


def largest(folder, step):
    return max(files_of(folder, step), key=lambda path: path.stat().st_size)


DAMAGE = {
    "flipped": lambda root: flip(largest(root, 3), 8 * 100),
    "truncated": lambda root: os.truncate(largest(root, 3), 10),
    "file lost": lambda root: largest(root, 3).unlink(),
    "emptied": lambda root: [path.unlink() for path in files_of(root, 3)],
    "no manifest": lambda root: (root / "checkpoints" / "3" / "SHA256SUMS").unlink(),
    "bare folder": lambda root: (root / "checkpoints" / "7").mkdir(),
    "a file": lambda root: (root / "checkpoints" / "7").write_text("x"),
    "renamed": lambda root: (root / "checkpoints" / "3").rename(root / "checkpoints" / "8"),
    "fifo added": lambda root: os.mkfifo(root / "checkpoints" / "3" / "state" / "x"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_set_aside(tmp_path, caplog, damage):
    """It is reported and kept under another name; the newest good one is used."""
    save(tmp_path, [0.1, 0.2, 0.3])
    DAMAGE[damage](tmp_path)
    good = 2 if damage not in ("bare folder", "a file") else 3
    step = {"renamed": 8}.get(damage, 7 if good == 3 else 3)
    with opened(tmp_path, writable=False) as reader:  # reports only
        assert reader.latest_step() == reader.best_step() == good
    assert str(step) in names(tmp_path)
    caplog.clear()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == good
        restored = checkpoints.restore(good, make_state(0))
        jax.tree.map(np.testing.assert_array_equal, restored, make_state(good))
        checkpoints.save(make_state(3), step)  # its place is free
    (aside,) = [name for name in names(tmp_path) if name.startswith(f"damaged-{step}-")]
    assert f"checkpoints/{step} is damaged (" in caplog.text and aside in caplog.text


def test_step_that_is_damaged_or_missing_is_not_restored(tmp_path):
    save(tmp_path, [0.1])
    flip(largest(tmp_path, 1), 0)
    for step in (1, 4):
        with opened(tmp_path, writable=False) as checkpoints:
            with pytest.raises(CheckpointError, match="missing or damaged"):
                checkpoints.restore(step, make_state(0))


def test_nothing_good(tmp_path, caplog):
    save(tmp_path, [0.1])
    flip(largest(tmp_path, 1), 0)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None and checkpoints.best_step() is None


def test_what_a_killed_run_leaves_is_cleared_away(tmp_path):
    save(tmp_path, [0.2, 0.1])
    folder = tmp_path / "checkpoints"
    (folder / "2").rename(folder / "saving-2")  # complete, but not yet in place
    (folder / "saving-3.orbax-checkpoint-tmp").mkdir()
    (folder / "deleting-0").mkdir()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == checkpoints.best_step() == 1
    assert names(tmp_path) == {"1"}
    (folder / "1").rename(folder / "replaced-1")  # killed between the two renames
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1


def test_second_checkpoint_of_a_step_replaces_the_first(tmp_path):
    save(tmp_path, [None])
    with opened(tmp_path) as checkpoints:
        assert checkpoints.metrics(1) == {} and checkpoints.best_step() is None
        checkpoints.save(make_state(5), 1, {"score": 0.5}, {"losses": [0.1]})
    with opened(tmp_path) as checkpoints:
        assert checkpoints.best_step() == 1 and checkpoints.metrics(1) == {"score": 0.5}
        assert checkpoints.read_about(1)["progress"] == {"losses": [0.1]}
        assert checkpoints.restore(1, make_state(0))["step"] == 5
    assert names(tmp_path) == {"1"}


def test_full_disk(small_disk, caplog):
    """Said in one sentence; the checkpoints before stay; with room again saving works again."""
    save(small_disk, [0.5])
    ballast = small_disk / "ballast"
    with pytest.raises(OSError), ballast.open("wb") as file:
        file.write(bytes(1 << 22))
    with opened(small_disk) as checkpoints:
        checkpoints.save(make_state(2), 2, {"score": 0.7})
        checkpoints.wait()
        assert "step 2 cannot be written" in caplog.text
        assert "(No space left on device); the last good one is step 1." in caplog.text
        assert "Training goes on" in caplog.text
        assert checkpoints.latest_step() == 1
        ballast.unlink()
        checkpoints.save(make_state(3), 3, {"score": 0.8})
    with opened(small_disk) as checkpoints:
        assert checkpoints.latest_step() == 3 and names(small_disk) == {"1", "3"}
        restored = checkpoints.restore(3, make_state(0))
        jax.tree.map(np.testing.assert_array_equal, restored, make_state(3))


def test_last_checkpoint_that_cannot_be_written_ends_in_an_error(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, os.strerror(28))

    save(tmp_path, [0.5])
    with pytest.raises(CheckpointError, match="step 2 cannot .*No space left.*step 1"):
        with opened(tmp_path) as checkpoints, monkeypatch.context() as patch:
            patch.setattr(manifest, "write", fail)
            checkpoints.save(make_state(2), 2)
            checkpoints.close()
    assert names(tmp_path) == {"1"}


@pytest.mark.parametrize("left", [None, "checkpoints", "checkpoints/saving-3.orbax-checkpoint-tmp"])
def test_evaluation_without_checkpoint(tmp_path, left):
    if left:
        (tmp_path / left).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="No .*checkpoint in .*train first") as error:
        evaluation.evaluate(tiny_config(), tmp_path)
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "eval").exists()


def test_folder_that_cannot_be_created(tmp_path):
    file = tmp_path / "run"
    file.write_text("")
    with pytest.raises(CheckpointError, match="Cannot create the folder .*another --workdir"):
        opened(file)
