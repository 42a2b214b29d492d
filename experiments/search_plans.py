"""The plans of `experiments.search`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
    """What a compiled program is run with; 0: as the run that its group is `like`."""

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
      loss_of: groups, which have to end first; it has the loss of the best of them.
      like: groups, which have to end first; it has the settings and the start of the best of their
        runs, before its own `set`.
      export: the name of the file, in half precision, that the best run's weights are written to.
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
    loss_of: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    export: str = ""


DATA = {
    "plain": Data(400, 48),
    "many": Data(4000, 16),
    "plain, labels": Data(400, 48, fields=("video", "labels")),
    # A clip long, so that the video's label is the clip's. 4,800 are learned by heart.
    "clips": Data(4800, 16, 400, 16, fields=("video", VIDEO_LABEL)),
    "many clips": Data(12000, 16, 400, 16, fields=("video", VIDEO_LABEL)),
    "most clips": Data(18000, 16, 400, 16, fields=("video", VIDEO_LABEL)),
    "wide": Data(3000, 16, 40, 32, domain="wide"),
    "more wide": Data(6000, 16, 40, 32, domain="wide"),
    "demo": Data(96, 32, 48, 32, (72, 96)),
    "more demo": Data(192, 16, 48, 32, (72, 96)),
    "tiny": Data(4, 12, 3, 12, (48, 64), fields=(*_VOXELS, VIDEO_LABEL)),
}


# What varies in training clips; colours only where they are not what is to be learned.
GEOMETRY = dict(scale=(1.0, 1.5), aspect=0.1, max_stride=2, reverse=0.5)
COLORS = dict(hue=15.0, saturation=0.3, gain=0.15, contrast=0.2, brightness=0.1, gamma=0.2)
CAMERA = dict(blur=1.0, noise=0.03)


def augmented(*kinds: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Flattened fields of `config.augmentation`, and their values."""
    return tuple((f"augmentation.{k}", v) for kind in kinds for k, v in kind.items())


def runs(steps: int, *rates: float, seeds: Sequence[int] = (0,)) -> tuple[Run, ...]:
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
# The object that names the clip is in a centre crop of 112×112 in 73 % of the videos only, in this
# one in 92 %.
_NEARLY_ALL = _settings(preprocessing__crop_size=(112, 160))
_C3D = ("c3d", "c3d, slow classifier")
_HALF_FLOW = ("wide flow, half", "wide flow, half, robust")


def _row(
    name: str, model: str, steps: int, seeds: tuple[int, ...], tuned: bool = False, **more: Any
) -> Group:
    """A row of Table 1 (experiments.table1), trained on 400 scenes."""
    return Group(
        f"table 1, {name}, {steps}",
        "seg",
        "plain",
        runs(steps, 2e-3, seeds=seeds),
        arg=f"model={model}",
        test=True,
        **({"init_from": _C3D} if tuned else {}) | more,
    )


def _half(
    name: str, config: str, rate: float, data: str = "wide", export: str = "", **settings: Any
) -> Group:
    """Half the filters, on the wide domain: for the zoo."""
    return Group(
        name,
        config,
        data,
        runs(5000, rate),
        set=_settings(model__width=0.5, **settings),
        test=True,
        save=True,
        export=export,
    )


def _final() -> list[Group]:
    """What docs/results/scenes.md is of, the most important first; measured on the test split."""
    saved = lambda name, config, data, chosen, **more: Group(
        name, config, data, chosen, test=True, save=True, **more
    )
    flow = lambda name, steps, seeds, **more: Group(
        f"flow {name}, {steps}", "flow", "plain", runs(steps, 1e-3, seeds=seeds), test=True, **more
    )
    return [
        *(saved(f"flow {s}", "flow", "many", (Run(1e-3, 8000, s),)) for s in _SEEDS),
        flow("from scratch", 700, _SEEDS),
        _half(_HALF_FLOW[0], "flow", 1e-3),
        _half(_HALF_FLOW[1], "flow", 1e-3, task_options__loss="robust"),
        saved("c3d", "c3d", "many clips", runs(5000, 3e-4), set=_NEARLY_ALL),
        saved(_C3D[1], "c3d", "many clips", runs(5000, 1e-3), set=_NEARLY_ALL, slower=_FC),
        saved("wide flow", "flow", "wide", runs(8000, 1e-3), loss_of=_HALF_FLOW),
        saved("seg", "seg", "many", runs(6000, 2e-3)),
        _row("V2V", "v2v", 700, _SEEDS, tuned=True),
        *(_row(f"Conv{n}b-up", f"conv{n}b_up", 700, _SEEDS, tuned=True) for n in (5, 4, 3)),
        saved("seg, 2D", "seg", "many", runs(6000, 2e-3), arg="model=v2v_2d"),
        saved("depth", "depth", "many", runs(5000, 1e-3)),
        flow("from C3D", 700, _SEEDS, init_from=_C3D),
        _half("wide seg, half", "seg", 2e-3),
        _half("wide depth, half", "depth", 1e-3),
        Group("color", "color", "many", runs(3000, 5e-4), test=True),
        _row("V2V-0", "v2v", 3000, (0,)),
        _row("V2V", "v2v", 3000, (0,), tuned=True),
        _row("2D-V2V", "v2v_2d", 3000, (0,)),
        flow("from C3D", 3000, (0,), init_from=_C3D),
        flow("from scratch", 3000, (0,)),
        *(_row(f"Conv{n}b-up", f"conv{n}b_up", 3000, (0,), tuned=True) for n in (3, 4, 5)),
    ]


