"""What is watched while training: numbers that are not finite, jumps of the loss, the metrics."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from v2v_jax.datasets.base.reading import read_checked
from v2v_jax.errors import DataError, UserError
from v2v_jax.input.base_feed import Feed
from v2v_jax.input.clips import Clips, ClipSampler
from v2v_jax.run.experiment import Experiment
from v2v_jax.run.metrics_log import TRAINING, MetricsLog
from v2v_jax.run.schedule import Schedule
from v2v_jax.system.console import ProgressLine, console
from v2v_jax.tasks.metrics import add
from v2v_jax.training.callbacks import Callbacks

_WATCHED = ("loss", "gradient_norm", "parameter_norm")
# A loss is a spike if it lies further above the median of the last ones than ten times what their
# median distance from it stands for in a normal distribution, and than half of the median.
_WINDOW, _FEWEST = 101, 20
_SPIKE, _SPIKE_SHARE = 10 * 1.4826, 0.5


class TrainingDiverged(UserError):
    """The loss, the gradient or the parameters are not finite any more.

    Attributes:
      step: after which that was found.
    """

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


class Monitor:
    """Reads the steps' metrics one step late, so that the device never waits for the host."""

    def __init__(
        self,
        experiment: Experiment,
        schedule: Schedule,
        sampler: ClipSampler,
        feed: Feed,
        log: MetricsLog,
        first_step: int,
        progress: Mapping[str, Any] | None = None,
        callbacks: Callbacks | None = None,
    ):
        """Begins to watch.

        Args:
          progress: what `progress()` returned when the checkpoint was saved, if there was one.
          callbacks: are told of the steps that are logged.
        """
        progress = progress or {}
        self._experiment = experiment
        self._sampler = sampler
        self._feed = feed
        self._log = log
        self._callbacks = callbacks or Callbacks(())
        self._first_step = first_step
        self._losses = collections.deque(progress.get("losses", ()), maxlen=_WINDOW)
        self._skipped: int = progress.get("skipped", 0)  # in a row
        self._said_unknown = False
        self._schedule = schedule
        self.line = ProgressLine(first_step, self._schedule.num_steps)
        self._pending: tuple[int, dict[str, jax.Array]] | None = None

    def progress(self) -> dict[str, Any]:
        """JSON-ready: what a resumed run needs to warn and stop as this one would."""
        return {"losses": list(self._losses), "skipped": self._skipped}

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes a dispatched step's metrics and looks at those of the step before.

        Raises:
          TrainingDiverged: that step's loss or gradient, or a parameter after it, was not finite;
            or `config.skip_nonfinite` such steps were skipped and one more came.
        """
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Looks at the step that is still pending, waiting for it."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        self._check_finite(step, {name: float(metrics[name]) for name in _WATCHED}, metrics)
        if step == self._first_step + 1:
            self.line.restart(step)  # the first step's time is the compiler's
        if self._schedule.is_logged(step):
            self._report(step, metrics)

    def _check_finite(self, step: int, values: dict[str, float], metrics: Mapping) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        limit = self._experiment.config.skip_nonfinite
        if limit and float(metrics["skipped"]):
            self._skipped += 1
            name = bad[0] if bad else "update_norm"
            if self._skipped > limit:
                raise TrainingDiverged(
                    step,
                    f"{self._divergence(step, name, metrics)} It is step number {self._skipped} in "
                    f"a row to be skipped; skip_nonfinite allows {limit}.",
                )
            clips = self._clips(step)
            self._log.write_event(step, "skipped", {"clips": clips})
            self._say(
                f"Step {step} is skipped: its {name.replace('_', ' ')} is not finite; its clips "
                f"are {', '.join(clips)}."
            )
        elif bad:
            raise TrainingDiverged(step, self._divergence(step, bad[0], metrics))
        else:
            self._skipped = 0
            if values["loss"] == values["gradient_norm"] == 0 and not self._said_unknown:
                self._said_unknown = True
                self._say(
                    f"Step {step} learns nothing: no voxel of its clips has a known target; they "
                    f"are {', '.join(self._clips(step))}. v2v check-data says how many have one."
                )
            self._check_spike(step, values["loss"])

    def _check_spike(self, step: int, loss: float) -> None:
        known = list(self._losses)
        self._losses.append(loss)
        if len(known) < _FEWEST:
            return
        median = statistics.median(known)
        spread = statistics.median(abs(value - median) for value in known)
        if loss > median + max(_SPIKE * spread, _SPIKE_SHARE * abs(median)):
            clips = self._clips(step)
            self._log.write_event(step, "spike", {"loss": loss, "median": median, "clips": clips})
            self._say(
                f"The loss jumps to {loss:.4g} at step {step}, from a median of {median:.4g}; its "
                f"clips are {', '.join(clips)}."
            )

    def _say(self, message: str) -> None:
        if jax.process_index() == 0:
            logging.warning("%s", message)

    def _plan(self, step: int) -> Clips:
        return self._sampler.plan(step - 1)

    def _clips(self, step: int) -> list[str]:
        plan, videos = self._plan(step), self._experiment.dataset.videos
        return [f"{videos[v].name} frame {s}" for v, s in zip(plan.video, plan.start)]

    def _divergence(self, step: int, name: str, metrics: Mapping[str, Any]) -> str:
        bad = self._bad_targets(step)
        blame = f" Not finite in the data itself: {'; '.join(bad)}." if bad else ""
        return (
            f"The {name.replace('_', ' ')} is {float(metrics[name])} at step {step}, whose clips "
            f"are {', '.join(self._clips(step))}; lower --config.optimizer.learning_rate, or check "
            f"these clips.{blame}"
        )

    def _bad_targets(self, step: int) -> list[str]:
        """Reads the step's clips once more: which have targets that claim to be known but are NaN.

        Where there is no mask of what is known, infinity stands for what is not.
        """
        experiment, plan = self._experiment, self._plan(step)
        length, found = experiment.training_clips.clip_length, []
        for name, video, start in zip(self._clips(step), plan.video, plan.start):
            try:
                clip = read_checked(
                    experiment.dataset, video, start, start + length, experiment.task.fields
                )
            except DataError as error:
                found.append(f"{name} ({error})")
                continue
            for field, values in clip.items():
                if not np.issubdtype(values.dtype, np.floating):
                    continue
                known = clip.get(f"{field}_valid")
                wrong = np.isnan(values) if known is None else ~np.isfinite(values[known])
                if wrong.any():
                    found.append(f"{field} of {name}")
        return found

    def _report(self, step: int, metrics: Mapping[str, Any]) -> None:
        task, batch_size = self._experiment.task, self._experiment.config.batch_size
        scalars = {name: float(value) for name, value in metrics.items() if name != "sums"}
        headline = task.summarize(add(None, metrics["sums"]))[task.headline]
        speed = self.line.update(
            step, batch_size, {"loss": scalars["loss"], task.headline: headline}
        )
        values = {**scalars, task.headline: headline}
        if speed is not None:
            values["clips_per_second"] = speed
        self._log.write(step, TRAINING, values)
        self._callbacks.logged(step, values)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the progress line and says how many unreadable videos were skipped."""
        self.line.end()
        if count := len(self._feed.skipped):
            videos = "1 unreadable video was" if count == 1 else f"{count} unreadable videos were"
            console.print(f"{videos} skipped")
