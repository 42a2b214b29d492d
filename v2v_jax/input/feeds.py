"""Feeds: how the clips of a plan reach the accelerators.

* `DeviceFeed` (`feed=device`) decodes the whole set once and keeps it, uint8 frames and targets, in
  accelerator memory; clips are cut out inside the jitted step. Needs no TensorFlow. Training may
  begin while the set is read (`grow_steps`, see `input.clips`).
* `TfDataFeed` (`feed=tf_data`) decodes only what a step needs, in parallel and ahead, by tf.data;
  clips are mirrored and normalised inside the jitted step.

Both deliver the same clips for the same plan. In training a clip that cannot be read is replaced by
one of the next video, which depends on that clip alone; in evaluation it is masked. `DeviceFeed`
gives up a video that cannot be read to its end, `TfDataFeed` only the clips of it that cannot be
read. More than 1 % of unreadable videos ends the run.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import itertools
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from v2v_jax.datasets.base.reading import read_checked, read_video_labels
from v2v_jax.datasets.base.video_dataset import FIELDS, VIDEO_LABEL, VideoDataset
from v2v_jax.errors import ConfigError, CorruptVideoError, DataError
from v2v_jax.input.clips import Clips
from v2v_jax.input.device_store import DeviceStore
from v2v_jax.input.preprocess import Preprocessing, gather_clips, mirror_clips
from v2v_jax.system import sharding

Batch = dict[str, jax.Array]
FEEDS = ("device", "tf_data")
MAX_CORRUPT_SHARE = 0.01


class Feed(Protocol):
    """What training and evaluation need of a feed.

    `store` is a pytree of device arrays that each step reads, to be asked for anew before each, as
    more of it may have been filled meanwhile; `batches` yields one pytree of global
    arrays a plan; `prepare(store, batch)`, called inside the jitted step, makes of the two the
    fields (B,T,H,W,…), `mask` (B,) and, where it was asked for, `video_label` (B,).
    """

    store: Any
    skipped: CorruptVideos

    def batches(self, plans: Iterable[Clips]) -> Iterator[Batch]:
        """Yields the global batch of every plan, in order."""

    def prepare(self, store: Any, batch: Batch) -> Batch:
        """Traced inside the jitted step."""


def make_feed(
    kind: str,
    dataset: VideoDataset,
    fields: Sequence[str],
    preprocessing: Preprocessing,
    mesh: Mesh,
    progress: Callable[[Iterable, int, str], Iterable] | None = None,
    *,
    count_replacements: bool = True,
    grows: bool = False,
) -> Feed:
    """The feed named `device` or `tf_data`.

    Args:
      fields: which of the dataset's fields to deliver.
      count_replacements: whether a clip that stands for an unreadable one counts, as in training,
        or is masked, as in evaluation, where it would count twice.
      grows: do not wait for all videos: `batches` waits for those that a batch needs.
      progress: wraps an iterable of known length to show its progress.

    Raises:
      ConfigError: unknown kind, or the set does not fit the accelerators' memory.
      DataError: the dataset lacks a field, or too many of its videos are unreadable.
    """
    if kind not in FEEDS:
        raise ConfigError(f"feed is {kind!r}; known: {', '.join(FEEDS)}.")
    dataset.prepare_fields(fields, progress)
    if kind == "device":
        return DeviceFeed(dataset, fields, preprocessing, mesh, progress, count_replacements, grows)
    return TfDataFeed(dataset, fields, preprocessing, mesh, count_replacements)


def _split(dataset: VideoDataset, fields: Sequence[str]) -> tuple[tuple[str, ...], Any]:
    """The fields that are read with the frames, and the videos' labels (N,) if asked for."""
    labels = read_video_labels(dataset) if VIDEO_LABEL in fields else None
    return tuple(field for field in fields if field != VIDEO_LABEL), labels


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


# ------------------------------------------------------------------------------------------------


