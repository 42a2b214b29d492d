"""Two processes of four CPU devices each compute what one computes, and end together."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from tests.processes import finish, small_config, start, start_two, wait_for_step
from tests.tiny import read_metrics, tiny_arguments
from v2v_jax.cli import commands
from v2v_jax.evaluation.evaluator import evaluate
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import make_experiment
from v2v_jax.training.loop import train_and_evaluate
from v2v_jax.training.setup import make_sampler

pytestmark = pytest.mark.usefixtures("compilation_cache")

RUN = dict(num_steps=4, eval_every=2, batch_size=8, eval_batch_size=8)


def succeeded(processes) -> list[str]:
    """Waits for them; their standard output."""
    results = finish(processes)
    for status, out, err in results:
        assert status == 0, out + err
    lines = [[n for n in out.splitlines() if "[Gloo]" not in n] for _, out, _ in results]
    return ["\n".join(each) for each in lines]


def final_state(config, workdir):
    """The last step's whole state, on this process's one device."""
    experiment = make_experiment(config, "train")
    with Checkpoints(workdir, experiment.about, headline="accuracy", better="max") as checkpoints:
        assert checkpoints.latest_step() == config.num_steps
        return checkpoints.restore(config.num_steps, experiment.init_state())


def assert_equal_to_rounding(config, one, other):
    for name in ("train/loss", "train/gradient_norm", "train/parameter_norm"):
        assert read_metrics(other, name) == pytest.approx(read_metrics(one, name), rel=1e-4)
    for name in ("eval/accuracy", "eval/miou"):
        assert read_metrics(other, name) == pytest.approx(read_metrics(one, name), abs=1e-3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        final_state(config, one),
        final_state(config, other),
    )


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Losses, metrics of uneven data (three windows on eight devices), and the state; each reads
    only its share of the clips; what the two saved, this one process restores."""
    options = RUN | dict(feed="tf_data", num_pictures=1)
    notes = tmp_path / "notes"
    notes.mkdir()
    outs = succeeded(start_two(tmp_path / "two", *tiny_arguments(**options), notes=notes))
    assert "on 8 cpu devices" in outs[0] and not outs[1]  # one of them speaks
    config = small_config(**options)
    train_and_evaluate(config, tmp_path / "one")
    assert_equal_to_rounding(config, tmp_path / "one", tmp_path / "two")
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1  # the first process's

    plans = [make_sampler(make_experiment(config, "train")).plan(step) for step in range(4)]
    for index in range(2):
        share = [p.rows(4 * index, 4 * index + 4) for p in plans]
        clips = {(int(v), int(s)) for p in share for v, s in zip(p.video, p.start)}
        lines = (notes / str(index)).read_text().splitlines()
        assert {tuple(map(int, line.split()))[:2] for line in lines} == clips


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["device", "tf_data"])
def test_number_of_processes_may_change(tmp_path, feed):
    """Two steps on one process, two on two, two on one: as six on one."""
    options = RUN | dict(feed=feed)
    config = small_config(**options | dict(num_steps=6))
    train_and_evaluate(config, tmp_path / "one")
    parts = tmp_path / "parts"
    train_and_evaluate(small_config(**options | dict(num_steps=2)), parts)
    (out, _) = succeeded(start_two(parts, *tiny_arguments(**options | dict(num_steps=4))))
    assert "Resuming after step 2 of 4" in out
    train_and_evaluate(config, parts)
    assert_equal_to_rounding(config, tmp_path / "one", parts)


@pytest.mark.slow
def test_evaluation_by_two_processes(tmp_path):
    """eval.py: the same numbers and pictures, written once."""
    config = small_config(**RUN)
    train_and_evaluate(config, tmp_path)
    evaluate(config, tmp_path)
    folder = tmp_path / "eval"
    expected = json.loads((folder / "metrics.json").read_text())
    pictures = sorted(path.name for path in folder.iterdir())
    folder.rename(tmp_path / "by_one")
    succeeded(start_two(tmp_path, *tiny_arguments(**RUN), program="eval.py"))
    assert json.loads((folder / "metrics.json").read_text()) == pytest.approx(expected, abs=1e-3)
    assert sorted(path.name for path in folder.iterdir()) == pictures


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_stops_both(tmp_path):
    """Both save and exit 0 after the same step; running both again goes on, as if nothing was."""
    options = RUN | dict(num_steps=400, eval_every=400, feed="device")
    processes = start_two(tmp_path / "two", *tiny_arguments(**options))
    wait_for_step(tmp_path / "two", 5, processes)
    processes[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    outs = succeeded(processes)
    print(f"stopped within {time.monotonic() - asked:.1f} s")
    (step,) = (int(path.name) for path in (tmp_path / "two" / "checkpoints").iterdir())
    assert 5 <= step < 400 and f"Stopped by SIGTERM after step {step} of 400" in outs[0]
    options["num_steps"] = step + 2
    outs = succeeded(start_two(tmp_path / "two", *tiny_arguments(**options)))
    assert f"Resuming after step {step} of {step + 2}" in outs[0]
    config = small_config(**options)
    train_and_evaluate(config, tmp_path / "one")
    losses = read_metrics(tmp_path / "two", "train/loss")
    assert losses == pytest.approx(read_metrics(tmp_path / "one", "train/loss"), rel=1e-2)
    assert list(losses) == list(range(1, step + 3))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_process_ends_the_other_with_an_error(tmp_path, killed):
    options = RUN | dict(num_steps=100_000, eval_every=100_000, feed="device")
    arguments = [*tiny_arguments(**options), "--heartbeat_timeout=10"]
    processes = start_two(tmp_path, *arguments)
    wait_for_step(tmp_path, 3, processes)
    processes[killed].kill()
    asked = time.monotonic()
    results = finish(processes, seconds=300)  # kills and raises after that
    print(f"ended within {time.monotonic() - asked:.1f} s")
    status, _, error = results[1 - killed]
    assert status not in (0, None)
    print(error)
    assert "lost another one" in error or "JAX distributed service" in error


@pytest.mark.parametrize(
    "options, words",
    [
        (["--num_processes=2"], "go together"),
        (["--coordinator=x:1", "--num_processes=2", "--process_id=2"], "it is 0 to 1"),
        (["--process_id=-1"], "process_id"),
    ],
)
def test_processes_that_cannot_be(capsys, tmp_path, options, words):
    arguments = ["train", "--config=seg", f"--workdir={tmp_path}", *options]
    assert commands.execute(arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_multihost_without_a_cluster(tmp_path):
    ((status, _, error),) = finish([start(tmp_path, "--multihost", *tiny_arguments())])
    assert status == 1 and error.startswith("Error: --multihost cannot start (")
    assert "--coordinator=HOST:PORT" in error and len(error.splitlines()) == 1
