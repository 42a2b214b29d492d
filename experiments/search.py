"""Which rate, steps and width? Many short trainings side by side, judged on held-out scenes.

    python -m experiments.search --plan=rates --workdir=runs/search --gpus=0,1,2,3 --slots=2

A plan (`search_plans`) is a list of groups; a group is one program (task, network, optimiser,
data), compiled once, and the runs that it does: rate, steps and seed are its input. Groups go to
whichever of the `--slots` processes a GPU is free, so that one compiles while another trains. A run
is a line of WORKDIR/results.jsonl as soon as it ends; groups that were begun are not begun again.
Nothing is chosen on the test split: runs are judged on the validation split.

`python -m experiments.search --table --workdir=runs/search` prints what is there as Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import json
import math
import os
import pathlib
import subprocess
import sys
import time
import traceback
from typing import Any, NamedTuple

from experiments.prerendered import Prerendered, render
from experiments.search_plans import DATA, PLANS, Group, Run
from v2v_jax.datasets.scenes import Scenes

_LAST = 20  # steps whose training metric is averaged at the end


def open_data(name: str, which: str) -> Scenes:
    """The scenes of a data set of the plan, "train" or "held out"."""
    data = DATA[name]
    if which == "train":
        return Scenes(
            "train",
            num_videos=data.videos,
            num_frames=data.frames,
            frame_size=data.frame_size,
        )
    return Scenes(
        "validation",
        num_videos=data.held_out,
        num_frames=data.held_out_frames,
        frame_size=data.frame_size,
    )


def prepare(plan: list[Group], folder: pathlib.Path) -> None:
    """Renders the plan's scenes."""
    for name in dict.fromkeys(group.data for group in plan):
        for which in ("train", "held out"):
            start = time.perf_counter()
            source = open_data(name, which)
            render(source, _place(folder, name, which), DATA[name].fields)
            print(f"{name}, {which}: {time.perf_counter() - start:.1f} s", flush=True)


def _place(folder: pathlib.Path, name: str, which: str) -> pathlib.Path:
    return folder / f"{name}-{which.replace(' ', '_')}"


# ------------------------------------------------------------------------------------------------
# A worker


class SearchState(NamedTuple):
    """State of an optimiser whose rate is data."""

    inner: Any
    count: Any
    rate: Any  # the peak
    steps: Any
    average: Any  # of the weights, exponential


def searched(config: Any, group: Group) -> Any:
    """config's optimiser with cosine schedule and warm-up, whose state holds rate and steps."""
    import jax
    import jax.numpy as jnp
    import optax

    from v2v_jax.models.transposed_kernels import balanced
    from v2v_jax.run.optimizers import make_optimizer

    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.optimizer.update(learning_rate=1.0, schedule="step", decay_every=10**9)
    # Its updates are proportional to the rate, weight decay included.
    inner = make_optimizer(config, 1)

    def init(params):
        zero = jnp.zeros((), jnp.float32)
        return SearchState(inner.init(params), zero, zero, zero + 1, params)

    def update(gradient, state, params):
        updates, kept = inner.update(gradient, state.inner, params)
        warmup = jnp.floor(state.steps / 10)
        place = (state.count - warmup) / jnp.maximum(state.steps - warmup, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(place, 0, 1)))
        rising = state.count / jnp.maximum(warmup, 1)
        rate = state.rate * jnp.where(state.count < warmup, rising, falling)
        updates = jax.tree.map(lambda u: u * rate, updates)
        if group.head != 1.0:
            updates["conv_pre"] = jax.tree.map(lambda u: u * group.head, updates["conv_pre"])
        if group.balanced:
            for name, layer in updates.items():
                if name.startswith("deconv"):
                    kernel = balanced(layer["kernel"], _strides(layer["kernel"].shape))
                    updates[name] = layer | {"kernel": kernel}
        decay = jnp.minimum(0.999, (1 + state.count) / (10 + state.count))
        average = jax.tree.map(
            lambda a, p, u: decay * a + (1 - decay) * (p + u), state.average, params, updates
        )
        return updates, SearchState(kept, state.count + 1, state.rate, state.steps, average)

    return optax.GradientTransformation(init, update)


