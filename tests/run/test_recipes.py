"""Configurations: every combination is valid, the paper's has its numbers, errors list choices."""

import importlib.util
import itertools
import pathlib

import pytest
from ml_collections import ConfigDict

from v2v_jax.datasets import DATASETS
from v2v_jax.errors import ConfigError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.run import recipes
from v2v_jax.run.optimizers import make_optimizer
from v2v_jax.run.schedule import Schedule
from v2v_jax.tasks import TASKS

FOLDER = pathlib.Path(__file__).parents[2] / "configs"
TASK_OF = {"seg": "segmentation", "flow": "flow", "color": "color", "depth": "depth"}
SCHEDULES = {  # rate for a loss averaged over voxels and channels, decay, interval, steps
    "segmentation": (1e-4, 0.005, 30_000, 100_000),
    "flow": (4.0e-3, 0.0, 200_000, 800_000),
    "color": (6.0e-3, 0.0, 200_000, 600_000),
}
by_config = pytest.mark.parametrize("name", TASK_OF)


def get_config(name, arg=""):
    spec = importlib.util.spec_from_file_location(f"config_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def make(task="segmentation", **options):
    name = {task: name for name, task in TASK_OF.items()}[task]
    return get_config(name, ",".join(f"{key}={value}" for key, value in options.items()))


def test_no_argument_gives_the_defaults():
    for arg in ("", None, ","):
        assert recipes.parse_arg(arg).to_dict() == recipes.DEFAULTS
    changed = recipes.parse_arg("recipe=paper, size=small ,demo")
    assert changed.to_dict() == recipes.DEFAULTS | {
        "recipe": "paper",
        "size": "small",
        "demo": True,
    }
    assert recipes.parse_arg("size=full", size="small").size == "full"
    assert recipes.parse_arg("", size="small").size == "small"


@pytest.mark.parametrize("arg", ["model", "nonsense=1", "dmeo", "demo=1", "=v2v"])
def test_unknown_arguments_list_all_that_are_known(arg):
    with pytest.raises(ConfigError) as caught:
        recipes.parse_arg(arg)
    for key, values in recipes.choices().items():
        assert key in str(caught.value)
        assert all(value in str(caught.value) for value in values)


@pytest.mark.parametrize("key", recipes.choices())
def test_unknown_values_list_the_known_ones(key):
    with pytest.raises(ConfigError) as caught:
        recipes.parse_arg(f"{key}=typo")
    assert str(caught.value) == f"{key} is 'typo'; known: {', '.join(recipes.choices()[key])}."


def numbers_of(config, prefix=""):
    """The flattened keys of a configuration's numbers, also of those in tuples."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from numbers_of(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, tuple)) and not isinstance(value, bool):
            yield prefix + key


def known_numbers(config):
    """Those that `validate` looks at; tasks and augmentation look at their own options."""
    data = {*recipes.ANY_DATA_NUMBERS, *recipes.DATA_NUMBERS.get(config.data.name, {})}
    own = {f"{of}.{key}" for of in ("task_options", "augmentation") for key in config[of]}
    return {*recipes.NUMBERS, *recipes.TUPLES, *own, *(f"data.{key}" for key in data)}


@by_config
def test_every_combination_is_valid_and_can_be_overridden(name):
    assert TASK_OF[name] in TASKS
    for values in itertools.product(*recipes.choices().values()):
        config = get_config(name, ",".join(map("=".join, zip(recipes.choices(), values))))
        dataset, model, recipe, size = values
        recipes.validate(config)
        assert config.task == TASK_OF[name] and config.model.name == model
        assert config.data.name == dataset
        assert set(config.data) == {"name", *DATASETS[dataset].options}
        assert config.feed == DATASETS[dataset].feed and config.data.cache == ""
        assert config.model.width == (1.0 if size == "full" else 0.25)
        assert config.model.initialization == ("he" if recipe == "modern" else "release")
        schedule = Schedule.of(config)
        assert 1 <= schedule.log_every <= schedule.eval_every <= config.num_steps
        assert set(numbers_of(config)) <= known_numbers(config)
        make_optimizer(config.optimizer, config.num_steps)
        Preprocessing.from_dict(config.preprocessing)
        config.lock()
        config.batch_size = 8
        with pytest.raises(AttributeError, match="batchsize"):
            config.batchsize = 8


@by_config
@pytest.mark.parametrize("recipe", recipes.choices()["recipe"])
def test_a_demo_is_small_short_and_valid(name, recipe):
    full = get_config(name, f"recipe={recipe}")
    demo = get_config(name, f"recipe={recipe},demo")
    recipes.validate(demo)
    assert demo.task == full.task
    assert demo.model.width < full.model.width
    voxels = demo.num_steps * demo.batch_size * demo.preprocessing.clip_length
    for length in demo.preprocessing.crop_size:
        voxels *= length
    assert voxels < 2e8  # minutes on two cores
    assert demo.data.num_train_videos < full.data.num_train_videos
    assert Schedule.of(demo).eval_every == demo.num_steps
    # Every task has a rate of its own; the paper's recipe keeps the paper's.
    if recipe == "paper":
        assert demo.optimizer.learning_rate == full.optimizer.learning_rate
    assert demo.data.num_frames >= demo.preprocessing.clip_length
    assert set(full) == set(demo)


@pytest.mark.parametrize("dataset", [name for name in DATASETS if name != "scenes"])
def test_a_demo_of_any_dataset_is_small_and_valid(dataset):
    demo = get_config("color", f"demo,dataset={dataset}")
    recipes.validate(demo)
    assert demo.data.name == dataset and 0 < demo.data.max_videos <= 64
    assert demo.model.width == 0.25 and not demo.grow_share


@pytest.mark.parametrize("task", SCHEDULES)
def test_the_paper_recipe_has_the_papers_numbers(task):
    config = make(task, recipe="paper")
    rate, decay, every, steps = SCHEDULES[task]
    assert config.batch_size == 1 and config.stride == 1 and config.mirror
    assert config.optimizer.name == "caffe_sgd" and config.optimizer.schedule == "step"
    assert config.optimizer.momentum == 0.9
    assert config.optimizer.learning_rate == pytest.approx(rate)
    assert config.optimizer.weight_decay == pytest.approx(decay)
    assert config.optimizer.decay_every == every
    assert config.num_steps == steps
    assert config.model.initialization == "release"
    assert not config.task_options.get("residual")
    preprocessing = config.preprocessing
    assert preprocessing.frame_size == (128, 171) and preprocessing.crop_size == (112, 112)
    assert preprocessing.clip_length == 16
    assert preprocessing.color_order == "bgr" and preprocessing.mean == (90.3, 97.7, 101.4)
    assert preprocessing.std == (1.0, 1.0, 1.0)


def test_the_modern_input_has_the_same_mean_in_rgb():
    modern, paper = make().preprocessing, make(recipe="paper").preprocessing
    assert modern.color_order == "rgb" and modern.mean == paper.mean[::-1]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("task", "segment", "task is 'segment'; known: segmentation, flow, color, depth"),
        ("model.name", "unet", "model.name is 'unet'; known: v2v"),
        ("model.initialization", "xavier", "model.initialization is 'xavier'; known: he, release"),
        ("model.width", 0.0, "model.width is 0.0; it must be positive"),
        ("model.dropout", 1.0, "model.dropout is 1.0; it must be at least 0 and below 1"),
        ("data.name", "imagenet", "data.name is 'imagenet'; known: scenes"),
        ("feed", "disk", "feed is 'disk'; known: device, tf_data"),
        ("dtype", "int8", "dtype is 'int8'; known: auto, float32, bfloat16"),
        ("optimizer.name", "sgd", "optimizer.name is 'sgd'; known: adamw, caffe_sgd"),
        ("optimizer.schedule", "flat", "optimizer.schedule is 'flat'; known: cosine, step"),
        ("preprocessing.color_order", "grb", "color_order is 'grb'; known: rgb, bgr"),
        ("batch_size", 0, "batch_size is 0; it must be at least 1"),
        ("num_steps", 0, "num_steps is 0"),
        ("stride", -1, "stride is -1"),
        ("log_every", -1, "log_every is -1; it must be at least 0"),
        ("eval_every", -1, "eval_every is -1; it must be at least 0"),
        ("num_evaluations", 0, "num_evaluations is 0; it must be at least 1"),
        ("num_pictures", -1, "num_pictures is -1; it must be at least 0"),
        ("grow_share", 1.5, "grow_share is 1.5; it must be a share, 0 to 1"),
        ("optimizer.warmup_share", -0.1, "warmup_share is -0.1; it must be a share, 0 to 1"),
        ("optimizer.learning_rate", float("nan"), "learning_rate is nan; it must be positive"),
        ("optimizer.weight_decay", float("inf"), "weight_decay is inf; it must be at least 0"),
        ("data.num_train_videos", 0, "data.num_train_videos is 0; it must be at least 1"),
        ("data.name", "davis", r"data.\w+ is an option of another .*FILE:dataset=davis"),
        ("preprocessing.std", (1.0, 0.0, 1.0), "std is 0.0; it must be finite and not 0"),
        ("eval_batch_size", 0, "eval_batch_size is 0"),
        ("patience", -1, "patience is -1; it must be at least 0"),
        ("class_balance", 1.5, "class_balance is 1.5; it must be a share, 0 to 1"),
        ("preprocessing.crop_size", (100, 112), r"crop_size is \(100, 112\).*multiples of 16"),
        ("preprocessing.crop_size", (112, 120), r"crop_size is \(112, 120\).*multiples of 16"),
        ("preprocessing.crop_size", (112, 112, 16), "crop_size is .*; expected 2 numbers"),
        ("preprocessing.std", (60.0,), "std is .*; expected 3 numbers"),
        ("preprocessing.clip_length", 12, "clip_length 12; .* of 8 for the length"),
        ("preprocessing.clip_length", 0, "clip_length is 0; it must be at least 1"),
        ("augmentation.scale", (0.5, 1.0), "windows of 224×224, larger than the frames of 128×171"),
        ("augmentation.noise", -0.1, "augmentation.noise is -0.1; it must lie in 0..1"),
    ],
)
def test_validate_names_the_key_and_the_choices(key, value, message):
    config = get_config("c3d", "") if key == "model.dropout" else make()
    recipes.validate(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        recipes.validate(config)


@pytest.mark.parametrize(
    ("name", "arg", "changes", "message"),
    [
        ("seg", "", {"patience": 3, "data.num_validation_videos": 0}, "has no validation split"),
        ("seg", "", {"patience": 3, "save_every_evaluation": False}, "would not be kept"),
        ("seg", "dataset=frames", {"patience": 3, "data.validation_share": 0.0}, "no validation"),
        ("seg", "dataset=davis", {"data.num_folds": 1}, r"num_folds is 1; it must be 0 .none. or"),
        ("seg", "dataset=davis", {"data.fold": -1}, "data.fold is -1; it must be at least 0"),
        ("seg", "dataset=davis", {"data.fold": 2}, "fold is 2, but data.num_folds is 0; folds"),
        ("seg", "dataset=davis", {"data.num_folds": 5, "data.fold": 5}, "numbered from 0"),
        ("flow", "dataset=sintel", {"class_balance": 0.5}, "the task flow has no classes"),
    ],
)
def test_fields_that_need_one_another(name, arg, changes, message):
    config = get_config(name, arg)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        recipes.validate(config)


def test_fields_of_model_selection_that_fit():
    config = get_config("seg", "dataset=davis")
    config.update_from_flattened_dict(
        {"patience": 3, "class_balance": 1.0, "data.num_folds": 5, "data.fold": 4}
    )
    recipes.validate(config)


def test_frames_of_2d_v2v_come_in_any_number():
    config = make(model="v2v_2d")
    config.preprocessing.clip_length = 5
    recipes.validate(config)
