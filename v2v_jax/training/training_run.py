"""A training run under way: its state, what is kept of it on disk, and who is told of it."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import jax

from v2v_jax.errors import CheckpointError
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.experiment import TrainState
from v2v_jax.run.metrics_log import EVALUATION, MetricsLog
from v2v_jax.run.sessions import Session
from v2v_jax.system import causes
from v2v_jax.system.console import console, waiting
from v2v_jax.system.whole_files import is_temporary, write_text
from v2v_jax.training import heap
from v2v_jax.training.callbacks import Callback, Callbacks
from v2v_jax.training.early_stopping import EarlyStopping
from v2v_jax.training.monitor import Monitor
from v2v_jax.training.preemption import StopRequest
from v2v_jax.training.setup import Setup, make_sampler
from v2v_jax.training.start import first_state
from v2v_jax.training.step import Metrics
from v2v_jax.training.tensorboard import TensorBoard


class TrainingRun:
    """What the loop of `training.loop.train` does beside its steps; a context manager.

    Attributes:
      sampler: the clips of every step.
      state: after `step` steps.
      step: how many steps are done.
      values: the metrics of the last evaluation; None before the first one.
    """

    def __init__(
        self,
        setup: Setup,
        seed: int,
        workdir: pathlib.Path,
        stop: StopRequest,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self._setup, self._stop, self._callbacks = setup, stop, callbacks
        self._experiment, self._schedule = setup.for_seed(seed), setup.schedule
        self._task, self._config = self._experiment.task, self._experiment.config
        self._workdir = workdir
        self._open = contextlib.ExitStack()  # closes also what an error or Ctrl-C leaves open
        self.values: dict[str, float] | None = None

    def __enter__(self) -> TrainingRun:
        with contextlib.ExitStack() as opened:
            self._begin(opened)
            self._open = opened.pop_all()
        return self

    def _begin(self, opened: contextlib.ExitStack) -> None:
        """Goes on from the latest checkpoint, or begins; opens all that is written."""
        experiment, schedule, workdir = self._experiment, self._schedule, self._workdir
        self.sampler = make_sampler(experiment, workdir)  # what cannot be cut out leaves no folder
        goal = dict(headline=self._task.headline, better=self._task.better)
        self._checkpoints = Checkpoints(workdir, experiment.about, **goal, writable=True)
        opened.enter_context(self._checkpoints)
        self.state, step, progress = first_state(self._setup, experiment, self._checkpoints)
        self.step = self.first_step = step
        self._evaluated = bool(self._checkpoints.metrics(step))
        feed, _ = self._setup.feed, self._setup.evaluator  # both begin to read
        first_process = jax.process_index() == 0
        with _written_in(workdir):
            self._log = MetricsLog(workdir, step, first_process, evaluated=self._evaluated)
            opened.enter_context(self._log)
            if first_process:
                text = self._config.to_json_best_effort(indent=2)
                write_text(workdir / "config.json", text + "\n")
        trains = first_process and step < schedule.num_steps
        self._session = Session(workdir, step, self.state.params, trains)
        self._told = Callbacks((TensorBoard(), *self._callbacks), first_process)
        opened.enter_context(self._told)
        self._told.start(self._config, workdir, step)
        places = (experiment, schedule, self.sampler, feed, self._log, step)
        self._monitor = opened.enter_context(Monitor(*places, progress, self._told))
        patience = self._config.get("patience", 0)
        self._stopping = EarlyStopping(patience, self._task.better, progress.get("stopping"))

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)

    @property
    def is_over(self) -> bool:
        """Whether no step is to follow: all are done, or the run stops early."""
        return self.step >= self._schedule.num_steps or self._stopping.is_over

    def catch_up(self) -> None:
        """Evaluates a checkpoint that was saved, but ended before its evaluation."""
        if self.step and self._schedule.is_evaluated(self.step) and not self._evaluated:
            self.evaluate()

    def take(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Takes the state after `step`, and looks at the metrics of the step before it.

        Raises:
          TrainingDiverged: a number is not finite.
          Stopped: SIGTERM or Ctrl-C asked the run to end; the state is saved.
        """
        self.step, self.state = step, state  # the one before is donated
        if step == self.first_step + 1:
            heap.release()  # of what the compiler needed
        self._monitor.add(step, metrics)
        if self._checkpoints.check():
            heap.release()  # of what writing it needed, in the holes of many threads' heaps
        self._stop_if_asked()

    def save(self, values: Mapping[str, float] | None = None) -> None:
        """Saves the state, in the background, with the metrics of its evaluation if it has one."""
        self._monitor.flush()  # so that no checkpoint is written after a loss that is not finite
        self._log.sync()
        self._session.note(self.step)
        noted = {**self._monitor.progress(), "stopping": self._stopping.progress()}
        self._checkpoints.save(self.state, self.step, values, noted)

    def _stop_if_asked(self) -> None:
        if not self._stop.reached():
            return
        self.save()
        self._checkpoints.close()
        raise self._stop.stopped(
            f"after step {self.step} of {self._schedule.num_steps}, which is saved; the same "
            "command, or call, goes on from there."
        )

    def evaluate(self) -> None:
        """Evaluates the state, saves it, and shows examples to those who are told."""
        step, evaluator = self.step, self._setup.evaluator
        self._monitor.flush()
        with self._monitor.line.pause():
            self.values = evaluator(self.state.params, self._stop_if_asked)
            self._log.write(step, EVALUATION, self.values)
            self._report(self.values)
            self._stopping.add(self.values[self._task.headline])
            is_last = step == self._schedule.num_steps
            if self._config.get("save_every_evaluation", True) or is_last:
                self.save(self.values)
            with waiting("drawing examples"):
                pictures = evaluator.pictures(self.state.params, self._config.num_pictures)
            self._told.evaluated(step, self.values, pictures)
            heap.release()

    def finish(self) -> dict[str, float]:
        """The last evaluation's metrics; one is made if nothing was left to train."""
        if self.values is None:
            self.values = self._setup.evaluator(self.state.params)
            self._report(self.values)
        if self._stopping.is_over and self.step < self._schedule.num_steps:
            self._report_early()
        return self.values

    def _report(self, values: Mapping[str, float]) -> None:
        """Prints the headline metric of an evaluation beside the trivial answer's."""
        task, name = self._task, self._task.headline
        console.print(
            f"step {self.step}  {self._setup.split} {name} {values[name]:.4f}  "
            f"({task.baseline}: {values[f'baseline_{name}']:.4f})"
        )

    def _report_early(self) -> None:
        """Says why the run ended before its last step, and what is left of it; on all processes."""
        self._checkpoints.wait()
        console.print(
            f"Stopped early, after step {self.step} of {self._schedule.num_steps}: "
            f"{self._stopping.since_best} evaluations in a row brought no better "
            f"{self._setup.split} {self._task.headline}. The best checkpoint is step "
            f"{self._checkpoints.best_step()}'s; v2v eval and v2v predict use it."
        )


@contextlib.contextmanager
def _written_in(workdir: pathlib.Path) -> Iterator[None]:
    """Says in one sentence what the system answers to writing a file of a run's folder."""
    try:
        yield
    except OSError as error:
        path = pathlib.Path(os.fsdecode(error.filename2 or error.filename or workdir))
        if is_temporary(path.name):
            path = path.parent
        raise CheckpointError(
            f"Cannot write {path} ({causes.reason(error)}); {causes.for_writing(error)}."
        ) from error
