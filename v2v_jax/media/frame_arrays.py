"""Arrays as frames: which are taken, and of all others what makes frames of them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from v2v_jax.errors import DataError

_COLORS = (1, 3, 4)  # grey, RGB, RGB and opacity
_DEEPER = (10, 12, 16)  # bits a value of cameras and medical scanners, beside 8


def check_size(size: Any) -> None:
    """Raises ValueError unless `size` is None, or an (H,W) that frames can be resized to."""
    if size is None:
        return
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueError(f"size is {size!r}; expected (H,W), two whole numbers of at least 1.")


def check_video(video: Any) -> np.ndarray:
    """A video's array as it is, where `rgb_frame` takes its frames: (T,H,W,3|4|1) or (T,H,W) uint8.

    Raises:
      DataError: it is none; says what it is and which expression makes one of it.
    """
    array = _as_array(video, "The video")
    found = f"The video is an array {array.shape} {array.dtype}"
    expected = "expected (T,H,W,3) uint8 RGB, 0..255"
    if array.ndim == 5:
        raise DataError(
            f"{found}; {expected}: give one video of the batch after the other, as video[0]."
        )
    if array.ndim == 3 and array.shape[2] in (3, 4):
        raise DataError(f"{found}; {expected}: for one picture give picture[None].")
    if array.ndim not in (3, 4):
        raise DataError(f"{found}; {expected}.")
    order = None
    if array.ndim == 4 and array.shape[3] not in _COLORS:
        if array.shape[1] in _COLORS:
            order = (0, 2, 3, 1)
        elif array.shape[0] == 3:
            order = (1, 2, 3, 0)
    _check(array, order, "video", found, expected)
    return array


def rgb_frame(frame: Any, what: str) -> np.ndarray:
    """A frame as (H,W,3) uint8 RGB: grey is repeated, opacity left out.

    Args:
      frame: (H,W,3), (H,W,4), (H,W,1) or (H,W) uint8.
      what: which one it is, for the message.

    Raises:
      DataError: it is none; says what it is and which expression makes one of it.
    """
    array = _as_array(frame, what)
    found, expected = f"{what} is {array.shape} {array.dtype}", "expected (H,W,3) uint8 RGB, 0..255"
    if array.ndim == 4:
        raise DataError(f"{found}; {expected}: give its frames one by one, or the array alone.")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"{found}; {expected}.")
    turned = array.ndim == 3 and array.shape[2] not in _COLORS and array.shape[0] in _COLORS
    _check(array, (1, 2, 0) if turned else None, "frame", found, expected)
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] not in _COLORS:
        raise DataError(
            f"{what} has {array.shape[2]} channels; expected 1 (grey), 3 (RGB) or 4 (RGBA)."
        )
    return array[..., :3]


def _as_array(value: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a GPU, ragged lists
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DataError(f"{what} cannot be made a NumPy array ({reason}).") from error


def _check(
    array: np.ndarray, order: tuple[int, ...] | None, name: str, found: str, expected: str
) -> None:
    """Raises DataError if the axes are to be put in another order, or the values converted.

    Args:
      order: of the axes as they should be; None: as they are.
      name: what the caller's array is called in the message.
    """
    steps, expression = [], name
    if order is not None:
        steps.append("put its colours last")
        expression = f"{name}.transpose{order}"
    if array.dtype != np.uint8:
        values, step, expression = _conversion(array, expression)
        found += values
        steps.append(step)
    if steps:
        advice = " and ".join(filter(None, steps))
        raise DataError(f"{found}; {expected}: {advice}{f', {expression}' if expression else ''}.")


def _conversion(array: np.ndarray, name: str) -> tuple[str, str, str]:
    """Of values that are no uint8: their range, what to do in words, and the expression."""
    if array.dtype == bool:
        return "", "multiply by 255", f"255 * {name}.astype(numpy.uint8)"
    if array.dtype.kind not in "fiu" or not array.size:
        return "", "convert it", ""
    least, most = float(array.min()), float(array.max())
    values = f" in {least:.6g}..{most:.6g}"
    if not np.isfinite([least, most]).all():
        return " with values that are not finite", "replace these", f"numpy.nan_to_num({name})"
    if array.dtype.kind == "f":
        return values, *_from_floats(least, most, name)
    if least < 0:
        return values, "bring it into 0..255", ""
    for bits in _DEEPER if most > 255 else ():
        if most < 2**bits:
            scale = 2 ** (bits - 8)
            return values, f"divide by {scale}", f"({name} // {scale}).astype(numpy.uint8)"
    if most > 255:
        return values, "bring it into 0..255", ""
    return values, "convert it", f"{name}.astype(numpy.uint8)"


def _from_floats(least: float, most: float, name: str) -> tuple[str, str]:
    if 0 <= least and most <= 1:
        step, expression = "multiply by 255", f"(255 * {name})"
    elif -1 <= least and most <= 1:
        step, expression = "add 1, multiply by 127.5", f"(127.5 * ({name} + 1))"
    elif 0 <= least and most <= 255:
        step, expression = "round it", name
    else:
        return "undo its normalisation: multiply by its deviation and add its mean", ""
    return f"{step} and convert", f"{expression}.round().astype(numpy.uint8)"
