"""Reading a dataset's videos in parallel: by threads, or by processes where these are quicker.

While one thread runs Python the others of its process wait, so threads keep no more processors busy
than the share of Python in their work allows. A decoder takes Python's lock back several times a
frame: on 16 cores 16 processes decode two to three times as quickly as 16 threads. But a process
takes a second or two to start, and its frames go through a pipe. `_processes` decides.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import math
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from absl import logging

from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL, VideoDataset
from v2v_jax.errors import CorruptVideoError, DataError, UserError
from v2v_jax.system import processors
from v2v_jax.system.remote_object import CannotStart, ProcessDied, RemoteObject

Frames = dict[str, np.ndarray]
T = TypeVar("T")

# What a process renders in the second or two that it takes to start.
_PIXELS_A_PROCESS = 2_000_000


def _processes(dataset: VideoDataset, times: int) -> int:
    """How many processes are to read a dataset so many times; 0: none, threads are as good.

    Threads are, as long as they ask for Python's lock for less than all of the time.
    """
    if dataset.processes:
        return dataset.processes if dataset.processes > 1 else 0
    h, w = dataset.frame_size
    pixels = times * h * w * sum(video.num_frames for video in dataset.videos)
    worthwhile = int(dataset.python_share * pixels / _PIXELS_A_PROCESS)
    count = min(processors.count(), worthwhile)
    return count if count * dataset.python_share > 1 else 0


def _threads(dataset: VideoDataset) -> int:
    """How many threads are to read a dataset: more would only wait for Python's lock."""
    most = math.ceil(1 / dataset.python_share) if dataset.python_share else math.inf
    return int(min(processors.count(), most))


