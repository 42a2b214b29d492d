"""Folders of frames and masks, such as CamVid's (Brostow et al., 2009)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import ClassVar

from v2v_jax.datasets.base.class_masks import ClassTable
from v2v_jax.datasets.base.labelled_videos import LabelledVideos, Pictures, picture_names
from v2v_jax.datasets.base.listing import MIN_FRAMES, check_split
from v2v_jax.datasets.base.text_lists import (
    as_present,
    read_lines,
    warn_of_overlap,
    without_repeats,
)
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE
from v2v_jax.errors import DataError
from v2v_jax.media.folders import LeftOut, list_folders
from v2v_jax.system.natural_order import natural_key

_FRAMES = ("images", "701_StillsRaw_full")  # the latter: CamVid's own names
_MASKS = ("labels", "LabeledApproved_full")
_TABLES = ("label_colors.txt", "classes.txt")
_REMEDY = "write it again, as text"
_VOID = ("void", "unlabelled", "unlabeled", "ignore")
_COLOR_LINE = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)")
_FLAT = re.compile(r"(?P<video>.+)_(?P<frame>[^_]*\d)")  # 0001TP_006690, Seq05VD_f00000


class FrameFolder(LabelledVideos):
    """Frames and masks as pictures in folders.

    The root holds:

    * `images/<video>/<frame>.png` and `labels/<video>/<frame>.png`, or all in one folder as CamVid
      has it, `images/<video>_<frame>.png` and `labels/<video>_<frame>_L.png`. Frames are in natural
      order; the suffix `_L` is optional; CamVid's folder names do too.
    * `label_colors.txt`, a line `R G B name` a class, or `classes.txt`, a line `name` a class.
      Masks are colours, or line numbers from 0. A class named void, unlabelled or ignore is
      ignored.
    * `train.txt` and `test.txt`, a video a line, unless `held_out` makes the splits.
    """

    name: ClassVar[str] = "frames"

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        held_out: Sequence[str] | None = None,
        allow_missing: bool = False,
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = MIN_FRAMES,
    ) -> None:
        """Lists the videos of one split.

        Args:
          root: the folder described above.
          split: "train" or "test".
          held_out: videos of the test split, all others train; None uses train.txt and test.txt.
          allow_missing: whether frames without a mask are taken, with nothing of them labelled.
          frame_size: (H, W) to resize to.
          min_frames: shorter videos are left out with a warning.

        Raises:
          DataError: a missing folder, list, video or mask, a malformed line, mixed formats.
        """
        check_split(self.name, split)
        root = os.fspath(root)
        frames, masks = _find(root, _FRAMES), _find(root, _MASKS)
        videos = _list_videos(frames, masks)
        names = _split(root, sorted(videos, key=natural_key), split, held_out)

        def open_one(index: int) -> Pictures:
            pictures = videos[names[index]]
            if None in pictures.masks and not allow_missing:
                frame = pictures.frames[pictures.masks.index(None)]
                raise DataError(
                    f"Frame {frame} has no mask in {masks}; add it, or set allow_missing to take "
                    "frames without a mask as not labelled."
                )
            return pictures

        super().__init__(names, open_one, _read_classes(root), frame_size, min_frames)


def frame_files(root: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """The videos of both splits: name → their frames' files; DataError as of the dataset."""
    frames, masks = (_find(os.fspath(root), names) for names in (_FRAMES, _MASKS))
    videos = _list_videos(frames, masks)
    return {name: videos[name].frames for name in sorted(videos, key=natural_key)}


def _find(root: str, names: Sequence[str]) -> str:
    for name in names:
        if os.path.isdir(os.path.join(root, name)):
            return os.path.join(root, name)
    raise DataError(
        f"Frame folder {os.path.join(root, names[0])} does not exist; expected images/ and labels/ "
        f"in {root} (docs/reference/datasets.md)."
    )


