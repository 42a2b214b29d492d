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
    result = checkpoints.main([*SMALL, "--clips=1", f"--workdir={tmp_path}"])
    assert result["megabytes"] > 0.1 and result["every"] == 600
    assert result["slower"] == pytest.approx(result["cost_s"] / (0.6 * result["step_ms"]))
    assert "one every 600 steps of" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


class Clockwork:
    """Blocks of steps of 0.1 s; a checkpoint holds them up for 0.5 s and takes 6 s beside them."""

    def train(self, steps):
        return 0.1 * steps

    def train_and_save(self, steps):
        waiting = 1.8 if steps == 1 else max(0, 6 - 0.1 * steps)  # alone it is quicker
        return 0.1 * steps + 0.5, 0.2, waiting


def test_a_checkpoints_cost_is_that_of_a_block_in_which_it_ends():
    measured = checkpoints.measure(Clockwork(), rounds=3)
    assert measured["steps_a_block"] == 4 * 26 and measured["blocks_too_short"] == 0
    assert measured["step_ms"] == pytest.approx(100) and measured["cost_s"] == pytest.approx(0.5)
    assert measured["on_disk_s"] == pytest.approx(2) and measured["save_ms"] == pytest.approx(200)


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
    assert "1000 of 1000 steps" in long_run.sentence(result)


def test_a_run_that_was_stopped_is_not_steady():
    result = judged()
    assert not long_run.is_steady(result | {"steps": 900})
