"""The plan of `experiments.real_runs`: what is trained on real video, the most important first."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments.search_plans import Group, runs

SEEDS = (0, 1, 2)
# What varies in training clips; colours only where they are not what is to be learned.
_GEOMETRY = dict(scale=(1.0, 1.5), aspect=0.1, max_stride=2, reverse=0.5)
_COLORS = dict(hue=15.0, saturation=0.3, gain=0.15, contrast=0.2, brightness=0.1, gamma=0.2)
_CAMERA = dict(blur=1.0, noise=0.03)


@dataclasses.dataclass(frozen=True)
class RealGroup(Group):
    """A group of `experiments.search` whose `data` is a set of `experiments.real_data`.

    Attributes:
      predict: sources whose videos' labels are written at their own size.
      export: the name of the file, in half precision, that the best run's weights are written to.
      needs: a file of the unpacked data that it waits for.
    """

    predict: tuple[str, ...] = ()
    export: str = ""
    needs: str = "done"


def settings(**fields: Any) -> tuple[tuple[str, Any], ...]:
    """Flattened fields of a configuration; two underscores stand for a dot."""
    return tuple((key.replace("__", "."), value) for key, value in fields.items())


def augmented(*kinds: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The same of `config.augmentation`."""
    return tuple((f"augmentation.{k}", v) for kind in kinds for k, v in kind.items())


_WHOLE = settings(preprocessing__crop_size=(112, 192), batch_size=16, eval_batch_size=16)
_SEGMENT = (*_WHOLE, *augmented(_GEOMETRY, _COLORS, _CAMERA), ("task_options.dice", 1.0))
_RECOLOR = (*_WHOLE, *augmented(_GEOMETRY))
# The flow to another frame is another one, so time stays as it is.
_FLOW = (
    *settings(batch_size=16, eval_batch_size=16, preprocessing__crop_size=(112, 192)),
    *augmented(_COLORS, _CAMERA),
)
_HALF = settings(model__width=0.5)
_MASKS = ("davis_val", "davis_train")
_TEACHER = "objects done"


def davis_row(name: str, model: str, rate: float, steps: int, **more: Any) -> RealGroup:
    """A row of Table 1 on DAVIS 2016, three seeds."""
    return RealGroup(
        f"davis, {name}",
        "seg",
        "davis",
        runs(steps, rate, seeds=SEEDS),
        arg=f"model={model}",
        set=_SEGMENT,
        test=True,
        predict=_MASKS,
        **more,
    )


def colors(name: str, model: str, steps: int = 1500, **more: Any) -> RealGroup:
    """Colouring, three seeds."""
    arg = f"model={model}"
    group = RealGroup(name, "color", "color", runs(steps, 4e-4, seeds=SEEDS), arg=arg, set=_RECOLOR)
    return dataclasses.replace(group, test=True, **more)


def started(name: str, steps: int = 400, **more: Any) -> RealGroup:
    """V2V of half the width on DAVIS from some start."""
    more.setdefault("set", (*_SEGMENT, *_HALF))
    chosen = runs(steps, 5e-4, 1.5e-3)
    return RealGroup(f"half, from {name}", "seg", "davis", chosen, **more)


def objects(name: str, model: str, steps: int, *more: Any) -> RealGroup:
    """What teachers take for objects in the clips, and DAVIS's masks."""
    return RealGroup(
        name,
        "seg",
        "objects",
        runs(steps, 1.5e-3),
        arg=f"model={model}",
        set=(*_SEGMENT, *more),
        save=True,
        needs=_TEACHER,
        predict=_MASKS,
    )


def plan(wide_flow: str = "") -> list[Group]:
    """All groups.

    Args:
      wide_flow: weights of flow on the wide domain, of half the width.
    """
    tuned = dict(init_from=("objects",))
    fine = dict(set=(*_FLOW, *_HALF, ("init_from", wide_flow)), needs="flow done")
    return [
        RealGroup(
            "color shipped",
            "color",
            "color shipped",
            runs(3000, 5e-4),
            set=(*_RECOLOR, *_HALF),
            test=True,
            export="color",
        ),
        davis_row("V2V-0", "v2v", 1.5e-3, 600),
        RealGroup(
            "people",
            "seg",
            "people",
            runs(3000, 1.5e-3),
            set=(*_SEGMENT, *_HALF),
            save=True,
            predict=_MASKS,
            export="people",
            needs=_TEACHER,
        ),
        objects("objects", "v2v", 2000),
        davis_row("V2V", "v2v", 3e-4, 300, **tuned),
        davis_row("2D-V2V", "v2v_2d", 1.5e-3, 600),
        RealGroup("flow", "flow", "flow", runs(1500, 1e-3, 4e-4), test=True, export="flow", **fine),
        objects("objects, 2D", "v2v_2d", 2000),
        davis_row("2D-V2V, tuned", "v2v_2d", 3e-4, 300, init_from=("objects, 2D",)),
        davis_row("Conv5b-up", "conv5b_up", 3e-4, 300, **tuned),
        davis_row("Conv4b-up", "conv4b_up", 3e-4, 300, **tuned),
        davis_row("Conv3b-up", "conv3b_up", 3e-4, 300, **tuned),
        colors("color, V2V", "v2v"),
        colors("color, 2D-V2V", "v2v_2d"),
        started("scratch"),
        started("people", init_from=("people",)),
        started("flow", set=(*_SEGMENT, *_HALF, ("init_from", wide_flow))),
        Group(
            "scenes",
            "seg",
            "plain",
            runs(800, 2e-3),
            set=(*_HALF, ("task_options.dice", 0.0)),
            save=True,
        ),
        started("scenes", init_from=("scenes",)),
        RealGroup(
            "hints",
            "color",
            "color",
            runs(700, 4e-4),
            set=(*_RECOLOR, *_HALF, ("task_options.hints", 256)),
            test=True,
        ),
        *(
            RealGroup(
                f"camvid, {name}",
                "seg",
                "camvid",
                runs(700, 2e-3),
                arg=f"model={model}",
                set=augmented(dict(scale=(0.95, 1.4), aspect=0.1), _COLORS, _CAMERA),
                test=True,
                predict=("camvid",),
            )
            for name, model in (("V2V", "v2v"), ("2D-V2V", "v2v_2d"))
        ),
    ]


def tiny(group: Group) -> Group:
    """A group for a rehearsal on a CPU: a narrow network, few steps."""
    small = settings(model__width=0.04, batch_size=2, eval_batch_size=2, dtype="float32")
    few = tuple(dataclasses.replace(run, steps=2) for run in group.runs[:1])
    return dataclasses.replace(group, set=(*group.set, *small), runs=few)
