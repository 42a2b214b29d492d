"""TensorBoard's event files: metrics, learning rate, examples as pictures, the configuration.

To look at them:

    tensorboard --logdir=runs
"""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from v2v_jax.run.metrics_log import EVALUATION, TRAINING
from v2v_jax.training.callbacks import Callback


class TensorBoard(Callback):
    """Writes workdir/tensorboard; every run has one.

    Events are written at once, as they come: SummaryWriter would hang when its disk is full. Then
    that is reported, and they end.
    """

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, config: ConfigDict, workdir: pathlib.Path, first_step: int) -> None:
        """See `Callback.start`."""
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event, self._summary = Event, summary
        self._folder = workdir / "tensorboard"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = str(self._folder / "events")
            self._writer = EventsWriter(name, f".{os.getpid()}.{first_step}")
        except OSError as error:
            self._give_up(error)
            return
        # TensorBoard drops what earlier files say of the steps from this one on.
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=first_step + 1, session_log=start))
        # Indented, it is code to TensorBoard's Markdown.
        lines = config.to_json_best_effort(indent=2).splitlines()
        self._add(first_step, summary.text("config", "\n".join(f"    {line}" for line in lines)))

    def logged(self, step: int, values: Mapping[str, float]) -> None:
        """See `Callback.logged`."""
        self._add_scalars(step, TRAINING, values)

    def evaluated(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """See `Callback.evaluated`."""
        self._add_scalars(step, EVALUATION, values)
        for number, (name, picture) in enumerate(pictures.items()):
            # The tag, which a slider over the steps belongs to, is a number: names hold anything.
            summary = self._summary.image(f"examples/{number}", picture, dataformats="HWC")
            summary.value[0].metadata.display_name = name
            self._add(step, summary)

    def end(self, error: BaseException | None) -> None:
        """See `Callback.end`."""
        if self._writer is not None:
            self._writer.close()

    def _add_scalars(self, step: int, prefix: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._add(step, self._summary.scalar(f"{prefix}/{name}", value))

    def _add(self, step: int, summary: Any) -> None:
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def _write(self, event: Any) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        reason = error.strerror
        logging.error("Cannot write to %s (%s); its curves end here.", self._folder, reason)
        self._writer = None
