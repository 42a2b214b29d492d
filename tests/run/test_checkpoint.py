"""Checkpoints: which are kept, what is refused."""

import errno
import gc
import logging
import os
import pathlib
import shutil
import subprocess
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from tests.tiny import tiny_config
from v2v_jax.errors import CheckpointError, ConfigError
from v2v_jax.evaluation import evaluator as evaluation
from v2v_jax.run import manifest, stored_state
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.metrics_log import MetricsLog
from v2v_jax.run.stored_checkpoints import compare_about

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


def with_optimizer(name: str):
    """A record and a state, its optimiser's as adamw's or as caffe_sgd's."""
    arrays = lambda: {"kernel": jnp.full((20, 30), 2.0), "bias": jnp.zeros(3)}
    slots = {"adamw": ("mu", "nu"), "caffe_sgd": ("trace",)}[name]
    about = ABOUT | {"config": {"optimizer": {"name": name, "learning_rate": 0.1}}}
    return about, make_state(1) | {"opt_state": {slot: arrays() for slot in slots}}


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
    "fifo added": lambda root: os.mkfifo(root / "checkpoints" / "3" / "params" / "x"),
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


def test_the_end_of_writing_is_told_once(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert not checkpoints.check()
        for step in (1, 2):
            checkpoints.save(make_state(step), step)
            checkpoints._thread.join()
            assert [checkpoints.check(), checkpoints.check()] == [True, False]


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


# ------------------------------------------------------------------------------------------------
# Parameters apart from the optimiser


def write_together(folder, step: int, state, about=ABOUT) -> None:
    """A checkpoint as older versions wrote it: the whole state as one item."""
    path = folder / "checkpoints" / str(step)
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about | {"progress": {}})
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=items)
    (path / "metrics.json").write_text('{"score": 0.5}')
    manifest.write(path, f"v2v_jax checkpoint of step {step}")


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_parameters_are_read_without_the_optimisers_state(tmp_path):
    """Whatever a layer holds beside kernel and bias; the rest need not even be there."""
    about, state = with_optimizer("adamw")
    state["params"] = {"conv": {**state["params"], "gain": jnp.arange(4.0)}}
    with opened(tmp_path, about) as checkpoints:
        checkpoints.save(state, 1)
    folder = tmp_path / "checkpoints" / "1"
    shutil.rmtree(folder / "training")
    manifest.write(folder, "v2v_jax checkpoint of step 1")
    reader = opened(tmp_path, {}, writable=False)
    stored = reader.restore_params(1)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(stored))
    assert_equal(stored, state["params"])
    placed = reader.restore_params(1, state["params"])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(placed))
    assert_equal(placed, state["params"])
    with pytest.raises(CheckpointError, match=r"another network .*kernel is \(20,30\) there"):
        reader.restore_params(1, {"conv": {"kernel": jnp.ones((2, 3))}})


def test_older_checkpoints_are_read(tmp_path):
    about, state = with_optimizer("adamw")
    write_together(tmp_path, 1, state, about)
    with opened(tmp_path, about) as checkpoints:
        assert checkpoints.best_step() == 1
        assert_equal(checkpoints.restore_params(1), state["params"])
        assert_equal(checkpoints.restore_params(1, state["params"]), state["params"])
        restored, step = checkpoints.restore_latest(jax.tree.map(jnp.zeros_like, state))
        assert step == 1
        assert_equal(restored, state)


@pytest.mark.parametrize("older", [False, True])
def test_another_optimiser_is_no_damage(tmp_path, caplog, older):
    about, state = with_optimizer("adamw")
    if older:
        write_together(tmp_path, 1, state, about)
    else:
        with opened(tmp_path, about) as checkpoints:
            checkpoints.save(state, 1)
    about, like = with_optimizer("caffe_sgd")
    with opened(tmp_path, about) as checkpoints:
        for restore in (checkpoints.restore_latest, lambda like: checkpoints.restore(1, like)):
            with pytest.raises(ConfigError) as error:
                restore(like)
            assert "optimizer.name is 'adamw' there and 'caffe_sgd' here" in str(error.value)
            assert f"--config.init_from={tmp_path}." in str(error.value)
            assert "damaged" not in str(error.value) and "learning" not in str(error.value)
    assert names(tmp_path) == {"1"} and not caplog.records