def _list_videos(frames: str, masks: str) -> dict[str, Pictures]:
    folders, left_out = list_folders(frames), LeftOut()
    pictures = picture_names(frames, "frames", left_out)
    if folders and pictures:
        raise DataError(
            f"Frame folder {frames} holds both folders ({folders[0]}) and pictures "
            f"({next(iter(pictures.values()))}); expected a folder for each video, or "
            "pictures named <video>_<frame>."
        )
    if pictures:
        found = picture_names(masks, "frames", left_out)
        left_out.report(f"Dataset frames in {os.path.dirname(frames)}")
        return _list_flat(frames, masks, pictures, found)
    videos = {}
    for video in folders:
        where = os.path.join(masks, video)
        found = picture_names(where, "frames", left_out) if os.path.isdir(where) else {}
        of_video = picture_names(os.path.join(frames, video), "frames", left_out)
        stems = sorted(of_video, key=natural_key)
        videos[video] = Pictures(
            tuple(os.path.join(frames, video, of_video[stem]) for stem in stems),
            tuple(_mask(where, found, stem) for stem in stems),
        )
    left_out.report(f"Dataset frames in {os.path.dirname(frames)}")
    return videos


def _list_flat(
    frames: str, masks: str, pictures: dict[str, str], found: dict[str, str]
) -> dict[str, Pictures]:
    """The videos of one folder of frames; `found`: the pictures in the folder of masks."""
    stems: dict[str, list[str]] = {}
    for stem, name in pictures.items():
        match = _FLAT.fullmatch(stem)
        if match is None:
            raise DataError(
                f"Frame {os.path.join(frames, name)} is not named <video>_<frame>; name it so, or "
                "make a folder for each video."
            )
        stems.setdefault(match["video"], []).append(stem)
    return {
        video: Pictures(
            tuple(os.path.join(frames, pictures[s]) for s in sorted(of_video, key=natural_key)),
            tuple(_mask(masks, found, s) for s in sorted(of_video, key=natural_key)),
        )
        for video, of_video in stems.items()
    }


def _mask(folder: str, found: dict[str, str], stem: str) -> str | None:
    name = found.get(stem + "_L") or found.get(stem)
    return None if name is None else os.path.join(folder, name)


def _split(
    root: str, present: Sequence[str], split: str, held_out: Sequence[str] | None
) -> list[str]:
    if held_out is None:
        source = os.path.join(root, f"{split}.txt")
        if not os.path.isfile(source):
            raise DataError(
                f"Frame folder {root} has no {split}.txt; write it, with the name of a "
                "video on each line, or set held_out to the names of the test videos."
            )
        names = without_repeats("frames", as_present(_names(source), present), source)
        other = os.path.join(root, "test.txt" if split == "train" else "train.txt")
        if os.path.isfile(other):
            lists = {source: names, other: as_present(_names(other), present)}
            train, test = (lists[os.path.join(root, f"{part}.txt")] for part in ("train", "test"))
            warn_of_overlap("frames", train, test, root)
    else:
        source, names = "held_out", as_present(held_out, present)
    for name in names:
        if name not in present:  # also whatever would lead out of the folder
            raise DataError(
                f"Video {name[:80]!r} of {source} is not in {root}; there are "
                f"{', '.join(present[:6]) or 'none'}."
            )
    if held_out is None:
        return names
    return [name for name in present if (name in names) == (split == "test")]


def _read_classes(root: str) -> ClassTable:
    for file in _TABLES:
        path = os.path.join(root, file)
        if os.path.isfile(path):
            break
    else:
        raise DataError(
            f"Frame folder {root} has neither {' nor '.join(_TABLES)}; write one "
            "(docs/reference/datasets.md)."
        )
    names, colors = [], []
    for line, where in read_lines(path, _REMEDY):
        if file == _TABLES[1]:
            names.append(line)
            continue
        match = _COLOR_LINE.fullmatch(line)
        if match is None or max(map(int, match.groups()[:3])) > 255:
            raise DataError(f"{where}: {line[:80]!r} is not 'R G B name' with numbers 0 to 255.")
        names.append(match[4])
        colors.append([int(match[channel]) for channel in (1, 2, 3)])
    for what, values in (("name", names), ("colour", [tuple(c) for c in colors])):
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise DataError(f"{path} has the {what} {twice[0]!r} twice.")
    if not 2 <= len(names) <= 255:
        raise DataError(f"{path} has {len(names)} classes; expected 2 to 255.")
    return ClassTable.make(names, colors or None, _VOID)


def _names(path: str) -> list[str]:
    """The videos that a list names; "b2/" and "images\\b2" name b2."""
    lines = [line for line, _ in read_lines(path, _REMEDY)]
    return [line.replace("\\", "/").rstrip("/").removeprefix("images/") for line in lines]
