"""What the configurations in `configs/` are made of: argument parsing, recipes, validation.

A configuration's `get_config(arg)` takes what follows the colon in `--config=configs/seg.py:arg`:
`key=value,…` and the bare word `demo`. The recipes are `modern` and `paper` (schedule,
initialisation and input as in the authors' release). What each field means: `config_fields`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from v2v_jax.datasets import DATASETS, dataset_entry, has_validation
from v2v_jax.datasets.base.video_dataset import VIDEO_LABEL
from v2v_jax.errors import ConfigError
from v2v_jax.input.augmentation import Augmentation
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.models import CLASSIFIERS, MODELS
from v2v_jax.tasks import Task, checked_options, task_class

DEFAULTS = {"dataset": "scenes", "model": "v2v", "recipe": "modern", "size": "full", "demo": False}

# The mean colour of C3D's mean cube, as ports of its Caffe weights subtract it; in BGR.
_C3D_INPUT = dict(color_order="bgr", mean=(90.3, 97.7, 101.4), std=(1.0, 1.0, 1.0))


def choices() -> dict[str, tuple[str, ...]]:
    """What `key=value` may stand after a configuration's colon; with what is registered now."""
    return {
        "dataset": tuple(DATASETS),
        "model": tuple(MODELS),
        "recipe": ("modern", "paper"),
        "size": ("full", "small"),
    }


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """Reads `key=value,…` and the bare word `demo` into a config of `DEFAULTS` and `defaults`.

    Raises:
      ConfigError: an unknown key or value; the message lists the known ones.
    """
    options, known = {**DEFAULTS, **defaults}, choices()
    for item in filter(None, (arg or "").split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if item.strip() == "demo":
            options["demo"] = True
        elif key not in known or not equals:
            raise ConfigError(
                f"Unknown configuration argument {item!r}; known: demo, "
                + ", ".join(f"{k}={'|'.join(v)}" for k, v in known.items())
                + "."
            )
        else:
            options[key] = _choice(key, value, known[key])
    return ConfigDict(options)


def make_config(
    task: str, options: ConfigDict, *, num_steps: int, learning_rate: float
) -> ConfigDict:
    """The complete, unlocked configuration of a task for parsed options.

    Args:
      task: its name.
      num_steps, learning_rate: of the modern recipe; the paper's come from the paper.

    Raises:
      ConfigError: no such task or dataset, or recipe=paper for a task that is not in the paper.
    """
    kind, dataset = task_class(task), dataset_entry(options.dataset)
    config = ConfigDict()
    config.task = task
    config.task_options = dict(kind.options)  # the task's own, see its class
    config.seed = 0
    config.init_from = ""  # weights, a run's folder, a name in the zoo: see training/fine_tuning.py
    config.dtype = "auto"  # bfloat16 on accelerators, float32 on the CPU
    config.model = dict(name=options.model, width=1.0 if options.size == "full" else 0.25)
    config.data = dict(name=options.dataset, **dataset.options)
    config.stride = 1  # frames between the starts of a training video's clips
    # Until all training videos are seen: a share of the run, or steps; see v2v_jax/input/clips.py.
    config.grow_share, config.grow_steps = 0.0, 0
    config.mirror = True
    # The share of the training clips that are drawn so that all classes come equally often; 0: all
    # clips come equally often. See v2v_jax/input/class_balance.py.
    config.class_balance = 0.0
    # How training clips vary, beside being cropped and mirrored: see v2v_jax/input/augmentation.py.
    config.augmentation = dataclasses.asdict(Augmentation())
    config.feed = dataset.feed
    config.preprocessing = Preprocessing().to_dict()
    if options.recipe == "modern":
        _modern(config, num_steps, learning_rate)
        if options.dataset == "scenes" and options.size == "full":
            _many_scenes(config)
    else:
        _paper(config, kind)
    if kind.answers == "clips":
        config.model.dropout = 0.5  # share of fc6's and fc7's outputs that a step drops
    config.model.variant = "paper"  # or release: the authors' segmentation net, see models/v2v.py
    config.optimizer.trunk_multiplier = 1.0  # of the learning rate of conv1a … conv5b
    config.optimizer.freeze = "auto"  # layers with commas; trunk: all of conv1a … conv5b
    config.accumulate = 0  # parts of a device's clips, one after the other; 0: as it suits a GPU
    # How gradients are sent from device to device: float32, or bfloat16 with float32 sums.
    config.all_reduce = "float32"
    config.recompute = 1  # parts of those, one at a time in memory: see training/recompute.py
    config.log_every = 0  # steps from one line of metrics to the next; 0: 200 lines a run
    # How often in a run, or after every so many steps (0: num_evaluations decides).
    config.num_evaluations, config.eval_every = 10, 0
    # Evaluations in a row without a better headline metric that end the run; 0: none does.
    config.patience = 0
    config.save_every_evaluation = True  # False: the last one alone leaves a checkpoint
    config.save_every = 0  # steps between checkpoints, beside those with evaluations; 0: none
    config.skip_nonfinite = 0  # how many steps in a row may be skipped for a NaN; 0: the first ends
    config.eval_batch_size = config.batch_size
    config.num_pictures = 4
    return config


def _modern(config: ConfigDict, num_steps: int, learning_rate: float) -> None:
    config.batch_size = 32
    config.num_steps = num_steps
    config.model.initialization = "he"
    config.model.standardized = True  # kernels, see models/standardization.py
    config.optimizer = dict(
        name="adamw",
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_share=0.1,  # of the run, in which the rate rises
        warmup_steps=0,  # the same in steps; 0: warmup_share decides
        decay_every=0,
        weight_decay=1e-2,
        momentum=0.0,
        clip_norm=1.0,
        balanced=True,  # transposed kernels stay so: no grid, see models/transposed_kernels.py
    )


def _many_scenes(config: ConfigDict) -> None:
    """More rendered videos than a network learns by heart, rendered while the first half trains.

    A clip long: the same processor time shows more scenes than longer videos would. Sixteen cores
    render about 60 of them a second, an accelerator holds 4,000 of them and their flow in 11 GB.
    """
    config.data.num_train_videos = 4000
    config.data.num_train_frames = config.preprocessing.clip_length
    config.grow_share = 0.5


def _paper(config: ConfigDict, kind: type[Task]) -> None:
    paper = kind.paper
    if paper is None:
        raise ConfigError(f"The task {kind.name} is not in the paper; leave recipe=paper out.")
    config.task_options.update(paper.options)
    config.batch_size = 1
    config.num_steps = paper.num_steps
    config.model.initialization = "release"
    config.model.standardized = False
    config.preprocessing.update(_C3D_INPUT)
    config.optimizer = dict(
        name="caffe_sgd",
        learning_rate=paper.learning_rate,
        schedule="step",
        warmup_share=0.0,
        warmup_steps=0,
        decay_every=paper.decay_every,
        weight_decay=paper.weight_decay,
        momentum=0.9,
        clip_norm=0.0,
    )


def shrink_to_demo(
    config: ConfigDict,
    *,
    num_steps: int,
    learning_rate: float,
    batch_size: int = 4,
    crop_size: tuple[int, int] = (64, 64),
    clip_length: int = 16,
) -> None:
    """Turns a configuration into its demo: a narrow network, few and small videos, few steps.

    Args:
      learning_rate: of the modern recipe; the paper's keeps its own.
    """
    config.model.width = 0.25
    if config.data.name == "scenes":
        config.data.num_train_videos = 192
        config.data.num_validation_videos = config.data.num_test_videos = 12
        config.data.num_frames = 32
        config.data.num_train_frames = 16
        config.grow_share = 0.15  # the first step need not wait for all of them
    else:
        config.data.max_videos = 64
        config.data.validation_share = 0.2  # a tenth of few videos is hardly one
    config.preprocessing.frame_size = (72, 96)
    config.preprocessing.crop_size = crop_size
    config.preprocessing.clip_length = clip_length
    config.batch_size = batch_size
    config.num_steps = num_steps
    config.log_every = max(1, num_steps // 30)
    config.num_evaluations = 1
    config.eval_batch_size = max(1, batch_size // 2)
    if config.optimizer.name == "adamw":
        config.optimizer.learning_rate = learning_rate


# ------------------------------------------------------------------------------------------------
# What values can be used


Rule = tuple[Callable[[Any], bool], str]  # whether a number fits, and what it must be
_ANY: Rule = (lambda x: True, "")
_COUNT: Rule = (lambda x: x >= 1, "at least 1")
_NOT_NEGATIVE: Rule = (lambda x: 0 <= x < math.inf, "at least 0")
_POSITIVE: Rule = (lambda x: 0 < x < math.inf, "positive")
_SHARE: Rule = (lambda x: 0 <= x <= 1, "a share, 0 to 1")
_DECAY: Rule = (lambda x: 0 <= x < 1, "at least 0 and below 1")


def _rules(rule: Rule, *keys: str) -> dict[str, Rule]:
    return dict.fromkeys(keys, rule)


# Every number of every configuration (a test walks them), but for the options of tasks and those of
# augmentation, which are checked where they are used. A key that a configuration does not have is
# passed over: older ones lack some.
NUMBERS: dict[str, Rule] = {
    "seed": _ANY,
    **_rules(_COUNT, "batch_size", "eval_batch_size", "num_steps", "num_evaluations", "stride"),
    **_rules(_COUNT, "recompute", "preprocessing.clip_length"),
    "accumulate": (lambda x: x >= 0, "0 (automatic) or more"),
    **_rules(_NOT_NEGATIVE, "log_every", "eval_every", "save_every", "grow_steps"),
    **_rules(_NOT_NEGATIVE, "skip_nonfinite", "num_pictures", "patience"),
    **_rules(_SHARE, "grow_share", "class_balance"),
    "model.width": _POSITIVE,
    "model.dropout": _DECAY,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.warmup_share": _SHARE,
    "optimizer.momentum": _DECAY,
    **_rules(_NOT_NEGATIVE, "optimizer.warmup_steps", "optimizer.decay_every"),
    **_rules(_NOT_NEGATIVE, "optimizer.weight_decay", "optimizer.clip_norm"),
    "optimizer.trunk_multiplier": _NOT_NEGATIVE,
}
# Those of the options that all datasets have; rendered scenes have the last alone.
ANY_DATA_NUMBERS: dict[str, Rule] = {
    "validation_share": _DECAY,
    "max_videos": _NOT_NEGATIVE,
    "num_folds": (lambda x: x == 0 or x >= 2, "0 (none) or at least 2"),
    "fold": _NOT_NEGATIVE,
    "processes": _NOT_NEGATIVE,
}
# Those of our own datasets' options, by the dataset's name.
DATA_NUMBERS: dict[str, dict[str, Rule]] = {
    "scenes": {
        "seed": _ANY,
        **_rules(_COUNT, "num_train_videos", "num_test_videos", "num_frames"),
        **_rules(_NOT_NEGATIVE, "num_validation_videos", "num_train_frames", "noise"),
    },
    "ucf101": {"list_number": (lambda x: x in (1, 2, 3), "1, 2 or 3")},
    "folder": {"test_share": _DECAY},
}
# The words that a field may be.
CHOICES: dict[str, tuple[str, ...]] = {
    "model.initialization": ("he", "release"),
    "model.variant": ("paper", "release"),
    "feed": ("device", "tf_data"),
    "dtype": ("auto", "float32", "bfloat16"),
    "all_reduce": ("float32", "bfloat16"),
    "optimizer.name": ("adamw", "caffe_sgd"),
    "optimizer.schedule": ("cosine", "step"),
    "preprocessing.color_order": ("rgb", "bgr"),
}
# How many numbers, and what each must be.
TUPLES: dict[str, tuple[int, Rule]] = {
    "preprocessing.frame_size": (2, _COUNT),
    "preprocessing.crop_size": (2, _COUNT),
    "preprocessing.mean": (3, (math.isfinite, "finite")),
    "preprocessing.std": (3, (lambda x: x != 0 and math.isfinite(x), "finite and not 0")),
}


def validate(config: ConfigDict) -> None:
    """Raises ConfigError, naming the key and the known values, if a value cannot be used."""
    kind = task_class(config.task)
    checked_options(kind, config.get("task_options", {}))  # configurations before it lack it
    known = MODELS if kind.answers == "voxels" else CLASSIFIERS
    _choice("model.name", config.model.name, tuple(known))
    for key, words in CHOICES.items():
        if (value := _value(config, key)) is not None:  # older configurations lack some
            _choice(key, value, words)
    if config.model.variant == "release" and config.model.name != "v2v":
        raise ConfigError(f"model.variant=release is of the model v2v, not of {config.model.name}.")
    _check_dataset(config.data)
    for key, rule in NUMBERS.items():
        _check_number(key, _value(config, key), rule)
    for key, (length, rule) in TUPLES.items():
        values = _value(config, key)
        if len(values) != length:
            raise ConfigError(f"{key} is {values}; expected {length} numbers.")
        for value in values:
            _check_number(f"an element of {key}", value, rule)
    _check_selection(config, kind)
    _check_clip_size(config.preprocessing, temporal=config.model.name != "v2v_2d")
    augmentation = Augmentation.from_config(config.get("augmentation", {}))
    augmentation.check(kind.fields, Preprocessing.from_dict(config.preprocessing))


def _value(config: ConfigDict, key: str) -> Any:
    """The value of a flattened key; None where the configuration has no such key."""
    for part in key.split("."):
        config = config.get(part)
    return config


def _check_number(key: str, value: Any, rule: Rule) -> None:
    fits, words = rule
    if value is not None and not fits(value):
        raise ConfigError(f"{key} is {value}; it must be {words}.")


def _check_dataset(data: ConfigDict) -> None:
    """The dataset's own options: not another's, as when the name alone was set later."""
    known = dataset_entry(data.name).options
    others = [key for key in data if key != "name" and key not in known]
    if others and any(others[0] in entry.options for entry in DATASETS.values()):
        raise ConfigError(
            f"data.name is {data.name!r}, but data.{others[0]} is an option of another dataset; "
            f"choose the dataset after the file's colon: --config=FILE:dataset={data.name}."
        )
    if others:
        raise ConfigError(
            f"The dataset {data.name} has no option data.{others[0]}; known: {', '.join(known)}."
        )
    for key, rule in (ANY_DATA_NUMBERS | DATA_NUMBERS.get(data.name, {})).items():
        _check_number(f"data.{key}", data.get(key), rule)


def _check_selection(config: ConfigDict, kind: type[Task]) -> None:
    """Fields that need another one to make sense; configurations before them lack them."""
    if config.get("patience", 0):
        if not has_validation(config.data):
            raise ConfigError(
                f"patience is {config.patience}, but this configuration has no validation split "
                "to choose on; set data.validation_share (for scenes: "
                "data.num_validation_videos), or patience=0."
            )
        if not config.get("save_every_evaluation", True):
            raise ConfigError(
                f"patience is {config.patience}, but save_every_evaluation is False, so the best "
                "checkpoint would not be kept; set save_every_evaluation=True, or patience=0."
            )
    folds, fold = config.data.get("num_folds", 0), config.data.get("fold", 0)
    if fold and fold >= folds:
        raise ConfigError(
            f"data.fold is {fold}, but data.num_folds is {folds}; folds are numbered from 0 to "
            "num_folds - 1."
        )
    balance = config.get("class_balance", 0.0)
    if balance and not {"labels", VIDEO_LABEL} & set(kind.fields):
        raise ConfigError(
            f"class_balance is {balance}, but the task {kind.name} has no classes; set it to 0."
        )


def _check_clip_size(preprocessing: ConfigDict, temporal: bool) -> None:
    h, w = preprocessing.crop_size
    if h % 16 or w % 16 or (temporal and preprocessing.clip_length % 8):
        raise ConfigError(
            f"preprocessing.crop_size is {(h, w)} and clip_length {preprocessing.clip_length}; "
            "the networks need multiples of 16 for the crop and of 8 for the length."
        )


def _choice(key: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(f"{key} is {value!r}; known: {', '.join(known)}.")
    return value
