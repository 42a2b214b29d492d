"""Early stopping: a run ends where its evaluations no longer get better (`config.patience`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal


class EarlyStopping:
    """Counts the evaluations since the best one.

    Attributes:
      since_best: how many there were; 0 before there was one.
    """

    def __init__(
        self,
        patience: int,
        better: Literal["max", "min"],
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Begins, or goes on.

        Args:
          patience: how many evaluations in a row may bring nothing better; 0: any number.
          better: the direction of the metric.
          progress: what `progress()` returned when the checkpoint was saved that the run goes on
            from; None, or empty: it is a new run.
        """
        progress = progress or {}
        self._patience = patience
        self._sign = 1 if better == "max" else -1
        self._best: float | None = progress.get("best")
        self.since_best: int = progress.get("since_best", 0)

    def add(self, value: float) -> None:
        """Takes the headline metric of an evaluation; NaN, and the same value again, is no better.

        Called once an evaluation, on every process with the same value.
        """
        if math.isfinite(value) and (
            self._best is None or self._sign * value > self._sign * self._best
        ):
            self._best, self.since_best = value, 0
        else:
            self.since_best += 1

    @property
    def is_over(self) -> bool:
        """Whether the run is to end."""
        return 0 < self._patience <= self.since_best

    def progress(self) -> dict[str, Any]:
        """JSON-ready: what a resumed run needs to end where this one would."""
        return {"best": self._best, "since_best": self.since_best}
