"""Networks without weights, for what comes before and after a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from v2v_jax.inference.network import TrainedNetwork
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.tasks import Color, Task


def stub(
    apply: Callable[[Any, jax.Array], jax.Array] | None, task: Task | None = None
) -> TrainedNetwork:
    """A network for windows of 8x16x16 at a scale of 24 rows; default: colours as they are."""
    preprocessing = Preprocessing(frame_size=(24, 32), crop_size=(16, 16), clip_length=8)
    apply = apply or (lambda params, video: video.astype(jnp.float32) / 255)
    task = task or Color(residual=False)
    return TrainedNetwork(lambda params, video: apply(params, video), {}, task, preprocessing)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