class Readers:
    """Threads that call functions of a dataset, each in a process of its own where that is quicker.

        with Readers(dataset) as readers:
            future = readers.threads.submit(readers.call, function, 7)  # function(dataset, 7)

    Attributes:
      count: how many there are.
      threads: the only ones that may call `call`.
    """

    def __init__(self, dataset: VideoDataset, times: int = 1) -> None:
        """Threads and processes are started when they are needed.

        Args:
          times: how often the whole dataset will be read.
        """
        self._dataset = dataset
        self._payload: bytes | None = None
        self._warned = threading.Lock()
        self.count = _processes(dataset, times)
        if self.count:
            try:
                self._payload = pickle.dumps(dataset, 5)
            except Exception as error:  # whatever a dataset holds that cannot be sent
                self._warn(error)
        if self._payload is None:
            self.count = _threads(dataset)
        self.threads = concurrent.futures.ThreadPoolExecutor(self.count, "read")
        self._of_thread = threading.local()
        self._remotes: list[RemoteObject] = []

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """`function(dataset, *args)`; all of them must be picklable where a process does it.

        Raises:
          UserError: the process has died.
          What the function raises.
        """
        remote = self._remote()
        if remote is None:
            return function(self._dataset, *args)
        try:
            return remote.call(function, *args)
        except ProcessDied as died:
            raise UserError(
                f"One of the {self.count} processes that read {self._dataset.name} {died}; where "
                "memory is short, use fewer, with --config.data.processes=N (1: none)."
            ) from died

    def _remote(self) -> RemoteObject | None:
        """The dataset in this thread's process; None if it has none."""
        if self._payload is None:
            return None
        if not hasattr(self._of_thread, "remote"):
            self._of_thread.remote = None
            try:
                self._of_thread.remote = RemoteObject(self._payload)
                self._remotes.append(self._of_thread.remote)
            except CannotStart as error:
                self._warn(error)
        return self._of_thread.remote

    def _warn(self, error: Exception) -> None:
        if self._warned.acquire(blocking=False):  # never released: once is enough
            logging.warning(
                "Dataset %s is read by threads, which takes longer: processes cannot be started "
                "for it (%s); --config.data.processes=1 does without them.",
                *(self._dataset.name, error),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Does no more of what was submitted; processes end in the midst of what they read."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for remote in self._remotes:
            remote.kill()
        self.threads.shutdown()


def read_videos(
    dataset: VideoDataset, fields: Sequence[str]
) -> Iterator[tuple[int, Frames | CorruptVideoError]]:
    """Reads every video of a dataset, several at a time, in no particular order.

    Args:
      fields: which fields to read.

    Yields:
      (index of the video, field → (T,H,W,…) of all its frames), or the error in place of the frames
      where the video cannot be decoded.

    Raises:
      DataError: anything else that is wrong with the data.
      UserError: see `Readers.call`.
    """
    return map_videos(functools.partial(_read_whole, fields=fields), dataset)


def map_videos(
    function: Callable[[VideoDataset, int], T], dataset: VideoDataset
) -> Iterator[tuple[int, T]]:
    """Calls a function for every video of a dataset, several at a time, in no particular order.

    Args:
      function: (dataset, index of the video) → result; see `Readers.call`. What it raises ends the
        iteration.

    Yields:
      (index of the video, result).
    """
    with Readers(dataset) as readers:
        if readers.count == 1:
            for video in range(len(dataset.videos)):
                yield video, function(dataset, video)
            return
        begin = functools.partial(readers.threads.submit, readers.call, function)
        waiting = iter(range(len(dataset.videos)))
        # A bounded number in flight: finished videos wait in memory until they are taken.
        first = itertools.islice(waiting, 2 * readers.count)
        running = {begin(video): video for video in first}
        while running:
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                yield running.pop(future), future.result()
                for video in waiting:
                    running[begin(video)] = video
                    break


def read_video_labels(dataset: VideoDataset) -> np.ndarray:
    """The class of every video, (N,) int32; several at a time where they are computed.

    Raises:
      DataError: the dataset has no such classes, or a label that has no name.
    """
    count = len(dataset.videos)
    if dataset.python_share == 1:
        labels = [label for _, label in sorted(map_videos(_video_label, dataset))]
    else:  # they stand in a list
        labels = [dataset.video_label(video) for video in range(count)]
    classes = len(dataset.video_label_names)
    for video, label in enumerate(labels):
        if not 0 <= label < classes:
            raise DataError(
                f"Video {dataset.videos[video].name} of {dataset.name} has the class {label}; its "
                f"classes are 0 to {classes - 1}."
            )
    return np.array(labels, np.int32)


def _video_label(dataset: VideoDataset, video: int) -> int:
    return dataset.video_label(video)


def read_checked(
    dataset: VideoDataset, video: int, start: int, stop: int, fields: Sequence[str]
) -> Frames:
    """`dataset.read`; DataError if a label has no name, which a loss would pass over in silence."""
    frames = dataset.read(video, start, stop, fields)
    labels = frames.get("labels")
    if labels is not None:
        count = len(dataset.label_names)
        wrong = (labels >= count) & (labels != IGNORE_LABEL)
        if wrong.any():
            label = labels[wrong][0]
            raise DataError(
                f"Video {dataset.videos[video].name} of {dataset.name} has the label {label}; "
                f"its {count} classes are 0 to {count - 1}, and {IGNORE_LABEL} is ignored."
            )
    return frames


def read_crop(
    dataset: VideoDataset,
    fields: Sequence[str],
    place: tuple[int, int, int, int],
    size: tuple[int, int, int],
) -> Frames:
    """A part of a video, (t,h,w,…) of each field; see `read_checked`.

    Args:
      place: video, first frame, row and column.
      size: t, h, w.
    """
    video, start, top, left = place
    t, h, w = size
    frames = read_checked(dataset, video, start, start + t, fields)
    return {f: value[:, top : top + h, left : left + w] for f, value in frames.items()}


def _read_whole(
    dataset: VideoDataset, video: int, fields: Sequence[str]
) -> Frames | CorruptVideoError:
    try:
        return read_checked(dataset, video, 0, dataset.videos[video].num_frames, fields)
    except CorruptVideoError as error:
        return error
