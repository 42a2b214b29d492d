"""The real configurations, shrunk, from training to pictures; resuming; faults on the way."""

import contextlib
import json

import jax
import numpy as np
import pytest
from PIL import Image

import v2v_jax
from tests.tiny import SMALLEST, read_metrics, tiny_config
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.evaluation.evaluator import Evaluator, evaluate
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import make_experiment
from v2v_jax.run.schedule import Schedule
from v2v_jax.training import training_run
from v2v_jax.training.loop import train_and_evaluate
from v2v_jax.training.monitor import TrainingDiverged
from v2v_jax.training.setup import make_sampler
from v2v_jax.training.start import announce

# Each compiles for ten seconds: the quick tests do one task of either direction of `better`.
TASKS = ("seg", "flow", *(pytest.param(n, marks=pytest.mark.slow) for n in ("color", "depth")))
FEEDS = ("device", pytest.param("tf_data", marks=pytest.mark.slow))
pytestmark = pytest.mark.usefixtures("compilation_cache")


@contextlib.contextmanager
def opened_checkpoints(config, workdir):
    """(experiment of the test split, its run's checkpoints)."""
    experiment = make_experiment(config, "test")
    task = experiment.task
    with Checkpoints(
        workdir, experiment.about, headline=task.headline, better=task.better
    ) as checkpoints:
        yield experiment, checkpoints


def final_params(config, workdir):
    with opened_checkpoints(config, workdir) as (experiment, checkpoints):
        return checkpoints.restore(config.num_steps, experiment.init_state()).params


# ------------------------------------------------------------------------------------------------
# Training


@pytest.mark.parametrize("name", TASKS)
def test_loss_goes_down(trained, name):
    run = trained(name)
    losses = list(read_metrics(run.workdir, "train/loss").values())
    assert len(losses) == run.config.num_steps
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    assert np.isfinite(list(run.values.values())[0])


def test_logs(trained):
    """metrics.jsonl has every step once, config.json the config."""
    run = trained("flow")
    steps = range(1, run.config.num_steps + 1)
    losses = read_metrics(run.workdir, "train/loss")
    assert list(losses) == list(steps)
    assert list(read_metrics(run.workdir, "eval/epe")) == [20, 40, 60]
    for name in ("gradient_norm", "update_norm", "parameter_norm", "learning_rate", "epe"):
        assert list(read_metrics(run.workdir, f"train/{name}")) == list(steps)
    # The first step compiled: its speed would say nothing.
    assert list(read_metrics(run.workdir, "train/clips_per_second")) == list(steps)[1:]
    stored = json.loads((run.workdir / "config.json").read_text())
    assert stored["task"] == "flow" and stored["optimizer"]["learning_rate"] == 5e-3


@pytest.mark.parametrize("name", ["seg", "flow"])  # accuracy: more is better; epe: less is
def test_latest_two_and_best_checkpoints_are_kept(trained, name):
    run = trained(name)
    with opened_checkpoints(run.config, run.workdir) as (experiment, checkpoints):
        headline, better = experiment.task.headline, experiment.task.better
        scores = read_metrics(run.workdir, f"eval/{headline}")
        best = (max if better == "max" else min)(scores, key=scores.get)
        assert checkpoints.best_step() == best
        assert checkpoints.latest_step() == 60
        kept = {int(path.name) for path in checkpoints.directory.iterdir()}
        assert kept == {best, 40, 60}
        about = checkpoints.read_about(60)
    assert about["config"] == json.loads(json.dumps(run.config.to_dict()))
    assert about["version"] == v2v_jax.__version__
    assert about["preprocessing"]["crop_size"] == [32, 32]
    assert about["label_names"] == list(experiment.task.label_names)
    assert len(about["label_names"]) == (8 if name == "seg" else 0)


@pytest.mark.parametrize("feed", FEEDS)
def test_resumed_run_equals_uninterrupted_one(tmp_path, monkeypatch, capsys, feed):
    config = tiny_config("seg", SMALLEST, feed=feed)
    train_and_evaluate(config, tmp_path / "whole")

    add = training_run.Monitor.add

    def add_until_killed(monitor, step, metrics):
        if step == 6:
            raise KeyboardInterrupt
        add(monitor, step, metrics)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_run.Monitor, "add", add_until_killed)
        train_and_evaluate(config, tmp_path / "parts")
    # Steps 4 and 5 were logged, step 3 was saved; a kill may also leave half a line.
    assert list(read_metrics(tmp_path / "parts", "train/loss"))[-1] > 3
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "train/lo')
    capsys.readouterr()
    train_and_evaluate(config, tmp_path / "parts")
    assert "Resuming after step 3 of 6" in capsys.readouterr().out

    jax.tree.map(
        np.testing.assert_array_equal,
        final_params(config, tmp_path / "parts"),
        final_params(config, tmp_path / "whole"),
    )
    for name in ("train/loss", "eval/accuracy"):
        metrics = read_metrics(tmp_path / "parts", name)
        assert metrics == read_metrics(tmp_path / "whole", name)
        assert list(metrics) == ([1, 2, 3, 4, 5, 6] if "train" in name else [3, 6])


