"""Class-balanced sampling: clips with rare classes come more often (`config.class_balance`).

With class_balance = b, a clip is drawn in one of two ways. With probability 1 - b it is any clip,
all equally likely. With probability b a class is drawn first, all equally likely, and then a clip
of it: its probability is the clip's share of the class's voxels in all clips. (Class-aware
sampling: Shen et al. 2016, "Relay backpropagation", section 3.3, here for clips that hold several
classes.) The probabilities are known before the first step, and clips are drawn independently of
one another.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from absl import logging

from v2v_jax.datasets.base.reading import map_videos, read_checked, read_video_labels
from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.system.npy import array_of, bytes_of
from v2v_jax.system.whole_files import write_bytes

_READ_AT_ONCE = 64  # frames
Progress = Callable[[Iterable, int, str], Iterable]


def class_counts(
    dataset: VideoDataset,
    fields: Sequence[str],
    kept_in: pathlib.Path | None = None,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """How much of each class the frames of a dataset hold.

    Args:
      dataset: with `labels`, or a class a video.
      fields: what the task reads; without "labels" among them it is the videos' classes.
      kept_in: a folder that the counts of labels are kept in: they are read from there as long as
        the dataset is the same one (`VideoDataset.identity`), and else counted and written.
      progress: wraps an iterable of known length to show its progress.

    Returns:
      For each video (T,K) int64: voxels of each class at the dataset's frame size, ignored ones
      left out; or 1 for the video's class. Zeros for a video that cannot be read.

    Raises:
      DataError: something else is wrong with the data.
    """
    lengths = [video.num_frames for video in dataset.videos]
    if "labels" not in fields:
        classes = np.eye(len(dataset.video_label_names), dtype=np.int64)
        labels = read_video_labels(dataset)
        return [np.tile(classes[label], (n, 1)) for label, n in zip(labels, lengths)]
    dataset.prepare_fields(fields, progress)
    shape = (sum(lengths), len(dataset.label_names))
    path = None if kept_in is None else _place(dataset, kept_in)
    counts = None if path is None else _read(path, shape)
    if counts is None:
        counts = _count(dataset, progress)
        if path is not None:
            _write(path, counts)
    return np.split(counts.astype(np.int64), np.cumsum(lengths)[:-1])


def clip_probabilities(
    counts: Sequence[np.ndarray],
    videos: np.ndarray,
    starts: np.ndarray,
    clip_length: int,
    class_balance: float,
) -> np.ndarray:
    """How likely each clip is to be drawn; see the module.

    Args:
      counts: of each video (T,K), see `class_counts`.
      videos, starts: (N,) which clips there are.
      class_balance: b, 0 to 1.

    Returns:
      (N,) float64, with a sum of 1.

    Raises:
      DataError: no clip holds a voxel of any class.
    """
    # What the frames before each one hold, video after video: a clip's sum is a difference.
    before = [np.concatenate([np.zeros((1, c.shape[1]), np.int64), c.cumsum(0)]) for c in counts]
    first = np.cumsum([0, *map(len, before)])[videos] + starts
    before = np.concatenate(before)
    held = before[first + clip_length] - before[first]  # (N,K)
    total = held.sum(0)  # (K,)
    known = total > 0
    if not known.any():
        raise DataError(
            "No training clip has a known label, so class_balance has nothing to balance; v2v "
            "check-data says what the labels are."
        )
    of_class = held[:, known] / total[known]  # (N,K): which share of a class each clip holds
    return (1 - class_balance) / len(videos) + class_balance * of_class.mean(1)


def _count(dataset: VideoDataset, progress: Progress | None) -> np.ndarray:
    """(frames of all videos, K) int64."""
    num_classes = len(dataset.label_names)
    count = functools.partial(_count_video, num_classes=num_classes)
    arriving: Iterable = map_videos(count, dataset)
    if progress is not None:
        arriving = progress(arriving, len(dataset.videos), f"counting the labels of {dataset.name}")
    found = dict(arriving)
    return np.concatenate([found[video] for video in range(len(dataset.videos))])


def _count_video(dataset: VideoDataset, video: int, num_classes: int) -> np.ndarray:
    """(T,K) int64; zeros where it cannot be read, which whoever reads its frames will say."""
    length = dataset.videos[video].num_frames
    counts = np.zeros((length, num_classes), np.int64)
    try:
        for start in range(0, length, _READ_AT_ONCE):
            stop = min(start + _READ_AT_ONCE, length)
            labels = read_checked(dataset, video, start, stop, ("labels",))["labels"]
            for frame, values in enumerate(labels, start):
                counts[frame] = np.bincount(values.ravel(), minlength=256)[:num_classes]
    except CorruptVideoError:
        counts[:] = 0
    return counts


def _place(dataset: VideoDataset, folder: pathlib.Path) -> pathlib.Path | None:
    """A file whose name changes with what is counted; None where the dataset does not know."""
    try:
        identity = dataset.identity()
    except DataError:
        return None
    videos = [[video.name, video.num_frames] for video in dataset.videos]
    text = json.dumps([identity, videos, dataset.frame_size, dataset.label_names], default=str)
    return folder / f"class_counts-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"


def _read(path: pathlib.Path, shape: tuple[int, int]) -> np.ndarray | None:
    try:
        counts = array_of(path.read_bytes())
        return counts if counts.shape == shape else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logging.warning("%s cannot be read (%s); the labels are counted again.", path, error)
        return None


def _write(path: pathlib.Path, counts: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, bytes_of(counts.astype(np.int32)))
    except OSError as error:  # the next start counts once more
        logging.warning("%s cannot be written (%s).", path, error.strerror)
