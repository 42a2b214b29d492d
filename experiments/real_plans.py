"""The plan of `experiments.real_runs`: what is trained on real video, the most important first."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.search_plans import CAMERA, COLORS, GEOMETRY, Group, Run, augmented, runs

SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class RealGroup(Group):
    """A group of `experiments.search` whose `data` is a set of `experiments.real_data`.

    Attributes:
      predict: sources whose videos' labels are written at their own size.
      needs: a file of the unpacked data that it waits for.
    """

    predict: tuple[str, ...] = ()
    needs: str = "done"


def settings(**fields: Any) -> tuple[tuple[str, Any], ...]:
    """Flattened fields of a configuration; two underscores stand for a dot."""
    return tuple((key.replace("__", "."), value) for key, value in fields.items())


_WHOLE = settings(preprocessing__crop_size=(112, 192), batch_size=16, eval_batch_size=16)
_HALF = settings(model__width=0.5)
_DICE = (("task_options.dice", 1.0),)
_ALL = augmented(GEOMETRY, COLORS, CAMERA)
_RECOLOR = (*_WHOLE, *augmented(GEOMETRY))
# The flow to another frame is another one, so time stays as it is.
_FLOW = (*_WHOLE, *augmented(COLORS, CAMERA))
_PLACE = augmented(dict(scale=(1.0, 1.5), aspect=0.1))
_MASKS = ("davis_val", "davis_train")
_AS_BEST = tuple(Run(0.0, 0, seed) for seed in SEEDS)

# DAVIS: what is searched, one at a time and together.
_VARIANTS = {
    "plain": (),
    "dice": _DICE,
    "geometry": augmented(GEOMETRY),
    "geometry, dice": (*augmented(GEOMETRY), *_DICE),
    "all": _ALL,
    "all, dice": (*_ALL, *_DICE),
}
_SEARCH = tuple(f"search, {name}" for name in _VARIANTS)
_SEARCH_2D = tuple(f"search 2D, {name}" for name in ("geometry", "all"))
_STARTS = ("start, c3d", "start, flow", "start, scenes", "start, objects")
_COLOR_SEARCH = tuple(f"color search, {kind}" for kind in ("150", "400", "1000", "camera"))
_COLOR_FROM_SCENES = "color search, from scenes"
_COLOR_SEARCH_2D = ("color search 2D, 400", "color search 2D, 1000")


def _davis(name: str, chosen: tuple[Run, ...], model: str = "v2v", **more: Any) -> RealGroup:
    return RealGroup(name, "seg", "davis", chosen, arg=f"model={model}", **more)


def _row(name: str, model: str, chosen: tuple[Run, ...], **more: Any) -> RealGroup:
    """A row of Table 1 on DAVIS 2016, three seeds."""
    return _davis(f"davis, {name}", chosen, model, test=True, predict=_MASKS, **more)


def _searches() -> list[RealGroup]:
    return [
        *(
            _davis(f"search, {name}", runs(600, 2e-4, 5e-4), set=(*_WHOLE, *chosen))
            for name, chosen in _VARIANTS.items()
        ),
        *(
            _davis(
                *(f"search 2D, {name}", runs(600, 2e-4, 5e-4, 1.5e-3), "v2v_2d"),
                set=(*_WHOLE, *_VARIANTS[name]),
            )
            for name in ("geometry", "all")
        ),
    ]


def _objects(name: str, model: str, like: tuple[str, ...]) -> RealGroup:
    """What teachers take for objects in the clips, and DAVIS's masks."""
    return RealGroup(
        *(name, "seg", "objects", (Run(0.0, 3000),)),
        arg=f"model={model}",
        like=like,
        save=True,
        needs="objects done",
        predict=_MASKS,
    )


def _rows() -> list[RealGroup]:
    start = lambda name, *groups: _davis(
        f"start, {name}", runs(300, 1e-4, 3e-4), like=_SEARCH, init_from=groups
    )
    tuned = tuple(Run(0.0, 300, seed) for seed in SEEDS)
    return [
        _row("V2V-0", "v2v", _AS_BEST, like=_SEARCH),
        _row("2D-V2V", "v2v_2d", _AS_BEST, like=_SEARCH_2D),
        _objects("objects", "v2v", _SEARCH),
        _objects("objects, 2D", "v2v_2d", _SEARCH_2D),
        start("c3d", "c3d", "c3d, augmented"),
        start("flow", "wide flow"),
        start("scenes", "table 1, V2V-0, 3000"),
        start("objects", "objects"),
        _row("V2V", "v2v", tuned, like=_STARTS),
        *(_row(f"Conv{n}b-up", f"conv{n}b_up", tuned, like=_STARTS) for n in (5, 4, 3)),
        _row(
            *("2D-V2V, tuned", "v2v_2d", runs(300, 1e-4, seeds=SEEDS)),
            like=_SEARCH_2D,
            init_from=("objects, 2D",),
        ),
    ]


