"""Decoded frames as RGB arrays, of one size and as players show them."""

from __future__ import annotations

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter

from v2v_jax.media.frame_arrays import check_size

# swscale widens the bicubic kernel by the reduction factor, so shrinking does not alias; "area"
# jumps between 1 and 2 source pixels at factors like UCF101's 1.875.
INTERPOLATION = Interpolation.BICUBIC


class FrameConverter:
    """Converts decoded frames to RGB (H,W,3) uint8, upright and of one size."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        """size: (H,W); None takes the first frame's. ValueError if it is neither."""
        check_size(size)
        self._size = size
        # Scaling to planes is nearly three times as fast as to interleaved colours, with the same
        # result; without scaling it is the other way round.
        self._format = "gbrp" if size else "rgb24"
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H,W,3) uint8 RGB, 0..255."""
        on_its_side, flip_rows, flip_columns = _display(frame)
        h, w = self._size or (frame.height, frame.width)
        if self._size and on_its_side:
            h, w = w, h
        rgb = self._reformatter.reformat(
            frame, w, h, self._format, interpolation=INTERPOLATION, threads=1
        )
        array = rgb.to_ndarray()
        if on_its_side:
            array = array.swapaxes(0, 1)
        array = array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        self._size = array.shape[:2]  # a later change of resolution is scaled to this
        return array


def lies_on_its_side(frame: av.VideoFrame) -> bool:
    """Whether rows and columns are to be swapped to show a frame."""
    return _display(frame)[0]


def _display(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is to be shown: whether to swap its axes, then to reverse rows and columns.

    Telephones store upright videos lying, and front cameras mirrored ones, with a matrix that takes
    (column, row) of the stored frame to those of the shown one: 9 numbers in steps of 1/65536,
    (a, b, u, c, d, v, x, y, w). Other angles than quarter turns count as the nearest of them.
    """
    matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0
