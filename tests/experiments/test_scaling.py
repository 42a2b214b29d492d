"""The scripts that measure scaling, saving and long runs, and what they say."""

import json

import pytest

from benchmarks import checkpoints
from experiments import long_run, scaling

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
    args = scaling.parse(["--clips_per_device=10"])
    rows = scaling.summarize(args, {1: [0.5, 0.5], 2: [0.5, 0.5], 4: [0.9, 1.0, 1.1]})["rows"]
    assert [row["clips_per_second"] for row in rows] == [20, 40, 40]
    assert [row["efficiency"] for row in rows] == [1, 1, 0.5]
    assert [row["speedup"] for row in rows] == [1, 2, 2]


@pytest.mark.slow
def test_scaling_of_one_device(tmp_path, capsys, compilation_cache):
    path = tmp_path / "scaling.json"
    scaling.main([*SMALL, "--clips_per_device=1", "--steps=2", f"--json={path}"])
    (row,) = json.loads(path.read_text())["rows"]
    assert row["batch_size"] == 1 and row["efficiency"] == 1
    assert f"| {row['clips_per_second']:.1f} | 1.00 | 100.0% |" in capsys.readouterr().out


@pytest.mark.slow
def test_cost_of_saving(tmp_path, capsys, compilation_cache):
    result = checkpoints.main([*SMALL, "--clips=1", "--every=4", f"--workdir={tmp_path}"])
    assert result["megabytes"] > 0.1
    assert "steps of" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------
# The long run's verdict


def judged(**changes):
    """What `long_run` makes of a run of 1,000 steps in which `changes` grow by their value each."""
    args = long_run.parse(["--workdir=x", "--steps=1000"])
    start = {"memory": 10**8, "files": 9, "compilations": 4}
    samples = [
        {"step": step, **{name: int(v + changes.get(name, 0) * step) for name, v in start.items()}}
        for step in range(20, 1001, 20)
    ]
    return long_run.summarize(args, samples, 60.0)


def test_steady_run_is_steady():
    assert long_run.is_steady(judged())
    assert long_run.is_steady(judged(memory=1000))  # 1 % in the whole run


@pytest.mark.parametrize("growth", [{"memory": 4000}, {"files": 0.01}, {"compilations": 0.005}])
def test_growth_is_noticed(growth):
    result = judged(**growth)
    assert not long_run.is_steady(result)
    assert "in the last" in long_run.sentence(result)
