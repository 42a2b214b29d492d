"""Numbers that are not finite, skipped steps, jumps of the loss."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.input.tf_data_feed import TfDataFeed
from v2v_jax.run.experiment import make_experiment
from v2v_jax.run.metrics_log import MetricsLog
from v2v_jax.run.schedule import Schedule
from v2v_jax.system import sharding
from v2v_jax.training.loop import train_and_evaluate
from v2v_jax.training.monitor import Monitor, TrainingDiverged
from v2v_jax.training.setup import make_sampler
from v2v_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("compilation_cache")


class NoFeed:
    skipped = ()


@pytest.fixture
def monitored(tmp_path):
    """(step → Monitor after that step, its experiment, the names of a step's clips)."""
    logs = []

    def make(first_step=0, progress=None, **overrides):
        config = tiny_config("flow", log_every=10**6, num_steps=10**5, **overrides)
        experiment = make_experiment(config, "train")
        sampler = make_sampler(experiment)
        logs.append(MetricsLog(tmp_path, first_step))
        schedule = Schedule.of(config)
        return Monitor(experiment, schedule, sampler, NoFeed(), logs[-1], first_step, progress)

    yield make
    for log in logs:
        log.close()


def metrics(**values):
    return dict(loss=1.0, gradient_norm=1.0, parameter_norm=1.0, update_norm=1.0) | values


def look_at(monitor, step, **values):
    monitor.add(step, metrics(**values))
    monitor.flush()


def clips_of(monitor, step):
    plan, videos = monitor._sampler.plan(step - 1), monitor._experiment.dataset.videos
    return [f"{videos[v].name} frame {s}" for v, s in zip(plan.video, plan.start)]


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "parameter_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite_stops_with_step_and_clips(monitored, name, value):
    monitor = monitored()
    look_at(monitor, 1)
    with pytest.raises(TrainingDiverged) as error:
        look_at(monitor, 2, **{name: value})
    assert f"The {name.replace('_', ' ')} is {value} at step 2, whose clips are" in str(error.value)
    assert ", ".join(clips_of(monitor, 2)) in str(error.value)
    assert "in the data itself" not in str(error.value)


def test_targets_that_are_not_finite_are_named(monitored, monkeypatch):
    read = Scenes.read

    def read_unknown(self, video, start, stop, fields=("video",)):
        frames = read(self, video, start, stop, fields)
        if video == 2:
            frames["flow"][0, 0, 0], frames["flow_valid"][0, 0, 0] = np.nan, True
        if video == 1:  # not claimed to be known
            frames["flow"][0, 0, 0], frames["flow_valid"][0, 0, 0] = np.nan, False
        return frames

    monkeypatch.setattr(Scenes, "read", read_unknown)
    monitor = monitored()
    step = next(s for s in range(1, 99) if {1, 2} <= set(monitor._sampler.plan(s - 1).video))
    plan = monitor._sampler.plan(step - 1)
    bad = [name for name, video in zip(clips_of(monitor, step), plan.video) if video == 2]
    with pytest.raises(TrainingDiverged) as error:
        look_at(monitor, step, loss=math.nan)
    blame = "; ".join(f"flow of {name}" for name in bad)
    assert str(error.value).endswith(f"Not finite in the data itself: {blame}.")


def test_steps_may_be_skipped_up_to_a_limit(monitored, tmp_path, caplog):
    monitor = monitored(skip_nonfinite=2)
    bad = dict(loss=math.nan, gradient_norm=math.nan, skipped=1.0)
    for step in (1, 2):
        look_at(monitor, step, **bad)
        assert f"Step {step} is skipped: its loss is not finite" in caplog.text
        assert clips_of(monitor, step)[0] in caplog.text
    look_at(monitor, 3, skipped=0.0)  # a good one: the count begins again
    look_at(monitor, 4, **bad)
    look_at(monitor, 5, **bad)
    resumed = monitored(5, json.loads(json.dumps(monitor.progress())), skip_nonfinite=2)
    for each in (monitor, resumed):
        with pytest.raises(TrainingDiverged, match="step 6.*number 3 in a row.*allows 2"):
            look_at(each, 6, **bad)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 4, 5]
    assert lines[0]["skipped/clips"] == clips_of(monitor, 1)


