"""Four devices compute what one computes; fake CPU devices stand for accelerators."""

import os
import subprocess
import sys

import pytest

from tests.tiny import ROOT, SMALLEST, read_metrics, tiny_arguments, tiny_config
from v2v_jax.training.loop import train_and_evaluate


def train_on_four(workdir, *arguments):
    """train.py with four devices; three test windows, so that one of four rows is padding."""
    flags = "--xla_force_host_platform_device_count=4"
    return subprocess.run(
        [sys.executable, "train.py", f"--config=configs/seg.py:{SMALLEST}",
         f"--workdir={workdir}", *arguments],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["device", "tf_data"])
def test_four_devices_equal_one(tmp_path, compilation_cache, feed):
    overrides = dict(num_steps=5, eval_every=3, feed=feed)
    close = 1e-5
    if feed == "tf_data":
        overrides |= dict(augmentation__scale=(0.9, 1.2), augmentation__noise=0.05)
        close = 2e-4  # a voxel between two values of uint8 may be rounded to either
    done = train_on_four(tmp_path / "four", *tiny_arguments(**overrides))
    assert done.returncode == 0, done.stderr
    assert "on 4 cpu devices" in done.stdout
    config = tiny_config("seg", SMALLEST, **overrides)
    train_and_evaluate(config, tmp_path / "one")
    for name in ("train/loss", "train/parameter_norm"):
        one, four = (read_metrics(tmp_path / n, name) for n in ("one", "four"))
        assert four == pytest.approx(one, rel=close)
    for name in ("accuracy", "miou", "baseline_accuracy", "share/sky"):
        one, four = (read_metrics(tmp_path / n, f"eval/{name}") for n in ("one", "four"))
        assert list(one) == [3, 5]
        assert four == pytest.approx(one, abs=1e-3)  # a few of 24,576 voxels may change sides


@pytest.mark.slow
def test_gradients_sent_in_bfloat16(tmp_path, compilation_cache):
    """The same training but for the rounding of what is sent, which shows that it was sent so."""
    arguments = tiny_arguments(num_steps=5, eval_every=5, model__width=0.3)
    found = []
    for sent in ("float32", "bfloat16"):
        workdir = tmp_path / sent
        done = train_on_four(workdir, *arguments, f"--config.all_reduce={sent}")
        assert done.returncode == 0, done.stderr
        found.append(read_metrics(workdir, "train/loss"))
    assert found[1] == pytest.approx(found[0], rel=1e-2)
    assert found[1] != found[0]


def test_batch_that_cannot_be_divided(tmp_path):
    done = train_on_four(tmp_path / "w", *tiny_arguments(batch_size=6))
    assert done.returncode == 1
    assert done.stderr == (
        "Error: batch_size 6 cannot be divided among 4 devices; choose a multiple of 4.\n"
    )
    assert not (tmp_path / "w").exists()
