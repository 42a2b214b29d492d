"""What a process of `experiments.search` does: groups of a plan, one after the other."""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
import json
import math
import pathlib
import re
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import half_precision
from experiments.prerendered import Prerendered, render
from experiments.search_plans import DATA, Group, Run
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.input.augmentation import Augmentation

_WHICH = ("train", "held out", "test")
_GRACE = 2.0  # seconds past the end in which a run may still come to its own
_LAST = 20  # steps whose training metric is averaged at the end


def open_data(name: str, which: str) -> Scenes:
    """The scenes of a data set of the plan, by `_WHICH`."""
    data = DATA[name]
    if which == "train":
        return Scenes(
            "train",
            num_videos=data.videos,
            num_frames=data.frames,
            frame_size=data.frame_size,
            domain=data.domain,
        )
    return Scenes(
        "test" if which == "test" else "validation",
        num_videos=data.held_out,
        num_frames=data.held_out_frames,
        frame_size=data.frame_size,
        domain=data.domain,
    )


def prepare(plan: list[Group], folder: pathlib.Path) -> None:
    """Renders the plan's scenes; of the test split where a group is measured on it."""
    for name in dict.fromkeys(group.data for group in plan):
        tested = any(group.test for group in plan if group.data == name)
        for which in _WHICH[: 2 + tested]:
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


def searched(config: Any, group: Group) -> Any:
    """config's optimiser with cosine schedule and warm-up, whose state holds rate and steps."""
    import jax
    import jax.numpy as jnp
    import optax

    from v2v_jax.run.optimizers import make_optimizer

    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.optimizer.update(learning_rate=1.0, schedule="step", decay_every=10**9)
    # Its updates are proportional to the rate, weight decay included.
    inner = make_optimizer(config.optimizer, 1)

    def init(params):
        zero = jnp.zeros((), jnp.float32)
        return SearchState(inner.init(params), zero, zero, zero + 1)

    def update(gradient, state, params):
        updates, kept = inner.update(gradient, state.inner, params)
        warmup = jnp.floor(state.steps / 10)
        place = (state.count - warmup) / jnp.maximum(state.steps - warmup, 1)
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(place, 0, 1)))
        rising = state.count / jnp.maximum(warmup, 1)
        rate = state.rate * jnp.where(state.count < warmup, rising, falling)
        updates = jax.tree.map(lambda u: u * rate, updates)
        for name, share in group.slower:
            updates[name] = jax.tree.map(functools.partial(jnp.multiply, share), updates[name])
        return updates, SearchState(kept, state.count + 1, state.rate, state.steps)

    return optax.GradientTransformation(init, update)


