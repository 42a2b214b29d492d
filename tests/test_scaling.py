"""The scripts that measure scaling and saving run, and report what they say."""

import json

import pytest

from benchmarks import checkpoints
from experiments import scaling

SMALL = ["--arg=model=conv3b_up,size=small", "--crop=32", "--rounds=2"]


def test_default_sizes():
    assert [scaling.default_sizes(n) for n in (1, 2, 3, 8)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 8],
    ]


def test_efficiency():
    """As many clips a device: twice the clips in the same time is all of it."""
    args = scaling.parse(["--clips-per-device=10"])
    rows = scaling.summarize(args, {1: [0.5, 0.5], 2: [0.5, 0.5], 4: [0.9, 1.0, 1.1]})["rows"]
    assert [row["clips_per_second"] for row in rows] == [20, 40, 40]
    assert [row["efficiency"] for row in rows] == [1, 1, 0.5]
    assert [row["speedup"] for row in rows] == [1, 2, 2]


@pytest.mark.slow
def test_scaling_of_one_device(tmp_path, capsys, compilation_cache):
    path = tmp_path / "scaling.json"
    scaling.main([*SMALL, "--clips-per-device=1", "--steps=2", f"--json={path}"])
    (row,) = json.loads(path.read_text())["rows"]
    assert row["batch_size"] == 1 and row["efficiency"] == 1
    assert f"| {row['clips_per_second']:.1f} | 1.00 | 100.0% |" in capsys.readouterr().out


@pytest.mark.slow
def test_cost_of_saving(tmp_path, capsys, compilation_cache):
    result = checkpoints.main([*SMALL, "--clips=1", "--every=4", f"--workdir={tmp_path}"])
    assert result["megabytes"] > 0.1
    assert "steps of" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