# ------------------------------------------------------------------------------------------------
# Who may write, and what is published


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_what_the_system_does_not_let_be_read_is_no_damage(tmp_path, monkeypatch, caplog, number):
    """Nothing is set aside, and no older checkpoint is taken in its place without a word."""
    save(tmp_path, [0.1, 0.2])

    def refused(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "verify", refused)
        with pytest.raises(CheckpointError, match=rf"2 cannot be read \({os.strerror(number)}\); "):
            opened(tmp_path).latest_step()
    with opened(tmp_path) as checkpoints:
        patch.setattr(stored_state, "read_state", as_unreadable(refused))
        with pytest.raises(CheckpointError, match=rf"2 cannot be read \({os.strerror(number)}\); "):
            checkpoints.restore_latest(make_state(0))
        patch.undo()
        assert checkpoints.restore_latest(make_state(0))[1] == 2
    assert names(tmp_path) == {"1", "2"} and not caplog.records


def as_unreadable(read):
    def wrapped(*args):
        with stored_state._as_unreadable():
            read(*args)

    return wrapped


def test_a_checkpoint_that_cannot_be_written_says_what_helps(tmp_path, monkeypatch):
    """Not: make room, where there is plenty."""

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(manifest, "write", refused)
    with pytest.raises(CheckpointError, match="denied.*there is none yet. Choose a folder that"):
        save(tmp_path, [0.1])


def test_a_reader_does_not_save(tmp_path):
    reader = opened(tmp_path, writable=False)
    with pytest.raises(CheckpointError, match="open for reading only"):
        reader.save(make_state(1), 1)
    assert list(tmp_path.iterdir()) == []


def test_second_training_is_refused(tmp_path):
    """It touches nothing of what the first is writing; readers are let in."""
    with opened(tmp_path) as first:
        first.save(make_state(1), 1)
        with pytest.raises(CheckpointError, match="Another training is writing to .*--workdir"):
            opened(tmp_path)
        first.save(make_state(2), 2)
        first.wait()
        assert opened(tmp_path, writable=False).latest_step() == 2
    with opened(tmp_path) as second:
        assert second.latest_step() == 2
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr("v2v_jax.run.checkpoint.locked", fail)
    with pytest.raises(CheckpointError, match="Read-only file system.*--workdir"):
        opened(tmp_path)


