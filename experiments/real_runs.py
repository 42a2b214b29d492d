"""Many short trainings on real video, side by side: docs/real_video.md.

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
import dataclasses
import functools
import math
import os
import pathlib
import subprocess
import sys
import time
import traceback
from typing import Any

import numpy as np
from PIL import Image

from experiments import real_data, real_weights, search
from experiments.real_plans import RealGroup, plan, tiny
from experiments.search_plans import DATA, Group, Run
from experiments.trained_runs import save_run

IMPORTANT = 9  # groups of the plan that patient workers wait for


class RealWorker(search.Worker):
    """A worker of `experiments.search` that takes groups of both kinds."""

    def __init__(
        self, workdir: pathlib.Path, data: pathlib.Path, packed: pathlib.Path, until: float
    ):
        """data: what `real_data` unpacked; packed: where from."""
        super().__init__(workdir, data, until)
        self._packed = packed
        self._predictors: dict[str, Any] = {}
        self._best: dict[str, list[float]] = {}

    def ready(self, group: Group) -> bool:
        """Whether its data is there and what it starts from has ended."""
        if not isinstance(group, RealGroup):
            return super().ready(group)
        saved = {r["group"] for r in self._results() if "saved" in r}
        return (self._data / group.needs).exists() and set(group.init_from) <= saved

    def run_group(self, group: Group) -> None:
        """All runs for which there is time."""
        if not isinstance(group, RealGroup):
            super().run_group(group)
            return
        import jax

        from v2v_jax.evaluation.evaluator import Evaluator
        from v2v_jax.run.experiment import make_experiment
        from v2v_jax.training.step import make_train_step

        config = real_config(group, self._data)
        if group.init_from:
            with config.unlocked():
                best = self._best_of(group.init_from)
                config.init_from = str(self._workdir / best["saved"])
        training = make_experiment(config, "train")
        validation = make_experiment(config, "validation", training=training.dataset)
        judged = [validation, *([make_experiment(config, "test")] if group.test else [])]
        experiment = dataclasses.replace(training, optimizer=search.searched(config, group))
        with jax.set_mesh(experiment.mesh):
            feed, *judged_feeds = self._feeds_of(group, experiment, *judged)
            evaluators = [Evaluator(e, f) for e, f in zip(judged, judged_feeds)]
            step = make_train_step(experiment, feed)
            a_step = 0.0
            for run in group.runs:
                if time.time() + 0.7 * a_step * run.steps > self._until:
                    self.write(group, run, {"skipped": True})
                    continue
                result = self._run(group, run, experiment, feed, evaluators, step)
                self.write(group, run, result)
                a_step = result.get("seconds", 0.0) / run.steps

    def _feeds_of(self, group: Group, *experiments: Any) -> tuple[Any, ...]:
        """The training clips are larger than those judged where they are augmented."""
        from v2v_jax.input.feeds import make_feed

        if not isinstance(group, RealGroup):
            return super()._feeds_of(group, *experiments)
        self._feeds.clear()
        train, *others = experiments
        task = train.task
        feeds = [make_feed("device", train.dataset, task.fields, train.training_clips, train.mesh)]
        for e in others:
            fields = task.evaluation_fields
            feeds.append(make_feed("device", e.dataset, fields, e.preprocessing, e.mesh))
        return tuple(feeds)

    def _run(
        self, group: Group, run: Run, experiment: Any, feed: Any, evaluators: Any, train_step: Any
    ) -> dict[str, Any]:
        """Trains, judges, saves, and predicts whole videos."""
        config = experiment.config.copy_and_resolve_references()
        with config.unlocked():
            config.seed = run.seed
        experiment, begin = dataclasses.replace(experiment, config=config), time.perf_counter()
        state, result = self._train(run, experiment, feed, train_step)
        result["trained"] = round(time.perf_counter() - begin, 1)
        if not all(map(math.isfinite, result["losses"])):
            finite = [loss for loss in result["losses"] if math.isfinite(loss)]
            return {"losses": finite, "diverged": True}
        values, judged = search._judge(group, experiment, evaluators, state)
        result |= judged
        if group.test:
            result["by source"] = by_source(evaluators[-1], state.params, experiment.task.headline)
        if group.save:
            folder = f"runs/{group.name.replace(' ', '_')}-{run.seed}"
            small = state.replace(opt_state=())
            save_run(experiment, small, values, self._workdir / folder)
            result["saved"] = folder
        if isinstance(group, RealGroup):
            try:
                self._keep(group, run, experiment, state.params, result["chosen_by"])
            except Exception as error:  # what is known of the run is written all the same
                traceback.print_exc()
                result["not kept"] = f"{type(error).__name__}: {error}"[:300]
        return result | {"seconds": round(time.perf_counter() - begin, 1)}

    def _is_best(self, group: RealGroup, chosen_by: float) -> bool:
        """Whether it is the best run of its group so far on the validation split."""
        before = self._best.setdefault(group.name, [])
        before.append(chosen_by)
        return chosen_by == max(before)

    def _keep(
        self, group: RealGroup, run: Run, experiment: Any, params: Any, chosen_by: float
    ) -> None:
        """Weights and labels."""
        if group.export and self._is_best(group, chosen_by):
            path = self._workdir / "weights" / f"{group.export}.npz"
            real_weights.write(path, experiment.about, params)
        if group.predict:
            name = f"{group.name}-{run.rate:g}-{run.seed}".replace(" ", "_").replace(",", "")
            found = self._labels(group, experiment, params)
            path = self._workdir / "masks" / f"{name}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez_compressed(part, **found)
            part.rename(path)

    def _labels(self, group: RealGroup, experiment: Any, params: Any) -> dict[str, np.ndarray]:
        """source/video → (T,H,W) uint8 labels at the video's own size; of two classes, bits."""
        from v2v_jax.inference import blending
        from v2v_jax.inference.predictor import Predictor
        from v2v_jax.models.standardization import fold

        if group.name not in self._predictors:
            trained = real_weights.trained(experiment.about, params, experiment.config.dtype)
            self._predictors = {group.name: Predictor(trained)}
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


