"""C3D and its task: the classifier against NumPy, dropout, the labels of videos, training."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs.c3d import get_config
from experiments.motion_classes import agreement
from tests import reference
from tests.tiny import tiny_config
from v2v_jax.datasets.base.reading import read_video_labels
from v2v_jax.datasets.cache.packed import PackedVideos
from v2v_jax.datasets.readers.video_folder import VideoFolder
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.datasets.scenes.camera import CameraPath, Wave
from v2v_jax.datasets.scenes.motion import VIDEO_LABEL_NAMES, video_label
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.evaluation.evaluator import evaluate
from v2v_jax.input.feeds import make_feed
from v2v_jax.models import C3D
from v2v_jax.models.c3d import TRUNK_LAYERS
from v2v_jax.pretrained import read_weights
from v2v_jax.run.experiment import make_experiment
from v2v_jax.run.model import make_model
from v2v_jax.tasks import Classification, make_task
from v2v_jax.training.loop import train_and_evaluate
from v2v_jax.training.setup import make_sampler
from v2v_jax.training.step import clip_seeds


def test_the_full_classifier_has_the_releases_shapes():
    clip = jnp.zeros((1, 16, 112, 112, 3))
    tree = jax.eval_shape(C3D(487).init, jax.random.key(0), clip)["params"]
    assert [tree[f"fc{n}"]["kernel"].shape for n in (6, 7, 8)] == [
        (8192, 4096),
        (4096, 4096),
        (4096, 487),
    ]
    assert set(tree) == {*TRUNK_LAYERS, "fc6", "fc7", "fc8"}
    assert jax.eval_shape(C3D(487).apply, {"params": tree}, clip).shape == (1, 487)


def c3d_reference(params, x):
    """Logits in float64, by the slow layers; pool5 takes what there is of its last windows."""

    def conv(x, name):
        y = reference.conv3d(x, params[name]["kernel"], [(1, 1)] * 3) + params[name]["bias"]
        return np.maximum(y, 0)

    def dense(x, name):
        return x @ np.asarray(params[name]["kernel"], np.float64) + params[name]["bias"]

    pool = reference.max_pool3d
    y = pool(conv(x, "conv1a"), (1, 2, 2))
    y = pool(conv(y, "conv2a"), (2, 2, 2))
    y = pool(conv(conv(y, "conv3a"), "conv3b"), (2, 2, 2))
    y = pool(conv(conv(y, "conv4a"), "conv4b"), (2, 2, 2))
    y = conv(conv(y, "conv5a"), "conv5b")
    t, h, w = (-(-n // 2) for n in y.shape[1:4])
    pooled = np.empty((len(y), t, h, w, y.shape[-1]))
    for i, j, k in np.ndindex(t, h, w):
        window = y[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
        pooled[:, i, j, k] = window.max((1, 2, 3))
    y = pooled.reshape(len(y), -1)
    y = np.maximum(dense(np.maximum(dense(y, "fc6"), 0), "fc7"), 0)
    return dense(y, "fc8")


def random_c3d(size, width=0.02, classes=5):
    """(model, variables with biases, clip of 2)."""
    model = C3D(classes, width=width)
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(1), x)
    rng = np.random.default_rng(1)
    noise = lambda p: p + 0.1 * rng.standard_normal(p.shape).astype(p.dtype)
    return model, jax.tree.map(noise, variables), x


def test_logits_equal_the_reference_where_pool5_rounds_up():
    model, variables, x = random_c3d((16, 48, 48))  # conv5b: 2×3×3, pool5: 1×2×2
    expected = c3d_reference(variables["params"], x)
    actual = np.asarray(jax.jit(model.apply)(variables, x))
    assert actual.dtype == np.float32 and actual.shape == (2, 5)
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.slow
def test_dropout_is_for_training_only():
    model, variables, x = random_c3d((8, 16, 16), width=0.1)
    apply = jax.jit(model.apply, static_argnames="train")
    plain = apply(variables, x)
    np.testing.assert_array_equal(plain, apply(variables, x))
    draw = lambda seed: apply(variables, x, train=True, rngs={"dropout": jax.random.key(seed)})
    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.abs(draw(0) - draw(1)).max() > 1e-3
    mean = np.mean([draw(seed) for seed in range(300)], axis=0)
    assert np.abs(mean - plain).max() < 0.35 * np.abs(draw(0) - plain).max() + 0.1


# ------------------------------------------------------------------------------------------------
# The task


def test_metrics_by_hand():
    task = Classification([f"class {n}" for n in range(7)])
    scores = np.tile(np.arange(7.0), (4, 1)).astype(np.float32)  # class 6 first, then 5, …
    batch = {
        "video_label": np.array([6, 2, 1, 6]),
        "mask": np.array([True, True, True, False]),
    }
    sums = jax.tree.map(np.asarray, task.sums(scores, batch))
    values = task.summarize(
        {"confusion": sums["confusion"], "top5": sums["top5"].sum(), "count": sums["count"].sum()}
    )
    assert values["accuracy"] == pytest.approx(1 / 3)
    assert values["top5_accuracy"] == pytest.approx(2 / 3)  # class 1 is sixth
    assert values["baseline_accuracy"] == pytest.approx(1 / 3)
    assert values["share/class 2"] == pytest.approx(1 / 3)
    total, count = task.loss(scores, batch)
    log_sum = np.log(np.exp(np.arange(7.0)).sum())
    assert float(count) == 3
    assert float(total) == pytest.approx(3 * log_sum - 6 - 2 - 1, rel=1e-5)


def test_equal_scores_are_no_top_five():
    task = Classification([f"class {n}" for n in range(7)])
    batch = {"video_label": np.array([0]), "mask": np.array([True])}
    assert not task.sums(np.zeros((1, 7), np.float32), batch)["top5"].any()


def test_datasets_without_classes_are_named():
    folder = VideoFolder.__new__(VideoFolder)  # its fields are its class's
    with pytest.raises(DataError, match="has no video_label: it delivers video"):
        make_task("classification", folder)


@pytest.mark.parametrize("name", ["v2v", "unet"])
def test_classification_is_for_c3d(name):
    config = tiny_config("c3d", model__name=name)
    with pytest.raises(ConfigError, match=f"model.name is '{name}'; known: c3d"):
        make_experiment(config, "train")
    with pytest.raises(ConfigError, match="model is 'c3d'; known: v2v"):
        tiny_config("seg", "model=c3d")


# ------------------------------------------------------------------------------------------------
# Labels


def test_scenes_labels_follow_from_what_moves():
    """Each label's two parts against the camera's path and what the renderer shows."""
    scenes = Scenes("train", num_videos=8, num_frames=16, noise=0.0)
    labels = read_video_labels(scenes)
    assert labels.dtype == np.int32 and len(set(labels.tolist())) >= 4
    for video, label in enumerate(labels):
        camera, thing = VIDEO_LABEL_NAMES[label].split(", ")
        scene = scenes.renderer(video).scene
        steps = [abs(scene.camera.pan(t + 1) - scene.camera.pan(t)) for t in range(15)]
        speed = sum(steps) / 15
        expected = "steady camera" if speed < 0.5 else "slow pan" if speed < 1 else "fast pan"
        assert camera == expected
        moving = thing in ("driving vehicle", "walking person")
        kind = "vehicle" if "vehicle" in thing else "person"
        assert any(s.kind == kind and (s.speed != 0) == moving for s in scene.sprites)


def test_a_clips_class_is_that_of_its_own_frames():
    found = agreement(num_videos=6, num_frames=32, clip_length=16)
    scenes = Scenes("test", num_videos=6)
    same = [
        video_label(scenes.scene(video), 16, first) == video_label(scenes.scene(video), 32)
        for video in range(6)
        for first in (0, 16)
    ]
    assert found["both"] == pytest.approx(np.mean(same))
    assert found["both"] <= min(found["camera"], found["main object"])
    assert set(agreement(num_videos=3, num_frames=16, clip_length=16).values()) == {1.0}


def test_the_configurations_videos_are_one_clip_long():
    for arg in ("", "demo"):
        config = get_config(arg)
        assert config.data.num_frames == config.preprocessing.clip_length == 16
        assert make_model(config.model, config.dtype, 12).dropout == 0.0
    config = get_config("dataset=ucf101")
    assert make_model(config.model, config.dtype, 101).dropout == 0.5


@pytest.mark.slow
def test_every_class_is_as_likely_at_first():
    variables = C3D(5, width=0.1).init(jax.random.key(0), jnp.zeros((1, 8, 16, 16, 3)))
    assert not np.any(variables["params"]["fc8"]["kernel"])


def test_the_main_object_is_the_largest_in_the_picture():
    scene = Scenes("train", num_videos=1).renderer(0).scene
    still = Wave(np.zeros(1), np.ones(1), np.zeros(1))
    names = [f.name for f in dataclasses.fields(CameraPath) if f.name not in ("height", "horizon")]
    camera = dataclasses.replace(scene.camera, **dict.fromkeys(names, still))
    vehicle = next(s for s in scene.sprites if s.kind == "vehicle")
    person = next(s for s in scene.sprites if s.kind == "person")
    place = dict(x=0.0, base=0.0)
    far = dataclasses.replace(vehicle, z=40.0, speed=0.1, period=100.0, **place)
    near = dataclasses.replace(person, z=3.0, speed=0.0, **place)
    label = lambda *sprites: VIDEO_LABEL_NAMES[
        video_label(dataclasses.replace(scene, camera=camera, sprites=sprites), 16)
    ]
    assert label(far, near) == "steady camera, statue"
    assert label(far) == "steady camera, driving vehicle"
    # Nearer, but beside the picture.
    assert label(far, dataclasses.replace(near, x=50.0)) == "steady camera, driving vehicle"


@pytest.mark.parametrize("feed", ["device", "tf_data"])
def test_feeds_deliver_the_labels_of_the_clips(feed, tmp_path):
    config = tiny_config("c3d", feed=feed, data__cache=str(tmp_path))
    experiment = make_experiment(config, "train")
    assert isinstance(experiment.dataset, PackedVideos)
    sampler = make_sampler(experiment)
    made = make_feed(
        feed, experiment.dataset, experiment.task.fields, experiment.preprocessing, experiment.mesh
    )
    labels = read_video_labels(experiment.dataset)
    plans = [sampler.plan(step) for step in range(2)]
    for plan, batch in zip(plans, made.batches(plans)):
        clips = made.prepare(made.store, batch)
        assert set(clips) == {"video", "video_label", "mask"}
        np.testing.assert_array_equal(clips["video_label"], labels[plan.video])


def test_labels_out_of_range_are_named():
    scenes = Scenes("train", num_videos=2)
    scenes.video_label = lambda video: 12
    with pytest.raises(DataError, match="00000 of scenes has the class 12; .* 0 to 11"):
        read_video_labels(scenes)


# ------------------------------------------------------------------------------------------------
# Training


def test_every_clip_of_every_step_has_its_own_seed():
    """Those of dropout are frozen for ever: a resumed run draws what the whole one would."""
    drawn = np.array([clip_seeds(seed, step, 4) for seed in (0, 1) for step in (0, 1)])
    assert drawn.shape == (4, 4) and drawn.dtype == np.uint32 and len(set(drawn.ravel())) == 16
    key = jax.random.fold_in(jax.random.key(1), 3)
    np.testing.assert_array_equal(clip_seeds(1, 3, 4), jax.random.bits(key, (4,)))


@pytest.mark.slow
def test_training_evaluation_and_pictures(tmp_path, compilation_cache, capsys):
    config = tiny_config("c3d", num_steps=20, eval_every=10, recompute=2, num_pictures=1)
    values = train_and_evaluate(config, tmp_path)
    assert values["top5_accuracy"] >= values["accuracy"] >= 0
    again = evaluate(config, tmp_path, report=True)
    assert again["accuracy"] >= values["accuracy"]  # the best checkpoint's
    output = capsys.readouterr().out
    assert re.search(r"validation accuracy 0\.\d+ +\(always the commonest class: 0\.\d+\)", output)
    picture = Image.open(tmp_path / "eval" / "clip0.png")
    assert picture.size[0] > 400
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "<h3>Best" in page  # of a clip alone the trivial answer would always be right
    assert 'class="trivial"' not in page
    weights = read_weights(tmp_path)
    assert weights.missing == () and weights.params["fc8"]["kernel"].shape[-1] == 12