@pytest.mark.parametrize("lost", ["d", "params/manifest.ocdbt", "training/_METADATA"])
def test_a_step_that_lacks_a_part_is_not_published(tmp_path, caplog, lost):
    """As if another program had deleted it while it was written."""
    save(tmp_path, [0.1])
    with opened(tmp_path) as checkpoints:
        wait = checkpoints._checkpointer.wait_until_finished

        def wait_and_lose():
            wait()
            folder = tmp_path / "checkpoints" / "saving-2"
            if not folder.exists():  # orbax waits before it begins, too
                return
            data = max((folder / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
            (data if lost == "d" else folder / lost).unlink()

        checkpoints._checkpointer.wait_until_finished = wait_and_lose
        checkpoints.save(make_state(2), 2)
        checkpoints.wait()
        assert "step 2 cannot be written" in caplog.text and checkpoints.latest_step() == 1
        checkpoints.save(make_state(3), 3)
    assert names(tmp_path) == {"1", "3"}


def make_unreadable(folder, step: int) -> None:
    """What no manifest tells: the files are what was published, and make no checkpoint."""
    path = folder / "checkpoints" / str(step)
    (path / "training" / "manifest.ocdbt").write_bytes(b"\0" * 100)
    manifest.write(path, f"v2v_jax checkpoint of step {step}")


def test_restoring_falls_back_to_what_can_be_read(tmp_path, caplog):
    save(tmp_path, [0.1, 0.2])
    make_unreadable(tmp_path, 2)
    with opened(tmp_path) as checkpoints:
        restored, step = checkpoints.restore_latest(make_state(0))
    assert step == 1
    assert_equal(restored, make_state(1))
    (aside,) = [name for name in names(tmp_path) if name.startswith("damaged-2-")]
    assert aside in caplog.text and "Step 1 is used instead" in caplog.text
    make_unreadable(tmp_path, 1)  # and now there is none: nothing is set aside, nothing started
    with opened(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match="checkpoints/1 is damaged"):
            checkpoints.restore_latest(make_state(0))
    assert names(tmp_path) == {"1", aside}


@pytest.mark.parametrize(
    "text", ["[]", '"x"', "3", "[" * 20_000, '{"score": "x"}', '{"score": []}', "folder"]
)
def test_metrics_of_another_type_do_not_stop_saving(tmp_path, text, caplog):
    save(tmp_path, [0.1, 0.2])
    path = tmp_path / "checkpoints" / "1" / "metrics.json"
    path.unlink()
    if text == "folder":
        path.mkdir()
    else:
        path.write_text(text)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(make_state(3), 3, {"score": 0.3})
        checkpoints.wait()
        assert checkpoints.best_step() == 3
    assert "cannot be written" not in caplog.text


@pytest.mark.parametrize("refused", ["rename", "rmtree"])
def test_old_checkpoint_that_cannot_be_deleted_does_not_make_new_ones_fail(
    tmp_path, monkeypatch, caplog, refused
):
    """Nor the same step's, saved once more; and the next run begins as if nothing were there."""
    rename, rmtree = pathlib.Path.rename, shutil.rmtree

    def refuse_to_rename(path, target):
        if pathlib.Path(target).name.startswith("deleting-"):
            raise PermissionError(13, os.strerror(13), str(path))
        return rename(path, target)

    def refuse_to_remove(path, ignore_errors=False, **kwargs):
        if "checkpoints" not in str(path) or "orbax" in str(path):
            return rmtree(path, ignore_errors=ignore_errors, **kwargs)
        if not ignore_errors:
            raise PermissionError(13, os.strerror(13), str(path))

    with monkeypatch.context() as patch:
        if refused == "rename":
            patch.setattr(pathlib.Path, "rename", refuse_to_rename)
        else:
            patch.setattr("v2v_jax.run.checkpoint.shutil.rmtree", refuse_to_remove)
        save(tmp_path, [0.9, 0.1, 0.3, 0.2, 0.1])
        with opened(tmp_path) as checkpoints:
            assert checkpoints.latest_step() == 5
            checkpoints.save(make_state(5), 5, {"score": 0.8})
        with opened(tmp_path) as checkpoints:
            assert checkpoints.metrics(5) == {"score": 0.8}
    assert "cannot be written" not in caplog.text
    assert {r.levelno for r in caplog.records} == {logging.WARNING}
    assert "cannot be deleted (Permission denied" in caplog.text or "13" in caplog.text
    save(tmp_path, [None] * 6)  # all is cleared away
    assert names(tmp_path) == {"5", "6"}


def test_what_depends_on_others_is_put_on_the_disk_after_them(tmp_path, monkeypatch):
    """Lines of metrics.jsonl, then a checkpoint's files, its manifest, its name, its folder."""
    events = []
    fsync, rename, replace = os.fsync, pathlib.Path.rename, os.replace
    inside = lambda path: pathlib.Path(path).relative_to(tmp_path).as_posix()

    def noting_fsync(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(str(tmp_path)):
            events.append(("sync", inside(path)))
        fsync(descriptor)

    def noting_rename(path, target):
        if "tmp" not in pathlib.Path(target).name:
            events.append(("name", inside(target)))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(pathlib.Path, "rename", noting_rename)
    noting_replace = lambda old, new: (events.append(("name", inside(new))), replace(old, new))
    monkeypatch.setattr(os, "replace", noting_replace)
    (tmp_path / "metrics.jsonl").write_text('{"step": 9}\n')
    with opened(tmp_path) as checkpoints, MetricsLog(tmp_path, 0) as log:
        # What a killed run left is replaced: the new file first, then its name, then the folder.
        at = events.index(("name", "metrics.jsonl"))
        assert events[at - 1][0] == "sync" and ".metrics" in events[at - 1][1]
        assert ("sync", ".") in events[at + 1 :]
        events.clear()
        log.write(4, "train", {"loss": 1.0})
        log.sync()
        checkpoints.save(make_state(4), 4, {"score": 0.5})
    at = lambda event: events.index(event)
    named = at(("name", "checkpoints/4"))
    assert at(("sync", "metrics.jsonl")) < named
    synced = {path for kind, path in events[:named] if kind == "sync"}
    folder = tmp_path / "checkpoints" / "4"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {f"checkpoints/saving-4/{name}" for name in files} <= synced
    assert at(("sync", "checkpoints/saving-4/SHA256SUMS")) > at(
        ("sync", "checkpoints/saving-4/metrics.json")
    )
    assert ("sync", "checkpoints") in events[named:]


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


def test_a_state_without_parameters(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save({"x": jnp.arange(3)}, 1)
        checkpoints.wait()
        assert_equal(checkpoints.restore(1, {"x": jnp.zeros(3, jnp.int32)}), {"x": jnp.arange(3)})


def test_checkpoints_from_before_standardised_kernels_are_of_plain_ones():
    wanted = {**ABOUT, "model": {**ABOUT["model"], "standardized": False}}
    compare_about(ABOUT, wanted, "here")
    wanted["model"]["standardized"] = True
    with pytest.raises(CheckpointError, match="model is .*'standardized': False"):
        compare_about(ABOUT, wanted, "here")


def test_an_optimiser_with_empty_states_is_saved(tmp_path, caplog):
    """As optax chains have them: places in the tree without an array."""
    params = {"conv": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3), optax.identity())
    state = {"step": jnp.int32(1), "params": params, "opt_state": optimizer.init(params)}
    with opened(tmp_path) as checkpoints:
        checkpoints.save(state, 1)
        checkpoints.wait()
        assert checkpoints.latest_step() == 1 and caplog.records == []
        restored = checkpoints.restore(1, state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_saving_leaves_little_behind(tmp_path):
    """tensorstore keeps every JSON that it gives away: it must hardly be asked for any."""
    layers = {f"layer{i}": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)} for i in range(15)}
    state = {"step": jnp.int32(1), "params": layers, "opt_state": {"mu": layers, "nu": layers}}
    with opened(tmp_path) as checkpoints:

        def save_some(first, count):
            for step in range(first, first + count):
                checkpoints.save(state, step)
                checkpoints.wait()
            gc.collect()

        save_some(1, 4)
        tracemalloc.start(1)
        try:
            save_some(10, 1)
            snapshots = [tracemalloc.take_snapshot()]
            save_some(20, 4)
            snapshots.append(tracemalloc.take_snapshot())
        finally:
            tracemalloc.stop()
    askers = [tracemalloc.Filter(True, f"*/{name}") for name in ("orbax/*", "tensorstore_leak.py")]
    before, after = (snapshot.filter_traces(askers) for snapshot in snapshots)
    grown = sum(line.size_diff for line in after.compare_to(before, "lineno")) / 4
    assert grown < 25_000  # 5 to 14 kB; 41 kB when either is asked for as often as orbax would
