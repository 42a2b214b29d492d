"""What follows a run from outside of it: `v2v_jax.train(config, workdir, callbacks=[…])`.

TensorBoard's files are written by one (`training.tensorboard`); docs/guides/following_a_run.md has
another, for Weights & Biases.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import ClassVar

import numpy as np
from ml_collections import ConfigDict


class Callback:
    """Follows a run; a subclass overrides the methods that it needs.

    The thread that trains calls them, in the order of the steps, where metrics.jsonl is written.
    That is one step late, so the device already has its next step meanwhile. What they raise ends
    the run as an error of its own would: the last checkpoint stays.

    A run that goes on from a checkpoint starts with `first_step` above 0. A killed run may have
    reported steps after that checkpoint: they are trained, and reported, again.

    Attributes:
      every_process: False: with several processes, only the first one calls it.
    """

    every_process: ClassVar[bool] = False

    def start(self, config: ConfigDict, workdir: pathlib.Path, first_step: int) -> None:
        """Called once, before the first step.

        Args:
          config: the run's, complete; not to be changed.
          workdir: the run's folder.
          first_step: steps that are done: 0, or those of the checkpoint that the run goes on from.
        """

    def logged(self, step: int, values: Mapping[str, float]) -> None:
        """Called after the steps that are logged (`config.log_every`).

        Args:
          step: the k-th, from 1.
          values: `loss`, the task's headline metric, `learning_rate`, the global norms
            `gradient_norm`, `update_norm` and `parameter_norm`, and, but for the first step,
            `clips_per_second`; as "train/NAME" in metrics.jsonl.
        """

    def evaluated(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """Called after every evaluation, while its checkpoint is being saved.

        Args:
          step: as in `logged`.
          values: the task's metrics on the validation split, "baseline_NAME" those of the trivial
            answer, "NAME/CLASS" those of a class; NaN where there is no truth to compare with. As
            "eval/NAME" in metrics.jsonl.
          pictures: of up to `config.num_pictures` clips of that split, always the same ones: name →
            (H,W,3) uint8 RGB, as v2v eval draws them. Empty but on the first process.
        """

    def end(self, error: BaseException | None) -> None:
        """Called once, whatever ends the run.

        Args:
          error: None: it is complete, or stopped early; `v2v_jax.errors.Stopped`: SIGTERM or Ctrl-C
            asked it to end, and it is saved; else what went wrong.
        """


class Callbacks:
    """Several as one; a context manager that ends those which were started.

    Args:
      callbacks: called in this order, ended in the opposite one.
      first_process: whether this is it.
    """

    def __init__(self, callbacks: Iterable[Callback], first_process: bool = True) -> None:
        self._active = [one for one in callbacks if first_process or one.every_process]
        self._started = contextlib.ExitStack()

    def start(self, config: ConfigDict, workdir: pathlib.Path, first_step: int) -> None:
        """See `Callback.start`."""
        for one in self._active:
            one.start(config, workdir, first_step)
            self._started.push(functools.partial(_end, one))

    def logged(self, step: int, values: Mapping[str, float]) -> None:
        """See `Callback.logged`."""
        for one in self._active:
            one.logged(step, values)

    def evaluated(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """See `Callback.evaluated`."""
        for one in self._active:
            one.evaluated(step, values, pictures)

    def __enter__(self) -> Callbacks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._started.__exit__(kind, error, trace)


def _end(
    callback: Callback,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """For an ExitStack: whatever `end` returns, the error goes on."""
    callback.end(error)
