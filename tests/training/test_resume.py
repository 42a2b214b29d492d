"""Killed and resumed runs equal those that were not: state, metrics and clips, bit for bit."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.processes import finish, small_config, start, wait_for_step
from tests.tiny import ROOT, SMALLEST, tiny_arguments, tiny_config
from v2v_jax.errors import CheckpointError, ConfigError, Stopped
from v2v_jax.evaluation.evaluator import Evaluator
from v2v_jax.run import stored_state
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import make_experiment
from v2v_jax.system import processors
from v2v_jax.training import training_run
from v2v_jax.training.loop import train_and_evaluate
from v2v_jax.training.preemption import StopRequest

pytestmark = pytest.mark.usefixtures("compilation_cache")


def final_state(config, workdir):
    """The whole state after the last step: step, parameters, optimiser state."""
    experiment = make_experiment(config, "train")
    with Checkpoints(workdir, experiment.about, headline="accuracy", better="max") as checkpoints:
        assert checkpoints.latest_step() == config.num_steps
        progress = checkpoints.read_about(config.num_steps)["progress"]
        return checkpoints.restore(config.num_steps, experiment.init_state()), progress


def lines_of(workdir):
    """metrics.jsonl without what differs from run to run: the speed."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "clips_per_second" not in k} for line in lines]


def assert_equal_runs(config, one, other):
    (state, progress), (state2, progress2) = (final_state(config, w) for w in (one, other))
    jax.tree.map(np.testing.assert_array_equal, state2, state)
    assert progress2 == progress
    assert lines_of(other) == lines_of(one)


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["device", "tf_data"])
def test_sigkill_at_random_moments(tmp_path, feed):
    """Saving at every step, so that a kill is nearly always in the middle of saving."""
    options = dict(num_steps=60, eval_every=20, save_every=1, feed=feed)
    config, random = small_config(**options), np.random.default_rng()
    workdir, kills = tmp_path / "killed", 0
    while True:
        process = start(workdir, *tiny_arguments(**options))
        if kills < 3:
            wait_for_step(workdir, 15 * kills + 2, [process])
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(float(random.uniform(0, 0.5)))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        ((status, out, err),) = finish([process])
        assert status == 0, err
        assert "Resuming after step" in out and "damaged" not in err
        break
    train_and_evaluate(config, tmp_path / "whole")
    assert_equal_runs(config, tmp_path / "whole", workdir)