def _colors() -> list[RealGroup]:
    def search(name: str, chosen: tuple[Run, ...], *more: Any, model: str = "v2v", **fields: Any):
        data = fields.pop("data", "color")
        chosen_set = (*_RECOLOR, *more)
        return RealGroup(
            name, "color", data, chosen, arg=f"model={model}", set=chosen_set, **fields
        )

    return [
        search("color search, 150", runs(150, 1e-4, 4e-4)),
        search("color search, 400", runs(400, 1e-4, 4e-4)),
        search("color search, 1000", runs(1000, 1e-4, 4e-4)),
        search("color search, camera", runs(400, 1e-4, 4e-4), *augmented(CAMERA)),
        search(
            _COLOR_FROM_SCENES, (*runs(150, 1e-4), *runs(400, 1e-4, 3e-5)), init_from=("color 0",)
        ),
        search("color search 2D, 400", runs(400, 1e-4, 4e-4), model="v2v_2d"),
        search("color search 2D, 1000", runs(1000, 1e-4, 4e-4), model="v2v_2d"),
        search(
            *("color shipped", (*runs(400, 4e-4), *runs(1000, 1e-4, 4e-4)), *_HALF),
            data="color shipped",
            test=True,
            export="color",
        ),
        RealGroup(
            *("color, V2V", "color", "color", _AS_BEST),
            like=(*_COLOR_SEARCH, _COLOR_FROM_SCENES),
            test=True,
        ),
        RealGroup(
            *("color, 2D-V2V", "color", "color", _AS_BEST),
            arg="model=v2v_2d",
            like=_COLOR_SEARCH_2D,
            test=True,
        ),
        search("hints", runs(1500, 4e-4), ("task_options.hints", 256), test=True),
    ]


def _flow() -> list[RealGroup]:
    """Brox's flow of real clips, from what the wide domain taught."""
    full, half = ("wide flow",), ("wide flow, half",)
    fine = lambda name, data, chosen, start, *more, **fields: RealGroup(
        *(f"flow, {name}", "flow", data, chosen),
        set=(*_FLOW, *more),
        init_from=start,
        needs="flow done",
        test=True,
        **fields,
    )
    return [
        fine(
            *("shipped", "flow shipped", runs(4000, 1e-3, 5e-4), half, *_HALF, *_PLACE),
            export="flow",
        ),
        fine("full, placed", "flow", runs(5000, 5e-4), full, *_PLACE, export="flow_full"),
        fine("half", "flow", runs(5000, 1e-3), half, *_HALF, export="flow_half"),
        fine("full", "flow", runs(5000, 5e-4), full, export="flow_unplaced"),
    ]


def _camvid() -> list[RealGroup]:
    vary = augmented(dict(scale=(0.95, 1.4), aspect=0.1), COLORS, CAMERA)
    return [
        RealGroup(
            *(f"camvid, {name}", "seg", "camvid", runs(700, 5e-4, 2e-3)),
            arg=f"model={model}",
            set=vary,
            test=True,
            predict=("camvid",),
        )
        for name, model in (("V2V", "v2v"), ("2D-V2V", "v2v_2d"))
    ]


def plan() -> list[Group]:
    """All groups; those that start from scenes wait for `search_plans`' plan `converged`."""
    searches, rows, colors, flow = _searches(), _rows(), _colors(), _flow()
    prepared = [*searches, *rows[2:4], *colors[:8], *flow[:3], *rows[:2], *_camvid()]
    return [*prepared, *rows[4:], *colors[8:], *flow[3:]]


def tiny(group: Group) -> Group:
    """A group for a rehearsal on a CPU: a narrow network, few steps."""
    small = settings(model__width=0.04, batch_size=2, eval_batch_size=2, dtype="float32")
    few = tuple(dataclasses.replace(run, steps=run.steps and 2) for run in group.runs[:1])
    return dataclasses.replace(group, set=(*group.set, *small), runs=few)