def test_finished_run_is_only_evaluated(trained, capsys):
    run = trained("seg")
    before = (run.workdir / "metrics.jsonl").read_text()
    values = train_and_evaluate(run.config, run.workdir)
    assert values == pytest.approx(run.values, nan_ok=True)
    assert (run.workdir / "metrics.jsonl").read_text() == before
    assert "Resuming after step 60 of 60" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arg", [f"recipe=paper,{SMALLEST}", pytest.param("model=v2v_2d", marks=pytest.mark.slow)]
)
def test_other_recipe_and_model_run(tmp_path, arg):
    config = tiny_config("seg", arg, num_steps=2, eval_every=2)
    if "paper" in arg:
        assert config.optimizer.name == "caffe_sgd"
        config.batch_size = 1
    values = train_and_evaluate(config, tmp_path)
    assert 0 <= values["accuracy"] <= 1
    assert np.isfinite(list(read_metrics(tmp_path, "train/loss").values())).all()


# ------------------------------------------------------------------------------------------------
# Evaluation


def direct_predictions(run):
    """Fields and predictions of all test windows by NumPy's indexing and one clip at a time."""
    with opened_checkpoints(run.config, run.workdir) as (experiment, checkpoints):
        best = checkpoints.best_step()
        params = checkpoints.restore(best, experiment.init_state()).params
    clips, predictions = [], []
    for video in range(3):
        whole = experiment.dataset.read(video, 0, 8, experiment.task.fields)  # 12 frames: 1 window
        clip = {name: value[:, 8:40, 16:48] for name, value in whole.items()}  # of (48, 64)
        batch = {name: value[None] for name, value in clip.items()}
        inputs = experiment.task.inputs(batch, experiment.preprocessing)
        outputs = experiment.model.apply({"params": params}, inputs)
        if run.config.task_options.get("residual"):
            outputs += (clip["video"] @ np.float32([0.299, 0.587, 0.114]))[None, ..., None] / 255
        clips.append(clip)
        predictions.append(np.asarray(experiment.task.predict(outputs))[0])
    fields = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
    return best, fields, np.stack(predictions).astype(np.float64)


def expected_metrics(name, fields, prediction):
    if name == "seg":
        labels, guess = fields["labels"], prediction.argmax(-1)
        ious = []
        for k in range(8):
            union = ((labels == k) | (guess == k)).sum()
            if union:
                ious.append(((labels == k) & (guess == k)).sum() / union)
        majority = np.bincount(labels.ravel()).max() / labels.size
        return {
            "accuracy": (labels == guess).mean(),
            "miou": np.mean(ious),
            "baseline_accuracy": majority,
        }
    if name == "flow":
        flow, valid = fields["flow"].astype(np.float64), fields["flow_valid"]
        length = lambda x: np.sqrt((x**2).sum(-1))[valid].mean()
        return {"epe": length(flow - prediction), "baseline_epe": length(flow)}
    if name == "color":
        video = fields["video"] / 255
        gray = video @ [0.299, 0.587, 0.114]
        length = lambda x: np.sqrt((x**2).sum(-1)).mean()
        return {"ade": length(video - prediction), "baseline_ade": length(video - gray[..., None])}
    depth = fields["depth"].astype(np.float64)
    valid = (depth > 0) & (depth <= 200)
    depth, guess = depth[valid], prediction[valid]
    return {
        "rmse_log": np.sqrt(((np.log(depth) - np.log(guess)) ** 2).mean()),
        "abs_rel": (np.abs(depth - guess) / depth).mean(),
        "baseline_rmse_log": np.log(depth).std(),
    }


@pytest.mark.parametrize("name", TASKS)
def test_evaluation_of_the_best_checkpoint(trained, name, capsys):
    """Metrics equal those computed directly; metrics.json, table and pictures are there."""
    run = trained(name)
    values = evaluate(run.config, run.workdir)
    best, fields, prediction = direct_predictions(run)
    expected = expected_metrics(name, fields, prediction)
    assert {key: values[key] for key in expected} == pytest.approx(expected, rel=2e-5)
    stored = json.loads((run.workdir / "eval" / "metrics.json").read_text())
    assert stored.pop("step") == best
    assert stored == {k: v if np.isfinite(v) else None for k, v in values.items()}
    table = capsys.readouterr().out
    headline = next(iter(expected))
    assert f"{values[headline]:.4f}" in table and f"{values[f'baseline_{headline}']:.4f}" in table
    assert "nan" not in table
    check_pictures(run)


def check_pictures(run):
    folder = run.workdir / "eval"
    for index in range(run.config.num_pictures):
        with Image.open(folder / f"clip{index}.png") as sheet:
            width, height = sheet.size
            assert 300 < width < 3000 and 300 < height < 3000
            assert len(sheet.convert("RGB").getcolors(1 << 24)) > 50  # not blank
        with Image.open(folder / f"clip{index}.gif") as animation:
            assert animation.n_frames == run.config.preprocessing.clip_length
    maps = {path.name for path in folder.glob("*heat_maps.png")}
    drawn = {"clip0_heat_maps.png", "clip1_heat_maps.png"}
    assert maps == (drawn if run.config.task == "segmentation" else set())