def _strides(shape: Any) -> tuple[int, ...]:
    return tuple(max(1, k // 2) for k in shape[:3])


class Worker:
    """Runs groups, one after the other; keeps the last one's data in the accelerator's memory."""

    def __init__(self, workdir: pathlib.Path, data: pathlib.Path, until: float):
        """until: the time at which the last run has to end."""
        self._workdir, self._data, self._until = workdir, data, until
        self._feeds: dict[Any, Any] = {}

    def run_group(self, group: Group) -> None:
        """All runs for which there is time."""
        import jax

        from v2v_jax.evaluation.evaluator import Evaluator
        from v2v_jax.run.experiment import make_experiment
        from v2v_jax.training.loop import make_train_step

        for which in ("train", "held out"):
            while not (_place(self._data, group.data, which) / "done").exists():
                time.sleep(0.2)  # another process renders it
        config = group_config(group)
        train, held_out = (
            Prerendered(open_data(group.data, which), _place(self._data, group.data, which))
            for which in ("train", "held out")
        )
        experiment = dataclasses.replace(
            make_experiment(config, "train"), dataset=train, optimizer=searched(config, group)
        )
        judged = dataclasses.replace(make_experiment(config, "validation"), dataset=held_out)
        with jax.set_mesh(experiment.mesh):
            feed, judged_feed = self._feeds_of(group, experiment, judged)
            evaluator = Evaluator(judged, judged_feed)
            step = make_train_step(experiment, feed)
            seconds_a_step = 0.0
            for run in group.runs:
                if time.time() + seconds_a_step * run.steps > self._until:
                    self.write(group, run, {"skipped": True})
                    continue
                result = self._run(group, run, experiment, feed, evaluator, step)
                self.write(group, run, result)
                seconds_a_step = result.get("seconds", 0.0) / run.steps

    def _feeds_of(self, group: Group, experiment: Any, judged: Any) -> tuple[Any, Any]:
        from v2v_jax.input.feeds import make_feed

        task = experiment.task
        sizes = (tuple(experiment.preprocessing.crop_size), experiment.preprocessing.clip_length)
        key = group.data, task.fields, sizes
        if key not in self._feeds:
            self._feeds.clear()
            self._feeds[key] = tuple(
                make_feed("device", e.dataset, task.fields, e.preprocessing, e.mesh)
                for e in (experiment, judged)
            )
        return self._feeds[key]

    def _run(
        self, group: Group, run: Run, experiment: Any, feed: Any, evaluator: Any, train_step: Any
    ) -> dict[str, Any]:
        import jax
        import numpy as np

        from v2v_jax.tasks import metrics
        from v2v_jax.training.loop import make_sampler

        config = experiment.config.copy_and_resolve_references()
        with config.unlocked():
            config.seed = run.seed
        state = start(group, run, experiment)
        sampler = make_sampler(dataclasses.replace(experiment, config=config))
        losses, total, begin = [], None, time.perf_counter()
        timed = begin
        for number, batch in enumerate(feed.batches(map(sampler.plan, range(run.steps))), 1):
            state, values = train_step(state, feed.store, batch)
            if number == 1:
                jax.block_until_ready(values["loss"])
                timed = time.perf_counter()
            if number % max(1, run.steps // 20) == 0:
                losses.append(round(float(values["loss"]), 5))
                if not math.isfinite(losses[-1]) or time.time() > self._until:
                    return {"losses": losses, "stopped": number}
            if number > run.steps - _LAST:
                total = metrics.add(total, values["sums"])
        jax.block_until_ready(state.params)
        seconds = time.perf_counter() - timed
        task = experiment.task
        values = {n: v for n, v in evaluator(state.params).items() if n.count("/") == 0}
        classes = task.label_names if len(task.label_names) < 20 else ()
        result = {
            "metric": task.headline,
            "held_out": values[task.headline],
            "averaged": evaluator(state.opt_state.average)[task.headline],
            "baseline": values[f"baseline_{task.headline}"],
            "train": task.summarize(total)[task.headline],
            "metrics": {n: round(float(v), 5) for n, v in values.items() if math.isfinite(v)},
            "losses": losses,
            "clips_per_second": round((run.steps - 1) * config.batch_size / seconds, 1),
            "seconds": round(time.perf_counter() - begin, 1),
        }
        if classes:
            every = evaluator(state.params)
            result["classes"] = {c: round(float(every[f"accuracy/{c}"]), 4) for c in classes}
        if task.name == "flow":
            from experiments.grid import of_flow

            result["grid"] = of_flow(evaluator.clips(state.params, 24))
            gains = {n: np.asarray(v["gain"]) for n, v in state.params.items() if "gain" in v}
            result["gains"] = {n: [round(float(g.mean()), 3)] for n, g in gains.items()}
        return result

    def write(self, group: Group, run: Run, result: dict[str, Any]) -> None:
        """One line; atomic, as it is short and the file is opened for appending."""
        head = {"group": group.name, **dataclasses.asdict(run)}
        text = json.dumps(head | result) + "\n"
        with open(self._workdir / "results.jsonl", "a") as file:
            file.write(text)
        shown = {k: result.get(k) for k in ("metric", "held_out", "averaged", "train", "error")}
        print(head, {k: v for k, v in shown.items() if v is not None}, flush=True)


def start(group: Group, run: Run, experiment: Any) -> Any:
    """The state at step 0, with the run's rate and steps in the optimiser's."""
    import jax
    import jax.numpy as jnp

    from v2v_jax.models.transposed_kernels import balanced, interpolating_normal

    state = experiment.init_state(run.seed)
    params = dict(state.params)
    for index, (name, layer) in enumerate(sorted(params.items())):
        if not name.startswith("deconv") or not (group.interpolated or group.balanced):
            continue
        shape = layer["kernel"].shape
        kernel = balanced(layer["kernel"], _strides(shape))
        if group.interpolated:
            key = jax.random.fold_in(jax.random.key(run.seed), index)
            kernel = interpolating_normal(_strides(shape))(key, shape)
        params[name] = layer | {"kernel": jax.device_put(kernel, layer["kernel"].sharding)}
    like = state.opt_state
    put = lambda x: jax.device_put(jnp.float32(x), like.rate.sharding)
    average = jax.tree.map(jnp.copy, params)
    chosen = like._replace(rate=put(run.rate), steps=put(run.steps), average=average)
    return state.replace(params=params, opt_state=chosen)


def group_config(group: Group) -> Any:
    """The configuration of a group; rate and steps are not in it."""
    module = importlib.import_module(f"configs.{group.config}")
    config = module.get_config(group.arg)
    config.feed = "device"
    data = DATA[group.data]
    config.data.num_frames = data.frames
    config.grow_share = 0.0
    config.preprocessing.frame_size = data.frame_size
    config.lock()
    config.update_from_flattened_dict(dict(group.set))
    return config


def work(plan: list[Group], workdir: pathlib.Path, data: pathlib.Path, until: float) -> None:
    """Takes groups that nobody has taken, until there are none or no time is left."""
    from v2v_jax.system import compilation_cache

    compilation_cache.enable()
    worker = Worker(workdir, data, until)
    for group in plan:
        if time.time() > until:
            return
        try:
            (workdir / "taken" / group.name).mkdir(parents=True)
        except FileExistsError:
            continue
        try:
            worker.run_group(group)
        except Exception as error:  # the other groups go on
            traceback.print_exc()
            worker.write(group, Run(0, 0), {"error": f"{type(error).__name__}: {error}"[:500]})


# ------------------------------------------------------------------------------------------------


def table(workdir: pathlib.Path) -> str:
    """What was found, as Markdown, the best run of every group first."""
    lines = (workdir / "results.jsonl").read_text().splitlines()
    results = [r for r in map(json.loads, lines) if "held_out" in r]
    rows = ["| group | rate | steps | seed | metric | held out | averaged | training | grid |"]
    rows.append("|" + "---|" * 9)
    for r in sorted(results, key=lambda r: (r["group"], r["steps"], r["rate"])):
        grid = r.get("grid")
        shown = f"{grid['rows']:.2f}, {grid['columns']:.2f}" if grid else ""
        numbers = (f"{r[k]:.4f}" for k in ("held_out", "averaged", "train"))
        cells = (r["group"], f"{r['rate']:g}", r["steps"], r["seed"], r["metric"], *numbers, shown)
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Renders, starts the workers and waits for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", choices=tuple(PLANS), default="rates")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, help="default: WORKDIR/data")
    parser.add_argument("--gpus", default="0", help="numbers, with commas")
    parser.add_argument("--slots", type=int, default=1, help="processes a GPU")
    parser.add_argument("--seconds", type=float, default=math.inf, help="then all runs end")
    parser.add_argument("--until", type=float, default=math.inf, help=argparse.SUPPRESS)
    parser.add_argument(
        "--scenes",
        choices=("render", "only", "wait"),
        default="render",
        help="render what is not there; do nothing else; wait for another process that does",
    )
    parser.add_argument("--table", action="store_true", help="nothing but the table")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    plan, workdir = PLANS[args.plan], args.workdir.absolute()
    data = (args.data or workdir / "data").absolute()
    if args.table:
        print(table(workdir))
        return 0
    if args.worker:
        work(plan, workdir, data, args.until)
        return 0
    workdir.mkdir(parents=True, exist_ok=True)
    if args.scenes == "only":
        prepare(plan, data)
        return 0
    spawn = functools.partial(_spawn, args, workdir, data, time.time() + args.seconds)
    workers = [spawn(gpu, slot) for slot in range(args.slots) for gpu in args.gpus.split(",")]
    if args.scenes == "render":
        prepare(plan, data)  # the workers wait for what they need
    return max(process.wait() for process in workers)


def _spawn(
    args: argparse.Namespace,
    workdir: pathlib.Path,
    data: pathlib.Path,
    until: float,
    gpu: str,
    slot: int,
) -> subprocess.Popen:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpu}
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.92 / args.slots:.3f}")
    command = [sys.executable, "-m", "experiments.search", "--worker", f"--plan={args.plan}"]
    command += [f"--workdir={workdir}", f"--data={data}", f"--until={until}"]
    with open(workdir / f"gpu{gpu}-{slot}.log", "a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main())
