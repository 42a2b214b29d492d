"""A dataset's frames in the memory of every accelerator, where training may begin before all are.

Videos are read in parallel, in about the order of their indices, and written into arrays that have
their full size from the start, so that the jitted step that reads them is compiled once. What a
step computes does not depend on how far the reading got: before a step whoever plans it waits for
the videos of its clips (`wait_for`), and which clips those are is a function of the step
(`input.clips`, `grow_steps`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from v2v_jax.datasets.base.reading import Frames, read_videos
from v2v_jax.datasets.base.video_dataset import FIELDS, VideoDataset
from v2v_jax.errors import CorruptVideoError
from v2v_jax.system import sharding
from v2v_jax.system.background import Ahead

_BYTES_AHEAD = 2 << 30  # of frames that wait in the host's memory
Arrays = dict[str, jax.Array]


class DeviceStore:
    """Frames of all videos, one after the other; see the module's docstring.

    Attributes:
      offsets: (videos + 1,) int64, the first frame of every video in the store.
      unreadable: (videos,) bool, which turned out to be so.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        fields: Sequence[str],
        mesh: Mesh,
        on_error: Callable[[int, CorruptVideoError], None],
        block: int,
    ) -> None:
        """Makes room on the devices and starts to read.

        Args:
          fields: what is kept.
          on_error: called for a video that cannot be read; it may raise.
          block: frames written at a time; shorter videos stay empty, as no clip is cut from them.
        """
        lengths = [video.num_frames for video in dataset.videos]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.unreadable = np.zeros(len(lengths), bool)
        self._here = np.zeros(len(lengths), bool)
        self._mesh = mesh
        self._on_error = on_error
        self._block = block
        frame = {f: (*dataset.frame_size, *dataset.channels(f)) for f in fields}
        self._shapes = {f: (int(self.offsets[-1]), *shape) for f, shape in frame.items()}
        self._copies = [self._empty(device) for device in mesh.local_devices]
        self._global: Arrays | None = None
        size = sum(int(np.prod(frame[f])) * FIELDS[f].dtype.itemsize for f in fields)
        depth = max(2, _BYTES_AHEAD // (size * max(lengths, default=1)))
        self._arriving = Ahead(read_videos(dataset, fields), depth)

    def _empty(self, device: jax.Device) -> Arrays:
        def zeros() -> Arrays:
            return {f: jnp.zeros(shape, FIELDS[f].dtype) for f, shape in self._shapes.items()}

        with jax.set_mesh(sharding.make_mesh([device])):  # the caller's has other devices, too
            return jax.jit(zeros, out_shardings=SingleDeviceSharding(device))()

    def arrays(self) -> Arrays:
        """field → (N,H,W,…) global arrays that every device holds whole, as they are now.

        Good until frames arrive, so until `wait_for` is called again: they are written in place.
        """
        if self._global is None:
            spec = sharding.replicated(self._mesh)
            self._global = {
                f: jax.make_array_from_single_device_arrays(
                    shape, spec, [copy[f] for copy in self._copies]
                )
                for f, shape in self._shapes.items()
            }
        return self._global

    def wait_for(self, videos: Iterable[int]) -> None:
        """Returns when these videos are in the store or known to be unreadable.

        Takes in on the way whatever else has arrived.

        Raises:
          DataError: too many videos cannot be read, or something else is wrong with the data.
        """
        while self._arriving.ready() and self._receive():
            pass
        for video in videos:
            while not self._here[video]:
                self._receive()

    def fill(self) -> Iterator[int]:
        """Yields the index of every video as it arrives, until all are there."""
        while not self._here.all():
            yield self._receive()

    def _receive(self) -> int | None:
        """Takes in the next video: its index, None after the last."""
        arrived = next(self._arriving, None)
        if arrived is None:
            return None
        video, frames = arrived
        if isinstance(frames, CorruptVideoError):
            self.unreadable[video] = True
            self._on_error(video, frames)
        else:
            self._write(int(self.offsets[video]), frames)
        self._here[video] = True
        return video

    def _write(self, first: int, frames: Frames) -> None:
        """Writes a video from frame `first` of the store on, in blocks of one and the same size."""
        count = len(next(iter(frames.values())))
        if count < self._block:
            return
        self._global = None  # its buffers are about to be written over
        for start in (*range(0, count - self._block, self._block), count - self._block):
            part = {f: frames[f][start : start + self._block] for f in self._shapes}
            for index, device in enumerate(self._mesh.local_devices):
                placed = jax.device_put(part, device)
                with jax.set_mesh(sharding.make_mesh([device])):
                    self._copies[index] = _overwrite(self._copies[index], placed, first + start)


@functools.partial(jax.jit, donate_argnums=0)
def _overwrite(store: Arrays, part: Arrays, first: jax.Array) -> Arrays:
    """The store with `part` from frame `first` on."""
    return {f: jax.lax.dynamic_update_slice_in_dim(store[f], part[f], first, 0) for f in store}