def without_pyav() -> None:
    """Scales frames by Pillow where a mere stand-in for PyAV is installed."""
    import av

    from v2v_jax.inference import predictor

    class Resizer:
        def __init__(self, size: tuple[int, int]):
            self._size = size

        def __call__(self, frame: np.ndarray) -> np.ndarray:
            image = Image.fromarray(frame).resize(self._size[::-1], Image.Resampling.BICUBIC)
            return np.asarray(image)

    if av.__version__ == "0":
        predictor.FrameResizer = Resizer


def work(args: argparse.Namespace, groups: list[Group]) -> None:
    """Takes groups that nobody has taken, until there are none or no time is left."""
    from v2v_jax.system import compilation_cache

    compilation_cache.enable()
    without_pyav()
    worker = RealWorker(args.workdir, args.data, args.packed, args.until)
    waiting, first = list(groups), {group.name for group in groups[:IMPORTANT]}
    while waiting and time.time() < args.until:
        # Some keep free for what matters most, which others have to prepare first.
        open_to = [g for g in waiting if g.name in first] if args.patient else []
        group = next((group for group in open_to or waiting if worker.ready(group)), None)
        if group is None:
            time.sleep(0.3)
            continue
        waiting.remove(group)
        try:
            (args.workdir / "taken" / group.name).mkdir(parents=True)
        except FileExistsError:
            continue
        print(f"{time.strftime('%X')} begins {group.name}", flush=True)
        try:
            worker.run_group(group)
        except Exception as error:  # the other groups go on
            traceback.print_exc()
            worker.write(group, Run(0, 0), {"error": f"{type(error).__name__}: {error}"[:500]})
        print(f"{time.strftime('%X')} ended {group.name}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Starts the workers and waits for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("workdir", "data", "packed"):
        parser.add_argument(f"--{name}", type=lambda t: pathlib.Path(t).absolute(), required=True)
    parser.add_argument("--wide_flow", default="", help="weights of half the width to start from")
    parser.add_argument("--gpus", default="0", help="numbers, with commas")
    parser.add_argument("--slots", type=int, default=1, help="processes a GPU")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds since 1970")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    parser.add_argument("--only", default="", help="groups by name, with semicolons")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--patient", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--render", action="store_true", help="nothing but the scenes")
    args = parser.parse_args(argv)
    groups = plan(args.wide_flow)
    if args.only:
        groups = [group for group in groups if group.name in args.only.split(";")]
    if args.tiny:
        groups = [tiny(group) for group in groups]
    args.workdir.mkdir(parents=True, exist_ok=True)
    if args.render:
        search.prepare([group for group in groups if group.data in DATA], args.data)
        return 0
    if args.worker:
        work(args, groups)
        return 0
    gpus = args.gpus.split(",")
    processes = [_spawn(gpu, slot, args) for slot in range(args.slots) for gpu in gpus]
    return max(process.wait() for process in processes)


def _spawn(gpu: str, slot: int, args: argparse.Namespace) -> subprocess.Popen:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpu}
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / args.slots:.3f}")
    command = [sys.executable, "-m", "experiments.real_runs", "--worker", *sys.argv[1:]]
    command += ["--patient"] if slot and slot == args.slots - 1 else []
    with open(args.workdir / f"gpu{gpu}-{slot}.log", "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main())
