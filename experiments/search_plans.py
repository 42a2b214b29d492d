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
    domain: str = "plain"


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
      slower: layer → what its rate is multiplied by.
      test: whether the test split is measured, too.
      save: whether the last weights are kept, in WORKDIR/runs.
      init_from: groups, which have to be saved first; it starts from the best of their runs.
    """

    name: str
    config: str
    data: str
    runs: tuple[Run, ...]
    arg: str = ""
    set: tuple[tuple[str, Any], ...] = ()
    slower: tuple[tuple[str, float], ...] = ()
    test: bool = False
    save: bool = False
    init_from: tuple[str, ...] = ()


DATA = {
    "plain": Data(400, 48),
    "many": Data(4000, 16),
    # A clip long, so that the video's label is the clip's. 4,800 are learned by heart.
    "clips": Data(4800, 16, 400, 16, fields=("video", VIDEO_LABEL)),
    "many clips": Data(12000, 16, 400, 16, fields=("video", VIDEO_LABEL)),
    "wide": Data(3000, 16, 40, 32, fields=("video", "flow", "flow_valid"), domain="wide"),
    "demo": Data(96, 32, 48, 32, (72, 96)),
    "more demo": Data(192, 16, 48, 32, (72, 96)),
    "tiny": Data(4, 12, 3, 12, (48, 64), fields=(*_VOXELS, VIDEO_LABEL)),
}


def runs(steps: int, *rates: float, seeds: tuple[int, ...] = (0,)) -> tuple[Run, ...]:
    """Every rate with every seed."""
    return tuple(Run(rate, steps, seed) for rate in rates for seed in seeds)


def _settings(**fields: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((key.replace("__", "."), value) for key, value in fields.items())


def _rates() -> list[Group]:
    """Rate × steps × width for every task; few and many scenes."""
    paper = _settings(model__standardized=False, optimizer__balanced=False)
    return [
        Group("flow", "flow", "many", runs(2000, 1e-3, 2e-3, 5e-4)),
        Group("seg", "seg", "many", (*runs(1500, 2e-3, 4e-3, 1e-3), *runs(3000, 2e-3))),
        Group("depth", "depth", "many", runs(1500, 1e-3, 2e-3, 5e-4)),
        Group("c3d", "c3d", "clips", runs(1500, 1e-3, 3e-4, 3e-3)),
        Group("color", "color", "many", runs(1500, 1e-3, 5e-4, 2e-3)),
        Group("flow, 400 scenes", "flow", "plain", runs(1500, 1e-3, 2e-3, 5e-4)),
        Group("seg, 400 scenes", "seg", "plain", (*runs(700, 2e-3, 4e-3, 1e-3), Run(2e-3, 1500))),
        Group("seg, 2D", "seg", "many", runs(1500, 2e-3, 4e-3), arg="model=v2v_2d"),
        Group(
            "depth, distance",
            "depth",
            "many",
            runs(1500, 1e-3),
            set=_settings(task_options__loss="distance"),
        ),
        Group(
            "flow, last layer slow",
            "flow",
            "many",
            runs(1500, 1e-3, 2e-3),
            slower=(("conv_pre", 1 / 15),),
        ),
        Group(
            "flow, no clipping",
            "flow",
            "many",
            runs(1500, 1e-3),
            set=_settings(optimizer__clip_norm=0.0),
        ),
        Group("color, 2D", "color", "many", runs(1500, 1e-3), arg="model=v2v_2d"),
        Group("flow, plain kernels", "flow", "many", runs(1500, 3e-4), set=paper),
        Group("flow, width 0.25", "flow", "many", runs(1500, 1e-3, 2e-3, 4e-3), arg="size=small"),
        Group("seg, width 0.25", "seg", "many", runs(1500, 2e-3, 4e-3, 8e-3), arg="size=small"),
        Group("depth, width 0.25", "depth", "many", runs(1500, 1e-3, 2e-3, 4e-3), arg="size=small"),
    ]


_SEEDS = (0, 1, 2)
_FC = tuple((name, 0.1) for name in ("fc6", "fc7", "fc8"))


def _row(name: str, model: str, steps: int, seeds: tuple[int, ...], tuned: bool = False) -> Group:
    """A row of Table 1 (experiments.table1), trained on 400 scenes."""
    return Group(
        f"table 1, {name}, {steps}",
        "seg",
        "plain",
        runs(steps, 2e-3, seeds=seeds),
        arg=f"model={model}",
        test=True,
        init_from=_C3D if tuned else (),
    )


_C3D = ("c3d",)
_TUNED = (("V2V", "v2v"), ("Conv3b-up", "conv3b_up"), ("Conv4b-up", "conv4b_up"))
_TUNED += (("Conv5b-up", "conv5b_up"),)


def _final() -> list[Group]:
    """What docs/results.md is of, the most important first: the test split is measured here."""
    flow = lambda name, steps, seeds, **more: Group(
        name, "flow", "plain", runs(steps, 1e-3, seeds=seeds), test=True, **more
    )
    return [
        Group("flow 0", "flow", "many", (Run(1e-3, 8000, 0),), test=True, save=True),
        Group("c3d", "c3d", "many clips", runs(5000, 3e-4), test=True, save=True),
        _row("V2V-0", "v2v", 700, _SEEDS),
        Group("seg", "seg", "many", runs(4000, 2e-3), test=True, save=True),
        Group("flow 1", "flow", "many", (Run(1e-3, 5000, 1),), test=True, save=True),
        Group("flow 2", "flow", "many", (Run(1e-3, 5000, 2),), test=True, save=True),
        Group("wide flow", "flow", "wide", runs(5000, 1e-3), test=True, save=True),
        _row("2D-V2V", "v2v_2d", 700, _SEEDS),
        Group("depth", "depth", "many", runs(4000, 1e-3), test=True, save=True),
        *(_row(name, model, 700, _SEEDS, tuned=True) for name, model in _TUNED),
        Group("seg, 2D", "seg", "many", runs(4000, 2e-3), arg="model=v2v_2d", test=True),
        flow("flow from C3D, 700", 700, _SEEDS, init_from=_C3D),
        flow("flow from scratch, 700", 700, _SEEDS),
        Group("color", "color", "many", runs(1500, 2.5e-4), test=True),
        _row("V2V", "v2v", 3000, (0,), tuned=True),
        _row("V2V-0", "v2v", 3000, (0,)),
        _row("2D-V2V", "v2v_2d", 3000, (0,)),
        *(_row(name, model, 3000, (0,), tuned=True) for name, model in _TUNED[1:]),
        flow("flow from scratch, 3000", 3000, (0,)),
        flow("flow from C3D, 3000", 3000, (0,), init_from=_C3D),
        Group(
            "c3d, slow classifier",
            "c3d",
            "many clips",
            runs(5000, 1e-3),
            slower=_FC,
            test=True,
            save=True,
        ),
    ]


# Demonstrations, at about the same cost on a CPU: crop, frames of a clip, clips of a batch, steps.
_DEMOS = ((64, 16, 4, 300), (64, 16, 2, 600), (48, 8, 4, 1060), (32, 16, 4, 1200))
_MORE = {
    "seg": ((64, 16, 1, 1200), (64, 8, 2, 1200)),
    "flow": ((48, 8, 4, 1060), (48, 8, 2, 2120)),
    "depth": ((64, 8, 2, 1200),),
}


def _demo(task: str, data: str, runs: tuple[Run, ...], size: tuple[int, int, int]) -> Group:
    crop, frames, batch = size
    return Group(
        f"{task} demo {crop}x{crop}x{frames}, batch {batch}, {data}",
        task,
        data,
        runs,
        arg="demo",
        set=_settings(
            preprocessing__crop_size=(crop, crop),
            preprocessing__clip_length=frames,
            batch_size=batch,
            dtype="float32",
        ),
    )


def _demos() -> list[Group]:
    return [
        _demo(task, "demo", runs(steps, 2e-3, 4e-3, 8e-3), (crop, frames, batch))
        for crop, frames, batch, steps in _DEMOS
        for task in ("seg", "flow", "depth")
    ]


def _more_demos() -> list[Group]:
    return [
        _demo(
            task,
            "more demo",
            (*runs(steps, 2e-3, 1e-3), Run(2e-3, steps, 1)),
            (crop, frames, batch),
        )
        for task, sizes in _MORE.items()
        for crop, frames, batch, steps in sizes
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
    tiny = lambda name, config, *rates, **more: Group(
        name, config, "tiny", runs(4, *rates), set=small, test=True, **more
    )
    return [
        tiny("flow 0", "flow", 1e-3, save=True),
        tiny("seg from c3d", "seg", 1e-3, 2e-3, init_from=("c3d",)),
        tiny("c3d", "c3d", 1e-3, save=True, slower=_FC),
    ]


PLANS = {
    "rates": _rates(),
    "demos": _demos(),
    "more demos": _more_demos(),
    "final": _final(),
    "tiny": _tiny(),
}
