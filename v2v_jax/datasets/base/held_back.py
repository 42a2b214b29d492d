"""Training videos held back: to choose on, the split "validation", and for cross-validation.

Which ones follows from the videos' names alone, so that every process and every later run holds
back the same, and a video that is added or missing changes the choice by one at most.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.datasets.base.wrapped_dataset import WrappedDataset
from v2v_jax.errors import ConfigError

# Methods of datasets with a benchmark of their own (DAVIS, Sintel): of the video that is named
# first.
_OF_ONE_VIDEO = ("native_frames", "native_masks", "native_truth")


class Subset(WrappedDataset):
    """Some videos of another dataset, in its order; everything else is the dataset's own.

    Attributes:
      rest_is: the split that the source's other videos are; "": none.
    """

    def __init__(
        self, source: VideoDataset, indices: Sequence[int], split: str, rest_is: str = "validation"
    ) -> None:
        """indices: which videos of `source`; split: "train", "validation" or "test"."""
        super().__init__(source)
        self.rest_is = rest_is
        if split != "train":
            self.corrupt = []  # those of the source are reported once, with what trains
        self.videos = [source.videos[index] for index in indices]
        self._indices = list(indices)

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if name == "native_pairs":
            mine = {index: video for video, index in enumerate(self._indices)}
            return lambda: [(mine[v], frame) for v, frame in value() if v in mine]
        if name in _OF_ONE_VIDEO:
            return lambda video, *args: value(self._indices[video], *args)
        return value

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


def part_of(
    dataset: VideoDataset, split: str, options: Mapping[str, Any], group: Callable[[str], str]
) -> VideoDataset:
    """What trains, validates or is tested on, of a dataset's training split.

    With `num_folds` the videos of fold number `fold` are the test split, in place of the dataset's
    own, and what is said below is true of the rest. The validation split are the videos that
    `validation` names or, without names, `validation_share` of them (`held_back`).

    Args:
      dataset: its training split.
      split: "train" or "validation"; "test" where there are folds.
      options: of `config.data`: the fields above; configurations before them lack some.
      group: see `held_back`.

    Raises:
      ConfigError: a value that cannot be used, or nothing is left to train on.
    """
    if options.get("num_folds", 0):
        names = [info.name for info in dataset.videos]
        testing = fold_of(names, options["num_folds"], options.get("fold", 0), group)
        mine = [i for i, name in enumerate(names) if (name in testing) == (split == "test")]
        dataset = Subset(dataset, mine, split, rest_is="train" if split == "test" else "test")
        if split == "test":
            return dataset
    validating = set(filter(None, options.get("validation", "").split(",")))
    if not validating and not options.get("validation_share", 0.0):
        return dataset
    names = [info.name for info in dataset.videos]
    validating = validating or held_back(names, options["validation_share"], group)
    if not validating:
        logging.warning(
            "%s has only one training video, %s: checkpoints are chosen on what they are trained "
            "on. Add videos to have others for that.",
            *(dataset.name, names[0]),
        )
        return dataset
    return split_off(dataset, validating, split)


def at_most(dataset: VideoDataset, split: str, max_videos: int) -> VideoDataset:
    """The dataset, or so many of its videos where it has more, spread evenly over it; 0: all."""
    if not max_videos or max_videos >= len(dataset.videos):
        return dataset
    count = len(dataset.videos)
    chosen = np.linspace(0, count - 1, max_videos).round().astype(int).tolist()
    return Subset(dataset, chosen, split, rest_is="")


def fold_of(
    names: Sequence[str], num_folds: int, fold: int, group: Callable[[str], str]
) -> set[str]:
    """The videos of one fold of cross-validation; each video is in one fold.

    Folds are parts of equal size, give or take one group, in the order of the groups' SHA-256.
    A video that is added or missing moves one group at most from each fold to the next.

    Args:
      names: of all training videos.
      num_folds: how many folds there are, 2 or more.
      fold: which one, from 0.
      group: see `held_back`.

    Raises:
      ConfigError: there are fewer groups than folds.
    """
    groups = _by_hash(names, group)
    if len(groups) < num_folds:
        raise ConfigError(
            f"data.num_folds is {num_folds}, but there are {len(groups)} training videos to share "
            "out (clips of one recording count as one); set it to that number at most."
        )
    first, last = (number * len(groups) // num_folds for number in (fold, fold + 1))
    chosen = set(groups[first:last])
    return {name for name in names if group(name) in chosen}


def _by_hash(names: Sequence[str], group: Callable[[str], str]) -> list[str]:
    """The groups, in an order that the name of each decides alone."""
    return sorted(
        {group(name) for name in names}, key=lambda text: hashlib.sha256(os.fsencode(text)).digest()
    )


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
    groups = _by_hash(names, group)
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
