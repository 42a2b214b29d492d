"""`feed=tf_data`: only what a step needs is decoded, in parallel and ahead, by tf.data."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import mmap
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from jax.sharding import Mesh

from v2v_jax.datasets.base.reading import Frames, Readers, read_crop
from v2v_jax.datasets.base.video_dataset import FIELDS, VIDEO_LABEL, VideoDataset
from v2v_jax.errors import CorruptVideoError
from v2v_jax.input.base_feed import Batch, Feed
from v2v_jax.input.clips import Clips
from v2v_jax.input.preprocess import Preprocessing, mirror_clips
from v2v_jax.system import sharding

T = TypeVar("T")


class TfDataFeed(Feed):
    """Streams clips through tf.data: cropped on the host, mirrored inside the jitted step.

    One element of the pipeline is a whole batch: its clips are read by threads of their own, with
    or without processes (`reading.Readers`), each into its place. An element a clip would cost more
    than copying the clip, and every batch would be copied once more. Of a video only the clips that
    cannot be read are given up.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        fields: Sequence[str],
        preprocessing: Preprocessing,
        mesh: Mesh,
        count_replacements: bool = True,
    ):
        """Reads nothing yet; see `feeds.make_feed`."""
        super().__init__(dataset, fields, preprocessing, mesh, count_replacements)
        # A frame is in as many clips as a clip has frames.
        self._readers = Readers(dataset, times=preprocessing.clip_length)
        self._memory = _BatchMemory()

    def batches(self, plans: Iterable[Clips]) -> Iterator[Batch]:
        """Yields every plan's clips, cropped, and which are to be mirrored, as global arrays."""
        import tensorflow as tf  # here, so that importing the package does not import TensorFlow

        tf.config.set_visible_devices([], "GPU")
        local = map(_weakly(self._local), plans)
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

    def _clips(self, store: Any, batch: Batch) -> Batch:
        return mirror_clips({field: batch[field] for field in self._fields}, batch["mirror"])

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
        calls = max(2, math.ceil(2 * self._readers.count / batch_size))
        options = tf.data.Options()
        options.threading.private_threadpool_size = calls + 1
        return (
            tf.data.Dataset.from_generator(rows, output_signature=signature)
            .map(functools.partial(_weakly(self._tf_batch), tf, errors), calls, deterministic=True)
            .prefetch(2)
            .with_options(options)
        )

    def _tf_batch(self, tf, errors, video, start, top, left, mirror, mask):
        shapes = self._batch_shapes(mask.shape[0])
        dtypes = [tf.bool, *(tf.as_dtype(dtype) for _, dtype in shapes.values())]
        read = functools.partial(_weakly(self._read_batch), errors)
        counts, *values = tf.numpy_function(read, (video, start, top, left), dtypes)
        batch = {"mirror": mirror, "mask": mask & tf.ensure_shape(counts, mask.shape)}
        for (field, (shape, _)), value in zip(shapes.items(), values):
            batch[field] = tf.ensure_shape(value, shape)
        return batch

    def _batch_shapes(self, batch_size: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """field → shape and dtype of what is read for a batch."""
        size = (batch_size, self._preprocessing.clip_length, *self._preprocessing.crop_size)
        shapes = {f: ((*size, *self._dataset.channels(f)), FIELDS[f].dtype) for f in self._fields}
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
            threads = self._readers.threads
            counts = list(threads.map(read, range(count), *(p.tolist() for p in places)))
        except Exception as error:  # for `batches`; this batch will not be seen
            errors.append(error)
            counts = [False] * count
        return [np.array(counts), *batch.values()]

    def _read_clip(
        self, batch: dict[str, np.ndarray], row: int, video: int, start: int, top: int, left: int
    ) -> bool:
        """Reads a clip into a row of the batch; whether it counts."""
        clip, source = self._read_or_replace(video, start, top, left)
        for field, value in clip.items():
            batch[field][row] = value
        if self._labels is not None:
            batch[VIDEO_LABEL][row] = self._labels[source]
        return self._count_replacements or source == video

    def _read_or_replace(self, video: int, start: int, *corner: int) -> tuple[Frames, int]:
        """The clip, or the first readable one of its replacements; and of which video it is."""
        size = (self._preprocessing.clip_length, *self._preprocessing.crop_size)
        others = self._replacements(video, start)
        for candidate, first in itertools.chain([(video, start)], others):
            try:
                place = (candidate, first, *corner)
                return self._readers.call(read_crop, self._fields, place, size), candidate
            except CorruptVideoError as error:
                self.skipped.add(candidate, error)
        raise AssertionError("unreachable: the replacements end in an error")


def _weakly(method: Callable[..., T]) -> Callable[..., T]:
    """A method that does not keep its object, with its processes: TensorFlow keeps functions."""
    reference = weakref.WeakMethod(method)
    return lambda *args: reference()(*args)


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
