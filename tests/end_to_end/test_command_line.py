"""Bad command lines, data and checkpoints: one clear sentence on standard error, no traceback."""

import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.tiny import ROOT, SMALLEST, TINY, tiny_arguments
from v2v_jax.cli import command_line, commands, train
from v2v_jax.media.video import write_video

pytestmark = [
    pytest.mark.usefixtures("compilation_cache"),
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # ml_collections'
]


def error_of(capsys, *arguments, status, command="train") -> str:
    """Runs a command in this process; returns its error, the one line that is no warning."""
    capsys.readouterr()
    assert commands.execute([command, *arguments]) == status
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if not line.startswith("Warning: ")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in lines[0]
    return lines[0]


def config_flag(name: str) -> str:
    return f"--config={ROOT / 'configs' / name}"


# ------------------------------------------------------------------------------------------------
# The command line itself


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--config=RECIPE", "--workdir=FOLDER"]),
        ([config_flag("seg.py")], ["--workdir=FOLDER"]),
        (["--workdir=w"], ["--config=RECIPE"]),
        (["--config=configs/nope.py", "--workdir=w"], ["configs/nope.py", "does not exist"]),
        ([config_flag("seg.py"), "--workdir=w", "--nope=1"], ["--nope", "--workdir"]),
        ([config_flag("seg.py"), "--workdir=w", "stray"], ["'stray'"]),
        (
            [config_flag("seg.py"), "--workdir=w", "--config.batchsize=4"],
            ["batchsize", "did you mean batch_size?", "optimizer.learning_rate", "num_steps"],
        ),
        (
            [config_flag("seg.py"), "--workdir=w", "--config.optimizer.lr", "4"],
            ["optimizer.lr", "optimizer.learning_rate"],
        ),
        ([config_flag("seg.py"), "--workdir=w", "--config.batch_size=many"], ["batch_size=many"]),
        ([config_flag("seg.py"), "--workdir=w", "--config.mirror=7"], ["mirror=7"]),
        ([config_flag("seg.py:dataset=nope"), "--workdir=w"], ["'nope'", "scenes", "ucf101"]),
        ([config_flag("seg.py:size=huge"), "--workdir=w"], ["'huge'", "full", "small"]),
        ([config_flag("seg.py:nonsense"), "--workdir=w"], ["'nonsense'", "demo", "recipe="]),
    ],
)
def test_command_line_that_cannot_be_understood(capsys, arguments, words):
    message = error_of(capsys, *arguments, status=2)
    for word in words:
        assert word in message


def test_options_in_any_order_and_form(tmp_path):
    parser = command_line.Parser("v2v train", "")
    train.add_options(parser)
    options = parser.parse(
        ["--workdir", str(tmp_path), config_flag("seg.py:size=small"),
         "--config.batch_size", "12", "--noconfig.mirror",
         "--config.preprocessing.crop_size=(32,48)"],
    )  # fmt: skip
    config = options.config
    assert options.workdir == str(tmp_path)
    assert (config.model.width, config.batch_size, config.mirror) == (0.25, 12, False)
    assert config.preprocessing.crop_size == (32, 48)
    with pytest.raises(AttributeError):
        config.batchsize = 3  # locked


# ------------------------------------------------------------------------------------------------
# Configurations and data that the run refuses


@pytest.mark.parametrize(
    "override, words",
    [
        (dict(task="x"), ["task is 'x'", "segmentation, flow, color, depth"]),
        (dict(feed="x"), ["feed is 'x'", "device, tf_data"]),
        (dict(model__name="v3v"), ["'v3v'", "v2v_2d"]),
        (dict(optimizer__name="adam"), ["'adam'", "adamw"]),
        (dict(batch_size=0), ["batch_size is 0"]),
        (dict(preprocessing__crop_size="(40,32)"), ["(40, 32)", "multiples of 16"]),
        (dict(preprocessing__crop_size=32), ["crop_size is (32,)", "2 numbers"]),
        (dict(preprocessing__crop_size="(64,64)"), ["(64, 64) does not fit", "(48, 64)"]),
        (dict(preprocessing__clip_length=12), ["clip_length 12", "of 8"]),
        (dict(preprocessing__clip_length=16), ["16 frames"]),  # of videos of 12
    ],
)
def test_values_that_cannot_be_used(capsys, tmp_path, override, words):
    message = error_of(
        capsys, config_flag("seg.py"), f"--workdir={tmp_path / 'w'}", *tiny_arguments(**override),
        status=1,
    )  # fmt: skip
    for word in words:
        assert word in message
    assert not (tmp_path / "w").exists()


