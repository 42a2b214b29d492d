"""DAVIS (Perazzi et al., 2016; Pont-Tuset et al., 2017): videos with masks of objects."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import PIL
from PIL import Image

from v2v_jax.datasets.base.listing import (
    MIN_FRAMES,
    check_inside,
    check_split,
    check_window,
    file_identities,
    list_videos,
)
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE, IGNORE_LABEL, VideoDataset
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.system.natural_order import natural_key

LABEL_NAMES = ("background", "foreground")
# The archive of 2017 brings two kinds of lists, that of 2016 one a resolution.
_LIST_FOLDERS = ("2017", "2016", "480p", "1080p")
# What Pillow raises for pictures that are damaged, or claim to be huge.
_PICTURE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError, struct.error),
    Image.DecompressionBombError,
)
_LIST_NAMES = {"train": "train.txt", "test": "val.txt"}


class Davis(VideoDataset):
    """DAVIS 2016 or 2017 as binary segmentation: background 0, any object 1, void 255.

    The root holds `JPEGImages/<resolution>/<sequence>/%05d.jpg` and
    `Annotations/<resolution>/<sequence>/%05d.png`.

    Attributes:
      corrupt: always empty: frames are files of their own and only listed, not opened.
    """

    name: ClassVar[str] = "davis"
    fields: ClassVar[tuple[str, ...]] = ("video", "labels")
    label_names: tuple[str, ...] = LABEL_NAMES

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        resolution: str | None = None,
        held_out: Sequence[str] | None = None,
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = MIN_FRAMES,
    ) -> None:
        """Lists the sequences of one split.

        Args:
          root: the folder with `JPEGImages` and `Annotations`.
          split: "train" or "test".
          resolution: a folder in JPEGImages; None takes 480p or else the only one there is.
          held_out: sequences of the test split, all others train; None uses the official lists in
            `ImageSets`, whose validation list is the test split.
          frame_size: (H, W) to resize to.
          min_frames: shorter sequences are left out with a warning.

        Raises:
          DataError: a missing folder, list, sequence, frame or mask.
        """
        check_split(self.name, split)
        root = os.fspath(root)
        resolution = resolution or _find_resolution(root)
        self._frames = os.path.join(root, "JPEGImages", resolution)
        self._masks = os.path.join(root, "Annotations", resolution)
        for folder in (self._frames, self._masks):
            if not os.path.isdir(folder):
                raise DataError(
                    f"DAVIS folder {folder} does not exist; unpack the archive of this resolution "
                    f"into {root}."
                )
        names = _split_sequences(root, self._frames, split, held_out)

        def open_one(index: int) -> tuple[list[str], int]:
            stems = _list_frames(self._frames, self._masks, names[index])
            return stems, len(stems)

        listing = list_videos(self.name, names, open_one, min_frames)
        self.frame_size = frame_size
        self.videos = listing.videos
        self.corrupt = listing.corrupt
        self._stems = listing.handles

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`: `video` (T,H,W,3) uint8 RGB, `labels` (T,H,W) uint8 0, 1, 255.

        Raises:
          CorruptVideoError: a frame or mask is not a readable picture.
          DataError: a mask is not of its frame's size.
        """
        self.check_fields(fields)
        info = self.videos[video]
        check_window(info, start, stop)
        frames, masks = [], []
        for stem in self._stems[video][start:stop]:
            frame_path = os.path.join(self._frames, info.name, stem + ".jpg")
            frame = open_picture(frame_path, frame_path)
            if "video" in fields:
                frames.append(decode_frame(frame, self.frame_size, frame_path))
            if "labels" in fields:
                mask_path = os.path.join(self._masks, info.name, stem + ".png")
                mask = open_picture(mask_path, mask_path)
                masks.append(decode_mask(mask, frame.size, self.frame_size, mask_path))
        arrays = {"video": frames, "labels": masks}
        return {field: np.stack(arrays[field]) for field in fields}

    def original_size(self, video: int) -> tuple[int, int]:
        """See `VideoDataset.original_size`."""
        name, stem = self.videos[video].name, self._stems[video][0]
        path = os.path.join(self._frames, name, stem + ".jpg")
        width, height = open_picture(path, path).size
        return height, width

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        paths = [
            os.path.join(folder, info.name, stem + extension)
            for info, stems in zip(self.videos, self._stems)
            for stem in stems
            for folder, extension in ((self._frames, ".jpg"), (self._masks, ".png"))
        ]
        return {"files": file_identities(paths), "pillow": PIL.__version__}


def open_picture(source: str | bytes, name: str) -> Image.Image:
    """Opens a picture by path or from its bytes, without decoding it yet.

    Raises:
      CorruptVideoError: it is not a picture; `name` tells which.
    """
    try:
        if isinstance(source, bytes):
            return Image.open(io.BytesIO(source))
        with open(source, "rb") as file:  # in memory: an unread Image keeps its file open
            return Image.open(io.BytesIO(file.read()))
    except _PICTURE_ERRORS as error:
        raise _unreadable(name, error) from error


def decode_frame(picture: Image.Image, size: tuple[int, int], name: str) -> np.ndarray:
    """Decodes a frame and resizes it (bicubic, antialiased).

    Args:
      picture: as `open_picture` returns it.
      size: (H, W) of the result.
      name: for messages.

    Returns:
      (H,W,3) uint8 RGB, 0..255.

    Raises:
      CorruptVideoError: the picture is damaged.
    """
    h, w = size
    try:
        return np.asarray(picture.convert("RGB").resize((w, h), Image.Resampling.BICUBIC))
    except _PICTURE_ERRORS as error:
        raise _unreadable(name, error) from error


