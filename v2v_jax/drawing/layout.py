"""Text as pictures, and pictures beside and below one another; all (H,W,3) uint8 RGB on white."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK = 24  # grey level of text, on white
GAP = 6  # px between cells
TEXT_SIZE = 16  # px


def expect(ok: bool, name: str, array: np.ndarray, wanted: str) -> None:
    """Raises ValueError, naming the array's dtype and shape and what was wanted, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} must be {wanted}; got {array.dtype} of shape {array.shape}.")


@functools.lru_cache(maxsize=8)
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    # By path: matplotlib's font manager would search the whole machine's fonts first, and importing
    # matplotlib, only to ask where it keeps them, takes as long as ten frames.
    matplotlib = importlib.util.find_spec("matplotlib")
    assert matplotlib is not None and matplotlib.origin is not None
    fonts = pathlib.Path(matplotlib.origin).with_name("mpl-data") / "fonts" / "ttf"
    return ImageFont.truetype(fonts / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def text_picture(
    text: str,
    width: int | None = None,
    size: int = TEXT_SIZE,
    bold: bool = False,
    left: bool = False,
) -> np.ndarray:
    """Text on white, broken into lines that fit the width; (H,W,3) uint8. None: one line."""
    font, text = _font(size, bold), " ".join(text.split())
    lines, longest = [text], len(text)
    while width is not None and longest > 1 and max(map(font.getlength, lines)) > width:
        longest -= 1
        lines = textwrap.wrap(text, longest)
    width = int(font.getlength(text)) + 2 if width is None else width
    image = Image.new("RGB", (width, (size * 5 // 4) * len(lines)), (255,) * 3)
    for i, line in enumerate(lines):
        start = (0 if left else (width - font.getlength(line)) / 2, (i + 0.5) * (size * 5 // 4))
        ImageDraw.Draw(image).text(start, line, (INK,) * 3, font, anchor="lm")
    return np.asarray(image)


def center(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture in the middle of a white one of that size, which is no smaller."""
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    bottom, right = height - image.shape[0] - top, width - image.shape[1] - left
    return np.pad(image, ((top, bottom), (left, right), (0, 0)), constant_values=255)


def join(images: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Puts pictures below (axis 0) or beside (axis 1) each other, centred, with gaps."""
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    cells = [
        (h + GAP, width) if axis == 0 else (height, w + GAP)
        for h, w, _ in (image.shape for image in images)
    ]
    return np.concatenate([center(i, *cell) for i, cell in zip(images, cells, strict=True)], axis)
