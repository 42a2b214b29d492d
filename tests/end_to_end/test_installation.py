"""The wheel: what is in it, and that it works from an empty folder without the extras."""

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import numpy as np
import pytest

import v2v_jax
from tests.tiny import ROOT, tiny_arguments
from v2v_jax.media.video import read_video, write_video

SOURCES = ("v2v_jax", "configs", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
# What belongs to the extras: a plain install has none of it.
EXTRAS = (
    *("tensorflow", "tensorflow_datasets", "array_record", "tensorboardX", "h5py"),
    *("ray", "torch", "pytest", "hypothesis", "nbclient", "ipykernel"),
)
# With PLAIN set, Python starts as if these were not installed.
WITHOUT_EXTRAS = f"""
import os, sys

if os.environ.get("PLAIN"):
    sys.modules.update(dict.fromkeys({EXTRAS!r}))
"""


def pip(*arguments) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    # A checkout on PYTHONPATH would count as installed.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, where nothing of earlier builds lies; takes nothing from the network."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-index", "--no-build-isolation")
    pip("wheel", *options, "--wheel-dir", folder, source)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_has_every_file_of_the_package_and_the_recipes(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        scripts = archive.read(points).decode()
    expected = set()
    for folder, target in (("v2v_jax", "v2v_jax"), ("configs", "v2v_jax/configs")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                expected.add(f"{target}/{path.relative_to(ROOT / folder).as_posix()}")
    assert names == expected
    assert names >= {"v2v_jax/py.typed", "v2v_jax/zoo/index.json", "v2v_jax/configs/seg.py"}
    assert "v2v = v2v_jax.cli.commands:main" in scripts


def test_extras():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    assert extras >= {"train", "test", "docs", "cuda", "tpu", "ray", "benchmark"}
    plain = setup["options"]["install_requires"]
    assert not [name for name in EXTRAS if f"\n{name}>" in plain]


def test_the_wheel_and_the_changelog_have_the_version(wheel):
    assert wheel.name == f"v2v_jax-{v2v_jax.__version__}-py3-none-any.whl"
    changes = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## \[(.*?)\] - \d{4}-\d\d-\d\d$", changes, re.M)
    assert newest is not None and newest[1] == v2v_jax.__version__
    assert wheel.name in (ROOT / "docs" / "install.md").read_text()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs of a fresh environment with the wheel and this one's dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path that a .pth file names is only searched: what is installed here for development, this
    # package itself, is not found.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (packages / "sitecustomize.py").write_text(WITHOUT_EXTRAS)
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    return folder / "bin"


@pytest.mark.slow
def test_an_empty_folder_is_enough(installed, tmp_path, compilation_cache):
    """The recipes come from the wheel; all that needs no training works without the extras."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["JAX_COMPILATION_CACHE_DIR"] = compilation_cache

    def run(*command, status: int = 0, **more) -> str:
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, env=environment | more, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert status or done.stderr == ""
        return done.stderr if status else done.stdout

    def plain(*command, status: int = 0) -> str:
        return run(*command, status=status, PLAIN="1")

    v2v, python = installed / "v2v", installed / "python"
    where = plain(python, "-c", "import v2v_jax; print(v2v_jax.__file__)").strip()
    assert pathlib.Path(where).is_relative_to(installed.parent)
    assert "  check-data " in plain(v2v, "--help") and "v2v_jax " in plain(v2v, "--version")
    assert "flow: flow, trained on" in plain(python, "-m", "v2v_jax", "models")
    tiny = tiny_arguments(num_steps=2, eval_every=2)
    recipe = "--config=seg:model=conv3b_up"
    assert "cannot be read" in plain(v2v, "check-data", recipe, *tiny)
    assert "step 2/2" in run(v2v, "train", recipe, "--workdir=run", *tiny)
    message = plain(v2v, "train", recipe, "--workdir=other", *tiny, status=1)
    assert "pip install 'v2v_jax[train]'" in message and message.count("\n") == 1
    assert "accuracy" in run(v2v, "eval", recipe, "--workdir=run", "--report", *tiny)
    assert (tmp_path / "run" / "eval" / "report.html").is_file()
    write_video(tmp_path / "in.mp4", np.zeros((5, 40, 50, 3), np.uint8))
    for checkpoint in ("run", "run.v2v"):
        if checkpoint == "run.v2v":
            plain(v2v, "export", "--checkpoint=run", "--output=run.v2v")
        predict = (v2v, "predict", f"--checkpoint={checkpoint}", "--video=in.mp4", "--overwrite")
        assert "5 frames in" in plain(*predict, "--output=out.mp4")
        assert read_video(tmp_path / "out.mp4")[0].shape == (5, 40, 50, 3)
    # The weights of the wheel, as the first page of the site has it.
    assert "5 frames in" in plain(
        *(v2v, "predict", "--checkpoint=flow", "--video=in.mp4", "--output=flow.mp4")
    )
    assert read_video(tmp_path / "flow.mp4")[0].shape == (5, 40, 50, 3)
    assert 'task: "segmentation"' in plain(v2v, "train", "--config=seg:demo", "--print_config")
    # A module of one's own in the current folder.
    (tmp_path / "mine.py").write_text(
        "import numpy\ndef flow(a, b):\n    return numpy.zeros((*a.shape[:2], 2), 'f4')\n"
    )
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", np.zeros((3, 40, 50, 3), np.uint8))
    label = ("--videos=videos", "--output=labels", "--teacher=mine:flow", "--threads=1")
    assert "1 done" in plain(v2v, "label", *label)
    video = "numpy.zeros((3, 40, 50, 3), 'u1')"
    code = f"import numpy, v2v_jax; print(v2v_jax.load('run')({video}).shape)"
    assert plain(python, "-c", code) == "(3, 40, 50)\n"
