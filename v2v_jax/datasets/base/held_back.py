"""Training videos held back to choose on: the split "validation" of datasets without their own.

Which ones follows from the videos' names alone, so that every process and every later run holds
back the same, and a video that is added or missing changes the choice by one at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.datasets.base.wrapped_dataset import WrappedDataset
from v2v_jax.errors import ConfigError


class Subset(WrappedDataset):
    """Some videos of another dataset, in its order; everything else is the dataset's own."""

    def __init__(self, source: VideoDataset, indices: Sequence[int], split: str) -> None:
        """indices: which videos of `source`; split: "train" or "validation"."""
        super().__init__(source)
        if split != "train":
            self.corrupt = []  # those of the source are reported once, with what trains
        self.videos = [source.videos[index] for index in indices]
        self._indices = list(indices)

    def others(self, split: str) -> Subset:
        """The rest of the source's videos, as that split."""
        mine = set(self._indices)
        rest = [index for index in range(len(self.source.videos)) if index not in mine]
        return Subset(self.source, rest, split)

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`."""
        return self.source.read(self._indices[video], start, stop, fields)

    def files(self, video: int) -> tuple[str, ...]:
        """See `VideoDataset.files`."""
        return self.source.files(self._indices[video])

    def original_size(self, video: int) -> tuple[int, int] | None:
        """See `VideoDataset.original_size`."""
        return self.source.original_size(self._indices[video])

    def video_label(self, video: int) -> int:
        """See `VideoDataset.video_label`."""
        return self.source.video_label(self._indices[video])

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        return {"source": self.source.identity(), "videos": [info.name for info in self.videos]}


def held_back(names: Sequence[str], share: float, group: Callable[[str], str]) -> set[str]:
    """Which videos validate: about `share` of the groups, at least one, the smallest by SHA-256.

    None if there is but one group.

    Args:
      names: of all training videos.
      share: 0 to 1, exclusive.
      group: video's name → name of what must not be torn apart, such as one recording's clips.

    Raises:
      ConfigError: share is out of range.
    """
    if not 0 < share < 1:
        raise ConfigError(f"data.validation_share is {share}; it must be at least 0 and below 1.")
    groups = sorted(
        {group(name) for name in names}, key=lambda text: hashlib.sha256(text.encode()).digest()
    )
    chosen = set(groups[: min(max(1, round(share * len(groups))), len(groups) - 1)])
    return {name for name in names if group(name) in chosen}


def split_off(dataset: VideoDataset, validating: set[str], split: str) -> VideoDataset:
    """The part of a training split that trains ("train") or validates ("validation").

    Args:
      validating: names of the videos that validate.

    Raises:
      ConfigError: a name is unknown, or nothing is left.
    """
    names = [info.name for info in dataset.videos]
    unknown = sorted(validating - set(names))
    if unknown:
        known = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise ConfigError(
            f"data.validation names {', '.join(unknown[:5])}, which the training split of "
            f"{dataset.name} does not have; it has {known}."
        )
    indices = [i for i, name in enumerate(names) if (name in validating) == (split != "train")]
    if not indices:
        raise ConfigError(f"data.validation leaves {dataset.name} no video to {split} on.")
    return Subset(dataset, indices, split)
