"""Reading a dataset's videos whole and in parallel, to fill an accelerator's memory."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from absl import logging

from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL, VideoDataset
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.system import causes

Frames = dict[str, np.ndarray]
T = TypeVar("T")

# What a process renders in the second or two that it takes to start.
_PIXELS_A_PROCESS = 2_000_000
_dataset: VideoDataset  # in a worker process: what it reads from


def read_videos(
    dataset: VideoDataset, fields: Sequence[str], workers: int | None = None
) -> Iterator[tuple[int, Frames | CorruptVideoError]]:
    """Reads every video of a dataset, several at a time, in no particular order.

    Args:
      fields: which fields to read.
      workers: see `map_videos`.

    Yields:
      (index of the video, field → (T,H,W,…) of all its frames), or the error in place of the frames
      where the video cannot be decoded.

    Raises:
      DataError: anything else that is wrong with the data.
    """
    return map_videos(functools.partial(_read_whole, fields=fields), dataset, workers)


def map_videos(
    function: Callable[[VideoDataset, int], T], dataset: VideoDataset, workers: int | None = None
) -> Iterator[tuple[int, T]]:
    """Calls a function for every video of a dataset, several at a time, in no particular order.

    Args:
      function: (dataset, index of the video) → result; both must be picklable for a `python_bound`
        dataset. What it raises ends the iteration.
      workers: processes (for a `python_bound` dataset) or threads; default: one a processor, but
        no processes for what is done before they have started.

    Yields:
      (index of the video, result).
    """
    workers = min(workers or _worthwhile_workers(dataset), len(dataset.videos))
    if workers <= 1:
        for video in range(len(dataset.videos)):
            yield video, function(dataset, video)
        return
    pool, of_processes = _executor(dataset, workers)
    with pool:
        if of_processes:
            call = functools.partial(_call_in_process, function)
        else:
            call = functools.partial(function, dataset)
        waiting = iter(range(len(dataset.videos)))
        # A bounded number in flight: finished videos wait in memory until they are taken.
        first = itertools.islice(waiting, 2 * workers)
        running = {pool.submit(call, video): video for video in first}
        try:
            while running:
                done, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield running.pop(future), future.result()
                    for video in waiting:
                        running[pool.submit(call, video)] = video
                        break
        finally:
            for future in running:
                future.cancel()


def _worthwhile_workers(dataset: VideoDataset) -> int:
    processors = os.cpu_count() or 1
    if not dataset.python_bound:
        return processors
    h, w = dataset.frame_size
    pixels = h * w * sum(video.num_frames for video in dataset.videos)
    return min(processors, max(1, pixels // _PIXELS_A_PROCESS))


def read_video_labels(dataset: VideoDataset, workers: int | None = None) -> np.ndarray:
    """The class of every video, (N,) int32; several at a time where that takes Python's time.

    Raises:
      DataError: the dataset has no such classes, or a label that has no name.
    """
    count = len(dataset.videos)
    workers = min(workers or os.cpu_count() or 1, count // 16)  # a process takes a second to start
    if dataset.python_bound and workers > 1:
        pool, of_processes = _executor(dataset, workers)
        label_of = _video_label_in_process if of_processes else dataset.video_label
        with pool:
            labels = list(pool.map(label_of, range(count), chunksize=8))
    else:
        labels = [dataset.video_label(video) for video in range(count)]
    classes = len(dataset.video_label_names)
    for video, label in enumerate(labels):
        if not 0 <= label < classes:
            raise DataError(
                f"Video {dataset.videos[video].name} of {dataset.name} has the class {label}; its "
                f"classes are 0 to {classes - 1}."
            )
    return np.array(labels, np.int32)


def _video_label_in_process(video: int) -> int:
    return _dataset.video_label(video)


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


def _executor(dataset: VideoDataset, workers: int) -> tuple[concurrent.futures.Executor, bool]:
    """Processes where Python's own time counts and there can be any, else threads; and which."""
    if dataset.python_bound:
        try:
            # spawn: a fork would copy JAX's threads in whatever state they are.
            processes = concurrent.futures.ProcessPoolExecutor(
                workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_set_dataset,
                initargs=(dataset,),
            )
            return processes, True
        except (OSError, ImportError, NotImplementedError) as error:
            # Their locks are in /dev/shm, which containers may lack or have read-only.
            logging.warning(
                "Dataset %s is read by threads, which takes longer: processes cannot be started "
                "here (%s); see that /dev/shm can be written.",
                *(dataset.name, causes.reason(error)),
            )
    return concurrent.futures.ThreadPoolExecutor(workers), False


def _set_dataset(dataset: VideoDataset) -> None:
    global _dataset
    _dataset = dataset
    if hasattr(os, "nice"):
        os.nice(10)  # training, which compiles and feeds a device meanwhile, goes first
    # Ctrl-C and a cluster's preemption are the main process's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _call_in_process(function: Callable[[VideoDataset, int], T], video: int) -> T:
    return function(_dataset, video)


def _read_whole(
    dataset: VideoDataset, video: int, fields: Sequence[str]
) -> Frames | CorruptVideoError:
    try:
        return read_checked(dataset, video, 0, dataset.videos[video].num_frames, fields)
    except CorruptVideoError as error:
        return error