class Worker:
    """Runs groups, one after the other; keeps the last one's data in the accelerator's memory."""

    def __init__(self, workdir: pathlib.Path, data: pathlib.Path, until: float):
        """until: the time at which training ends; the runs are then judged as they are."""
        self._workdir, self._data, self._until = workdir, data, until
        self._exported: dict[str, list[float]] = {}
        self._feeds: dict[Any, Any] = {}

    def run_groups(self, plan: Sequence[Group], seconds_a_step: float = 0.0) -> None:
        """Takes groups that nobody has taken, until there are none or no time is left.

        Args:
          seconds_a_step: groups whose first run would not end in time are left out; 0: none are.
        """
        waiting = list(plan)
        while waiting and time.time() < self._until:
            seconds = self._until + _GRACE - time.time()
            left = seconds / seconds_a_step if seconds_a_step else math.inf
            fits = (group for group in waiting if group.runs[0].steps <= left)
            group = next((group for group in fits if self.ready(group)), None)
            if group is None:
                time.sleep(0.5)
                continue
            waiting.remove(group)
            try:
                (self._workdir / "taken" / group.name).mkdir(parents=True)
            except FileExistsError:
                continue
            try:
                self.run_group(group)
            except Exception as error:  # the other groups go on
                traceback.print_exc()
                self.write(group, Run(0, 0), {"error": f"{type(error).__name__}: {error}"[:500]})
            (self._workdir / "taken" / group.name / "ended").touch()

    def run_group(self, group: Group) -> None:
        """All runs for which there is time."""
        import jax

        from v2v_jax.evaluation.evaluator import Evaluator
        from v2v_jax.training.step import make_train_step

        group = self.resolved(group)
        config = self.config(group)
        with config.unlocked():
            if group.init_from:
                best = self._best_of(group.init_from)
                config.init_from = str(self._workdir / best["saved"])
            if group.loss_of:
                config.task_options.loss = self._best_of(group.loss_of)["loss"]
        training, *judged = self.open(group, config)
        experiment = dataclasses.replace(training, optimizer=searched(config, group))
        with jax.set_mesh(experiment.mesh):
            feed, *judged_feeds = self.feeds(group, experiment, *judged)
            evaluators = [Evaluator(e, f) for e, f in zip(judged, judged_feeds)]
            step = make_train_step(experiment, feed)
            seconds_a_step = 0.0
            for run in group.runs:
                if time.time() + seconds_a_step * run.steps > self._until + _GRACE:
                    self.write(group, run, {"skipped": True})
                    continue
                result = self._run(group, run, experiment, feed, evaluators, step)
                self.write(group, run, result)
                seconds_a_step = result.get("seconds", 0.0) / run.steps

    # What is of rendered scenes; other data override it.

    def config(self, group: Group) -> Any:
        """The configuration of a group; rate and steps are not in it."""
        return group_config(group)

    def open(self, group: Group, config: Any) -> list[Any]:
        """Experiments: to train, to judge by and, with `group.test`, of the test split."""
        from v2v_jax.run.experiment import make_experiment

        return [
            dataclasses.replace(
                make_experiment(config, "train" if which == "train" else "test"),
                dataset=Prerendered(
                    open_data(group.data, which), _place(self._data, group.data, which)
                ),
            )
            for which in _WHICH[: 2 + group.test]
        ]

    def keep(
        self,
        group: Group,
        run: Run,
        experiment: Any,
        evaluators: Sequence[Any],
        params: Any,
        result: dict[str, Any],
    ) -> None:
        """Leaves what else is to be left of a run, and adds to what is written of it."""
        if group.export and self._is_best(group, result["chosen_by"]):
            path = self._workdir / "weights" / f"{group.export}.npz"
            half_precision.write(path, experiment.about, params)

    def _is_best(self, group: Group, chosen_by: float) -> bool:
        """Whether it is the best run of its group so far on the validation split."""
        before = self._exported.setdefault(group.name, [])
        before.append(chosen_by)
        return chosen_by == max(before)

    def _results(self) -> list[dict[str, Any]]:
        path = self._workdir / "results.jsonl"
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

    def _best_of(self, names: tuple[str, ...], known: str = "saved") -> dict[str, Any]:
        """The run of these groups that was best on the validation split, of those that have it."""
        found = [r for r in self._results() if r["group"] in names and known in r]
        return max(found, key=lambda r: r["chosen_by"])

    def resolved(self, group: Group) -> Group:
        """With the settings, the start, the rate and the steps of the best run it is `like`."""
        if not group.like:
            return group
        best = self._best_of(group.like, "chosen_by")
        fill = lambda run: dataclasses.replace(
            run, rate=run.rate or best["rate"], steps=run.steps or best["steps"]
        )
        return dataclasses.replace(
            group,
            set=(
                *((k, tuple(v) if isinstance(v, list) else v) for k, v in best["set"]),
                *group.set,
            ),
            init_from=group.init_from or tuple(best["init_from"]),
            runs=tuple(map(fill, group.runs)),
        )

    def ready(self, group: Group) -> bool:
        """Whether its data is there and the groups that it goes on from have ended."""
        results = self._results()
        for names in filter(None, (group.init_from, group.loss_of)):
            if not any(r["group"] in names and "saved" in r for r in results):
                return False
        if group.like and not any(r["group"] in group.like and "chosen_by" in r for r in results):
            return False
        taken, before = self._workdir / "taken", (*group.init_from, *group.loss_of, *group.like)
        return self.has_data(group) and all((taken / name / "ended").exists() for name in before)

    def has_data(self, group: Group) -> bool:
        """Whether its scenes are rendered."""
        which = _WHICH[: 2 + group.test]
        return all((_place(self._data, group.data, w) / "done").exists() for w in which)

    def feeds(self, group: Group, *experiments: Any) -> tuple[Any, ...]:
        """Of each experiment; those of the group before are kept where they are the same."""
        from v2v_jax.input.feeds import make_feed

        train, *judged = experiments
        # The training clips are larger than those judged where they are augmented.
        clips = [train.training_clips, *(e.preprocessing for e in judged)]
        sizes = tuple((tuple(c.crop_size), c.clip_length) for c in clips)
        fields = [train.task.fields, *(e.task.evaluation_fields for e in judged)]
        key = group.data, tuple(fields), sizes
        if key not in self._feeds:
            self._feeds.clear()
            self._feeds[key] = tuple(
                make_feed("device", e.dataset, f, c, e.mesh)
                for e, f, c in zip(experiments, fields, clips)
            )
        return self._feeds[key]

    def _run(
        self, group: Group, run: Run, experiment: Any, feed: Any, evaluators: Any, train_step: Any
    ) -> dict[str, Any]:
        """Trains, judges and saves; a run that is out of time is judged as it is then."""
        config = experiment.config.copy_and_resolve_references()
        with config.unlocked():
            config.seed = run.seed
        experiment, begin = dataclasses.replace(experiment, config=config), time.perf_counter()
        state, result = self._train(run, experiment, feed, train_step)
        if not all(map(math.isfinite, result["losses"])):
            finite = [loss for loss in result["losses"] if math.isfinite(loss)]
            return {"losses": finite, "diverged": True}
        values, judged = _judge(group, experiment, evaluators, state)
        result |= judged | {"chosen_by": self.choice(experiment.task, values)}
        if group.save:
            from experiments.trained_runs import save_run

            folder = f"runs/{re.sub('[ ,]+', '_', group.name)}-{run.seed}"
            small = state.replace(opt_state=())  # to be used and started from, not to be resumed
            save_run(experiment.about, small, values, self._workdir / folder)
            result["saved"] = folder
        try:
            self.keep(group, run, experiment, evaluators, state.params, result)
        except Exception as error:  # what is known of the run is written all the same
            traceback.print_exc()
            result["not kept"] = f"{type(error).__name__}: {error}"[:300]
        return result | {"seconds": round(time.perf_counter() - begin, 1)}

    def _train(
        self, run: Run, experiment: Any, feed: Any, train_step: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The last state, and what is known from the steps."""
        import jax

        from v2v_jax.tasks import metrics
        from v2v_jax.training.loop import steps
        from v2v_jax.training.setup import make_sampler

        state, sampler = start(run, experiment), make_sampler(experiment)
        losses, sums, timed, number = [], collections.deque(maxlen=_LAST), 0.0, 0
        todo = range(run.steps)
        for number, after, values in steps(train_step, feed, sampler, state, run.seed, todo):
            state = after
            sums.append(values["sums"])
            if number == 1:
                jax.block_until_ready(values["loss"])
                timed = time.perf_counter()
            if number % max(1, run.steps // 20) == 0:
                losses.append(round(float(values["loss"]), 5))
                if not math.isfinite(losses[-1]) or time.time() > self._until:
                    break
        jax.block_until_ready(state.params)
        seconds = time.perf_counter() - timed
        total = None
        for value in sums:
            total = metrics.add(total, value)
        result = {
            "losses": losses,
            "train": experiment.task.summarize(total)[experiment.task.headline],
            "clips_per_second": round((number - 1) * experiment.config.batch_size / seconds, 1),
        }
        return state, result | ({"stopped": number} if number < run.steps else {})

    def choice(self, task: Any, values: dict[str, float]) -> float:
        """What runs are chosen by, the more the better; of flow without the fastest voxels."""
        if task.name == "flow":
            return -values["epe_s0-10"]
        return values[task.headline] * (1 if task.better == "max" else -1)

    def write(self, group: Group, run: Run, result: dict[str, Any]) -> None:
        """One line; atomic, as it is short and the file is opened for appending."""
        head = {"group": group.name, **dataclasses.asdict(run)}
        origin = {"set": group.set, "init_from": group.init_from}
        text = json.dumps(head | result | origin) + "\n"
        with open(self._workdir / "results.jsonl", "a") as file:
            file.write(text)
        shown = {k: result.get(k) for k in ("metric", "held_out", "test", "train", "error")}
        print(head, {k: v for k, v in shown.items() if v is not None}, flush=True)


def _judge(
    group: Group, experiment: Any, evaluators: Any, state: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """The held-out metrics, and all that is written of them and of the test split's."""
    task, evaluator = experiment.task, evaluators[0]
    every = evaluators[-1](state.params)  # of the test split, if there is such a one
    values = evaluator(state.params) if group.test else every
    result = {
        "metric": task.headline,
        "held_out": values[task.headline],
        "baseline": values[f"baseline_{task.headline}"],
        "loss": experiment.config.task_options.get("loss"),
        "test": every[task.headline] if group.test else None,
        "metrics": {n: round(float(v), 5) for n, v in every.items() if math.isfinite(v)},
        "held_out_metrics": {n: round(float(v), 5) for n, v in values.items() if math.isfinite(v)},
    }
    if task.name == "flow":
        from experiments.grid import of_flow

        result["grid"] = of_flow(evaluator.clips(state.params, 24))
    return values, result


def start(run: Run, experiment: Any) -> Any:
    """The state at step 0, with the run's rate and steps in the optimiser's."""
    import jax
    import jax.numpy as jnp

    state = experiment.init_state(run.seed)
    if experiment.config.init_from:
        from v2v_jax.training import fine_tuning

        state = fine_tuning.initialize(experiment, state)
    like = state.opt_state
    put = lambda x: jax.device_put(jnp.float32(x), like.rate.sharding)
    return state.replace(opt_state=like._replace(rate=put(run.rate), steps=put(run.steps)))


def group_config(group: Group) -> Any:
    """The configuration of a group; rate and steps are not in it."""
    module = importlib.import_module(f"configs.{group.config}")
    config = module.get_config(group.arg)
    config.feed = "device"
    data = DATA[group.data]
    train = dict(num_train_videos=data.videos, num_train_frames=data.frames)
    held_out = dict(num_validation_videos=data.held_out, num_test_videos=data.held_out)
    config.data.update(train | held_out, num_frames=data.held_out_frames, domain=data.domain)
    config.grow_share = 0.0
    config.augmentation = dataclasses.asdict(Augmentation())  # plans say themselves what varies
    config.preprocessing.frame_size = data.frame_size
    config.lock()
    config.update_from_flattened_dict(dict(group.set))
    return config
