"""Masks of classes: index pictures, colour pictures and frames of video, to labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from v2v_jax.datasets.base.resizing import resize_nearest
from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.errors import DataError
from v2v_jax.media.pictures import Picture

OBJECT_NAMES = ("background", "foreground")  # the labels of `object_mask`
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


def mask_kind(mask: Picture) -> str:
    """ "grey" (class numbers), "palette" or "colour"; DataError for another kind of picture."""
    if mask.kind == "other":
        raise DataError(
            f"Mask {mask.name} is a picture of Pillow's mode {mask.mode}; expected class numbers "
            "(grey or palette) or colours (RGB)."
        )
    return mask.kind


def class_mask(mask: Picture, table: ClassTable) -> np.ndarray:
    """The labels of a mask at its own size.

    A palette picture is read by its colours if all that it uses are the table's, else by its
    numbers. What `v2v predict` wrote holds labels, whatever its colours. The number 255 is ignored
    in every index mask, as in Pascal VOC and Cityscapes.

    Returns:
      (H,W) uint8 labels, 255 = ignore.

    Raises:
      CorruptVideoError: the picture is damaged.
      DataError: a number or colour that the table does not have, with its place.
    """
    kind = mask_kind(mask)
    if kind == "colour":
        return _by_color(mask.frame(), table, mask.name)
    values = mask.numbers()
    if mask.only_numbers:
        return _by_index(values, ClassTable(table.names, (*range(len(table.names)),)), mask.name)
    if kind == "palette" and table.colors is not None:
        palette, used = mask.palette(), np.unique(values)
        known = set(_codes(table.colors).tolist())
        if used.max() < len(palette) and set(_codes(palette[used]).tolist()) <= known:
            return _by_color(palette[values], table, mask.name)
    return _by_index(values, table, mask.name)


def object_mask(
    mask: Picture,
    frame_size: tuple[int, int],
    size: tuple[int, int],
    *,
    indexed: bool | None = None,
) -> np.ndarray:
    """The binary labels of a mask of objects, resized by nearest neighbour.

    Object numbers (DAVIS 2017, palette pictures) have 255 for void. In other pictures (DAVIS 2016)
    every voxel that is not black is foreground.

    Args:
      frame_size: (H, W) of the frame it belongs to.
      size: (H, W) of the result.
      indexed: whether the values are object numbers; None: those of palette pictures are.

    Returns:
      (H,W) uint8: 0 background, 1 foreground, 255 ignore.

    Raises:
      CorruptVideoError: the picture is damaged.
      DataError: it is of another size than its frame, or of an unknown kind.
    """
    check_mask_size(mask.name, mask.size, frame_size)
    kind = mask_kind(mask)
    if kind == "colour":
        labels = mask.frame().any(axis=-1).astype(np.uint8)
    else:
        values = mask.numbers()
        labels = (values != 0).astype(np.uint8)
        if kind == "palette" if indexed is None else indexed:
            labels[values == IGNORE_LABEL] = IGNORE_LABEL
    return resize_nearest(labels, size)


def check_mask_size(name: str, mask: Sequence[int], frame: Sequence[int]) -> None:
    """Raises DataError unless a mask's (H, W) is its frame's."""
    if tuple(mask) != tuple(frame):
        raise DataError(
            f"Mask {name} is {mask[1]}x{mask[0]}, its frame is {frame[1]}x{frame[0]}; take frames "
            "and masks of one resolution."
        )


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
            "neither resized nor stored with losses, or list that colour with the name void."
        )
    return np.array(table.labels, np.uint8)[index]


def _by_index(values: np.ndarray, table: ClassTable, name: str) -> np.ndarray:
    wrong = ((values < 0) | (values >= len(table.labels))) & (values != IGNORE_LABEL)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"Mask {name} has the number {values[row, column]} in row {row}, column {column}; "
            f"expected 0 to {len(table.labels) - 1}, or {IGNORE_LABEL} for what is ignored."
        )
    labels = np.full(IGNORE_LABEL + 1, IGNORE_LABEL, np.uint8)
    labels[: len(table.labels)] = table.labels
    return labels[values]
