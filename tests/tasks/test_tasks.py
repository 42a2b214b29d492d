"""Each task against NumPy: target, loss, metrics, trivial answer, pictures; what must not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from v2v_jax.datasets.base.video_dataset import FIELDS, VideoDataset
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.tasks import TASKS, Color, Depth, Flow, Segmentation, losses, make_task, metrics

B, T, H, W = SHAPE = (4, 3, 6, 7)
NAMES = ("sky", "road", "car")
RULES = Preprocessing()
ALL_TASKS = [Segmentation(NAMES), Flow(), Color(residual=False), Depth()]
by_name = pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)


def batch(seed=0):
    """Four clips, the last of which only pads; targets with all that must be ignored."""
    rng = np.random.default_rng(seed)
    arrays = {
        "video": rng.integers(0, 256, (*SHAPE, 3)).astype(np.uint8),
        "labels": rng.integers(0, len(NAMES), SHAPE).astype(np.uint8),
        "flow": (10 * rng.standard_normal((*SHAPE, 2))).astype(np.float16),
        "flow_valid": rng.random(SHAPE) < 0.7,
        "depth": rng.uniform(1, 80, SHAPE).astype(np.float16),
        "mask": np.array([True, True, True, False]),
    }
    arrays["labels"][rng.random(SHAPE) < 0.2] = 255
    arrays["flow"][~arrays["flow_valid"]] = np.nan
    arrays["depth"][rng.random(SHAPE) < 0.2] = np.inf
    arrays["depth"][rng.random(SHAPE) < 0.1] = 5000  # too far to count
    return arrays


def outputs_for(task, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*SHAPE, task.num_outputs)).astype(np.float32)


def loss_of(task, outputs, arrays):
    return float(jax.jit(lambda o, b: losses.mean(task.loss(o, b)))(outputs, arrays))


def smooth_distance(prediction, target, valid):
    """Mean over the valid voxels of √(|x|² + ε²) - ε, in float64."""
    difference = (prediction.astype(np.float64) - target)[valid]
    return np.mean(np.sqrt((difference**2).sum(-1) + 1e-6) - 1e-3)


def values_of(task, outputs, arrays):
    return task.summarize(metrics.add(None, jax.jit(task.sums)(outputs, arrays)))


def test_segmentation_loss_and_metrics_equal_reference():
    task, arrays = Segmentation(NAMES), batch()
    assert task.num_outputs == 3
    outputs = outputs_for(task)
    valid = (arrays["labels"] != 255) & arrays["mask"][:, None, None, None]
    total, count = reference.softmax_cross_entropy(outputs, arrays["labels"], valid)
    assert loss_of(task, outputs, arrays) == pytest.approx(total / count, rel=1e-5)
    truth, guess = arrays["labels"][valid], outputs.argmax(-1)[valid]
    iou = [
        np.sum((truth == k) & (guess == k)) / np.sum((truth == k) | (guess == k)) for k in range(3)
    ]
    recall = [np.mean(guess[truth == k] == k) for k in range(3)]
    share = [np.mean(truth == k) for k in range(3)]
    expected = {
        "accuracy": np.mean(truth == guess),
        "miou": np.mean(iou),
        "mean_class_accuracy": np.mean(recall),
        "baseline_accuracy": max(share),
    }
    for k, name in enumerate(NAMES):
        of_class = {"accuracy": recall[k], "iou": iou[k], "share": share[k]}
        expected |= {f"{metric}/{name}": value for metric, value in of_class.items()}
    found = values_of(task, outputs, arrays)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-9)


def test_segmentation_predicts_probabilities():
    task = Segmentation(NAMES)
    outputs = outputs_for(task)
    found = np.asarray(task.predict(outputs))
    expected = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(-1), outputs.argmax(-1))


def test_segmentation_may_weigh_classes_and_add_dice():
    arrays, outputs = batch(), outputs_for(Segmentation(NAMES))
    weights = np.arange(1, len(NAMES) + 1)
    valid = (arrays["labels"] != 255) & arrays["mask"][:, None, None, None]
    truth = (arrays["labels"], valid, weights / weights.mean())
    total, count = reference.weighted_softmax_cross_entropy(outputs, *truth)
    task = Segmentation(NAMES, class_weights=[int(w) for w in weights])
    assert loss_of(task, outputs, arrays) == pytest.approx(total / count, rel=1e-5)
    dice = reference.soft_dice(outputs, *truth)[0]
    task = Segmentation(NAMES, class_weights=[int(w) for w in weights], dice=0.5)
    assert loss_of(task, outputs, arrays) == pytest.approx((total + 0.5 * dice) / count, rel=1e-5)


@pytest.mark.parametrize(
    "options,words",
    [
        ({"class_weights": (1.0, -2.0)}, "class_weights is .*positive numbers"),
        ({"class_weights": (1.0, float("nan"))}, "class_weights is .*positive numbers"),
        ({"dice": -0.5}, "task_options.dice is -0.5"),
    ],
)
def test_options_of_segmentation_that_cannot_be_used(options, words):
    with pytest.raises(ConfigError, match=words):
        Segmentation.check_options({**Segmentation.options, **options})


def test_as_many_weights_as_classes():
    with pytest.raises(ConfigError, match=f"has 2 numbers; .* each of the {len(NAMES)} classes"):
        Segmentation(NAMES, class_weights=(1.0, 2.0))


@pytest.mark.parametrize("loss", ["huber", "distance", "robust"])
def test_flow_is_learned_as_the_loss_says_and_measured_in_pixels(loss):
    task, arrays = Flow(loss=loss), batch()
    outputs = outputs_for(task)
    valid = arrays["flow_valid"] & arrays["mask"][:, None, None, None]
    flow = arrays["flow"].astype(np.float64)
    expected = {
        "huber": lambda: reference.huber(outputs, flow / 15, valid),
        "distance": lambda: reference.distance(15 * outputs, flow, valid),
        "robust": lambda: reference.robust(15 * outputs, flow, valid),
    }
    total, count = expected[loss]()
    assert loss_of(task, outputs, arrays) == pytest.approx(total / count, rel=1e-5)
    np.testing.assert_allclose(task.predict(outputs), 15 * outputs, rtol=1e-6)
    expected = {
        "epe": reference.mean_distance(15 * outputs, flow, valid),
        "baseline_epe": np.linalg.norm(flow[valid], axis=-1).mean(),
    }
    for prefix, answer in (("", 15 * outputs), ("baseline_", np.zeros_like(outputs))):
        more = reference.flow_metrics(answer, flow, valid, None, (1, 1))
        expected |= {prefix + name: value for name, value in more.items()}
    assert values_of(task, outputs, arrays) == pytest.approx(expected, rel=1e-5, nan_ok=True)
    exact = np.nan_to_num(flow).astype(np.float32) / 15
    assert loss_of(task, exact, arrays) < 1e-6
    assert values_of(task, exact, arrays)["epe"] < 1e-4


def test_flow_of_a_shrunk_dataset_is_also_measured_in_its_own_pixels():
    class Shrunk(VideoDataset):
        name, fields = "shrunk", ("video", "flow", "flow_valid", "flow_occluded")
        frame_size, native_size = (H, W), (4 * H, 5 * W)
        read = None  # the task is only told what there is

    task, arrays = make_task("flow", Shrunk()), batch()
    assert task.fields == ("video", "flow", "flow_valid")  # what training reads
    assert task.evaluation_fields == (*task.fields, "flow_occluded")
    arrays["flow_occluded"] = np.random.default_rng(5).random(SHAPE) < 0.3
    outputs = outputs_for(task)
    valid = arrays["flow_valid"] & arrays["mask"][:, None, None, None]
    flow = arrays["flow"].astype(np.float64)
    expected = {
        "epe": reference.mean_distance(15 * outputs, flow, valid),
        "baseline_epe": np.linalg.norm(flow[valid], axis=-1).mean(),
    }
    for prefix, answer in (("", 15 * outputs), ("baseline_", np.zeros_like(outputs))):
        more = reference.flow_metrics(answer, flow, valid, arrays["flow_occluded"], (5, 4))
        expected |= {prefix + name: value for name, value in more.items()}
    found = values_of(task, outputs, arrays)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["epe_s40+"] > found["epe_s0-10"] and found["epe_native"] > 4 * found["epe"]


def test_training_counts_only_what_its_headline_needs():
    for task in ALL_TASKS:
        arrays, outputs = batch(), outputs_for(task)
        sums = jax.jit(task.training_sums)(outputs, arrays)
        value = task.summarize(metrics.add(None, sums))[task.headline]
        assert value == values_of(task, outputs, arrays)[task.headline], task.name
    assert set(jax.eval_shape(Flow().training_sums, outputs_for(Flow()), batch())) == {
        "distance",
        "baseline",
        "count",
    }


@pytest.mark.parametrize("loss", ["half_squared", "distance"])
def test_color_reads_one_grey_channel_and_gives_rgb_in_0_to_1(loss):
    task, arrays = Color(residual=False, loss=loss), batch()
    outputs = outputs_for(task)
    valid = np.broadcast_to(arrays["mask"][:, None, None, None], SHAPE)
    target = arrays["video"].astype(np.float64) / 255
    gray = (target * [0.299, 0.587, 0.114]).sum(-1, keepdims=True)
    inputs = jax.jit(lambda b: task.inputs(b, RULES))(arrays)
    assert inputs.shape == (*SHAPE, 1) and task.input_channels == 1
    level = np.dot([0.299, 0.587, 0.114], RULES.mean)
    np.testing.assert_allclose(inputs, (255 * gray - level) / 60, atol=1e-5)
    total, count = getattr(reference, loss)(outputs, target, valid)
    assert loss_of(task, outputs, arrays) == pytest.approx(total / count, rel=1e-5)
    np.testing.assert_array_equal(task.predict(outputs), np.clip(outputs, 0, 1))
    assert values_of(task, outputs, arrays) == pytest.approx(
        {
            "ade": reference.mean_distance(np.clip(outputs, 0, 1), target, valid),
            "baseline_ade": reference.mean_distance(np.repeat(gray, 3, -1), target, valid),
        },
        rel=1e-5,
    )


@by_name
def test_only_residual_coloring_adds_to_the_outputs(task):
    arrays, raw = batch(), outputs_for(task)
    np.testing.assert_array_equal(jax.jit(task.complete)(raw, arrays), raw)


def test_residual_coloring_starts_from_the_grey_frame():
    """Outputs of zero are then exactly the trivial answer."""
    task, arrays = Color(residual=True), batch()
    raw = outputs_for(task)
    gray = (arrays["video"] / 255 * [0.299, 0.587, 0.114]).sum(-1, keepdims=True)
    np.testing.assert_allclose(jax.jit(task.complete)(raw, arrays), raw + gray, atol=1e-5)
    start = task.complete(np.zeros_like(raw), arrays)
    values = values_of(task, start, arrays)
    assert values["ade"] == pytest.approx(values["baseline_ade"], rel=1e-6)


def depth_truth(arrays):
    depth = arrays["depth"].astype(np.float64)
    return depth, (depth <= Depth.max_depth) & arrays["mask"][:, None, None, None]


@pytest.mark.parametrize("loss", ["huber", "half_squared", "distance"])
def test_depth_loss_and_metrics_equal_reference(loss):
    task, arrays = Depth(loss=loss), batch()
    outputs = outputs_for(task)
    depth, valid = depth_truth(arrays)
    finite = np.where(valid, depth, 1.0)
    of = getattr(reference, loss)
    total, count = of(outputs, np.log(finite / 10)[..., None], valid)
    assert loss_of(task, outputs, arrays) == pytest.approx(total / count, rel=1e-5)
    predicted = np.clip(10 * np.exp(outputs[..., 0].astype(np.float64)), 0.5, 200)
    np.testing.assert_allclose(task.predict(outputs), predicted, rtol=1e-5)
    p, t = predicted[valid], depth[valid]
    assert values_of(task, outputs, arrays) == pytest.approx(
        {
            "rmse_log": np.sqrt(np.mean((np.log(p) - np.log(t)) ** 2)),
            "abs_rel": np.mean(np.abs(p - t) / t),
            "within_1.25": np.mean(np.maximum(p / t, t / p) < 1.25),
            "baseline_rmse_log": np.std(np.log(t)),
        },
        rel=1e-4,
    )


def test_the_depth_baseline_is_the_best_constant():
    task, arrays = Depth(), batch()
    depth, valid = depth_truth(arrays)
    best = values_of(task, outputs_for(task), arrays)["baseline_rmse_log"]
    mean = np.log(depth[valid] / 10).mean()
    errors = [
        values_of(task, np.full((*SHAPE, 1), mean + shift, np.float32), arrays)["rmse_log"]
        for shift in (-0.1, 0.0, 0.1)
    ]
    assert errors[1] == pytest.approx(best, rel=1e-4)
    assert min(errors[0], errors[2]) > best + 1e-3


@pytest.mark.parametrize("metres", [0.37, 3.3, 7.7, 61.0])
def test_one_depth_everywhere_has_a_baseline_of_zero_not_nan(metres):
    """mean(x²) - mean(x)² may round below 0, whose root is NaN."""
    task, arrays = Depth(), batch()
    arrays["depth"] = np.full(SHAPE, metres, np.float16)
    values = values_of(task, outputs_for(task), arrays)
    assert values["baseline_rmse_log"] == pytest.approx(0, abs=1e-2)


def test_depth_answers_are_bounded_however_wild_the_outputs():
    task, arrays = Depth(), batch()
    wild = np.where(outputs_for(task) > 0, 1e30, -1e30).astype(np.float32)
    depth = np.asarray(task.predict(wild))
    assert np.isfinite(depth).all() and depth.min() > 0
    assert depth.max() == pytest.approx(task.max_depth, rel=1e-5)
    assert all(np.isfinite(value) for value in values_of(task, wild, arrays).values())


@by_name
def test_padded_clips_and_ignored_voxels_change_nothing(task):
    """Neither loss, gradient nor metrics; and the batch without the padding gives the same."""
    arrays, outputs = batch(), outputs_for(task)
    disturbed = {name: value.copy() for name, value in arrays.items()}
    disturbed["video"][3] = 0
    disturbed["labels"][3] = 1
    disturbed["flow"][3], disturbed["flow_valid"][3] = 1000, True
    disturbed["depth"][3] = 2
    other = outputs.copy()
    other[3] = 7
    if task.name == "flow":
        disturbed["flow"][:3][~arrays["flow_valid"][:3]] = np.inf
    if task.name in ("segmentation", "flow", "depth"):
        ignored = {
            "segmentation": arrays["labels"] == 255,
            "flow": ~arrays["flow_valid"],
            "depth": arrays["depth"] > Depth.max_depth,
        }[task.name]
        assert ignored[:3].any()
        other[ignored] = 3
    gradient = jax.jit(jax.grad(lambda o, b: losses.mean(task.loss(o, b))))
    expected = np.asarray(gradient(outputs, arrays))
    assert np.isfinite(expected).all() and np.abs(expected[:3]).max() > 0
    np.testing.assert_array_equal(expected[3], 0)
    if task.name != "color":
        np.testing.assert_array_equal(expected[ignored], 0)
    assert loss_of(task, other, disturbed) == loss_of(task, outputs, arrays)
    np.testing.assert_equal(values_of(task, other, disturbed), values_of(task, outputs, arrays))
    three = {name: value[:3] for name, value in arrays.items()}
    assert values_of(task, outputs[:3], three) == pytest.approx(
        values_of(task, outputs, arrays), rel=1e-6, nan_ok=True
    )


@by_name
def test_a_batch_with_nothing_to_learn_has_loss_zero_and_unknown_metrics(task, recwarn):
    arrays = batch() | {"mask": np.zeros(B, bool)}
    outputs = outputs_for(task)
    assert loss_of(task, outputs, arrays) == 0
    values = values_of(task, outputs, arrays)
    assert np.isnan(values[task.headline]) and np.isnan(values[f"baseline_{task.headline}"])
    assert not [w for w in recwarn.list if issubclass(w.category, RuntimeWarning)]


@by_name
def test_inputs_are_the_normalised_video(task):
    arrays = batch()
    inputs = jax.jit(lambda b: task.inputs(b, RULES))(arrays)
    assert inputs.shape == (*SHAPE, task.input_channels) and inputs.dtype == jnp.float32
    if task.input_channels == 3:
        expected = (arrays["video"].astype(np.float64) - RULES.mean) / 60
        np.testing.assert_allclose(inputs, expected, atol=1e-5)


@by_name
def test_metrics_carry_the_headline_and_its_baseline(task):
    values = values_of(task, outputs_for(task), batch())
    assert task.headline in values and f"baseline_{task.headline}" in values
    assert task.better in ("max", "min")
    assert all(isinstance(value, float) for value in values.values())
    assert TASKS[task.name] is type(task)


@by_name
def test_pictures_have_their_columns(task):
    arrays = batch()
    clip = {name: arrays[name][0] for name in task.fields}
    prediction = np.asarray(task.predict(outputs_for(task)))[0]
    picture = task.picture(clip, prediction)
    more = ["prediction on input"] if task.name == "segmentation" else []
    titles = [title.split(" (")[0] for title in picture.columns]  # without remarks
    assert titles == ["input", "prediction", "truth", *more]
    for column in picture.columns.values():
        assert column.shape == (T, H, W, 3) and column.dtype == np.uint8
    for legend in picture.legends:
        drawn = legend.picture()
        assert drawn.ndim == 3 and drawn.shape[2] == 3 and drawn.dtype == np.uint8
    assert len(picture.legends) == (task.name != "color")
    if task.name == "color":
        np.testing.assert_array_equal(picture.columns["truth"], clip["video"])
        np.testing.assert_array_equal(picture.columns["prediction"], np.rint(prediction * 255))
        grey = picture.columns["input"]
        assert (grey == grey[..., :1]).all() and grey.std() > 0
    else:
        np.testing.assert_array_equal(picture.columns["input"], clip["video"])


def test_black_marks_where_there_is_no_truth():
    arrays = batch()
    flow = Flow().picture(
        {name: arrays[name][0] for name in Flow.fields}, np.zeros((T, H, W, 2), np.float32)
    )
    _, prediction, truth = flow.columns.values()
    np.testing.assert_array_equal((truth == 0).all(-1), ~arrays["flow_valid"][0])
    assert (prediction == 255).all()  # white: at rest
    depth = Depth().picture(
        {name: arrays[name][0] for name in Depth.fields}, np.full((T, H, W), 9, np.float32)
    )
    for column in list(depth.columns.values())[1:]:
        np.testing.assert_array_equal((column == 0).all(-1), arrays["depth"][0] > Depth.max_depth)


def test_equal_prediction_and_truth_look_equal():
    """One scale for both columns, whatever the units."""
    arrays = {name: value[0] for name, value in batch().items()}
    arrays["flow_valid"] = np.ones((T, H, W), bool)
    arrays["flow"] = np.nan_to_num(arrays["flow"])
    arrays["labels"] = arrays["labels"] % 3
    arrays["depth"] = np.minimum(arrays["depth"], 50)
    answers = {
        "segmentation": np.eye(3)[arrays["labels"]],
        "flow": arrays["flow"].astype(np.float32),
        "color": arrays["video"] / 255,
        "depth": arrays["depth"].astype(np.float32),
    }
    for task in ALL_TASKS:
        columns = list(task.picture(arrays, answers[task.name]).columns.values())
        np.testing.assert_array_equal(columns[1], columns[2], err_msg=task.name)


def test_segmentation_draws_one_heat_map_a_class():
    task, arrays = Segmentation(NAMES), batch()
    clip = {name: arrays[name][0] for name in task.fields}
    extra = task.more_pictures(clip, np.asarray(task.predict(outputs_for(task)))[0])
    assert list(extra) == ["heat_maps"]
    assert list(extra["heat_maps"].columns) == ["input", *NAMES]
    assert all(column.shape == (T, H, W, 3) for column in extra["heat_maps"].columns.values())
    assert Flow().more_pictures(clip, None) == {}


class Described(VideoDataset):
    """A dataset that is only a description."""

    name = "described"

    def __init__(self, fields, label_names=()):
        self.fields, self.label_names, self.videos = fields, label_names, []

    def read(self, video, start, stop, fields=("video",)):
        raise AssertionError("not read")


def test_make_task_takes_the_classes_from_the_dataset():
    dataset = Described(tuple(FIELDS), NAMES)
    dataset.video_label_names = ("walks", "runs")
    for name, kind in TASKS.items():
        assert type(make_task(name, dataset)) is kind
    assert make_task("segmentation", dataset).label_names == NAMES
    assert make_task("color", dataset).residual
    assert not make_task("color", dataset, {"residual": False}).residual
    assert {name: make_task(name, dataset).num_outputs for name in TASKS} == {
        "segmentation": 3,
        "flow": 2,
        "color": 3,
        "depth": 1,
        "classification": 2,
    }


@pytest.mark.parametrize(
    ("name", "missing"),
    [("segmentation", "labels"), ("flow", "flow, flow_valid"), ("depth", "depth")],
)
def test_make_task_names_what_the_dataset_lacks(name, missing):
    with pytest.raises(DataError, match=f"described has no {missing}: it delivers video"):
        make_task(name, Described(("video",)))
    assert type(make_task("color", Described(("video",)))) is Color


def test_segmentation_needs_two_classes():
    with pytest.raises(DataError, match="at least two classes"):
        make_task("segmentation", Described(("video", "labels"), ("all",)))