class DeviceFeed:
    """Keeps the decoded set in the memory of every accelerator; see the module's docstring."""

    def __init__(
        self,
        dataset: VideoDataset,
        fields: Sequence[str],
        preprocessing: Preprocessing,
        mesh: Mesh,
        progress: Callable[[Iterable, int, str], Iterable] | None = None,
        count_replacements: bool = True,
        grows: bool = False,
    ):
        fields, self._labels = _split(dataset, fields)
        _check_memory(dataset, fields, mesh)
        self._count_replacements = count_replacements
        self._mesh = mesh
        self._preprocessing = preprocessing
        self._dataset = dataset
        self.skipped = CorruptVideos(dataset)
        self._store = DeviceStore(
            dataset, fields, mesh, self.skipped.add, preprocessing.clip_length
        )
        if not grows:
            self._read_all(progress)

    def _read_all(self, progress: Callable[[Iterable, int, str], Iterable] | None) -> None:
        arriving = self._store.fill()
        if progress is not None:
            count, name = len(self._dataset.videos), self._dataset.name
            arriving = progress(arriving, count, f"reading {name}")
        for _ in arriving:
            pass

    @property
    def store(self) -> dict[str, jax.Array]:
        """field → (N,H,W,…); see `Feed`."""
        return self._store.arrays()

    def batches(self, plans: Iterable[Clips]) -> Iterator[Batch]:
        """Yields the positions of every plan's clips in the store, as global arrays."""
        for plan in plans:
            first, last = sharding.local_rows(len(plan.video), self._mesh)
            mine = plan.rows(first, last)
            self._store.wait_for(mine.video)
            yield sharding.to_global(self._positions(mine), self._mesh)

    def _positions(self, plan: Clips) -> dict[str, np.ndarray]:
        video, start = self._replace_unreadable(plan)
        labels = {} if self._labels is None else {VIDEO_LABEL: self._labels[video]}
        return labels | {
            "frame": (self._store.offsets[video] + start).astype(np.int32),
            "top": plan.top,
            "left": plan.left,
            "mirror": plan.mirror,
            "mask": plan.mask & (self._count_replacements | (video == plan.video)),
        }

    def _replace_unreadable(self, plan: Clips) -> tuple[np.ndarray, np.ndarray]:
        video, start = plan.video.copy(), plan.start.copy()
        for row in np.flatnonzero(self._store.unreadable[video]):
            others = _replacements(
                self._dataset, video[row], start[row], self._preprocessing.clip_length
            )
            replacement = next((clip for clip in others if self._is_readable(clip[0])), None)
            if replacement is None:
                raise _nothing_readable(self._dataset)
            video[row], start[row] = replacement
        return video, start

    def _is_readable(self, video: int) -> bool:
        self._store.wait_for([video])
        return not self._store.unreadable[video]

    def prepare(self, store: Any, batch: Batch) -> Batch:
        """Cuts the clips out of the store; traced inside the jitted step."""
        clips = gather_clips(store, batch, self._preprocessing)
        return clips | _of_whole_clips(batch)


def _of_whole_clips(batch: Batch) -> Batch:
    return {name: batch[name] for name in ("mask", VIDEO_LABEL) if name in batch}


