"""The repository's configurations, shrunk to seconds: a narrow network on four short scenes."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The smallest network, for tests of all but the network: compiling is most of their time.
SMALLEST = "model=conv3b_up"
# Flattened keys, as on the command line.
TINY = {
    "model.width": 0.05,
    "data.num_train_videos": 4,
    "data.num_validation_videos": 3,
    "data.num_test_videos": 3,
    "data.num_frames": 12,
    "data.num_train_frames": 0,
    "preprocessing.frame_size": (48, 64),
    "preprocessing.crop_size": (32, 32),
    "preprocessing.clip_length": 8,
    "batch_size": 4,
    "num_steps": 6,
    "grow_share": 0.0,
    "log_every": 1,
    "eval_every": 3,
    "eval_batch_size": 2,  # three windows: the last batch is padded
    # A constant rate: the compiled step is then the same for every number of steps, and is reused.
    "optimizer.schedule": "step",
    "optimizer.decay_every": 10**6,
    "optimizer.learning_rate": 5e-3,
    "optimizer.warmup_share": 0.0,
    "num_pictures": 0,  # drawing takes a program of its own: where pictures matter, set it
}


def tiny_config(name: str = "seg", arg: str = "", **overrides: Any) -> ConfigDict:
    """configs/<name>.py:<arg>, shrunk; in `overrides`, `__` stands for the dot of a nested key."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(arg).lock()
    known = {k: v for k, v in TINY.items() if "data." not in k or config.data.name == "scenes"}
    if "recipe=paper" in arg:
        known = {k: v for k, v in known.items() if "optimizer." not in k}
    config.update_from_flattened_dict(known)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
    return config


def tiny_arguments(**overrides: Any) -> list[str]:
    """The same as options of train.py and eval.py."""
    values = TINY | {k.replace("__", "."): v for k, v in overrides.items()}
    return [f"--config.{key}={value}" for key, value in values.items()]


def read_metrics(workdir: pathlib.Path, name: str) -> dict[int, float]:
    """step → value of one metric in metrics.jsonl; fails if a step has two."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], line[name]) for line in lines if name in line]
    assert len(dict(found)) == len(found), "a step was logged twice"
    return dict(found)
