"""Evaluation on the test split: pooled metrics beside the trivial baseline, pictures, a report."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

import v2v_jax
from v2v_jax.drawing import panels
from v2v_jax.errors import CheckpointError
from v2v_jax.evaluation.report.curves import read_curves
from v2v_jax.evaluation.report.page import Report, ReportedClip, page, ranks
from v2v_jax.input.base_feed import Feed
from v2v_jax.input.clips import Clips, evaluation_windows
from v2v_jax.input.feeds import make_feed
from v2v_jax.run.experiment import Experiment, make_experiment
from v2v_jax.run.sessions import count_parameters, read_training
from v2v_jax.run.which_checkpoint import find_checkpoint
from v2v_jax.system import compiler_options, sharding
from v2v_jax.system.console import console, print_table, progress
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.platforms import traced_for
from v2v_jax.system.together import compiled_together
from v2v_jax.system.whole_files import write_text
from v2v_jax.tasks import Task, metrics
from v2v_jax.tasks.task import Picture


@dataclasses.dataclass(frozen=True)
class WindowResult:
    """One window of the split and the task's metrics on it alone.

    Attributes:
      name: its video and first frame, for people.
      plan, row: where it stands in `Evaluator.plans`.
      values: metric → value; NaN where the window has nothing to judge.
    """

    name: str
    plan: Clips
    row: int
    values: Mapping[str, float]


class Evaluator:
    """Evaluates parameters on every window of a split; compiled once, used often."""

    def __init__(self, experiment: Experiment, feed: Feed | None = None, *, waits: bool = True):
        """Reads the split, or begins to.

        Args:
          experiment: of that split.
          feed: what to read through; default: as configured.
          waits: until all of a split that is kept on the device is there.
        """
        self._experiment = experiment
        config, mesh = experiment.config, experiment.mesh
        self._feed = feed or make_feed(
            config.feed,
            experiment.dataset,
            experiment.task.evaluation_fields,
            experiment.preprocessing,
            mesh,
            progress,
            count_replacements=False,
            grows=not waits,
        )
        # Some multiple of the devices, whatever the configuration says, so that padding fills up.
        self._batch_size = math.ceil(config.eval_batch_size / mesh.devices.size) * mesh.devices.size
        everywhere, split = sharding.replicated(mesh), sharding.batch_sharded(mesh)
        options = compiler_options.of_inference(mesh.devices.flat[0].platform)
        jit = functools.partial(jax.jit, compiler_options=options)
        self._sums = compiled_together(jit(self._batch_sums, out_shardings=everywhere))
        # Pictures are drawn by each process from the whole batch.
        shown = everywhere if jax.process_count() > 1 else split
        self._predict = compiled_together(jit(self._batch_predictions, out_shardings=shown))

    def _forward(self, params, store, batch):
        with traced_for(self._experiment.mesh.devices.flat[0].platform):
            batch = self._feed.prepare(store, batch)
            task = self._experiment.task
            inputs = task.inputs(batch, self._experiment.preprocessing)
            raw = self._experiment.model.apply({"params": params}, inputs)
            return batch, task.complete(raw, batch)

    def _batch_sums(self, params, store, batch):
        """The task's sums of every clip alone: name → (B,…)."""
        batch, outputs = self._forward(params, store, batch)
        one = lambda x: jax.tree.map(lambda value: value[None], x)
        task = self._experiment.task
        return jax.vmap(lambda outputs, clip: task.sums(one(outputs), one(clip)))(outputs, batch)

    def _batch_predictions(self, params, store, batch):
        batch, outputs = self._forward(params, store, batch)
        return batch, self._experiment.task.predict(outputs)

    def plans(self) -> list[Clips]:
        """The batches of windows, the last one padded: the same on every process."""
        lengths = [video.num_frames for video in self._experiment.dataset.videos]
        preprocessing = self._experiment.preprocessing
        windows = evaluation_windows(
            lengths,
            preprocessing,
            batch_size=self._batch_size,
            stride=preprocessing.clip_length,
        )
        return list(windows)

    def __call__(self, params: Any, check: Callable[[], None] = lambda: None) -> dict[str, float]:
        """The task's metrics over all windows; `check` is called after each batch and may raise."""
        total = None
        for _, row, sums in self._window_sums(params):
            if row == 0:
                check()
            total = metrics.add(total, sums)
        return self.summarize(total)

    def summarize(self, sums: metrics.Sums) -> dict[str, float]:
        """The task's metrics; a warning where nothing was known to measure against."""
        task = self._experiment.task
        values = task.summarize(sums)
        if math.isnan(values[task.headline]):
            logging.warning(
                "%s is not a number: no voxel of the videos that were evaluated has a known "
                "target; v2v check-data says how many have one.",
                task.headline,
            )
        return values

    def windows(self, params: Any) -> tuple[dict[str, np.ndarray], list[WindowResult]]:
        """The task's sums over all windows, and the metrics of each window that counts."""
        total, results = None, []
        for plan, row, sums in self._window_sums(params):
            total = metrics.add(total, sums)
            if plan.mask[row]:
                values = self._experiment.task.summarize(metrics.add(None, sums))
                results.append(WindowResult(self._name(plan, row), plan, row, values))
        return total, results

    def _window_sums(self, params: Any) -> Iterator[tuple[Clips, int, metrics.Sums]]:
        """(batch, row, the task's sums of that clip) of every row; those of padding are zero."""
        plans = self.plans()
        pairs = zip(plans, self._feed.batches(plans), strict=True)
        for plan, batch in progress(pairs, len(plans), "evaluating", summary=False):
            sums = jax.tree.map(np.asarray, self._sums(params, self._feed.store, batch))
            for row in range(len(plan.mask)):
                yield plan, row, {name: value[row] for name, value in sums.items()}

    def _name(self, plan: Clips, row: int) -> str:
        video = self._experiment.dataset.videos[plan.video[row]].name
        return f"{video} frame {plan.start[row]}"

    def clip(self, params: Any, plan: Clips, row: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Fields (T,H,W,…) and prediction of one window.

        With several processes all of them call it, and get the same.
        """
        batch = next(iter(self._feed.batches([plan])))
        fields, prediction = self._predict(params, self._feed.store, batch)
        return {n: np.asarray(v[row]) for n, v in fields.items()}, np.asarray(prediction[row])

    def clips(self, params: Any, count: int) -> list[tuple[str, dict[str, np.ndarray], np.ndarray]]:
        """(name, fields (T,H,W,…), prediction) of up to `count` windows, spread over the split.

        With several processes all of them call it, and get the same.
        """
        places = [(p, row) for p in self.plans() for row in np.flatnonzero(p.mask)]
        count = min(count, len(places))
        chosen = [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)]
        return [(self._name(*place), *self.clip(params, *place)) for place in chosen]

    def pictures(self, params: Any, count: int) -> dict[str, np.ndarray]:
        """Stills (H,W,3) uint8 RGB of up to `count` windows, by name; the same windows each time.

        With several processes all of them call it; the first one draws, others get none.
        """
        clips = self.clips(params, count)
        if jax.process_index() > 0:
            return {}
        return {clip[0]: still(self._experiment.task, *clip) for clip in clips}


def evaluate(
    config: ConfigDict, workdir: str | pathlib.Path, *, report: bool = False
) -> dict[str, float]:
    """Evaluates a run's best checkpoint: prints a table, writes metrics.json and the pictures.

    Writes `workdir`/eval/metrics.json and, for each of `config.num_pictures` clips, NAME.png (some
    frames side by side), NAME.gif (all frames) and what else the task draws; with `report` also
    report.html, one page with all of it, the learning curves and the best and worst clips.

    Returns:
      The metrics as in metrics.json.

    Raises:
      CheckpointError: there is no checkpoint, or it does not fit the configuration.
    """
    workdir = pathlib.Path(workdir)
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(
            f"No checkpoint in {workdir}: train first, with the same --config and --workdir."
        )
    experiment = make_experiment(config, "test")
    with jax.set_mesh(experiment.mesh):
        return _evaluate(experiment, workdir, report)


def _evaluate(experiment: Experiment, workdir: pathlib.Path, report: bool) -> dict[str, float]:
    step, params = best_params(experiment, workdir)
    evaluator = Evaluator(experiment)
    sums, windows = evaluator.windows(params)
    values = evaluator.summarize(sums)
    clips = evaluator.clips(params, experiment.config.num_pictures)
    if report:  # all processes take part in predicting its clips
        written = make_report(experiment, evaluator, workdir, step, params, sums, windows)
    if jax.process_index() > 0:
        return values  # the first process writes
    folder = workdir / "eval"
    folder.mkdir(exist_ok=True)
    write_text(
        folder / "metrics.json", json.dumps({"step": step, **_json_ready(values)}, indent=2) + "\n"
    )
    print_metrics(experiment, step, values)
    for index, (name, clip, prediction) in enumerate(clips):
        draw(experiment, name, clip, prediction, folder / f"clip{index}")
    if report:
        write_text(folder / "report.html", page(written))
    console.print(f"Metrics and pictures are in {folder}")
    if report:
        console.print(f"The report, one page: {folder / 'report.html'}")
    return values


def make_report(
    experiment: Experiment,
    evaluator: Evaluator,
    workdir: pathlib.Path,
    step: int,
    params: Any,
    sums: Mapping[str, np.ndarray],
    windows: Sequence[WindowResult],
) -> Report:
    """What the page says of a run's parameters, from `Evaluator.windows`' results."""
    task, config = experiment.task, experiment.config
    scores = [window.values[task.headline] for window in windows]
    clips = []
    for rank, index in ranks(scores, task.better).items():
        window = windows[index]
        picture = task.picture(*evaluator.clip(params, window.plan, window.row))
        values = window.values
        if task.answers == "clips":  # of one clip alone the commonest class is always right
            values = {n: v for n, v in values.items() if not n.startswith("baseline_")}
        clips.append(ReportedClip(rank, window.name, values, picture))
    return Report(
        task=task.name,
        dataset=experiment.dataset.name,
        model=config.model.name,
        step=step,
        version=v2v_jax.__version__,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        config=trained_config(workdir) or config.to_json_best_effort(indent=2),
        headline=task.headline,
        better=task.better,
        baseline=task.baseline,
        units=task.units,
        values=task.summarize(sums),
        label_names=task.label_names,
        label_colors=task.label_colors,
        confusion=sums.get("confusion"),
        curves=read_curves(workdir / "metrics.jsonl"),
        scores=scores,
        clips=clips,
        parameters=count_parameters(params),
        training=read_training(workdir),
    )


def trained_config(workdir: pathlib.Path) -> str:
    """The configuration that the run was trained with; "" if it is damaged, or is not there."""
    path = workdir / "config.json"
    if not path.exists():  # copied weights
        return ""
    try:
        data = path.read_bytes()
        parse_object(data)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        logging.warning(
            "%s cannot be shown (%s); the report has the configuration of this evaluation.",
            *(path, reason),
        )
        return ""
    return data.decode(errors="replace").strip()


def best_params(experiment: Experiment, workdir: str | pathlib.Path) -> tuple[int, Any]:
    """(step, parameters) of a run's best checkpoint, or of its latest if none was evaluated.

    Raises:
      CheckpointError: there is no finished checkpoint, or it does not fit the configuration.
    """
    found = find_checkpoint(workdir)
    found.check_fits(experiment.about)
    return found.step, found.params(experiment.abstract_params())


def _json_ready(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def print_metrics(experiment: Experiment, step: int, values: Mapping[str, float]) -> None:
    """Prints V2V's metrics beside the trivial baseline's, and those of each class or other part."""
    task = experiment.task
    shown = lambda name: _number(values.get(name))
    names = [n for n in values if "/" not in n and not n.startswith("baseline_")]
    print_table(
        f"{task.name} on {experiment.dataset.name}, test split, step {step}",
        ("metric", experiment.config.model.name, task.baseline),
        [(name, shown(name), shown(f"baseline_{name}")) for name in names],
    )
    parted = [name.partition("/")[::2] for name in values if "/" in name]
    if parted:
        columns = list(dict.fromkeys(metric for metric, _ in parted))
        parts = dict.fromkeys(part for _, part in parted)
        rows = [(part, *(shown(f"{metric}/{part}") for metric in columns)) for part in parts]
        print_table("by class", ("class", *columns), rows)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "–" if math.isnan(value) else f"{value:.4f}"  # a class that does not occur


def draw(
    experiment: Experiment,
    name: str,
    clip: Mapping[str, np.ndarray],
    prediction: np.ndarray,
    path: pathlib.Path,
) -> None:
    """Writes the pictures of one clip: path.png, path.gif, path_<what else the task draws>.png.

    Args:
      clip: field → (T,H,W,…).
      prediction: (T,H,W[,K]), as the task's `predict` gives it.
    """
    task = experiment.task
    layout: Callable[..., dict] = lambda picture: dict(title=name, legends=picture.legends)
    picture = task.picture(clip, prediction)
    panels.write_png(path.with_suffix(".png"), still(task, name, clip, prediction, picture))
    panels.write_gif(
        path.with_suffix(".gif"), panels.animation(picture.columns, **layout(picture)), fps=8
    )
    for what, extra in task.more_pictures(clip, prediction).items():
        sheet = panels.panels(extra.columns, shown_frames(clip)[:2], **layout(extra))
        panels.write_png(path.with_name(f"{path.name}_{what}.png"), sheet)


def still(
    task: Task,
    name: str,
    clip: Mapping[str, np.ndarray],
    prediction: np.ndarray,
    picture: Picture | None = None,
) -> np.ndarray:
    """Four frames of a clip side by side, (H,W,3) uint8 RGB: input, prediction, truth and so on.

    Args:
      clip, prediction: see `draw`.
      picture: what the task draws of them, if that is at hand.
    """
    picture = picture or task.picture(clip, prediction)
    legends = picture.legends
    return panels.panels(picture.columns, shown_frames(clip), title=name, legends=legends)


def shown_frames(clip: Mapping[str, np.ndarray]) -> list[int]:
    """The numbers of the frames that a still shows: the first, the last, and two between."""
    return np.linspace(0, len(clip["video"]) - 1, 4).round().astype(int).tolist()