_LONG_C3D = "c3d, augmented"


def _converged() -> list[Group]:
    """Long runs, for which two cards had no time; measured on the test split."""
    saved = lambda name, config, data, chosen, **more: Group(
        name, config, data, chosen, test=True, save=True, **more
    )
    half = _settings(model__width=0.5)
    classes = lambda name, chosen, **more: saved(name, "c3d", "most clips", chosen, **more)
    row = lambda name, model, **more: _row(name, model, 3000, _SEEDS, **more)
    # From scratch, on the wide domain, flow may answer zero for ever (docs/records/learning.md).
    wide = lambda name, start, steps, rate, **more: saved(
        name, "flow", "more wide", runs(steps, rate), init_from=(start,), **more
    )
    return [
        saved("flow, start", "flow", "many", runs(3000, 1e-3)),
        classes("c3d", runs(8000, 3e-4), set=_NEARLY_ALL),
        saved("flow, start, half", "flow", "many", runs(3000, 1e-3), set=half),
        wide("wide flow", "flow, start", 12000, 5e-4, export="wide_flow"),
        wide("wide flow, half", "flow, start, half", 8000, 5e-4, set=half, export="wide_flow_half"),
        *(saved(f"color {s}", "color", "many", (Run(5e-4, 5000, s),)) for s in _SEEDS),
        classes(_LONG_C3D, runs(8000, 3e-4), set=(*_NEARLY_ALL, *augmented(COLORS, CAMERA))),
        _half("wide seg, half", "seg", 2e-3, "more wide", "scenes"),
        _half("wide depth, half", "depth", 1e-3, "more wide", "depth"),
        row("V2V-0", "v2v", save=True),
        row("2D-V2V", "v2v_2d", save=True),
        saved("flow, scratch", "flow", "plain", runs(3000, 1e-3, seeds=_SEEDS)),
        row("V2V", "v2v", init_from=(_LONG_C3D,), save=True),
        Group(
            *("flow, from C3D", "flow", "plain", runs(3000, 1e-3, seeds=_SEEDS)),
            init_from=(_LONG_C3D,),
            test=True,
        ),
        *(
            row(f"Conv{n}b-up", f"conv{n}b_up", init_from=(_LONG_C3D,), save=True)
            for n in (3, 4, 5)
        ),
        Group("color, 2D", "color", "many", runs(5000, 5e-4), arg="model=v2v_2d", test=True),
        Group("color, lower", "color", "many", runs(1500, 2.5e-4, 1e-4)),
        Group("c3d, lower", "c3d", "most clips", runs(1500, 1e-4, 3e-4), set=_NEARLY_ALL),
        Group("c3d, lowest", "c3d", "clips", runs(1500, 5e-5, 1e-4, 3e-4), set=_NEARLY_ALL),
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


_WAYS = ("float32", "bfloat16")


def _all_reduce() -> list[Group]:
    """Table 1's V2V-0, shorter, with gradients sent in either way between several devices."""
    return [
        Group(
            *(f"all-reduce in {way}", "seg", "plain, labels", runs(1000, 2e-3, seeds=range(5))),
            arg="model=v2v",
            set=_settings(all_reduce=way),
        )
        for way in _WAYS
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
        tiny("seg from c3d", "seg", 1e-3, 2e-3, init_from=_C3D),
        tiny("c3d", "c3d", 1e-3, save=True, slower=_FC),
        tiny(_C3D[1], "c3d", 1e-3, save=True),
        tiny("wide flow", "flow", 1e-3, save=True, loss_of=_HALF_FLOW),
        tiny(_HALF_FLOW[0], "flow", 1e-3, save=True),
        Group(
            *(_HALF_FLOW[1], "flow", "tiny", runs(4, 1e-3)),
            set=(*small, ("task_options.loss", "robust")),
            test=True,
            save=True,
        ),
        tiny("seg", "seg", 1e-3, save=True),
        tiny("wide seg, half", "seg", 1e-3, save=True),
        tiny("wide depth, half", "depth", 1e-3, save=True),
        *(
            Group(
                *(f"all-reduce in {way}", "seg", "tiny", runs(4, 1e-3, seeds=range(2))),
                set=(*small, ("model.width", 0.125), ("all_reduce", way)),  # 0.04 has none to round
            )
            for way in _WAYS
        ),
    ]


PLANS = {
    "rates": _rates(),
    "demos": _demos(),
    "more demos": _more_demos(),
    "final": _final(),
    "converged": _converged(),
    "all_reduce": _all_reduce(),
    "tiny": _tiny(),
}
