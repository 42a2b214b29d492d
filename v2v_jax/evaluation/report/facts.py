"""What a run was: parameters, hardware, duration, speed; as far as it was recorded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from v2v_jax.evaluation.report.curves import Curve
from v2v_jax.evaluation.report.tables import duration
from v2v_jax.run.sessions import Training


def facts(
    training: Training | None, curves: Mapping[str, Curve], parameters: int | None = None
) -> dict[str, str]:
    """Name → value, both for people; what is not known is left out.

    Args:
      training: of `run.sessions.read_training`.
      curves: as `curves.read_curves` gives them.
      parameters: of the network; None: as recorded.
    """
    found = {}
    if parameters is None and training is not None:
        parameters = training.parameters
    if parameters is not None:
        found["parameters"] = f"{parameters:,}"
    if training is not None:
        found["trained on"] = "; then ".join(training.hardware)
        if training.seconds:
            found["training took"] = duration(training.seconds)
    steps, _ = curves.get("train/loss", ((), ()))
    if len(steps):
        found["steps"] = f"{steps[-1]:,.0f}"
    _, speeds = curves.get("train/clips_per_second", ((), ()))
    if len(speeds):
        found["clips/s in training"] = f"{np.median(speeds):.3g} (median)"
    return found
