"""The plans of `experiments.search`."""

from __future__ import annotations

import dataclasses
from typing import Any

from v2v_jax.datasets.base.video_dataset import FRAME_SIZE, VIDEO_LABEL

_VOXELS = ("video", "labels", "flow", "flow_valid", "depth")


@dataclasses.dataclass(frozen=True)
class Data:
    """Rendered scenes: how many to train on, and how many of the validation split to judge by."""

    videos: int
    frames: int
    held_out: int = 60
    held_out_frames: int = 48
    frame_size: tuple[int, int] = FRAME_SIZE
    fields: tuple[str, ...] = _VOXELS


@dataclasses.dataclass(frozen=True)
class Run:
    """What a compiled program is run with."""

    rate: float
    steps: int
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Group:
    """One program, and its runs.

    Attributes:
      name: unique in its plan.
      config, arg: configs/<config>.py:<arg>.
      data: of `DATA`.
      runs: one after the other.
      set: flattened fields of the configuration → values.
      interpolated: transposed kernels start as linear interpolation.
      balanced: transposed kernels start and stay balanced (`models.transposed_kernels`).
      head: multiplies the rate of conv_pre.
    """

    name: str
    config: str
    data: str
    runs: tuple[Run, ...]
    arg: str = ""
    set: tuple[tuple[str, Any], ...] = ()
    interpolated: bool = False
    balanced: bool = False
    head: float = 1.0


DATA = {
    "plain": Data(400, 48),
    "many": Data(4000, 16),
    "clips": Data(4800, 16, 400, 16, fields=("video", VIDEO_LABEL)),
    "demo": Data(96, 32, 48, 32, (72, 96)),
    "tiny": Data(4, 12, 3, 12, (48, 64), fields=(*_VOXELS, VIDEO_LABEL)),
}


def runs(steps: int, *rates: float, seeds: tuple[int, ...] = (0,)) -> tuple[Run, ...]:
    """Every rate with every seed."""
    return tuple(Run(rate, steps, seed) for rate in rates for seed in seeds)


def _settings(**fields: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((key.replace("__", "."), value) for key, value in fields.items())


def _rates() -> list[Group]:
    """Rate × steps × width for every task; what draws no grid; few and many scenes."""
    groups = [
        Group("flow", "flow", "many", runs(2000, 1e-3, 2e-3, 5e-4)),
        Group("flow, balanced", "flow", "many", runs(2000, 1e-3), balanced=True),
        Group("seg", "seg", "many", (*runs(1500, 2e-3, 4e-3, 1e-3), *runs(3000, 2e-3))),
        Group("depth", "depth", "many", runs(1500, 1e-3, 2e-3, 5e-4)),
        Group("c3d", "c3d", "clips", runs(1500, 1e-3, 3e-4, 3e-3)),
        Group("color", "color", "many", runs(1500, 1e-3, 5e-4, 2e-3)),
        Group("flow, interpolated", "flow", "many", runs(2000, 1e-3), interpolated=True),
        Group("flow, both", "flow", "many", runs(2000, 1e-3), interpolated=True, balanced=True),
        Group("flow, 400 scenes", "flow", "plain", runs(1500, 1e-3, 2e-3, 5e-4)),
        Group("seg, 400 scenes", "seg", "plain", (*runs(700, 2e-3, 4e-3, 1e-3), Run(2e-3, 1500))),
        Group("seg, 2D", "seg", "many", runs(1500, 2e-3, 4e-3), arg="model=v2v_2d"),
        Group(
            "depth, squares",
            "depth",
            "many",
            runs(1500, 1e-3),
            set=_settings(task_options__loss="half_squared"),
        ),
        Group("flow, head / 15", "flow", "many", runs(1500, 1e-3, 2e-3), head=1 / 15),
        Group(
            "flow, no clipping",
            "flow",
            "many",
            runs(1500, 1e-3),
            set=_settings(optimizer__clip_norm=0.0),
        ),
        Group("color, 2D", "color", "many", runs(1500, 1e-3), arg="model=v2v_2d"),
        Group(
            "flow, plain kernels",
            "flow",
            "many",
            runs(1500, 3e-4),
            set=_settings(model__standardized=False),
        ),
        Group("flow, width 0.25", "flow", "many", runs(1500, 1e-3, 2e-3, 4e-3), arg="size=small"),
        Group("seg, width 0.25", "seg", "many", runs(1500, 2e-3, 4e-3, 8e-3), arg="size=small"),
        Group("depth, width 0.25", "depth", "many", runs(1500, 1e-3, 2e-3, 4e-3), arg="size=small"),
    ]
    return groups


# Demonstrations: crop, frames of a clip, clips of a batch, steps: all cost a CPU about the same.
_DEMOS = ((64, 16, 4, 300), (64, 16, 2, 600), (48, 8, 4, 1060), (32, 16, 4, 1200))


def _demos() -> list[Group]:
    return [
        Group(
            f"{task} demo {crop}x{crop}x{frames}, batch {batch}",
            task,
            "demo",
            runs(steps, 2e-3, 4e-3, 8e-3),
            arg="demo",
            set=_settings(
                preprocessing__crop_size=(crop, crop),
                preprocessing__clip_length=frames,
                batch_size=batch,
                dtype="float32",
            ),
        )
        for crop, frames, batch, steps in _DEMOS
        for task in ("seg", "flow", "depth")
    ]


def _tiny() -> list[Group]:
    """A rehearsal of seconds on a CPU."""
    small = _settings(
        model__width=0.04,
        preprocessing__crop_size=(32, 32),
        preprocessing__clip_length=8,
        batch_size=2,
        eval_batch_size=2,
        dtype="float32",
    )
    flow = Group(
        "flow",
        "flow",
        "tiny",
        runs(6, 1e-3, 2e-3),
        set=small,
        balanced=True,
        interpolated=True,
        head=0.5,
    )
    return [
        flow,
        Group("c3d", "c3d", "tiny", runs(4, 1e-3), set=small),
        Group("seg", "seg", "tiny", runs(4, 1e-3), set=small, arg="model=v2v_2d"),
    ]


PLANS = {"rates": _rates(), "demos": _demos(), "tiny": _tiny()}
