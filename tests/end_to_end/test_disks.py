"""Commands whose disk is full, or can only be read: one sentence each, and no traceback."""

import contextlib
import os
import pathlib
import subprocess

import numpy as np
import pytest

from tests.networks import stub
from tests.processes import ARGUMENT, finish, small_config, start
from tests.tiny import ROOT, tiny_arguments
from tests.videos import contents
from v2v_jax.cli import commands, predict
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.inference.predictor import Predictor
from v2v_jax.media.video import write_video
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import make_experiment

pytestmark = pytest.mark.usefixtures("compilation_cache")
NOISE = "tests.teachers:noisy_flow"  # which compresses badly
CACHED = dict(data__cache="CACHE", data__num_train_videos=2, data__num_test_videos=1)
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


# ------------------------------------------------------------------------------------------------
# The other commands that write


@pytest.fixture
def writers(small_disk, tmp_path, trained, monkeypatch):
    """Name of a command → its arguments, but for a folder to write to, on the small disk."""
    monkeypatch.setattr(Scenes, "python_share", 0.0)  # starting processes takes long
    video = tmp_path / "videos" / "in.mp4"
    video.parent.mkdir()
    write_video(video, np.random.default_rng(0).integers(0, 255, (24, 96, 128, 3), np.uint8))
    copy = Predictor(stub(None), scale="native")
    monkeypatch.setattr(predict, "_load", lambda options: copy)
    several = [f"--video={video.parent}", "--checkpoint=x"]
    scenes = f"--config={ROOT / 'configs' / 'seg.py'}:{ARGUMENT}"
    cached = ["pack", scenes, *tiny_arguments(**CACHED)]
    export = ["export", f"--checkpoint={trained('color').workdir}", "--bits=32"]
    where = small_disk / "out"
    where.mkdir()
    return {
        "predict": ["predict", f"--video={video}", "--checkpoint=x", f"--output={where}/a.mp4"],
        "frames": ["predict", f"--video={video}", "--checkpoint=x", f"--output={where}/f/%d.png"],
        "folder": ["predict", *several, f"--output={where}/{{name}}.mp4"],
        "folder of frames": ["predict", *several, f"--output={where}/{{name}}/%d.png"],
        "label": ["label", f"--videos={video.parent}", f"--output={where}/l", f"--teacher={NOISE}"],
        "pack": [argument.replace("CACHE", str(where)) for argument in cached],
        "export": [*export, f"--output={where}/a.v2v"],
    }


WRITERS = ("predict", "frames", "folder", "folder of frames", "label", "pack", "export")


def outcome(arguments: list[str], capfd) -> str:
    """What a command that must fail says of it, which is one line."""
    assert commands.execute(arguments) == 1
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out
    lines = [line for line in errors(printed.err) if line.startswith("Error: ")]
    lines += [line for line in printed.out.splitlines() if line.startswith("failed: ")]
    (line,) = lines
    return line


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("free", [0, 4096, 20_000])
def test_writing_on_a_full_disk(small_disk, writers, capfd, name, free):
    """Nothing is left that looks finished; with room the same command does all."""
    fill(small_disk, free)
    before = contents(small_disk)
    line = outcome(writers[name], capfd)
    assert str(small_disk / "out") in line, line
    assert "No space left on device" in line or "disk has" in line, line
    left = contents(small_disk).keys() - before.keys()
    assert all(os.path.basename(file) == "labels.json" for file in left), left
    (small_disk / "ballast").unlink()
    assert commands.execute(writers[name]) == 0, capfd.readouterr()


@pytest.mark.parametrize("name", WRITERS)
def test_writing_on_a_disk_that_can_only_be_read(small_disk, writers, read_only, capfd, name):
    read_only()
    line = outcome(writers[name], capfd)
    assert str(small_disk / "out") in line and "Read-only file system" in line, line
    assert "choose a folder that you may write to" in line, line