def test_pictures_of_at_most_all_windows(trained):
    run = trained("seg")
    experiment = make_experiment(run.config, "test")
    clips = Evaluator(experiment).clips(experiment.init_state().params, 9)
    assert len({name for name, _, _ in clips}) == len(clips) == 3


# ------------------------------------------------------------------------------------------------
# Faults


def first_step_without_video(video):
    """A configuration whose first clips avoid that video, and the plans of its steps."""
    for seed in range(100):
        config = tiny_config("flow", SMALLEST, eval_every=1, seed=seed)
        sampler = make_sampler(make_experiment(config, "train"))
        plans = [sampler.plan(step) for step in range(6)]
        if video not in plans[0].video:
            return config, plans
    raise AssertionError("every seed begins with that video")


def test_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    """One video has unknown flow that claims to be known."""
    read = Scenes.read

    def read_with_nan(self, video, start, stop, fields=("video",)):
        frames = read(self, video, start, stop, fields)
        if self.split == "train" and video == 2:
            frames["flow"][:] = np.nan
            frames["flow_valid"][:] = True
        return frames

    monkeypatch.setattr(Scenes, "read", read_with_nan)
    monkeypatch.setattr(Scenes, "python_share", 0.0)  # worker processes have the real `read`
    config, plans = first_step_without_video(2)
    step = next(step for step, plan in enumerate(plans, 1) if 2 in plan.video)
    with pytest.raises(TrainingDiverged, match=f"The loss is nan at step {step},") as error:
        train_and_evaluate(config, tmp_path)
    for video, start in zip(plans[step - 1].video, plans[step - 1].start):
        assert f"scenes-train-0-{video:05d} frame {start}" in str(error.value)
    assert list(read_metrics(tmp_path, "train/loss")) == list(range(1, step))
    with opened_checkpoints(config, tmp_path) as (experiment, checkpoints):
        assert checkpoints.latest_step() == step - 1
        params = checkpoints.restore(step - 1, experiment.init_state()).params
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_parameters_that_overflow_are_not_saved(tmp_path):
    """The loss of step 1 is finite, but what its update leaves is not usable."""
    config = tiny_config("seg", SMALLEST, optimizer__learning_rate=1e30, eval_every=1)
    with pytest.raises(TrainingDiverged, match="parameter norm is inf at step 1,"):
        train_and_evaluate(config, tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.fixture
def corrupt_scenes(monkeypatch):
    """Makes the training videos of these indices unreadable."""

    def damage(*videos):
        read = Scenes.read

        def read_or_fail(self, video, start, stop, fields=("video",)):
            if self.split == "train" and video in videos:
                raise CorruptVideoError(f"Video {video} cannot be read.")
            return read(self, video, start, stop, fields)

        monkeypatch.setattr(Scenes, "read", read_or_fail)
        monkeypatch.setattr(Scenes, "python_share", 0.0)  # worker processes have the real `read`

    return damage


@pytest.mark.parametrize("feed", FEEDS)
def test_one_corrupt_video_is_skipped(tmp_path, capsys, corrupt_scenes, feed):
    corrupt_scenes(1)
    train_and_evaluate(tiny_config("seg", SMALLEST, feed=feed), tmp_path)
    assert list(read_metrics(tmp_path, "train/loss")) == [1, 2, 3, 4, 5, 6]
    assert "1 unreadable video was skipped" in capsys.readouterr().out


@pytest.mark.parametrize("feed", FEEDS)
def test_more_than_one_percent_corrupt_videos_stop_the_run(tmp_path, corrupt_scenes, feed):
    corrupt_scenes(1, 2)
    with pytest.raises(DataError, match="2 of 4 videos cannot be read"):
        train_and_evaluate(tiny_config("seg", SMALLEST, feed=feed), tmp_path)


@pytest.mark.parametrize("feed", FEEDS)
def test_label_without_a_class_stops_the_run(tmp_path, monkeypatch, feed):
    monkeypatch.setattr(Scenes, "label_names", ("a", "b"))
    monkeypatch.setattr(Scenes, "python_share", 0.0)
    with pytest.raises(DataError, match="has the label [2-7]; its 2 classes are 0 to 1"):
        train_and_evaluate(tiny_config("seg", SMALLEST, feed=feed), tmp_path)


# ------------------------------------------------------------------------------------------------
# First words


@pytest.mark.slow
def test_without_accelerator_the_duration_is_announced(capsys):
    config = tiny_config(model__width=0.26, num_steps=10**6)
    announce(make_experiment(config, "train"), Schedule.of(config), first_step=0)
    lines = capsys.readouterr().out.splitlines()
    assert all("measuring the speed of one training step" in line for line in lines[2:-1])
    assert "This will take about" in lines[-1] and "configs/seg.py:demo" in lines[-1]
    announce(make_experiment(tiny_config(), "train"), Schedule.of(config), first_step=0)
    assert len(capsys.readouterr().out.splitlines()) == 2
