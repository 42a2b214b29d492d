"""What colour hints are worth: one clip with and without them, and the error by their number.

    python -m experiments.hints --workdir=runs/color_hints --output=docs/images/color_hints.png

WORKDIR is a run of configs/color_hints.py. Writes the picture and, beside it, the numbers as JSON:
the average distance error (paper section 6) of the whole test split with exactly 0, 1, 2, … hints a
clip of 16 frames, and of the grey frame.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.trained_runs import TrainedRun, open_run
from v2v_jax.drawing import panels
from v2v_jax.drawing.layout import join
from v2v_jax.errors import ConfigError
from v2v_jax.evaluation.evaluator import Evaluator
from v2v_jax.input.base_feed import Feed
from v2v_jax.input.feeds import make_feed
from v2v_jax.system.console import console, progress
from v2v_jax.system.whole_files import write_text
from v2v_jax.tasks.color_hints import hint_mask

NUMBERS = (0, 1, 2, 4, 8, 16, 32, 64)
_FRAMES = (0, 5, 10, 15)


class HintedFeed:
    """A feed whose every clip has exactly `number` hints."""

    def __init__(self, feed: Feed, number: int):
        self._feed, self._number = feed, number
        self.store, self.batches, self.skipped = feed.store, feed.batches, feed.skipped

    def prepare(self, store: Any, batch: Any) -> Any:
        """Traced inside the jitted step."""
        clips = self._feed.prepare(store, batch)
        mask = hint_mask(clips["video"], most=self._number, fewest=self._number)
        return clips | {"hint_mask": mask}


def measure(run: TrainedRun, shown: int) -> tuple[dict[int, float], float, dict[int, Any]]:
    """The error by the number of hints, the grey frame's, and one clip for 0 and `shown` hints."""
    experiment = run.experiment
    with jax.set_mesh(experiment.mesh):
        feed = make_feed(
            "device",
            experiment.dataset,
            experiment.task.fields,
            experiment.preprocessing,
            experiment.mesh,
            progress,
            count_replacements=False,
        )
        errors, clips, gray = {}, {}, float("nan")
        for number in sorted({*NUMBERS, shown}):
            evaluator = Evaluator(experiment, HintedFeed(feed, number))
            values = evaluator(run.params)
            errors[number], gray = values["ade"], values["baseline_ade"]
            console.print(f"{number} hints: ADE {errors[number]:.4f}  (grey {gray:.4f})")
            if number in (0, shown):
                clips[number] = evaluator.clips(run.params, 2)[0]
    return errors, gray, clips


def draw(run: TrainedRun, errors: dict[int, float], gray: float, clips: dict[int, Any]) -> Any:
    """(H,W,3) uint8: grey, hints, results and truth of one clip; the error by number of hints."""
    shown = max(clips)
    name, clip, prediction = clips[shown]
    task = run.experiment.task
    columns = task.picture(clip, prediction).columns
    alone = task.picture(clips[0][1], clips[0][2]).columns
    frames = [t for t in _FRAMES if t < len(clip["video"])]
    sheet = panels.panels(
        {
            "grey": columns["input"],
            f"{shown} hints": columns["hints"],
            "result": columns["prediction"],
            "without hints": alone["prediction"],
            "truth": columns["truth"],
        },
        frames,
        title=name,
    )
    return join([sheet, chart(errors, gray)], axis=0)


def chart(errors: dict[int, float], gray: float) -> np.ndarray:
    """(H,W,3) uint8 RGB: the error over the number of hints."""
    figure = Figure(figsize=(7, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    numbers = sorted(errors)
    axes.plot(range(len(numbers)), [errors[n] for n in numbers], "o-", label="with hints")
    axes.axhline(gray, color="0.5", linestyle="--", label="grey frame")
    axes.set_xticks(range(len(numbers)), [str(n) for n in numbers])
    axes.set_xlabel("hints a clip")
    axes.set_ylabel("average distance error")
    axes.set_ylim(bottom=0)
    axes.legend()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def main(argv: list[str] | None = None) -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--shown", type=int, default=16, help="hints in the picture's clip")
    parser.add_argument("--scenes", type=int, default=60, help="test videos, if of scenes")
    args = parser.parse_args(argv)
    run = open_run(args.workdir, scenes=args.scenes)
    if not getattr(run.experiment.task, "hints", 0):
        raise ConfigError(f"The run in {args.workdir} is not one of configs/color_hints.py.")
    errors, gray, clips = measure(run, args.shown)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    panels.write_png(args.output, draw(run, errors, gray, clips))
    numbers = {"step": run.step, "ade": errors, "grey_ade": gray}
    write_text(args.output.with_suffix(".json"), json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
