"""A video whose frames are picture files, read from beginning to end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from v2v_jax.errors import DataError
from v2v_jax.media.folders import list_folders, list_pictures
from v2v_jax.media.pictures import Picture


class PictureSequence:
    """The frames of a video as picture files, with what `VideoFile` has to read them in order.

    Attributes:
      path: the folder of the first, for messages.
      num_frames: how many there are.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        """paths: of the frames, in order; at least one."""
        self._paths = [os.fspath(path) for path in paths]
        self.path = os.path.dirname(self._paths[0])
        self.num_frames = len(self._paths)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the first frame."""
        return Picture(self._paths[0]).size

    def stream(self, size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """Yields all frames, (H,W,3) uint8 RGB, resized to `size` (H,W) where it is given.

        Raises:
          CorruptVideoError: a picture is damaged.
          DataError: one is of another size than the first.
        """
        first = self.size
        for path in self._paths:
            picture = Picture(path)
            if picture.size != first:
                raise DataError(f"Frame {path} is {picture.size} (HxW), the first one {first}.")
            yield picture.frame(size)


def find_sequences(folder: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """The folders of pictures in a folder: name, relative to it → the frames' paths, in order.

    A folder that holds pictures is a video; those within it are not looked at.
    """
    found: dict[str, tuple[str, ...]] = {}

    def search(name: str) -> None:
        for part in list_folders(os.path.join(folder, name)):
            below = os.path.join(name, part)
            where = os.path.join(folder, below)
            if pictures := list_pictures(where):
                found[below] = tuple(os.path.join(where, picture) for picture in pictures)
            else:
                search(below)

    search("")
    return found
