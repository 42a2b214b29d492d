"""Reading a dataset's videos whole and in parallel, to fill an accelerator's memory."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
from collections.abc import Iterator, Sequence

import numpy as np

from v2v_jax.datasets.video_dataset import VideoDataset
from v2v_jax.errors import CorruptVideoError

Frames = dict[str, np.ndarray]

_dataset: VideoDataset  # in a worker process: what it reads from


def read_videos(
    dataset: VideoDataset, fields: Sequence[str], workers: int | None = None
) -> Iterator[tuple[int, Frames | CorruptVideoError]]:
    """Reads every video of a dataset, several at a time, in no particular order.

    Args:
      fields: which fields to read.
      workers: processes (for a `python_bound` dataset) or threads; default: one a processor.

    Yields:
      (index of the video, field → (T,H,W,…) of all its frames), or the error in place of the frames
      where the video cannot be decoded.

    Raises:
      DataError: anything else that is wrong with the data.
    """
    workers = min(workers or os.cpu_count() or 1, len(dataset.videos))
    if workers <= 1:
        for video in range(len(dataset.videos)):
            yield video, _read_whole(dataset, video, fields)
        return
    with _executor(dataset, workers) as pool:
        read = _read_in_process if dataset.python_bound else functools.partial(_read_whole, dataset)
        waiting = iter(range(len(dataset.videos)))
        # A bounded number in flight: finished videos wait in memory until they are taken.
        running = {pool.submit(read, v, fields): v for v, _ in zip(waiting, range(2 * workers))}
        try:
            while running:
                done, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield running.pop(future), future.result()
                    for video in waiting:
                        running[pool.submit(read, video, fields)] = video
                        break
        finally:
            for future in running:
                future.cancel()


def _executor(dataset: VideoDataset, workers: int) -> concurrent.futures.Executor:
    if not dataset.python_bound:
        return concurrent.futures.ThreadPoolExecutor(workers)
    # spawn: a fork would copy JAX's threads in whatever state they are.
    return concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_set_dataset,
        initargs=(dataset,),
    )


def _set_dataset(dataset: VideoDataset) -> None:
    global _dataset
    _dataset = dataset


def _read_in_process(video: int, fields: Sequence[str]) -> Frames | CorruptVideoError:
    return _read_whole(_dataset, video, fields)


def _read_whole(
    dataset: VideoDataset, video: int, fields: Sequence[str]
) -> Frames | CorruptVideoError:
    try:
        return dataset.read(video, 0, dataset.videos[video].num_frames, fields)
    except CorruptVideoError as error:
        return error
