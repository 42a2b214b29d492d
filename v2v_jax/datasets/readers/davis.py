"""DAVIS (Perazzi et al., 2016; Pont-Tuset et al., 2017): videos with masks of objects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import PIL

from v2v_jax.datasets.base.class_masks import OBJECT_NAMES, object_mask
from v2v_jax.datasets.base.listing import (
    MIN_FRAMES,
    check_inside,
    check_split,
    check_window,
    file_identities,
    list_videos,
)
from v2v_jax.datasets.base.text_lists import as_present, read_lines, warn_of_overlap
from v2v_jax.datasets.base.video_dataset import DECODING_SHARE, FRAME_SIZE, VideoDataset
from v2v_jax.errors import DataError
from v2v_jax.media.folders import LeftOut, list_files, list_folders
from v2v_jax.media.pictures import Picture

# The archive of 2017 brings two kinds of lists, that of 2016 one a resolution.
_LIST_FOLDERS = ("2017", "2016", "480p", "1080p")
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
    label_names: tuple[str, ...] = OBJECT_NAMES
    python_share = DECODING_SHARE

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
        frame_folder = os.path.join(root, "JPEGImages", resolution)
        mask_folder = os.path.join(root, "Annotations", resolution)
        for folder in (frame_folder, mask_folder):
            if not os.path.isdir(folder):
                raise DataError(
                    f"DAVIS folder {folder} does not exist; unpack the archive of this resolution "
                    f"into {root}."
                )
        names = _split_sequences(root, frame_folder, split, held_out)
        left_out = LeftOut()

        def open_one(index: int) -> tuple[list[tuple[str, str]], int]:
            files = _list_frames(frame_folder, mask_folder, names[index], left_out)
            return files, len(files)

        listing = list_videos(self.name, names, open_one, min_frames)
        left_out.report(f"Dataset {self.name} in {frame_folder}")
        self.frame_size = frame_size
        self.videos = listing.videos
        self.corrupt = listing.corrupt
        self._files = listing.handles

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`: `video` (T,H,W,3) uint8 RGB, `labels` (T,H,W) uint8 0, 1, 255.

        Raises:
          CorruptVideoError: a frame or mask is not a readable picture.
          DataError: a mask is not of its frame's size.
        """
        self.check_fields(fields)
        check_window(self.videos[video], start, stop)
        frames, masks = [], []
        for frame_path, mask_path in self._files[video][start:stop]:
            frame = Picture(frame_path)
            if "video" in fields:
                frames.append(frame.frame(self.frame_size))
            if "labels" in fields:
                masks.append(object_mask(Picture(mask_path), frame.size, self.frame_size))
        arrays = {"video": frames, "labels": masks}
        return {field: np.stack(arrays[field]) for field in fields}

    def files(self, video: int) -> tuple[str, ...]:
        """See `VideoDataset.files`."""
        return tuple(frame for frame, _ in self._files[video])

    def native_frames(self, video: int) -> Iterator[np.ndarray]:
        """The frames (H,W,3) uint8 RGB of a sequence at their own size, in order."""
        for path, _ in self._files[video]:
            yield Picture(path).frame()

    def native_masks(self, video: int) -> np.ndarray:
        """(T,H,W) uint8 labels of a sequence at their own size, as `read` gives them resized.

        Raises:
          CorruptVideoError, DataError: as `read`.
        """
        masks = []
        for path, mask in self._files[video]:
            size = Picture(path).size
            masks.append(object_mask(Picture(mask), size, size))
        return np.stack(masks)

    def original_size(self, video: int) -> tuple[int, int]:
        """See `VideoDataset.original_size`."""
        return Picture(self._files[video][0][0]).size

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        paths = [path for files in self._files for pair in files for path in pair]
        return {"files": file_identities(paths), "pillow": PIL.__version__}


def frame_folder(root: str | os.PathLike[str]) -> str:
    """Where the folders of the sequences' frames are; DataError if DAVIS is not there."""
    return os.path.join(os.fspath(root), "JPEGImages", _find_resolution(os.fspath(root)))


def _find_resolution(root: str) -> str:
    folder = os.path.join(root, "JPEGImages")
    if not os.path.isdir(folder):
        raise DataError(
            f"DAVIS folder {folder} does not exist; unpack DAVIS (JPEGImages, Annotations, "
            f"ImageSets) into {root}."
        )
    found = sorted(list_folders(folder))
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
    present = list_folders(frames)
    if held_out is None:
        names, source = _read_official_list(root, split)
        names = as_present(names, present)
        other = "test" if split == "train" else "train"
        if _official_list(root, other):
            listed = as_present(_read_official_list(root, other)[0], present)
            splits = {split: names, other: listed}
            warn_of_overlap("davis", splits["train"], splits["test"], os.path.dirname(source))
    else:
        names, source = as_present(held_out, present), "held_out"
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
    return [name for name in present if (name in names) == (split == "test")]


def _official_list(root: str, split: str) -> str | None:
    """The path of the list of a split; None if there is none."""
    paths = (os.path.join(root, "ImageSets", f, _LIST_NAMES[split]) for f in _LIST_FOLDERS)
    return next(filter(os.path.isfile, paths), None)


def _read_official_list(root: str, split: str) -> tuple[list[str], str]:
    """Sequence names of a list, in its order, and the list's path."""
    path = _official_list(root, split)
    if path is None:
        raise DataError(
            f"DAVIS folder {root} has no list ImageSets/2017/{_LIST_NAMES[split]}; unpack the "
            "lists, or set held_out to the names of the test sequences."
        )
    # 2017: a sequence a line; 2016: "/JPEGImages/480p/bear/00000.jpg /Annotations/…".
    names = [line.split()[0] for line, _ in read_lines(path, "unpack the lists again")]
    return list(dict.fromkeys(_sequence_name(name.replace("\\", "/")) for name in names)), path


def _sequence_name(entry: str) -> str:
    return entry.split("/")[-2] if "/" in entry else entry


def _list_frames(
    frames: str, masks: str, sequence: str, left_out: LeftOut
) -> list[tuple[str, str]]:
    """The files of a sequence's frames and of their masks; no frame may be missing, and no mask."""
    folders = [os.path.join(folder, sequence) for folder in (frames, masks)]
    of_frames, of_masks = (
        {os.path.splitext(name)[0]: name for name in list_files(folder, (extension,), left_out)}
        if os.path.isdir(folder)
        else {}
        for folder, extension in zip(folders, (".jpg", ".png"))
    )
    files = []
    for stem in (f"{number:05d}" for number in range(len(of_frames))):
        if stem not in of_frames:
            raise DataError(
                f"Frame {os.path.join(folders[0], stem)}.jpg is missing; its sequence has "
                f"{len(of_frames)} frames, numbered from 00000; unpack the archive again."
            )
        if stem not in of_masks:
            raise DataError(
                f"Mask {os.path.join(folders[1], stem)}.png is missing; unpack DAVIS's "
                "annotations again."
            )
        names = (of_frames[stem], of_masks[stem])
        files.append(tuple(os.path.join(folder, name) for folder, name in zip(folders, names)))
    return files
