"""Commands whose disk is full, or can only be read: one sentence each, and no traceback."""

import contextlib
import pathlib
import subprocess

import pytest

from tests.processes import ARGUMENT, finish, small_config, start
from tests.tiny import ROOT, tiny_arguments
from v2v_jax.cli import commands
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import make_experiment

pytestmark = pytest.mark.usefixtures("compilation_cache")
OPTIONS = dict(num_steps=4, eval_every=4, save_every=2)


def run(command: str, workdir: pathlib.Path) -> int:
    """The exit status of `v2v train` or `v2v eval`, in this process."""
    config = f"--config={ROOT / 'configs' / 'seg.py'}:{ARGUMENT}"
    return commands.execute([command, config, f"--workdir={workdir}", *tiny_arguments(**OPTIONS)])


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("reading ")]


def fill(folder: pathlib.Path, free: int = 0) -> None:
    """Leaves `free` bytes of a file system."""
    (folder / "reserve").write_bytes(bytes(free))
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    (folder / "reserve").unlink()


@pytest.fixture
def read_only(small_disk):
    """Makes the small disk one that can only be read."""

    def remount() -> None:
        done = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True)
        if done.returncode:
            pytest.skip("a file system cannot be made read-only here")
        with pytest.raises(OSError, match="Read-only"):
            (small_disk / "x").touch()

    return remount


def test_training_on_a_full_disk(small_disk, capfd):
    fill(small_disk)
    assert run("train", small_disk / "run") == 1
    (line,) = errors(capfd.readouterr().err)
    assert line.startswith(f"Error: Cannot write {small_disk / 'run'} (No space left on device); ")


@pytest.mark.slow
@pytest.mark.parametrize("free", [8_000, 40_000, 100_000])
def test_training_where_a_checkpoint_has_no_room(small_disk, free):
    """A sentence for each checkpoint, log and curves; once 228 tracebacks stood beside them."""
    fill(small_disk, free)
    workdir = small_disk / "run"
    ((status, _, text),) = finish([start(workdir, *tiny_arguments(**OPTIONS))])
    lines = errors(text)
    said = [line for line in lines if line.startswith("Error: The checkpoint of step ")]
    assert status == 1 and lines[-1] == said[-1]
    assert lines[-1].startswith("Error: The checkpoint of step 4 cannot be written to")
    assert lines[-1].endswith(
        "(No space left on device); there is none yet. Make room there or choose another --workdir."
    )
    others = [line for line in lines if line not in said]
    assert all(line.startswith("Error: Cannot write ") for line in others)
    assert len(said) == 2 and len(others) == len(set(others)) <= 2


def test_training_and_evaluation_where_nothing_can_be_written(small_disk, read_only, capfd):
    """Begun there, and gone on from a checkpoint there, which evaluation reads."""
    workdir = small_disk / "run"
    experiment = make_experiment(small_config(**OPTIONS), "train")
    with Checkpoints(workdir, experiment.about, headline="accuracy", writable=True) as checkpoints:
        checkpoints.save(experiment.init_state(), 2)
    read_only()
    for command, folder, message in (
        ("train", small_disk / "new", "Error: Cannot create the folder {}/checkpoints, or write"),
        ("train", workdir, "Error: Cannot create the folder {}/checkpoints, or write there (Read-"),
        ("eval", workdir, "Error: {}/eval cannot be used (Read-only file system)"),
    ):
        assert run(command, folder) == 1
        (line,) = errors(capfd.readouterr().err)
        assert line.startswith(message.format(folder))
