"""What every field of a configuration means: the one place that says so.

docs/reference/configuration.md is made of it (`python -m experiments.configuration_page`), with the
defaults of the recipes in configs/ and the ranges of `recipes.NUMBERS` and `recipes.CHOICES`;
`v2v train --print_config` takes its order and units. Tests hold it to the recipes: no field without
an entry, no entry without a field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Field(NamedTuple):
    """Meaning, a sentence or two of Markdown; and the unit of its value, empty for words."""

    meaning: str
    unit: str = ""


# All but the datasets' own, in the order of the page: heading → field → what it is.
FIELDS: dict[str, dict[str, Field]] = {
    "Run": {
        "task": Field("What is predicted."),
        "seed": Field("The run's random numbers: start, order of clips, crops, dropout."),
        "init_from": Field(
            "Where the weights start: a file of C3D's weights, a run's folder, a checkpoint, an "
            "exported file, or a name of `v2v models`. Empty: at random."
        ),
        "dtype": Field("Precision of the computation. `auto`: bfloat16 on accelerators."),
    },
    "Network": {
        "model.name": Field(
            "The network. Choose it after the colon: `--config=seg:model=conv3b_up`."
        ),
        "model.width": Field("Filters of every layer, as a share of the paper's."),
        "model.initialization": Field("`he`, or the Caffe `release`'s Gaussians."),
        "model.standardized": Field("Whether kernels are standardised, with a gain per filter."),
        "model.variant": Field("`release`: the authors' segmentation network, without conv5b."),
        "model.dropout": Field("Share of fc6's and fc7's outputs dropped in a step; c3d alone."),
    },
    "Task": {
        "task_options.class_weights": Field(
            "What a voxel of each class counts in the loss, in the order of the labels; only their "
            "ratios matter. Empty: all the same. Segmentation."
        ),
        "task_options.dice": Field("Weight of the Dice loss beside the softmax's. Segmentation."),
        "task_options.targets": Field(
            "What is learned from: `labels`, or a teacher's `probabilities`. Segmentation."
        ),
        "task_options.residual": Field(
            "Whether the network predicts the colour's difference from grey. Colouring."
        ),
        "task_options.hints": Field("Most colour hints that a clip is given; 0: none. Colouring."),
        "task_options.loss": Field(
            "`distance`, `half_squared` or `huber`. Flow, depth and colouring."
        ),
    },
    "Data": {
        "data.name": Field("The dataset. Choose it after the colon: `--config=seg:dataset=davis`."),
    },
    "Clips": {
        "stride": Field("From the start of one training clip to the next in a video.", "frames"),
        "grow_share": Field(
            "Part of the run in which the number of training videos in use grows to all of them.",
            "share of the run",
        ),
        "grow_steps": Field("The same in steps; 0: `grow_share` decides.", "steps"),
        "class_balance": Field(
            "How many training clips are drawn so that all classes come equally often; 0: none.",
            "share of the clips",
        ),
        "mirror": Field("Whether half of the training clips are mirrored left to right."),
        "feed": Field(
            "`device` keeps the decoded set in the accelerator's memory; `tf_data` decodes while "
            "training."
        ),
        "preprocessing.frame_size": Field("Height and width that frames are resized to.", "pixels"),
        "preprocessing.crop_size": Field(
            "Height and width of the clip that the network sees; multiples of 16.", "pixels"
        ),
        "preprocessing.clip_length": Field("Length of a clip; a multiple of 8.", "frames"),
        "preprocessing.color_order": Field("Order of the network's input channels."),
        "preprocessing.mean": Field(
            "Subtracted from the input, in the order of its channels.", "grey levels, 0 to 255"
        ),
        "preprocessing.std": Field("Divides what is left.", "grey levels"),
    },
    "Augmentation": {
        "augmentation.scale": Field("Least and most magnification of a clip.", "factor"),
        "augmentation.aspect": Field(
            "Width and height are magnified differently, by up to 1 + this.", "factor less 1"
        ),
        "augmentation.hue": Field("Most rotation of the hue, either way.", "degrees"),
        "augmentation.saturation": Field(
            "Saturation is multiplied by up to 1 + this, or divided.", "factor less 1"
        ),
        "augmentation.gain": Field("The same of each of R, G and B.", "factor less 1"),
        "augmentation.contrast": Field("The same of the contrast.", "factor less 1"),
        "augmentation.brightness": Field("Most that is added or subtracted.", "1 is white"),
        "augmentation.gamma": Field("The same of the exponent of the intensity.", "factor less 1"),
        "augmentation.blur": Field("Largest standard deviation of a Gaussian blur.", "pixels"),
        "augmentation.noise": Field("Largest standard deviation of the noise.", "1 is white"),
        "augmentation.reverse": Field("How many clips run backwards.", "share of the clips"),
        "augmentation.max_stride": Field(
            "Most frames from one frame of a clip to the next.", "frames"
        ),
    },
    "Steps and memory": {
        "num_steps": Field("Length of the run.", "steps"),
        "batch_size": Field("Clips of a step, over all devices.", "clips"),
        "accumulate": Field(
            "Parts of a device's clips, computed one after the other and added up. 0: automatic.",
            "parts",
        ),
        "recompute": Field(
            "Parts of those, whose activations are in memory one at a time and computed twice.",
            "parts",
        ),
        "all_reduce": Field(
            "What gradients are sent as from device to device: `float32`, or `bfloat16`, which is "
            "then added up in float32."
        ),
        "skip_nonfinite": Field(
            "How many steps in a row may be skipped because a number is not finite.", "steps"
        ),
    },
    "Optimiser": {
        "optimizer.name": Field("AdamW, or Caffe's SGD with momentum."),
        "optimizer.learning_rate": Field("The highest learning rate."),
        "optimizer.schedule": Field(
            "`cosine`: down to 0 at the end. `step`: divided by 10 every `decay_every` steps."
        ),
        "optimizer.warmup_share": Field("How long the rate rises from 0.", "share of the run"),
        "optimizer.warmup_steps": Field("The same in steps; 0: `warmup_share` decides.", "steps"),
        "optimizer.decay_every": Field("From one division to the next.", "steps"),
        "optimizer.weight_decay": Field("Shrinks kernels; biases and gains keep theirs."),
        "optimizer.momentum": Field("Share of the last update in the next; of `caffe_sgd`."),
        "optimizer.clip_norm": Field(
            "Longer gradients are cut to this length; 0: none are. Of `adamw`."
        ),
        "optimizer.balanced": Field(
            "Whether updates keep transposed kernels free of a grid. Of `adamw`."
        ),
        "optimizer.trunk_multiplier": Field(
            "Of the learning rate of conv1a to conv5b, when fine-tuning.", "factor"
        ),
        "optimizer.freeze": Field(
            "Layers that keep their values, with commas; `trunk`: conv1a to conv5b. `auto`: none, "
            "but the trunk where `model.variant=release`."
        ),
    },
    "Lines, evaluations, checkpoints": {
        "log_every": Field("From one line of metrics to the next; 0: 200 lines a run.", "steps"),
        "num_evaluations": Field("Evaluations on the validation split in a run."),
        "eval_every": Field("From one to the next; 0: `num_evaluations` decides.", "steps"),
        "patience": Field(
            "The run ends after so many evaluations in a row without a better headline metric; 0: "
            "never.",
            "evaluations",
        ),
        "save_every_evaluation": Field("Whether each one leaves a checkpoint, or the last alone."),
        "save_every": Field("Between further checkpoints; 0: none.", "steps"),
        "eval_batch_size": Field("Clips at a time when evaluating.", "clips"),
        "num_pictures": Field("Clips that `v2v eval` draws.", "clips"),
    },
}

_SOURCE = Field("`files`, or `tfds` for what tensorflow-datasets has prepared.")
_ROOT = Field("The folder of the data.")
_CACHE = Field("Folder in which decoded frames are kept; empty: none.")
_VALIDATION = Field("Names of the videos to choose checkpoints on, with commas.")
_VALIDATION_SHARE = Field(
    "How many training videos are held back to choose on where `validation` names none.",
    "share of the videos",
)
_TEACHER_LABELS = Field("Folder of labels that `v2v label` made; empty: none.")
_HELD_OUT = Field("Names of the test split's videos, with commas; empty: the dataset's lists.")
_ALLOW_MISSING = Field("Whether some of the listed videos may be missing.")
_PROCESSES = Field(
    "How many processes read the videos; 0: as many as are worth it, 1: threads do it."
)
_OF_ANY = {
    "validation": _VALIDATION,
    "validation_share": _VALIDATION_SHARE,
    "num_folds": Field(
        "Parts that the training videos are divided into, for cross-validation; 0: none."
    ),
    "fold": Field("Which of these parts is the test split, from 0 to `num_folds` - 1."),
    "max_videos": Field("Most videos of a split that are used; 0: all.", "videos"),
    "processes": _PROCESSES,
    "cache": _CACHE,
}

# The options of our own datasets, `config.data`: dataset → option → what it is.
DATASET_FIELDS: dict[str, dict[str, Field]] = {
    "scenes": {
        "source": _SOURCE,
        "root": Field("The folder of `source=tfds`."),
        "seed": Field("Another seed, other scenes."),
        "num_train_videos": Field("Training videos.", "videos"),
        "num_validation_videos": Field("Validation videos.", "videos"),
        "num_test_videos": Field("Test videos.", "videos"),
        "num_frames": Field("Length of a video.", "frames"),
        "num_train_frames": Field("Length of a training video; 0: `num_frames`.", "frames"),
        "noise": Field("Standard deviation of the sensor's noise; plain domain.", "grey levels"),
        "domain": Field("`plain`: street scenes. `wide`: many kinds, for real video."),
        "compression": Field(
            "Of the wide domain: `h264`, `mpeg4`, `jpeg`, `none`, or `mixed`, any of them."
        ),
        "processes": _PROCESSES,
        "cache": _CACHE,
    },
    "ucf101": {
        "source": _SOURCE,
        "root": _ROOT,
        "list_number": Field("Which of the three official splits."),
        "allow_missing": _ALLOW_MISSING,
        "teacher_labels": _TEACHER_LABELS,
        **_OF_ANY,
    },
    "davis": {
        "source": _SOURCE,
        "root": _ROOT,
        "resolution": Field("A folder in `JPEGImages`; empty: 480p, or the only one there is."),
        "held_out": _HELD_OUT,
        "teacher_labels": _TEACHER_LABELS,
        **_OF_ANY,
    },
    "gatech": {"source": _SOURCE, "root": _ROOT, **_OF_ANY},
    "frames": {
        "root": _ROOT,
        "held_out": _HELD_OUT,
        "allow_missing": Field("Whether frames may lack a mask."),
        "teacher_labels": _TEACHER_LABELS,
        **_OF_ANY,
    },
    "sintel": {
        "root": _ROOT,
        "render_pass": Field("`clean`, `final` or `both`."),
        "held_out": Field("Names of the test split's sequences, with commas."),
        "partial": Field("Whether an incomplete copy will do."),
        **_OF_ANY,
    },
    "movi": {
        "root": _ROOT,
        "variant": Field("`movi_a` to `movi_f`."),
        "resolution": Field("As the folder is called: `256x256` or `128x128`.", "pixels"),
        **_OF_ANY,
    },
    "folder": {
        "root": _ROOT,
        "test_share": Field(
            "How many videos are the test split where there is no folder `test`.",
            "share of the videos",
        ),
        "teacher_labels": _TEACHER_LABELS,
        **_OF_ANY,
    },
}


def grouped(keys: Iterable[str], dataset: str) -> dict[str, dict[str, Field]]:
    """The fields of one configuration in the order of the page: heading → field → what it is.

    Args:
      keys: the configuration's, dotted.
      dataset: `config.data.name`.

    Options of a task or dataset of a user's own have an empty meaning; they stand with the others.
    """
    known = {heading: dict(fields) for heading, fields in FIELDS.items()}
    options = DATASET_FIELDS.get(dataset, {})
    known["Data"] |= {f"data.{option}": field for option, field in options.items()}
    homes = {"data": "Data", "task_options": "Task", "model": "Network"}
    keys = set(keys)
    for key in sorted(keys.difference(*known.values())):
        heading = homes.get(key.partition(".")[0], "Others")
        known.setdefault(heading, {})[key] = Field("")
    present = {h: {k: f for k, f in fields.items() if k in keys} for h, fields in known.items()}
    return {heading: fields for heading, fields in present.items() if fields}
