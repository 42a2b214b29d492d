"""What the configurations in `configs/` are made of: argument parsing, recipes, validation.

A configuration's `get_config(arg)` takes what follows the colon in `--config=configs/seg.py:arg`:
`key=value,…` and the bare word `demo`. The recipes are `modern` and `paper` (SPEC: the release's
schedule, initialisation and input).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from v2v_jax.datasets import DATASETS
from v2v_jax.errors import ConfigError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.models import CLASSIFIERS, MODELS
from v2v_jax.tasks import TASKS, losses

CHOICES: dict[str, tuple[str, ...]] = {
    "dataset": tuple(DATASETS),
    "model": tuple(MODELS),
    "recipe": ("modern", "paper"),
    "size": ("full", "small"),
}
DEFAULTS = {"dataset": "scenes", "model": "v2v", "recipe": "modern", "size": "full", "demo": False}

# Mean of UCF101 as C3D's ports use it, in BGR (SPEC section 2).
_C3D_INPUT = dict(color_order="bgr", mean=(90.3, 97.7, 101.4), std=(1.0, 1.0, 1.0))
# The paper's learning rates, for losses averaged over voxels and channels (SPEC section 3).
_PAPER_SCHEDULES = {
    "segmentation": dict(learning_rate=1e-4, weight_decay=0.005, decay_every=30_000, steps=100_000),
    "flow": dict(learning_rate=4e-3, weight_decay=0.0, decay_every=200_000, steps=800_000),
    "color": dict(learning_rate=6e-3, weight_decay=0.0, decay_every=200_000, steps=600_000),
    # C3D's, at its batches of 30 (Tran et al. 2015).
    "classification": dict(
        learning_rate=3e-3, weight_decay=0.005, decay_every=20_000, steps=60_000
    ),
    "depth": dict(learning_rate=4e-3, weight_decay=0.0, decay_every=200_000, steps=800_000),
}


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
    """Reads `key=value,…` and the bare word `demo` into a config of `DEFAULTS` and `defaults`.

    Raises:
      ConfigError: an unknown key or value; the message lists the known ones.
    """
    options = {**DEFAULTS, **defaults}
    for item in filter(None, (arg or "").split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if item.strip() == "demo":
            options["demo"] = True
        elif key not in CHOICES or not equals:
            raise ConfigError(
                f"Unknown configuration argument {item!r}; known: demo, "
                + ", ".join(f"{k}={'|'.join(v)}" for k, v in CHOICES.items())
                + "."
            )
        else:
            options[key] = _choice(key, value, CHOICES[key])
    return ConfigDict(options)


def make_config(
    task: str, options: ConfigDict, *, num_steps: int, learning_rate: float
) -> ConfigDict:
    """The complete, unlocked configuration of a task for parsed options.

    Args:
      num_steps, learning_rate: of the modern recipe; the paper's come from the paper.
    """
    config = ConfigDict()
    config.task = task
    config.seed = 0
    config.init_from = ""  # a weight file, or a run's folder: see v2v_jax/training/fine_tuning.py
    config.residual = task == "color" and options.recipe == "modern"  # see tasks.Color
    config.loss = ""  # huber, half_squared or distance, of numbers; empty: the paper's
    config.hints = 0  # most colour hints a clip, for the task color: see configs/color_hints.py
    config.dtype = "auto"  # bfloat16 on accelerators, float32 on the CPU
    config.model = dict(name=options.model, width=1.0 if options.size == "full" else 0.25)
    config.data = dict(name=options.dataset, **DATASETS[options.dataset].options)
    config.stride = 1  # frames between the starts of a training video's clips
    config.mirror = True
    config.feed = DATASETS[options.dataset].feed
    config.preprocessing = Preprocessing().to_dict()
    if options.recipe == "modern":
        _modern(config, num_steps, learning_rate)
    else:
        _paper(config)
    if task == "classification":
        config.model.dropout = 0.5  # share of fc6's and fc7's outputs that a step drops
    config.model.variant = "paper"  # or release: the authors' segmentation net, see models/v2v.py
    config.optimizer.trunk_multiplier = 1.0  # of the learning rate of conv1a … conv5b
    config.optimizer.freeze = "auto"  # layers with commas; trunk: all of conv1a … conv5b
    config.accumulate = 0  # parts of a device's clips, one after the other; 0: as it suits a GPU
    config.recompute = 1  # parts of those, one at a time in memory: see training/recompute.py
    config.log_every = max(1, config.num_steps // 200)
    config.eval_every = max(1, config.num_steps // 10)
    config.save_every = 0  # steps between checkpoints, beside those with every evaluation; 0: none
    config.skip_nonfinite = 0  # how many steps in a row may be skipped for a NaN; 0: the first ends
    config.eval_batch_size = config.batch_size
    config.num_pictures = 4
    return config


def _modern(config: ConfigDict, num_steps: int, learning_rate: float) -> None:
    config.batch_size = 32
    config.num_steps = num_steps
    config.model.initialization = "he"
    config.model.standardized = True
    if config.task in ("flow", "color", "depth"):
        config.loss = "distance"  # the metric itself
    config.optimizer = dict(
        name="adamw",
        learning_rate=learning_rate,
        schedule="cosine",
        warmup_steps=num_steps // 10,
        decay_every=0,
        weight_decay=1e-2,
        momentum=0.0,
        clip_norm=1.0,
    )


def _paper(config: ConfigDict) -> None:
    schedule = dict(_PAPER_SCHEDULES[config.task])
    config.batch_size = 1
    config.num_steps = schedule.pop("steps")
    config.model.initialization = "release"
    config.model.standardized = False
    config.preprocessing.update(_C3D_INPUT)
    config.optimizer = dict(
        name="caffe_sgd", schedule="step", warmup_steps=0, momentum=0.9, clip_norm=0.0, **schedule
    )


def shrink_to_demo(config: ConfigDict, *, num_steps: int) -> None:
    """Turns a configuration into its demo: a narrow network, few rendered scenes, few steps.

    Raises:
      ConfigError: the dataset is not `scenes`.
    """
    if config.data.name != "scenes":
        raise ConfigError("demo runs on rendered scenes; leave dataset= out.")
    config.model.width = 0.25
    config.data.num_train_videos = 96
    config.data.num_test_videos = 12
    config.data.num_frames = 32
    config.preprocessing.frame_size = (72, 96)
    config.preprocessing.crop_size = (64, 64)
    config.batch_size = 4
    config.num_steps = num_steps
    config.log_every = 10
    config.eval_every = num_steps
    config.eval_batch_size = 2
    config.optimizer.warmup_steps = num_steps // 10
    config.optimizer.learning_rate = 2e-3


def validate(config: ConfigDict) -> None:
    """Raises ConfigError, naming the key and the known values, if a value cannot be used."""
    _choice("task", config.task, tuple(TASKS))
    dropout = config.model.get("dropout", 0.0)
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.dropout is {dropout}; it must be at least 0 and below 1.")
    known = CLASSIFIERS if config.task == "classification" else MODELS
    _choice("model.name", config.model.name, tuple(known))
    _choice("model.initialization", config.model.initialization, ("he", "release"))
    _choice("model.variant", config.model.variant, ("paper", "release"))
    if config.model.variant == "release" and config.model.name != "v2v":
        raise ConfigError(f"model.variant=release is of the model v2v, not of {config.model.name}.")
    _choice("loss", config.loss, ("", *losses.REGRESSION))
    _choice("data.name", config.data.name, tuple(DATASETS))
    _choice("feed", config.feed, ("device", "tf_data"))
    _choice("dtype", config.dtype, ("auto", "float32", "bfloat16"))
    _choice("optimizer.name", config.optimizer.name, ("adamw", "caffe_sgd"))
    _choice("optimizer.schedule", config.optimizer.schedule, ("cosine", "step"))
    _choice("preprocessing.color_order", config.preprocessing.color_order, ("rgb", "bgr"))
    for key in (
        "batch_size",
        "num_steps",
        "stride",
        "recompute",
        "log_every",
        "eval_every",
        "eval_batch_size",
    ):
        if config[key] < 1:
            raise ConfigError(f"{key} is {config[key]}; it must be at least 1.")
    if config.accumulate < 0:
        raise ConfigError(f"accumulate is {config.accumulate}; it must be 0 (automatic) or more.")
    if config.optimizer.trunk_multiplier < 0:
        raise ConfigError(
            f"optimizer.trunk_multiplier is {config.optimizer.trunk_multiplier}; it must not be "
            "negative."
        )
    for key in ("save_every", "skip_nonfinite"):
        if config[key] < 0:
            raise ConfigError(f"{key} is {config[key]}; it must be at least 0.")
    if not all(config.preprocessing.std):
        raise ConfigError(f"preprocessing.std is {config.preprocessing.std}; it divides the input.")
    if config.model.width <= 0:
        raise ConfigError(f"model.width is {config.model.width}; it must be positive.")
    for key, length in {"frame_size": 2, "crop_size": 2, "mean": 3, "std": 3}.items():
        value = config.preprocessing[key]
        if len(value) != length:
            raise ConfigError(f"preprocessing.{key} is {value}; it has {length} numbers.")
    if config.residual and config.task != "color":
        raise ConfigError(f"residual is for the task color alone, not for {config.task}.")
    if config.hints < 0 or (config.hints and config.task != "color"):
        raise ConfigError(
            f"hints is {config.hints}; it is the most colour hints a clip, 0 or more, and for the "
            "task color alone."
        )
    _check_clip_size(config.preprocessing, temporal=config.model.name != "v2v_2d")


def _check_clip_size(preprocessing: ConfigDict, temporal: bool) -> None:
    h, w = preprocessing.crop_size
    if preprocessing.clip_length < 1:
        raise ConfigError(
            f"preprocessing.clip_length is {preprocessing.clip_length}; it must be at least 1."
        )
    if h % 16 or w % 16 or (temporal and preprocessing.clip_length % 8):
        raise ConfigError(
            f"preprocessing.crop_size is {(h, w)} and clip_length {preprocessing.clip_length}; "
            "the networks need multiples of 16 for the crop and of 8 for the length."
        )


def _choice(key: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigError(f"{key} is {value!r}; known: {', '.join(known)}.")
    return value
