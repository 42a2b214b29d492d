"""Any folder of video files as a dataset."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import ClassVar

from v2v_jax.datasets.base.listing import MIN_FRAMES, VideoFileDataset, check_split
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE
from v2v_jax.errors import DataError
from v2v_jax.system.natural_order import natural_key

VIDEO_EXTENSIONS = (
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"),
)


class VideoFolder(VideoFileDataset):
    """The video files in a folder and its subfolders, in natural order.

    Subfolders `train` and `test`, where both are there, are the splits. Otherwise a hash of each
    file's name decides: a video stays in its split when others come or go, or when folders are
    renamed.
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
            raise DataError(f"Video folder {root} does not exist; give a folder of video files.")
        if all(os.path.isdir(os.path.join(root, part)) for part in ("train", "test")):
            folder = os.path.join(root, split)
            names = find_videos(folder)
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


def find_videos(folder: str) -> list[str]:
    """Paths relative to `folder` of the videos in it and its subfolders, in natural order."""
    names = []
    for parent, _, files in os.walk(folder):
        for file in files:
            if file.lower().endswith(VIDEO_EXTENSIONS) and not file.startswith("."):
                names.append(os.path.relpath(os.path.join(parent, file), folder))
    return sorted(names, key=natural_key)


def _hash_split(names: Sequence[str], test_share: float) -> dict[str, list[str]]:
    """Splits by a hash of the file name; of two or more videos each split gets at least one."""

    def position(name: str) -> float:
        digest = hashlib.sha256(os.path.basename(name).encode()).digest()
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