def test_spikes_are_logged_with_their_clips(monitored, tmp_path, caplog):
    losses = 1 + 0.1 * np.random.default_rng(0).standard_normal(60)
    monitor = monitored()
    for step, loss in enumerate(losses, 1):
        look_at(monitor, step, loss=loss)
    assert "jumps" not in caplog.text  # noise is no spike
    progress, lines = json.loads(json.dumps(monitor.progress())), []
    for again in (False, True):
        if again:  # a run that goes on after step 60, which drops the line of step 61
            monitor = monitored(60, progress)
        caplog.clear()
        look_at(monitor, 61, loss=3.0)
        assert "The loss jumps to 3 at step 61, from a median of" in caplog.text
        assert ", ".join(clips_of(monitor, 61)) in caplog.text
        lines.append((tmp_path / "metrics.jsonl").read_text())
    assert lines[0] == lines[1]
    line = json.loads(lines[0])
    assert line["spike/clips"] == clips_of(monitor, 61) and line["spike/loss"] == 3.0


@pytest.mark.parametrize("loss", [0.0, -0.0])
def test_a_step_without_any_known_target_is_said_once(monitored, caplog, loss):
    """As where all labels are ignored: the loss is 0, and so is its gradient."""
    monitor = monitored()
    look_at(monitor, 1, loss=0.0)  # learned by heart: its gradient is not 0
    assert caplog.records == []
    for step in (2, 3, 4):
        look_at(monitor, step, loss=loss, gradient_norm=0.0)
    [record] = caplog.records
    assert "Step 2 learns nothing: no voxel of its clips has a known target" in record.getMessage()
    assert clips_of(monitor, 2)[0] in record.getMessage()


def test_skipped_step_changes_nothing(tmp_path):
    """The jitted step itself: flow that is NaN where it claims to be known, then good flow."""
    config = tiny_config("flow", "model=conv3b_up", skip_nonfinite=1)
    experiment = make_experiment(config, "train")
    mesh = experiment.mesh
    feed = TfDataFeed(experiment.dataset, experiment.task.fields, experiment.preprocessing, mesh)
    b, size = config.batch_size, (8, 32, 32)
    batch = {
        "video": np.random.default_rng(0).integers(0, 255, (b, *size, 3), np.uint8),
        "flow": np.ones((b, *size, 2), np.float16),
        "flow_valid": np.ones((b, *size), bool),
        "mirror": np.zeros(b, bool),
        "mask": np.ones(b, bool),
    }
    broken = batch | {"flow": batch["flow"].copy()}
    broken["flow"][1, 2, 3, 4] = np.nan
    with jax.set_mesh(mesh):
        step = make_train_step(experiment, feed)
        state = experiment.init_state()
        before = jax.tree.map(np.asarray, state)
        state, metrics = step(state, (), sharding.to_global(broken, mesh))
        assert math.isnan(metrics["loss"]) and metrics["skipped"] == 1
        assert jnp.isfinite(metrics["parameter_norm"])
        assert state.step == 1
        for name in ("params", "opt_state"):
            jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))
        state, metrics = step(state, (), sharding.to_global(batch, mesh))
        assert metrics["skipped"] == 0 and jnp.isfinite(metrics["loss"])
        assert not np.array_equal(
            state.params["conv1a"]["kernel"], before.params["conv1a"]["kernel"]
        )


@pytest.mark.slow
def test_run_goes_on_past_a_broken_video(tmp_path, monkeypatch):
    read = Scenes.read

    def read_unknown(self, video, start, stop, fields=("video",)):
        frames = read(self, video, start, stop, fields)
        if video == 2 and self.split == "train":
            frames["flow"][:], frames["flow_valid"][:] = np.nan, True
        return frames

    monkeypatch.setattr(Scenes, "read", read_unknown)
    monkeypatch.setattr(Scenes, "python_share", 0.0)  # worker processes have the real `read`
    config = tiny_config("flow", "model=conv3b_up", batch_size=1, num_steps=20, skip_nonfinite=20)
    values = train_and_evaluate(config, tmp_path)
    assert math.isfinite(values["epe"])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    skipped = {line["step"] for line in lines if "skipped/clips" in line}
    sampler = make_sampler(make_experiment(config, "train"))
    assert skipped == {step for step in range(1, 21) if sampler.plan(step - 1).video[0] == 2}
    assert 0 < len(skipped) < 20
