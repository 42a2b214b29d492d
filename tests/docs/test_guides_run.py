"""The guides run: every command and block of Python of a guide, one after the other, in one folder.

Trainings are shortened by options behind the guides' own; all else is as it stands. What needs a
dataset, a file or a machine that is not here is in NOT_HERE, with what tests it instead.
"""

from __future__ import annotations

import pathlib
import runpy

import numpy as np
import PIL.Image
import pytest

from tests import markdown as pages
from tests.tiny import TINY
from v2v_jax.cli import command_line, commands, train
from v2v_jax.media.video import write_video

# In this order, as later ones use the runs of those before.
GUIDES = (
    *("docs/index.md", "docs/guides/training.md", "docs/guides/own_video.md"),
    *("docs/guides/own_data.md", "docs/guides/teacher_labels.md", "docs/guides/export.md"),
    *("docs/guides/report.md", "docs/guides/fine_tuning.md"),
)
# Parts of commands → what tests that.
NOT_HERE = {
    "ucf101": "tests/datasets/test_teacher_labels.py",
    "tflite:": "tests/labelling/test_tflite_teacher.py",
    "people_labels": "tests/labelling/test_label_tasks.py",  # what that teacher would have made
    "--ray": "tests/system/test_jobs.py",
    "experiments.": "tests/experiments/test_real_video.py",
    "/dev/video0": "tests/inference/test_predictor.py",
}
# All pages that have commands, and what runs those of the others.
ELSEWHERE = {
    "docs/guides/own_task.md": "tests/end_to_end/test_extending.py",
    "docs/guides/own_loop.md": "tests/end_to_end/test_extending.py",
    "docs/guides/many_machines.md": "tests/training/test_multi_process.py",
    "docs/guides/tpu.md": "tests/benchmarks/test_tpu_compile.py",
    "docs/guides/following_a_run.md": "tests/training/test_callbacks.py",
    "docs/guides/model_selection.md": "tests/datasets/test_folds.py",
    "docs/install.md": "tests/end_to_end/test_installation.py",
}


def test_every_guide_is_run_somewhere():
    guides = {page for page in pages.GUIDES if page.startswith("docs/") and pages.commands(page)}
    assert guides <= {*GUIDES, *ELSEWHERE}
    for path in (*ELSEWHERE.values(), *NOT_HERE.values()):
        assert (pages.ROOT / path).is_file(), path


@pytest.fixture
def folder(tmp_path, monkeypatch, compilation_cache):
    """A folder with the files that the guides speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (18, 40, 56, 3), np.uint8)
    for name in ("in.mp4", "videos/a.mp4", "videos/b.mp4", "mydata/a.mp4", "mydata/more/b.mp4"):
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_video(name, frames, fps=10)
    for kind, picture in (("images", frames), ("labels", (frames[..., 0] > 127).astype(np.uint8))):
        for video in ("walk", "jump", "run"):
            place = pathlib.Path("mydata", kind, video)
            place.mkdir(parents=True)
            for t in range(18):
                PIL.Image.fromarray(picture[t]).save(place / f"{t:05d}.png")
    pathlib.Path("frames").mkdir()
    for t in range(9):
        PIL.Image.fromarray(frames[t]).save(f"frames/{t:05d}.png")
    for name, lines in (("classes", "background person"), ("train", "walk jump"), ("test", "run")):
        pathlib.Path("mydata", f"{name}.txt").write_text(lines.replace(" ", "\n") + "\n")
    return tmp_path


def shortened(argv: list[str]) -> list[str]:
    """A training's arguments, with those of `tests.tiny` behind them: the last one counts."""
    if not any(word.startswith("--config=") for word in argv):
        return argv
    parser = command_line.Parser("v2v", "")
    train.add_options(parser)
    config = parser.parse([word for word in argv if word != "--report"] + ["--workdir=w"]).config
    values = TINY | {"num_steps": 2, "eval_every": 2, "num_pictures": 1, "model.name": "conv3b_up"}
    if config.task == "classification":
        del values["model.name"]
    if config.data.name != "scenes":
        values = {key: value for key, value in values.items() if not key.startswith("data.")}
    return argv + [f"--config.{key}={value}" for key, value in values.items()]


def run(command: list[str]) -> None:
    program, *argv = command
    if program in ("python", "make"):  # of the repository, which is not in this folder
        return
    assert program == "v2v"
    arguments = [argv[0], *shortened(argv[1:])]
    if argv[0] == "predict":
        arguments.append("--overwrite")
    assert commands.execute(arguments) == 0, " ".join(command)


@pytest.mark.slow
def test_guides(folder):
    for name in ("color", "c3d"):  # which the guides take for trained
        run(["v2v", "train", f"--config={name}", f"--workdir=runs/{name}"])
    for page in GUIDES:
        for block in pages.blocks(page):
            if block.language == "python" and not any(part in block.text for part in NOT_HERE):
                run_python(block)
            elif block.language == "sh":
                for command in pages.commands_of(block.text):
                    if not any(part in " ".join(command) for part in NOT_HERE):
                        run(command)
    runs = {path.name for path in folder.glob("runs/*")}
    assert runs >= {"mine", "seg", "demo", "flow", "colour", "small"}
    assert (folder / "runs/seg/eval/report.html").is_file()


def run_python(block: pages.Block) -> None:
    """In one namespace for the whole guide; a block with a title is a file."""
    if block.title:
        pathlib.Path(block.title).write_text(block.text)
        runpy.run_path(block.title)
    else:
        NAMESPACE["camera"] = iter(np.zeros((9, 40, 56, 3), np.uint8))
        exec(compile(block.text, "guide", "exec"), NAMESPACE)


NAMESPACE: dict[str, object] = {}
