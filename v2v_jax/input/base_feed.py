"""What both feeds share: the interface, the fields and labels they deliver, unreadable videos.

Both deliver the same clips for the same plan. In training a clip that cannot be read is replaced by
one of the next video, which depends on that clip alone; in evaluation it is masked. More than 1 %
of unreadable videos ends the run.
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from v2v_jax.datasets.base.reading import read_video_labels
from v2v_jax.datasets.base.video_dataset import VIDEO_LABEL, VideoDataset
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.input.clips import Clips
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.system import sharding

Batch = dict[str, jax.Array]
MAX_CORRUPT_SHARE = 0.01


class Feed(abc.ABC):
    """How the clips of a plan reach the accelerators.

    Attributes:
      store: a pytree of device arrays that each step reads; to be asked for anew before each, as
        more of it may have been filled meanwhile.
      skipped: the videos that could not be read.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        fields: Sequence[str],
        preprocessing: Preprocessing,
        mesh: Mesh,
        count_replacements: bool = True,
    ):
        """See `feeds.make_feed`."""
        self._dataset = dataset
        # Read with the frames; a video's label is one for the whole clip.
        self._fields = tuple(field for field in fields if field != VIDEO_LABEL)
        self._labels = read_video_labels(dataset) if VIDEO_LABEL in fields else None  # (N,)
        self._preprocessing = preprocessing
        self._mesh = mesh
        self._count_replacements = count_replacements
        self.skipped = CorruptVideos(dataset)

    @property
    def store(self) -> Any:
        """See the class."""
        return ()

    @abc.abstractmethod
    def batches(self, plans: Iterable[Clips]) -> Iterator[Batch]:
        """Yields one pytree of global arrays for every plan, in order."""

    def prepare(self, store: Any, batch: Batch) -> Batch:
        """Makes clips of the store and a batch; traced inside the jitted step.

        Returns:
          The fields (B,T,H,W,…), `mask` (B,) and, where it was asked for, `video_label` (B,).
        """
        whole = {name: batch[name] for name in ("mask", VIDEO_LABEL) if name in batch}
        return self._clips(store, batch) | whole

    @abc.abstractmethod
    def _clips(self, store: Any, batch: Batch) -> Batch:
        """The fields (B,T,H,W,…)."""

    def _local(self, plan: Clips) -> Clips:
        """This process's rows of a plan."""
        return plan.rows(*sharding.local_rows(len(plan.video), self._mesh))

    def _replacements(self, video: int, start: int) -> Iterator[tuple[int, int]]:
        """(video, start) to take instead of an unreadable clip: the same place in the next videos.

        Raises:
          DataError: all were taken.
        """
        videos = self._dataset.videos
        for i in range(1, len(videos)):
            other = (int(video) + i) % len(videos)
            starts = videos[other].num_frames - self._preprocessing.clip_length + 1
            if starts > 0:
                yield other, int(start) % starts
        raise DataError(
            f"No video of {self._dataset.name} that is long enough for a clip can be read."
        )


class CorruptVideos:
    """Counts unreadable videos, warns once for each, and stops the run when there are too many."""

    def __init__(self, dataset: VideoDataset):
        self._videos = dataset.videos
        self._limit = max(1, int(MAX_CORRUPT_SHARE * len(dataset.videos)))
        self._seen: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, video: int, error: CorruptVideoError) -> None:
        """Counts a video; raises DataError once more than 1 % (at least 2) are unreadable."""
        with self._lock:
            if video in self._seen:
                return
            self._seen.add(video)
            logging.warning("Skipping a video that cannot be read: %s", error)
            if len(self._seen) > self._limit:
                raise DataError(
                    f"{len(self._seen)} of {len(self._videos)} videos cannot be read, more than "
                    f"the {self._limit} that a run tolerates; the last one: {error}"
                )
