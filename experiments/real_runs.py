"""Many short trainings on real video, side by side: docs/results/real_video.md.

    python -m experiments.real_data --packed=data/packed --output=/dev/shm/real
    python -m experiments.real_data --packed=data/packed --output=/dev/shm/real --teachers
    python -m experiments.real_runs --data=/dev/shm/real --packed=data/packed --workdir=runs/real \\
        --gpus=0,1 --slots=2

`experiments.search` with other data: its workers take groups of `real_plans.plan` as they become
free. A run is a line of WORKDIR/results.jsonl; labels of whole videos are in WORKDIR/masks, weights
in half precision in WORKDIR/weights. Nothing is chosen on a test split.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import half_precision, real_data, search, search_worker
from experiments.real_plans import RealGroup, plan, tiny
from experiments.search_plans import DATA, Group, Run

SCALES = (1.0, 0.8, 0.6, 0.4, 0.2)  # what predicted colours are multiplied by
LAST = "conv_pre"


class RealWorker(search_worker.Worker):
    """A worker of `experiments.search` that takes groups of both kinds."""

    def __init__(
        self, workdir: pathlib.Path, data: pathlib.Path, packed: pathlib.Path, until: float
    ):
        """data: what `real_data` unpacked; packed: where from."""
        super().__init__(workdir, data, until)
        self._packed = packed
        self._predictors: dict[str, Any] = {}

    def has_data(self, group: Group) -> bool:
        """Whether what it needs was unpacked."""
        if not isinstance(group, RealGroup):
            return super().has_data(group)
        return (self._data / group.needs).exists()

    def choice(self, task: Any, values: dict[str, float]) -> float:
        """Classes are unbalanced here, and the fastest voxels are the point."""
        if task.name == "flow":
            return -values["epe"]
        return values["miou"] if task.name == "segmentation" else super().choice(task, values)

    def config(self, group: Group) -> Any:
        """The configuration of a group; rate and steps are not in it."""
        if not isinstance(group, RealGroup):
            return super().config(group)
        return real_config(group, self._data)

    def open(self, group: Group, config: Any) -> list[Any]:
        """Experiments: to train, to judge by and, with `group.test`, of the test split."""
        from v2v_jax.run.experiment import make_experiment

        if not isinstance(group, RealGroup):
            return super().open(group, config)
        training = make_experiment(config, "train")
        validation = make_experiment(config, "validation", training=training.dataset)
        return [training, validation, *([make_experiment(config, "test")] if group.test else [])]

    def keep(
        self,
        group: Group,
        run: Run,
        experiment: Any,
        evaluators: Sequence[Any],
        params: Any,
        result: dict[str, Any],
    ) -> None:
        """Weights, errors by source, and labels of whole videos."""
        if isinstance(group, RealGroup) and experiment.task.name == "color":
            result["scaled"] = scaled(evaluators, params)
            result["chosen_by"] = -min(result["scaled"]["held_out"].values())
        super().keep(group, run, experiment, evaluators, params, result)
        if not isinstance(group, RealGroup):
            return
        if group.test:
            result["by source"] = by_source(evaluators[-1], params, experiment.task.headline)
        if group.predict:
            name = f"{group.name}-{run.rate:g}-{run.seed}".replace(" ", "_").replace(",", "")
            path = self._workdir / "masks" / f"{name}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez_compressed(part, **self._labels(group, experiment, params))
            part.rename(path)

    def _labels(self, group: RealGroup, experiment: Any, params: Any) -> dict[str, np.ndarray]:
        """source/video → (T,H,W) uint8 labels at the video's own size; of two classes, bits."""
        from v2v_jax.inference import blending
        from v2v_jax.inference.predictor import Predictor
        from v2v_jax.models.standardization import fold

        if group.name not in self._predictors:
            trained = half_precision.trained(experiment.about, params, experiment.config.dtype)
            self._predictors = {group.name: Predictor(trained, full_frame=False)}
        predictor = self._predictors[group.name]
        predictor._params = blending.on_device(fold(params))  # compiled once for all runs
        found = {}
        for name, frames in whole_videos(self._packed, self._data, group.predict):
            labels = predictor(frames)
            found[name] = np.packbits(labels, axis=-1) if labels.max() < 2 else labels
        return found


@functools.cache
def _whole(packed: pathlib.Path, data: pathlib.Path, source: str) -> list[tuple[str, np.ndarray]]:
    if source == "camvid":
        videos = real_data.RealVideos(data, [real_data.Part(source)])
        return [
            (info.name, videos.whole(number, ("video",))["video"])
            for number, info in enumerate(videos.videos)
            if "test" in info.name
        ]
    known = sorted((packed / source).glob("*.mp4"))
    if source == "davis_train":
        known = [path for path in known if path.stem in real_data.VALIDATION]
    return [(f"{source}/{path.stem}", np.stack(list(real_data.decoded(path)))) for path in known]


