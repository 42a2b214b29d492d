"""What a task of one's own has without a line of code, and what cannot be registered."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests import reference
from v2v_jax.datasets import DATASETS, register_dataset
from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.drawing import colors
from v2v_jax.errors import ConfigError
from v2v_jax.inference.output_files import parse_output
from v2v_jax.inference.predictor import Chunk
from v2v_jax.inference.views import Drawing
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.tasks import (
    TASKS,
    Color,
    Task,
    checked_options,
    clip_valid,
    losses,
    make_task,
    metrics,
    record,
    register_task,
    restore_task,
    stored_options,
    task_class,
)

SHAPE = B, T, H, W = 3, 2, 5, 6


class Pair(Task):
    """Two outputs: red and blue, where red is not black."""

    name = "pair"
    fields = ("video",)
    num_outputs = 2

    def target(self, batch):
        video = batch["video"].astype(jnp.float32)
        return video[..., ::2], clip_valid(video[..., 0] > 9, batch)


class One(Pair):
    name = "one"
    num_outputs = 1
    options = {"factor": 2.0}

    def __init__(self, factor=1.0):
        self.factor = factor

    def target(self, batch):
        target, valid = super().target(batch)
        return self.factor * target[..., :1], valid

    @classmethod
    def check_options(cls, options):
        if options["factor"] <= 0:
            raise ConfigError("task_options.factor must be positive.")


@pytest.fixture(autouse=True)
def registries():
    """Leaves both as they were."""
    tasks, datasets = dict(TASKS), dict(DATASETS)
    yield
    for registry, before in ((TASKS, tasks), (DATASETS, datasets)):
        registry.clear()
        registry.update(before)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    video[rng.random(SHAPE) < 0.3, 0] = 0
    return {"video": video, "mask": np.array([True, True, False])}


def test_loss_and_metrics_equal_reference():
    task, arrays = Pair(), batch()
    outputs = np.random.default_rng(1).normal(100, 50, (*SHAPE, 2)).astype(np.float32)
    valid = (arrays["video"][..., 0] > 9) & arrays["mask"][:, None, None, None]
    assert valid.any() and not valid[:2].all()
    truth = arrays["video"][..., ::2].astype(np.float64)
    total, count = reference.half_squared(outputs, truth, valid)
    assert float(losses.mean(task.loss(outputs, arrays))) == pytest.approx(total / count, rel=1e-5)
    sums = [jax.jit(task.sums)(outputs[i : i + 1], _row(arrays, i)) for i in range(B)]
    pooled = None
    for part in sums:
        pooled = metrics.add(pooled, part)
    error, known = (outputs.astype(np.float64) - truth)[valid], truth[valid]
    expected = {
        "rmse": np.sqrt((error**2).sum(-1).mean()),
        "baseline_rmse": np.sqrt(((known - known.mean(0)) ** 2).sum(-1).mean()),
    }
    assert task.summarize(pooled) == pytest.approx(expected, rel=1e-4)
    nothing = task.sums(outputs, arrays | {"mask": np.zeros(B, bool)})
    values = task.summarize(metrics.add(None, nothing))
    assert all(np.isnan(value) for value in values.values())
    inputs = task.inputs(arrays, Preprocessing())
    assert inputs.shape == (*SHAPE, 3)


def _row(arrays, i):
    return {name: value[i : i + 1] for name, value in arrays.items()}


@pytest.mark.parametrize(("task", "shape"), [(One(), (T, H, W)), (Pair(), (T, H, W, 2))])
def test_results_files_and_drawings(task, shape, tmp_path):
    raw = jnp.asarray(np.random.default_rng(2).normal(size=(T, H, W, task.num_outputs)))
    assert task.num_values == task.num_outputs and not task.finish_reads_video
    values = np.asarray(task.finish(task.blendable(raw), None, jnp.ones(2)))
    np.testing.assert_array_equal(values, np.asarray(raw).reshape(shape))
    parse_output(str(tmp_path / "out" / "%d.npz"), task)
    with pytest.raises(ConfigError, match=f"task {task.name} writes frames as .npz, not as .png"):
        parse_output(str(tmp_path / "out" / "%d.png"), task)
    task.write_frame(tmp_path / "0.npz", values[0])
    with np.load(tmp_path / "0.npz") as arrays:
        np.testing.assert_array_equal(arrays["values"], values[0])
    video = batch()["video"][0]
    drawing = Drawing(task, "plain")
    drawn = drawing.draw(Chunk(video, values))
    assert drawn.shape == (T, H, W, 3) and drawn.dtype == np.uint8 and drawn.std() > 20
    np.testing.assert_array_equal(drawing.draw(Chunk(video, values)), drawn)
    # The scale is of the beginning: what comes later is cut off at its ends.
    later = drawing.draw(Chunk(video, np.full(shape, 1e9, np.float32)))
    assert (later == colors.scalar_to_color(np.full((1, 1), 1.0), 0.0, 1.0)[0, 0]).all()


def test_the_picture_shows_equal_things_equally_and_nothing_where_nothing_is_known():
    task, clip = One(), {"video": batch()["video"][0]}
    target, valid = (np.asarray(a)[0] for a in task.target(_row(batch(), 0)))
    picture = task.picture(clip, target)
    given, prediction, truth = picture.columns.values()
    np.testing.assert_array_equal(given, clip["video"])
    np.testing.assert_array_equal(prediction[valid], truth[valid])
    assert (truth[~valid] == 0).all() and (truth[valid].any(-1)).all() and prediction.any(-1).all()
    (legend,) = picture.legends
    assert legend.picture().dtype == np.uint8 and legend.picture().ndim == 3


def test_a_task_without_target_says_what_it_lacks():
    class Nothing(Task):
        name, fields, num_outputs = "nothing", ("video",), 1

    with pytest.raises(NotImplementedError, match="nothing has neither a target nor its own loss"):
        Nothing().loss(np.zeros((*SHAPE, 1)), batch())


class Dataset(VideoDataset):
    name, videos = "described", ()
    read = None


def test_a_registered_task_is_made_stored_and_made_again():
    assert register_task(One) is One and task_class("one") is One
    register_task(One)  # again, as when its module is loaded twice
    task = make_task("one", Dataset(), {"factor": 3.0})
    assert task.factor == 3.0 and make_task("one", Dataset()).factor == 2.0
    about = record(task, {"factor": 3.0})
    assert about["task"] == "one" and about["task_module"] == __name__
    assert restore_task(about).factor == 3.0
    assert restore_task({**about, "task_options": {}}).factor == 2.0  # an option that came later
    older = {"task": "color", "residual": False}  # before the options stood by themselves
    options = {"residual": False, "hints": 0, "loss": "half_squared"}  # as all were then
    assert stored_options(older) == options
    assert stored_options(ConfigDict(older | {"hints": 5})) == options | {"hints": 5}
    written = {"task": "segmentation", "task_options": {"class_weights": ()}}
    written = json.loads(json.dumps(written))  # the tuple is a list now
    assert stored_options(written) == stored_options({"task": "segmentation"})
    with pytest.raises(ConfigError, match="task one has no option fator; known: factor"):
        make_task("one", Dataset(), {"fator": 1.0})
    with pytest.raises(ConfigError, match="factor must be positive"):
        checked_options(One, {"factor": 0.0})
    assert checked_options(Color, {"hints": 3}) == {**Color.options, "hints": 3}


def variant(**changes):
    return type("Variant", (Pair,), {"name": "variant", **changes})


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (variant(name=""), "has no `name`"),
        (variant(fields=("flow",)), '`fields` are .*"video" in it'),
        (variant(fields="video"), "`fields` are 'video'"),
        (variant(better="more"), "`better` is 'more'"),
        (variant(answers="frames"), "`answers` 'frames'"),
        (type("Bare", (Task,), {"name": "bare", "fields": ("video",)}), "it lacks num_outputs"),
        (dict, "not a subclass of v2v_jax.Task"),
        (variant(name="flow"), "'flow' of .* cannot be registered: v2v_jax.tasks.flow:Flow has"),
    ],
)
def test_what_cannot_be_registered(task, message):
    with pytest.raises(ConfigError, match=message):
        register_task(task)
    assert "variant" not in TASKS and "bare" not in TASKS


def open_described(options, split, frame_size):
    return Dataset()


def test_a_registered_dataset_has_its_options():
    register_dataset("described", open_described, options={"count": 3}, feed="device")
    register_dataset("described", open_described, options={"count": 4})
    entry = DATASETS["described"]
    assert entry.options["count"] == 4 and entry.options["cache"] == "" and entry.feed == "tf_data"
    for arguments, message in [
        (dict(name="scenes", open=open_described), "'scenes' of .* cannot be registered: v2v_jax"),
        (dict(name="a,b", open=open_described), "'a,b'; choose a plain word"),
        (dict(name="x", open=None), "expected a function `open`.*got None"),
        (dict(name="x", open=open_described, options={"name": "y"}), "got .*'name': 'y'"),
        (dict(name="x", open=open_described, feed="disk"), "tf_data or device as .*'disk'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            register_dataset(**arguments)
    assert "x" not in DATASETS


def test_scalars_have_one_colour_each():
    values = np.array([[-5.0, 0.0, 0.5, 1.0, 7.0, np.nan, np.inf]])
    drawn = colors.scalar_to_color(values, 0.0, 1.0)[0]
    assert (drawn[0] == drawn[1]).all() and (drawn[3] == drawn[4]).all()
    assert len({tuple(color) for color in drawn[1:4].tolist()}) == 3
    assert (drawn[5:] == 0).all() and drawn[:5].any(-1).all()
    assert colors.scalar_to_color(np.ones((2, 2)), 3.0, 3.0).any(-1).all()
    with pytest.raises(ValueError, match="least <= most"):
        colors.scalar_to_color(values, 1.0, 0.0)