def _check_memory(dataset: VideoDataset, fields: Sequence[str], mesh: Mesh) -> None:
    stats = mesh.local_devices[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return  # the CPU does not say
    frames = sum(video.num_frames for video in dataset.videos)
    voxel = sum(FIELDS[f].dtype.itemsize * int(np.prod(FIELDS[f].channels)) for f in fields)
    needed = frames * int(np.prod(dataset.frame_size)) * voxel
    taken = stats.get("bytes_in_use", 0)  # the training set, when this is the test set
    if taken + needed > 0.6 * stats["bytes_limit"]:
        raise ConfigError(
            f"feed=device needs {needed / 2**30:.1f} GiB for the {frames} frames of "
            f"{dataset.name}, with the {taken / 2**30:.1f} GiB in use more than 60 % of the "
            f"device's {stats['bytes_limit'] / 2**30:.1f} GiB; use --config.feed=tf_data."
        )


def _replacements(
    dataset: VideoDataset, video: int, start: int, clip_length: int
) -> Iterator[tuple[int, int]]:
    """Clips to take instead of an unreadable one: the same place in the next videos, in order."""
    for i in range(1, len(dataset.videos)):
        other = (int(video) + i) % len(dataset.videos)
        starts = dataset.videos[other].num_frames - clip_length + 1
        if starts > 0:
            yield other, int(start) % starts


def _nothing_readable(dataset: VideoDataset) -> DataError:
    return DataError(f"No video of {dataset.name} that is long enough for a clip can be read.")


# ------------------------------------------------------------------------------------------------


class TfDataFeed:
    """Streams clips through tf.data; see the module's docstring.

    One element of the pipeline is a whole batch: its clips are read by threads of their own, each
    straight into its place. An element a clip would cost more than copying the clip, and every
    batch would be copied once more.
    """

    store: Any = ()

    def __init__(
        self,
        dataset: VideoDataset,
        fields: Sequence[str],
        preprocessing: Preprocessing,
        mesh: Mesh,
        count_replacements: bool = True,
    ):
        self._count_replacements = count_replacements
        self._dataset = dataset
        self._fields, self._labels = _split(dataset, fields)
        self._preprocessing = preprocessing
        self._mesh = mesh
        self.skipped = CorruptVideos(dataset)
        self._threads = os.cpu_count() or 1
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, "read")
        self._memory = _BatchMemory()

    def batches(self, plans: Iterable[Clips]) -> Iterator[Batch]:
        """Yields every plan's clips, cropped, and which are to be mirrored, as global arrays."""
        import tensorflow as tf  # here, so that importing the package does not import TensorFlow

        tf.config.set_visible_devices([], "GPU")
        local = (p.rows(*sharding.local_rows(len(p.video), self._mesh)) for p in plans)
        first = next(local, None)
        if first is None:
            return
        errors: list[Exception] = []  # tf.data would print a traceback and hand on its text
        plans = itertools.chain([first], local)
        stream = self._batch_stream(tf, plans, len(first.video), errors)
        for batch in stream.as_numpy_iterator():
            if errors:
                break
            yield sharding.to_global(batch, self._mesh)
        if errors:
            raise errors[0]

    def prepare(self, store: Any, batch: Batch) -> Batch:
        """Mirrors what is to be mirrored; traced inside the jitted step."""
        clips = {field: batch[field] for field in self._fields}
        return mirror_clips(clips, batch["mirror"]) | _of_whole_clips(batch)

    def _batch_stream(self, tf, plans: Iterator[Clips], batch_size: int, errors: list[Exception]):
        """A tf.data.Dataset of this process's batches: plans → batches of decoded clips."""

        def rows():
            try:
                for p in plans:
                    yield p.video, p.start, p.top, p.left, p.mirror, p.mask
            except Exception as error:  # for `batches`
                errors.append(error)

        spec = lambda dtype: tf.TensorSpec((batch_size,), dtype)
        signature = (*[spec(tf.int32)] * 4, spec(tf.bool), spec(tf.bool))
        # Two batches in flight, so that no thread waits for the slowest clip of a batch; more of
        # them where a batch is smaller than the number of threads.
        calls = max(2, math.ceil(2 * self._threads / batch_size))
        options = tf.data.Options()
        options.threading.private_threadpool_size = calls + 1
        return (
            tf.data.Dataset.from_generator(rows, output_signature=signature)
            .map(functools.partial(self._tf_batch, tf, errors), calls, deterministic=True)
            .prefetch(2)
            .with_options(options)
        )

    def _tf_batch(self, tf, errors, video, start, top, left, mirror, mask):
        shapes = self._batch_shapes(mask.shape[0])
        dtypes = [tf.bool, *(tf.as_dtype(dtype) for _, dtype in shapes.values())]
        read = functools.partial(self._read_batch, errors)
        counts, *values = tf.numpy_function(read, (video, start, top, left), dtypes)
        batch = {"mirror": mirror, "mask": mask & tf.ensure_shape(counts, mask.shape)}
        for (field, (shape, _)), value in zip(shapes.items(), values):
            batch[field] = tf.ensure_shape(value, shape)
        return batch

    def _batch_shapes(self, batch_size: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """field → shape and dtype of what is read for a batch."""
        size = (batch_size, self._preprocessing.clip_length, *self._preprocessing.crop_size)
        shapes = {f: ((*size, *FIELDS[f].channels), FIELDS[f].dtype) for f in self._fields}
        if self._labels is not None:
            shapes[VIDEO_LABEL] = ((batch_size,), self._labels.dtype)
        return shapes

    def _read_batch(self, errors: list[Exception], *places: np.ndarray) -> list[np.ndarray]:
        """Which clips count, (B,) bool, and the fields (B,T,H',W',…) of clips at `places`."""
        count = len(places[0])
        shapes = self._batch_shapes(count)
        batch = {field: self._memory.empty(*shape) for field, shape in shapes.items()}
        read = functools.partial(self._read_clip, batch)
        try:
            counts = list(self._pool.map(read, range(count), *(p.tolist() for p in places)))
        except Exception as error:  # for `batches`; this batch will not be seen
            errors.append(error)
            counts = [False] * count
        return [np.array(counts), *batch.values()]

    def _read_clip(
        self, batch: dict[str, np.ndarray], row: int, video: int, start: int, top: int, left: int
    ) -> bool:
        """Reads a clip into a row of the batch; whether it counts."""
        clip, source = self._read_or_replace(video, start)
        h, w = self._preprocessing.crop_size
        for field, value in clip.items():
            batch[field][row] = value[:, top : top + h, left : left + w]
        if self._labels is not None:
            batch[VIDEO_LABEL][row] = self._labels[source]
        return self._count_replacements or source == video

    def _read_or_replace(self, video: int, start: int) -> tuple[dict[str, np.ndarray], int]:
        """The clip, or the first readable one of its replacements; and of which video it is."""
        length = self._preprocessing.clip_length
        others = _replacements(self._dataset, video, start, length)
        for candidate, first in itertools.chain([(video, start)], others):
            try:
                clip = read_checked(self._dataset, candidate, first, first + length, self._fields)
                return clip, candidate
            except CorruptVideoError as error:
                self.skipped.add(candidate, error)
        raise _nothing_readable(self._dataset)


class _BatchMemory:
    """Arrays whose memory is used again as soon as nothing refers to it any more.

    A batch of the paper's clips takes the system longer to provide, page by page, than to fill.
    Page-aligned memory also passes through TensorFlow, and JAX on the CPU, without being copied.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array with arbitrary content; thread-safe."""
        size = max(1, math.prod(shape)) * dtype.itemsize
        free = self._free.setdefault(size, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = mmap.mmap(-1, size)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a kernel without huge pages
                    memory.madvise(mmap.MADV_HUGEPAGE)
        # All views of the memory, TensorFlow's and JAX's too, keep this array alive.
        whole = np.frombuffer(memory, dtype)
        weakref.finalize(whole, free.append, memory).atexit = False
        return whole[: math.prod(shape)].reshape(shape)
