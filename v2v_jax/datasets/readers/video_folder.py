"""Any folder of video files as a dataset."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import ClassVar

from absl import logging

from v2v_jax.datasets.base.listing import (
    MIN_FRAMES,
    VideoFileDataset,
    check_split,
)
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE
from v2v_jax.errors import DataError
from v2v_jax.media.folders import VIDEO_EXTENSIONS, find_videos, list_folders
from v2v_jax.system.messages import some_of


class VideoFolder(VideoFileDataset):
    """The video files in a folder and its subfolders, in natural order.

    Subfolders `train` and `test` (in any letter case), where both are there, are the splits.
    Otherwise a hash of each file's name decides: a video stays in its split when others come or go,
    or when folders are renamed.
    """

    name: ClassVar[str] = "folder"

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = MIN_FRAMES,
        test_share: float = 0.1,
    ) -> None:
        """Finds and indexes the videos of one split.

        Args:
          root: the folder.
          split: "train" or "test".
          frame_size: (H, W) to resize to.
          min_frames: shorter videos are left out with a warning.
          test_share: share of the videos, 0..1, that the hash puts into the test split.

        Raises:
          DataError: the folder is missing, the split has no videos, too many videos are corrupt.
        """
        check_split(self.name, split)
        root = os.fspath(root)
        if not os.path.isdir(root):
            what = "is no folder" if os.path.exists(root) else "does not exist"
            raise DataError(f"Video folder {root} {what}; give a folder of video files.")
        parts = _split_folders(root)
        if len(parts) == 2:
            folder = os.path.join(root, parts[split])
            names = find_videos(folder)
            _report_outside(root, parts)
        else:
            folder = root
            names = _hash_split(find_videos(folder), test_share)[split]
        if not names:
            raise DataError(
                f"Video folder {folder} has no videos for the {split} split; expected files ending "
                f"in {', '.join(VIDEO_EXTENSIONS)}: at least two to share between the splits, or "
                "subfolders train and test."
            )
        paths = [os.path.join(folder, name) for name in names]
        super().__init__(names, paths, frame_size, min_frames)


def _split_folders(root: str) -> dict[str, str]:
    """Split → its folder's name, of those that are there; DataError if there are two for one."""
    parts: dict[str, str] = {}
    for name in list_folders(root):
        if (part := name.casefold()) not in ("train", "test"):
            continue
        if part in parts:
            raise DataError(
                f"Video folder {root} has two folders for one split, {parts[part]} and {name}; "
                "rename one."
            )
        parts[part] = name
    return parts


def _report_outside(root: str, parts: dict[str, str]) -> None:
    """Warns of videos that are in neither split's folder."""
    outside = [name for name in find_videos(root) if name.split(os.sep)[0] not in parts.values()]
    if outside:
        logging.warning(
            "Dataset folder: %d videos in %s are outside %s and left out (%s).",
            *(len(outside), root, " and ".join(parts.values()), some_of(outside)),
        )


def _hash_split(names: Sequence[str], test_share: float) -> dict[str, list[str]]:
    """Splits by a hash of the file name; of two or more videos each split gets at least one."""

    def position(name: str) -> float:
        digest = hashlib.sha256(os.fsencode(os.path.basename(name))).digest()
        return int.from_bytes(digest[:8]) / 2**64

    positions = [position(name) for name in names]
    test = {name for name, place in zip(names, positions, strict=True) if place < test_share}
    if len(names) > 1 and not test:
        test = {min(names, key=position)}
    elif len(names) > 1 and len(test) == len(names):
        test.remove(max(names, key=position))
    return {
        "train": [name for name in names if name not in test],
        "test": [name for name in names if name in test],
    }
