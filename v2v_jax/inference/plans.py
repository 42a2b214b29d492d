"""How the frames of a video are predicted: which windows, in which batches, to which end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from v2v_jax.inference.blending import Finish
from v2v_jax.inference.windows import Axis


class Frame(NamedTuple):
    """One frame of a video.

    Attributes:
      whole: (H,W,3) uint8, as it came; the scaled one where nobody looks at it.
      scaled: (h,w,3) uint8, as the network sees it.
    """

    whole: np.ndarray
    scaled: np.ndarray


class Plan(NamedTuple):
    """How frames of one size are predicted.

    Attributes:
      size: (H,W) that the network sees, without padding.
      window: (T,H,W).
      batch_size: windows a call of the network.
      rows, columns: the windows along H and W.
      finish: what becomes of blended values, and `reads_video` whether it looks at the frames.
      scale: (2,) float32 pixels of the video a pixel that the network sees, (x, y).
    """

    size: tuple[int, int]
    window: tuple[int, int, int]
    batch_size: int
    rows: Axis
    columns: Axis
    finish: Finish
    reads_video: bool
    scale: np.ndarray

    @property
    def num_windows(self) -> int:
        """Windows that cover a frame."""
        return len(self.rows.starts) * len(self.columns.starts)