def test_workdir_that_is_a_file(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    arguments = (config_flag("seg.py"), f"--workdir={file}", *tiny_arguments())
    assert str(file) in error_of(capsys, *arguments, status=1)
    assert str(file) in error_of(capsys, *arguments, status=1, command="eval")


def run_on(capsys, tmp_path, config: str, root) -> str:
    sizes = [a for a in tiny_arguments() if ".data." not in a]
    return error_of(
        capsys, config_flag(config), f"--workdir={tmp_path / 'w'}", *sizes,
        f"--config.data.root={root}", status=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    "dataset, task", [("ucf101", "color"), ("davis", "seg"), ("folder", "color")]
)
def test_missing_dataset_folder(capsys, tmp_path, dataset, task):
    root = tmp_path / "nowhere"
    message = run_on(capsys, tmp_path, f"{task}.py:dataset={dataset}", root)
    assert str(root) in message and "does not exist" in message


def test_missing_list_file(capsys, tmp_path):
    (tmp_path / "UCF-101").mkdir()
    (tmp_path / "ucfTrainTestlist").mkdir()
    message = run_on(capsys, tmp_path, "color.py:dataset=ucf101", tmp_path)
    assert "trainlist01.txt" in message


def test_dataset_without_the_task_s_field(capsys, tmp_path):
    write_frames(tmp_path / "a.mp4", 18)
    write_frames(tmp_path / "b.mp4", 18)
    message = run_on(capsys, tmp_path, "flow.py:dataset=folder", tmp_path)
    assert "folder has no flow" in message


def write_frames(path, count):
    noise = np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), np.uint8)
    write_video(path.with_suffix(".mp4"), noise)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: path.write_text("This is no video.\n" * 100), ["a.avi", "cannot be read"]),
        (lambda path: path.write_bytes(b""), ["a.avi", "cannot be read"]),
        (lambda path: write_frames(path, 5), ["a.mp4", "shorter than"]),
    ],
    ids=["text", "empty", "short"],
)
def test_only_video_is_not_usable(capsys, tmp_path, make, words):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    make(tmp_path / "train" / "a.avi")
    write_frames(tmp_path / "test" / "b.mp4", 18)
    message = run_on(capsys, tmp_path, "color.py:dataset=folder", tmp_path)
    for word in words:
        assert word in message


def test_mask_of_another_size(capsys, tmp_path):
    sizes = {"bear": (48, 64), "dog": (48, 32)}
    for name, mask_size in sizes.items():
        frames = tmp_path / "JPEGImages" / "480p" / name
        masks = tmp_path / "Annotations" / "480p" / name
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t in range(16):
            Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(frames / f"{t:05d}.jpg")
            Image.fromarray(np.zeros(mask_size, np.uint8)).save(masks / f"{t:05d}.png")
    lists = tmp_path / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("dog\n")
    (lists / "val.txt").write_text("bear\n")
    message = run_on(capsys, tmp_path, "seg.py:dataset=davis", tmp_path)
    assert "is 32x48, its frame is 64x48" in message and str(tmp_path) in message


def test_checkpoint_of_another_task(capsys, trained):
    run = trained("seg")
    for command in ("train", "eval"):
        message = error_of(
            capsys, config_flag("flow.py"), f"--workdir={run.workdir}", *tiny_arguments(),
            status=1, command=command,
        )  # fmt: skip
        assert "'segmentation'" in message and "'flow'" in message
        assert "num_outputs is 8, the configuration's 2" in message
        assert str(run.workdir / "checkpoints") in message


# ------------------------------------------------------------------------------------------------
# The programs themselves


def start(program, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, ROOT / program, *arguments], cwd=ROOT, text=True, **options
    )


def test_error_of_the_real_program(tmp_path):
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process = start("eval.py", "--config=configs/seg.py", f"--workdir={tmp_path}", **options)
    out, err = process.communicate()
    assert process.returncode == 1
    assert out == ""
    assert err == (
        f"Error: No checkpoint in {tmp_path}: train first, with the same --config and --workdir.\n"
    )


def test_piped_output_of_training(tmp_path, compilation_cache):
    """A line a log interval, nothing on standard error; also with TensorFlow in the process."""
    arguments = tiny_arguments(feed="tf_data", log_every=2)
    process = start(
        "train.py", f"--config=configs/seg.py:{SMALLEST}", f"--workdir={tmp_path}", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": compilation_cache},
    )  # fmt: skip
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    lines = out.splitlines()
    width = TINY["model.width"]
    assert lines[0].startswith(f"segmentation with conv3b_up (width {width}) on scenes")
    assert lines[1].startswith("Evaluated every 3 steps, logged every 2")
    expected = ["step 2/6", "step 3  ", "step 4/6", "step 6/6", "step 6  "]
    waits = ("Preparing the training step", "evaluating", "drawing examples")  # where it takes long
    steps = [line for line in lines[2:] if not line.startswith(waits)]
    assert [line[:8] for line in steps] == expected
    assert "\x1b" not in out and "\r" not in out


@pytest.mark.slow
def test_terminal_output_of_training(tmp_path, compilation_cache):
    """The progress line is replaced, not added to; what stays is whole lines."""
    ours, theirs = pty.openpty()
    process = start(
        "train.py", f"--config=configs/seg.py:{SMALLEST}", f"--workdir={tmp_path}",
        *tiny_arguments(feed="tf_data", num_steps=6, eval_every=6),
        stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": compilation_cache, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    output = b""
    while chunk := read_terminal(ours):
        output += chunk
    assert process.wait() == 0
    lines = output.decode().split("\r\n")
    live = [line for line in lines if re.search(r"step \d/6", line)]  # begun below, when it stands
    states = re.findall(r"step (\d)/6", "".join(live))
    assert states[0] == "1" and states[-1] == "6" and states == sorted(states)
    erased = live[0].count("\r\x1b[2K")  # before each state but the first
    assert erased >= len(re.findall(r"step \d/6", live[0])) - 1
    (evaluated,) = [line for line in lines if "step 6  validation accuracy" in line]
    assert lines.index(evaluated) >= lines.index(live[0])


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's way to say that the other side is closed
        return b""