def decode_mask(
    picture: Image.Image,
    frame_size: tuple[int, int],
    size: tuple[int, int],
    name: str,
    *,
    indexed: bool | None = None,
) -> np.ndarray:
    """Decodes a mask to binary labels and resizes them by nearest neighbour.

    Object numbers (DAVIS 2017, palette pictures, which are never converted to colours) have 255
    for void. In other pictures (DAVIS 2016) every voxel that is not black is foreground.

    Args:
      picture: as `open_picture` returns it.
      frame_size: Pillow's size (W, H) of the frame it belongs to.
      size: (H, W) of the result.
      name: for messages.
      indexed: whether the values are object numbers; None: those of palette pictures are.

    Returns:
      (H,W) uint8: 0 background, 1 foreground, 255 ignore.

    Raises:
      CorruptVideoError: the picture is damaged.
      DataError: it is of another size than its frame, or of an unknown kind.
    """
    if picture.size != frame_size:
        raise DataError(
            f"Mask {name} is {picture.width}x{picture.height}, its frame is "
            f"{frame_size[0]}x{frame_size[1]}; take frames and masks of one resolution."
        )
    try:
        values = np.asarray(picture)
    except _PICTURE_ERRORS as error:
        raise _unreadable(name, error) from error
    if picture.mode in ("P", "L", "1"):
        labels = (values > 0).astype(np.uint8)
        if picture.mode == "P" if indexed is None else indexed:
            labels[values == 255] = IGNORE_LABEL
    elif picture.mode in ("RGB", "RGBA"):
        labels = (values[..., :3] > 0).any(axis=-1).astype(np.uint8)
    else:
        raise DataError(
            f"Mask {name} is a PNG of Pillow's mode {picture.mode}; expected a palette, grey or "
            "black and white one; unpack the annotations again."
        )
    h, w = size
    return np.asarray(Image.fromarray(labels).resize((w, h), Image.Resampling.NEAREST))


def _unreadable(name: str, error: Exception) -> CorruptVideoError:
    return CorruptVideoError(
        f"Picture {name} cannot be read ({type(error).__name__}); expected a complete picture "
        "file, so unpack or prepare the dataset again."
    )


def _find_resolution(root: str) -> str:
    folder = os.path.join(root, "JPEGImages")
    if not os.path.isdir(folder):
        raise DataError(
            f"DAVIS folder {folder} does not exist; unpack DAVIS (JPEGImages, Annotations, "
            f"ImageSets) into {root}."
        )
    found = sorted(name for name in os.listdir(folder) if os.path.isdir(f"{folder}/{name}"))
    if "480p" in found:
        return "480p"
    if len(found) != 1:
        raise DataError(
            f"DAVIS folder {folder} holds {', '.join(found) or 'no resolution'}; expected 480p, or "
            "set resolution to one that is there."
        )
    return found[0]


def _split_sequences(
    root: str, frames: str, split: str, held_out: Sequence[str] | None
) -> list[str]:
    present = sorted(
        (name for name in os.listdir(frames) if os.path.isdir(os.path.join(frames, name))),
        key=natural_key,
    )
    if held_out is None:
        names, source = _read_official_list(root, split)
    else:
        names, source = list(held_out), "held_out"
    missing = [name for name in names if name not in present]
    if missing:
        raise DataError(
            f"DAVIS: {len(missing)} sequences of {source} are not in {frames}, the first being "
            f"{missing[0]!r}; unpack the archive again, or set held_out to some of "
            f"{', '.join(present[:6]) or 'those there are'}."
        )
    if held_out is None:
        check_inside("davis", frames, (os.path.join(frames, name) for name in names), source)
        return names
    return [name for name in present if (name in held_out) == (split == "test")]


def _read_official_list(root: str, split: str) -> tuple[list[str], str]:
    """Sequence names of a list, in its order, and the list's path."""
    for folder in _LIST_FOLDERS:
        path = os.path.join(root, "ImageSets", folder, _LIST_NAMES[split])
        if os.path.isfile(path):
            try:
                with open(path, encoding="utf-8") as file:
                    lines = file.read().split("\n")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"DAVIS list {path} cannot be read ({error}); unpack the lists again."
                ) from error
            # 2017: a sequence a line; 2016: "/JPEGImages/480p/bear/00000.jpg /Annotations/…".
            names = [line.split()[0] for line in lines if line.strip()]
            return list(dict.fromkeys(_sequence_name(name) for name in names)), path
    raise DataError(
        f"DAVIS folder {root} has no list ImageSets/2017/{_LIST_NAMES[split]}; unpack the lists, "
        "or set held_out to the names of the test sequences."
    )


def _sequence_name(entry: str) -> str:
    return entry.split("/")[-2] if "/" in entry else entry


def _list_frames(frames: str, masks: str, sequence: str) -> list[str]:
    """The frames of a sequence, without extension; each must have its mask and its successor."""
    folder = os.path.join(frames, sequence)
    stems = {name[:-4] for name in os.listdir(folder) if name.endswith(".jpg")}
    for number in range(len(stems)):
        if f"{number:05d}" not in stems:
            raise DataError(
                f"Frame {os.path.join(folder, f'{number:05d}.jpg')} is missing, of a sequence of "
                f"{len(stems)} frames numbered from 00000; unpack the archive again."
            )
    for stem in sorted(stems):
        mask = os.path.join(masks, sequence, stem + ".png")
        if not os.path.isfile(mask):
            raise DataError(f"Mask {mask} is missing; unpack DAVIS's annotations again.")
    return sorted(stems)