def whole_videos(packed: pathlib.Path, data: pathlib.Path, sources: tuple[str, ...]) -> Any:
    """(source/video, frames (T,H,W,3) at their size); of DAVIS's training those that validate."""
    for source in sources:
        yield from _whole(packed, data, source)


def by_source(evaluator: Any, params: Any, headline: str) -> dict[str, dict[str, float]]:
    """The headline metric and its baseline's mean over the windows of each source."""
    found: dict[str, list[tuple[float, float]]] = {}
    _, windows = evaluator.windows(params)
    for window in windows:
        pair = window.values[headline], window.values[f"baseline_{headline}"]
        found.setdefault(window.name.partition("/")[0], []).append(pair)
    return {
        name: dict(zip((headline, "baseline", "windows"), (*np.nanmean(pairs, 0), len(pairs))))
        for name, pairs in found.items()
    }


def over_windows(sources: Mapping[str, Mapping[str, float]], name: str) -> float:
    """The mean over all windows of what `by_source` says of each source."""
    counts = [values["windows"] for values in sources.values()]
    return float(np.average([values[name] for values in sources.values()], weights=counts))


def times(params: dict[str, Any], scale: float) -> dict[str, Any]:
    """A colouring network's parameters with its colour multiplied: its last layer is linear."""
    return {**params, LAST: {leaf: scale * value for leaf, value in params[LAST].items()}}


def scaled(evaluators: Sequence[Any], params: Any) -> dict[str, Any]:
    """A colouring network whose colour is multiplied by what is best on the validation videos.

    Args:
      evaluators: of the validation split and, where there is a second one, of the test split.

    Returns:
      "scale": that with the smallest ADE over all validation windows, each counted once;
      "held_out": scale → that ADE; "held out by source": scale → what `by_source` says of it;
      "by source": the same of the test split at the chosen scale, {} without one.
    """
    found = {scale: by_source(evaluators[0], times(params, scale), "ade") for scale in SCALES}
    errors = {scale: over_windows(sources, "ade") for scale, sources in found.items()}
    best = min(errors, key=errors.__getitem__)
    tested = by_source(evaluators[-1], times(params, best), "ade") if len(evaluators) > 1 else {}
    return {"scale": best, "held_out": errors, "held out by source": found, "by source": tested}


def real_config(group: RealGroup, data: pathlib.Path) -> Any:
    """The configuration of a group; rate and steps are not in it."""
    import importlib

    module = importlib.import_module(f"configs.{group.config}")
    config = module.get_config(",".join(filter(None, ("dataset=real", group.arg))))
    config.feed = "device"
    config.data.root, config.data.set = str(data), group.data
    config.data.validation = real_data.validating(data, group.data)
    camvid = group.data == "camvid"
    config.preprocessing.frame_size = real_data.CAMVID_SIZE if camvid else real_data.FRAME_SIZE
    config.lock()
    config.update_from_flattened_dict(dict(group.set))
    return config


def main(argv: list[str] | None = None) -> int:
    """Starts the workers and waits for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("workdir", "data", "packed"):
        parser.add_argument(f"--{name}", type=lambda t: pathlib.Path(t).absolute(), required=True)
    parser.add_argument("--gpus", default="0", help="numbers, with commas")
    parser.add_argument("--slots", type=int, default=1, help="processes a GPU")
    parser.add_argument("--seconds_a_step", type=float, default=0.0, help="as of the search")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds since 1970")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    parser.add_argument("--only", default="", help="groups by name, with semicolons")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--render", action="store_true", help="nothing but the scenes")
    args = parser.parse_args(argv)
    groups = search.selected(plan(), args.only)
    if args.tiny:
        groups = [tiny(group) for group in groups]
    args.workdir.mkdir(parents=True, exist_ok=True)
    if args.render:
        search_worker.prepare([group for group in groups if group.data in DATA], args.data)
        return 0
    if args.worker:
        from v2v_jax.system import compilation_cache

        compilation_cache.enable()
        worker = RealWorker(args.workdir, args.data, args.packed, args.until)
        worker.run_groups(groups, args.seconds_a_step)
        return 0
    processes = []
    for slot, gpu in itertools.product(range(args.slots), args.gpus.split(",")):
        options = sys.argv[1:] if argv is None else argv
        module = "experiments.real_runs"
        processes.append(search.spawn(module, options, args.workdir, gpu, slot, args.slots))
    return max(process.wait() for process in processes)


if __name__ == "__main__":
    sys.exit(main())
