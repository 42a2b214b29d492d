"""docs/guides/own_task.md and own_loop.md: their code and commands, from a folder of one's own."""

import os
import re
import runpy
import shlex
import sys

import jax
import numpy as np
import pytest

import v2v_jax
from tests.tiny import ROOT
from v2v_jax.cli import commands
from v2v_jax.datasets import DATASETS
from v2v_jax.errors import CheckpointError, ConfigError
from v2v_jax.media.video import read_video
from v2v_jax.run import recipes
from v2v_jax.tasks import TASKS

GUIDES = ROOT / "docs" / "guides"
TASK, LOOP = ((GUIDES / page).read_text() for page in ("own_task.md", "own_loop.md"))
FILES = dict(re.findall(r'^```python title="(.*?)"\n(.*?)^```$', TASK + LOOP, re.M | re.S))
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", TASK, re.M | re.S)[0].splitlines()
OWN_MODULES = ("speed", "squares", "my_config")


def forget():
    """As a process that has not imported the modules."""
    TASKS.pop("speed", None)
    DATASETS.pop("squares", None)
    for name in OWN_MODULES:
        sys.modules.pop(name, None)


def v2v(command: str) -> int:
    """The exit status of a `v2v …` command, run in this process."""
    program, *argv = shlex.split(command)
    assert program == "v2v"
    return commands.execute(argv)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, compilation_cache):
    """Where all commands of the page ran, each as in a process of its own."""
    folder = tmp_path_factory.mktemp("own")
    for name, code in FILES.items():
        (folder / name).write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for command in COMMANDS:
            forget()
            if command.startswith("python "):
                runpy.run_path(command.split()[1])
            else:
                assert v2v(command) == 0, command
        yield folder
    forget()


def test_the_page_has_what_it_promises():
    assert [command.split()[1] for command in COMMANDS] == [
        *("check-data", "train", "eval", "film.py", "predict", "export", "predict")
    ]
    loop = FILES["loop.py"]
    assert len(loop[loop.index("network =") :].splitlines()) < 30
    assert set(FILES) >= {"speed.py", "squares.py", "my_config.py", "loop.py", "inside.py"}


def test_the_own_task_learns_and_is_reported(folder):
    import json

    values = json.loads((folder / "run/eval/metrics.json").read_text())
    assert values["rmse"] < 0.9 * values["baseline_rmse"]
    page = (folder / "run/eval/report.html").read_text()
    assert "speed on squares" in page and "the best constant" in page
    assert (folder / "run/eval/clip0.png").is_file() and (folder / "run/eval/clip0.gif").is_file()


def test_it_is_predicted_the_same_from_run_and_export(folder):
    forget()
    use = runpy.run_path("use.py")
    speed = use["pixels_a_frame"]
    frames, _ = read_video("film.mp4")
    assert speed.shape == frames.shape[:3] == (12, 40, 56) and speed.dtype == np.float32
    # The exported program has one size of clip, so it predicts in windows of that size.
    tiles = v2v_jax.Predictor(use["predictor"].network, full_frame=False)("film.mp4")
    assert len(os.listdir("frames")) == 12
    for t in range(12):
        with np.load(f"frames/{t:05d}.npz") as arrays:
            np.testing.assert_allclose(arrays["values"], tiles[t], atol=1e-5)
    drawn, fps = read_video("out.mp4")
    assert drawn.shape == frames.shape and fps == 12
    network = use["predictor"].network
    assert network.about["task_options"] == {"softness": 0.1} and network.task.softness == 0.1
    # In pixels of the video, which is larger than what the network saw by 40 / 24.
    native = v2v_jax.Predictor(network, full_frame=True)
    assert native.scaled_size((40, 56)) == (24, 34)
    inside = runpy.run_path("inside.py")
    assert inside["speeds"].shape == (2,)
    expected = jax.jit(network.apply)(network.params, inside["clips"]).max((1, 2, 3, 4))
    np.testing.assert_allclose(inside["speeds"], expected, rtol=1e-5)


def test_without_its_module_the_message_says_which(folder, capsys):
    forget()
    command = "v2v predict --checkpoint=run --video=film.mp4 --output=again.mp4"
    assert v2v(command) == 1
    message = capsys.readouterr().err
    assert "'speed', which is not registered here" in message and "--import=speed" in message
    with pytest.raises(CheckpointError, match="import speed first"):
        v2v_jax.load("speed.v2v")
    assert v2v(f"{command} --import=no_such_module") == 1
    assert "--import=no_such_module cannot be imported" in capsys.readouterr().err
    assert not os.path.exists("again.mp4")
    assert v2v(f"{command} --import={folder / 'speed.py'}") == 0 and os.path.exists("again.mp4")


def test_registered_names_are_choices(folder):
    forget()
    with pytest.raises(ConfigError, match="dataset is 'squares'; known: scenes"):
        recipes.parse_arg("dataset=squares")
    __import__("squares")
    assert recipes.parse_arg("dataset=squares").dataset == "squares"
    with pytest.raises(ConfigError, match="dataset is 'typo'; known: scenes.*squares"):
        recipes.parse_arg("dataset=typo")
    with pytest.raises(ConfigError, match="task is 'speed'; known: segmentation"):
        recipes.make_config("speed", recipes.parse_arg(""), num_steps=10, learning_rate=1e-3)
    __import__("speed")
    config = recipes.make_config("speed", recipes.parse_arg(""), num_steps=10, learning_rate=1e-3)
    assert config.task_options.to_dict() == {"softness": 0.1}
    with pytest.raises(ConfigError, match="The task speed is not in the paper"):
        options = recipes.parse_arg("recipe=paper")
        recipes.make_config("speed", options, num_steps=10, learning_rate=1e-3)


def test_the_own_loop_learns(compilation_cache, tmp_path):
    (tmp_path / "loop.py").write_text(FILES["loop.py"])
    losses = runpy.run_path(str(tmp_path / "loop.py"))["losses"]
    assert losses[-1] < 0.7 * losses[0]