# Dies at one place of the way that a checkpoint takes to its name.
_DIE = """
import os, signal, sys
import jax.numpy as jnp
from v2v_jax.run import checkpoint, manifest

where, folder = sys.argv[1:]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
state = lambda step: {"params": jnp.full((64, 64), step, jnp.float32)}
checkpoints = checkpoint.Checkpoints(folder, {}, headline="score", better="max", writable=True)
for step in (1, 2, 3):
    checkpoints.save(state(step), step, {"score": step})
    checkpoints.wait()
if where == "begun":
    original = checkpoints._checkpointer.save
    checkpoints._checkpointer.save = lambda *a, **k: (original(*a, **k), die())
elif where == "before manifest":
    manifest.write = die
elif where == "in manifest":
    manifest.hashlib.file_digest = die
elif where == "before rename":
    checkpoint.Checkpoints._put_in_place = die
elif where == "between renames":
    checkpoint.sync_folder = die
elif where == "before deletion":
    checkpoint.Checkpoints._delete_old = die
elif where == "in deletion":
    checkpoint.shutil.rmtree = die
checkpoints.save(state(4), 4, {"score": 4})
checkpoints.wait()
sys.exit("was not killed")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "where, latest",
    [
        ("begun", {3}),
        ("before manifest", {3}),
        ("in manifest", {3}),
        ("before rename", {3}),
        ("between renames", {4}),
        ("before deletion", {4}),
        ("in deletion", {4}),
    ],
)
def test_sigkill_while_saving(tmp_path, where, latest):
    """Whatever the moment, the newest checkpoint is good: the one before or the new one."""
    done = subprocess.run(
        [sys.executable, "-c", _DIE, where, str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Checkpoints(tmp_path, {}, headline="score", better="max", writable=True) as checkpoints:
        step = checkpoints.latest_step()
        assert step in latest
        state = checkpoints.restore(step, {"params": np.zeros((64, 64), np.float32)})
    np.testing.assert_array_equal(state["params"], np.full((64, 64), step, np.float32))
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert all(name.isdecimal() for name in left)


def interrupt(monkeypatch, method, at: int, stop):
    """Lets the call number `at` of a method run `stop()` first."""
    original, calls = getattr(*method), []

    def counting(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == at:
            stop()
        return original(self, *args, **kwargs)

    monkeypatch.setattr(*method, counting)


@pytest.mark.slow
def test_number_of_reading_threads_may_change(tmp_path, monkeypatch):
    config = small_config(feed="tf_data", save_every=1)
    train_and_evaluate(config, tmp_path / "whole")

    def kill():
        raise KeyboardInterrupt

    for count in (1, 7):
        monkeypatch.setattr(processors, "count", lambda count=count: count)
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            interrupt(patch, (training_run.Monitor, "add"), 4, kill)
            train_and_evaluate(config, tmp_path / "parts")
    assert_equal_runs(config, tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_sigterm_saves_and_goes_on(tmp_path, monkeypatch):
    """In the middle of training, then in the middle of an evaluation, which is then done first."""
    before = signal.getsignal(signal.SIGTERM)
    config = small_config()
    train_and_evaluate(config, tmp_path / "whole")
    parts = tmp_path / "parts"
    terminate = lambda: os.kill(os.getpid(), signal.SIGTERM)
    with monkeypatch.context() as patch:
        interrupt(patch, (training_run.Monitor, "add"), 2, terminate)
        with pytest.raises(Stopped, match="after step 2 of 6, which is saved; the same"):
            train_and_evaluate(config, parts)
    assert {path.name for path in (parts / "checkpoints").iterdir()} == {"2"}
    with monkeypatch.context() as patch:
        interrupt(patch, (Evaluator, "_forward"), 1, terminate)  # traced at the first evaluation
        with pytest.raises(Stopped, match="after step 3 of 6"):
            train_and_evaluate(config, parts)
    assert lines_of(parts)[-1].keys() >= {"train/loss"}  # not evaluated yet
    train_and_evaluate(config, parts)
    assert_equal_runs(config, tmp_path / "whole", parts)
    names = lambda folder: {path.name for path in (folder / "checkpoints").iterdir()}
    assert names(parts) == names(tmp_path / "whole")
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_to_the_program(tmp_path):
    """Exit status 0, and one line that says where it stopped."""
    options = dict(num_steps=100_000, eval_every=100_000)
    process = start(tmp_path, *tiny_arguments(**options))
    wait_for_step(tmp_path, 3, [process])
    process.send_signal(signal.SIGTERM)
    ((status, out, err),) = finish([process])
    assert status == 0 and not err
    (step,) = (int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"Stopped by SIGTERM after step {step} of 100000, which is saved" in out
    assert [line["step"] for line in lines_of(tmp_path)] == list(range(1, step + 1))


@pytest.fixture
def as_in_a_terminal():
    """Ctrl-C interrupts; it is ignored where the tests run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_saves_and_goes_on(tmp_path, monkeypatch, capfd, as_in_a_terminal):
    """Stopped after a step in the middle, and gone on to what the run without it has."""
    config = tiny_config("color", SMALLEST, num_steps=3, eval_every=3)
    press = lambda: signal.raise_signal(signal.SIGINT)
    train_and_evaluate(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, (training_run.Monitor, "add"), 2, press)
        with pytest.raises(Stopped, match="by Ctrl-C after step 2 of 3, which is saved") as stopped:
            train_and_evaluate(config, tmp_path / "parts")
    assert stopped.value.status == 130
    assert "the run is saved first. Press Ctrl-C again to end without" in capfd.readouterr().err
    assert {path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()} == {"2"}
    with monkeypatch.context() as patch:  # twice in one step: ends at once, and loses that step
        interrupt(patch, (training_run.Monitor, "add"), 1, lambda: (press(), press()))
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(config, tmp_path / "parts")
    assert {path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()} == {"2"}
    train_and_evaluate(config, tmp_path / "parts")
    assert lines_of(tmp_path / "parts") == lines_of(tmp_path / "whole")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_before_there_is_anything_to_save_ends_at_once(as_in_a_terminal):
    with StopRequest(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with StopRequest() as stop:
        with contextlib.suppress(KeyboardInterrupt):  # as a collector's callback does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.arm()


def test_ctrl_c_that_is_ignored_stays_so():
    """A program started by nohup, or in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            stop.arm()
            signal.raise_signal(signal.SIGINT)
            assert not stop.reached()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_after_sigterm(as_in_a_terminal):
    """One is noted, the second ends."""
    with StopRequest() as stop:
        stop.arm()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.reached() and "by SIGTERM" in str(stop.stopped("now"))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_sigterm_before_the_first_step(tmp_path, monkeypatch):
    interrupt(
        monkeypatch, (Checkpoints, "latest_step"), 1, lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    with pytest.raises(Stopped, match="there was nothing to save"):
        train_and_evaluate(small_config(), tmp_path)


def test_second_training_in_one_folder_is_refused(tmp_path):
    """In one sentence, before it has touched anything."""
    config = small_config()
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 7, "train/loss": 1.0}\n')
    with Checkpoints(tmp_path, {}, headline="accuracy", better="max", writable=True):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(CheckpointError, match="Another training is writing to"):
            train_and_evaluate(config, tmp_path)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert log.read_text() == '{"step": 7, "train/loss": 1.0}\n'


@pytest.mark.slow
def test_two_trainings_at_once(tmp_path):
    """Started in one folder at the same moment: one trains, the other one says that it does not.

    Without a lock one deleted parts of what the other was saving: 3 of 25 times the other then
    published an incomplete step.
    """
    options = dict(num_steps=8, eval_every=8, save_every=1)
    experiment = make_experiment(small_config(**options), "train")
    ended = []
    for index in range(6):
        workdir = tmp_path / str(index)
        both = finish([start(workdir, *tiny_arguments(**options)) for _ in range(2)])
        (_, _, error), *others = sorted(result for result in both if result[0])
        assert not others and "Traceback" not in error
        (line,) = (line for line in error.splitlines() if line.startswith("Error: "))
        assert f"Another training is writing to {workdir}" in line
        assert [line["step"] for line in lines_of(workdir)] == [*range(1, 9), 8]
        with Checkpoints(workdir, experiment.about, headline="accuracy") as checkpoints:
            steps = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
            assert 8 in steps and 7 in steps
            for step in steps:
                checkpoints.restore(step, experiment.abstract_state())
        ended.append(error)
    print(f"{len(ended)} pairs: one trained, the other one was refused")


@pytest.mark.parametrize("reason", ["another optimiser", "cannot be read"])
def test_a_restore_that_fails_leaves_the_log(tmp_path, monkeypatch, reason):
    """The log is rewritten only after the restore: else later steps' lines would be gone."""
    experiment = make_experiment(small_config(), "train")
    options = dict(headline="accuracy", better="max", writable=True)
    with Checkpoints(tmp_path, experiment.about, **options) as checkpoints:
        checkpoints.save(experiment.init_state(), 2)
    config = small_config()
    if reason == "another optimiser":
        assert config.optimizer.name == "adamw"
        config.optimizer.name = "caffe_sgd"
        expected, message = ConfigError, "another optimiser"
    else:
        expected, message = CheckpointError, "damaged"

        def read_state(folder, like):
            raise stored_state.Unreadable("the disk is ill")

        monkeypatch.setattr(stored_state, "read_state", read_state)
    (tmp_path / "config.json").write_text("{}")
    lines = [f'{{"step": {step}, "train/loss": 1.0}}\n' for step in (1, 2, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join([*lines, '{"step": 5, "tra']))
    contents = lambda: {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    before = contents()
    with pytest.raises(expected, match=message):
        train_and_evaluate(config, tmp_path)
    assert contents() == before


def test_sigterm_whose_exception_is_lost_is_not_lost():
    """It comes while the garbage collector runs a callback, from which no exception gets out."""

    def terminate(phase, info):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # here Python runs the handler
            pass

    with StopRequest() as stop, pytest.MonkeyPatch.context() as patch:
        lost = []
        patch.setattr(sys, "unraisablehook", lambda error: lost.append(error.exc_type))
        gc.callbacks.append(terminate)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(terminate)
        assert set(lost) == {Stopped}
        with pytest.raises(Stopped, match="before the first step"):
            stop.arm()


@pytest.mark.slow
def test_full_disk_while_training(small_disk, tmp_path, monkeypatch, caplog):
    """Full from step 8 to step 30: training goes on, nothing that was logged is lost.

    Long enough for the log to need a page (4 kB) that it does not have yet: it has some 250 bytes
    a step.
    """
    config = small_config(num_steps=36, eval_every=36, save_every=6)
    workdir, ballast = small_disk / "run", small_disk / "ballast"
    add = training_run.Monitor.add

    def fill_and_free(monitor, step, metrics):
        if step == 8:
            # Else it may fail too, and clearing it away would make room.
            end = time.monotonic() + 60
            while not (workdir / "checkpoints" / "6").exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(512)):
                    pass
        if step == 30:
            ballast.unlink()
        add(monitor, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(training_run.Monitor, "add", fill_and_free)
        train_and_evaluate(config, workdir)
    assert "cannot be written" in caplog.text and "No space left on device" in caplog.text
    assert "its lines wait in memory until there is room" in caplog.text
    train_and_evaluate(config, tmp_path / "whole")
    assert_equal_runs(config, tmp_path / "whole", workdir)
