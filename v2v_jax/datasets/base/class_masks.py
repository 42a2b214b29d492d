"""Masks of classes: index pictures, colour pictures and frames of video, to labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.errors import CorruptVideoError, DataError

# What a mask's numbers are, by Pillow's mode.
_KINDS = {
    **dict.fromkeys(("1", "L", "I", "I;16", "I;16B"), "index"),
    **dict.fromkeys(("RGB", "RGBA"), "colour"),
    "P": "palette",
}
_REACH = 60  # how far from a class colour, in grey levels, lossy compression may move a voxel
_MAX_LOST_SHARE = 0.1  # of a video frame's voxels beyond that


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """What the values of a dataset's masks mean.

    Attributes:
      names: the classes, index = label.
      labels: for every value 0, 1, … of an index mask its label, 255 for void.
      colors: (len(labels),3) uint8, the same values as colours; None where there are none.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    colors: np.ndarray | None = None

    @classmethod
    def make(
        cls,
        names: Sequence[str],
        colors: Sequence[Sequence[int]] | None = None,
        void: Sequence[str] = ("void",),
    ) -> ClassTable:
        """A table of all values' names in order; those in `void` (any case) are ignored."""
        is_void = [name.casefold() in void for name in names]
        numbers = np.cumsum(np.logical_not(is_void)) - 1
        labels = tuple(IGNORE_LABEL if v else int(n) for v, n in zip(is_void, numbers))
        kept = tuple(name for name, v in zip(names, is_void) if not v)
        return cls(kept, labels, None if colors is None else np.array(colors, np.uint8))


def mask_kind(picture: Image.Image, name: str) -> str:
    """One of "index", "colour" or "palette"; DataError for another kind of picture."""
    if picture.mode not in _KINDS:
        raise DataError(
            f"Mask {name} is a picture of Pillow's mode {picture.mode}; expected class numbers "
            "(grey or palette) or colours (RGB)."
        )
    return _KINDS[picture.mode]


def decode_class_mask(picture: Image.Image, table: ClassTable, name: str) -> np.ndarray:
    """The labels of a mask at its own size.

    A palette picture is read by its colours if all that it uses are the table's, else by its
    numbers.

    Args:
      picture: as `davis.open_picture` returns it.
      name: for messages.

    Returns:
      (H,W) uint8 labels, 255 = ignore.

    Raises:
      CorruptVideoError: the picture is damaged.
      DataError: a number or colour that the table does not have, with its place.
    """
    kind = mask_kind(picture, name)
    try:
        values = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptVideoError(
            f"Mask {name} cannot be read ({type(error).__name__}); unpack the dataset again."
        ) from error
    if kind == "palette" and table.colors is not None:
        palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        used = np.unique(values)
        known = set(_codes(table.colors).tolist())
        if used.max() < len(palette) and set(_codes(palette[used]).tolist()) <= known:
            return _by_color(palette[values], table, name)
    if kind == "colour":
        return _by_color(values[..., :3], table, name)
    return _by_index(values, table, name)


def nearest_class(frame: np.ndarray, table: ClassTable, name: str) -> np.ndarray:
    """The labels of a frame of a mask video, whose colours compression has changed a little.

    Voxels far from every class colour, as on the borders between two, become 255.

    Args:
      frame: (H,W,3) uint8 RGB.
      name: for messages.

    Returns:
      (H,W) uint8 labels, 255 = ignore.

    Raises:
      DataError: more than a tenth of the voxels are far from every class colour.
    """
    colors, where = np.unique(_codes(frame), return_inverse=True)
    rgb = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], -1)
    squared = ((rgb[:, None] - table.colors.astype(np.int64)) ** 2).sum(-1)
    labels = np.array(table.labels, np.uint8)[squared.argmin(1)]
    lost = squared.min(1) > _REACH**2
    labels[lost] = IGNORE_LABEL
    share = lost[where].mean()
    if share > _MAX_LOST_SHARE:
        raise DataError(
            f"Mask {name}: {share:.0%} of its voxels have none of the {len(table.colors)} class "
            "colours; is it a mask at all?"
        )
    return labels[where].reshape(frame.shape[:2])


def _codes(colors: np.ndarray) -> np.ndarray:
    """(…,3) uint8 → (…) int64, one number a colour."""
    return (colors.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(-1)


def _by_color(colors: np.ndarray, table: ClassTable, name: str) -> np.ndarray:
    if table.colors is None:
        raise DataError(
            f"Mask {name} is a colour picture, but the dataset names no colours; expected class "
            "numbers (a grey or palette picture)."
        )
    codes, known = _codes(colors), _codes(table.colors)
    order = np.argsort(known)
    place = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
    index = order[place]
    wrong = known[index] != codes
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"Mask {name} has the colour {tuple(colors[row, column].tolist())} in row {row}, "
            f"column {column}, which none of the {len(known)} classes has; take masks that were "
            "neither resized nor stored with losses."
        )
    return np.array(table.labels, np.uint8)[index]


def _by_index(values: np.ndarray, table: ClassTable, name: str) -> np.ndarray:
    wrong = (values < 0) | (values >= len(table.labels))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"Mask {name} has the number {values[row, column]} in row {row}, column {column}; "
            f"expected 0 to {len(table.labels) - 1}."
        )
    return np.array(table.labels, np.uint8)[values.astype(np.intp)]
