"""Datasets that wrap another: a cache of its frames, labels of a teacher, some of its videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from v2v_jax.datasets.base.video_dataset import VideoDataset


class _Forwarded:
    """An attribute that is the wrapped dataset's, unless the wrapper sets its own."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else getattr(instance.source, self._name)


class WrappedDataset(VideoDataset):
    """Forwards everything to another dataset; a subclass changes what it is there for.

    Also what is not part of `VideoDataset`, such as `Sintel.native_pairs`, is found through it.
    `check_fields` goes by the wrapper's own `fields`.

    Attributes:
      source: the wrapped dataset.
    """

    name = _Forwarded()
    fields = _Forwarded()
    python_share = _Forwarded()
    processes = _Forwarded()
    label_names = _Forwarded()
    video_label_names = _Forwarded()
    frame_size = _Forwarded()
    native_size = _Forwarded()
    videos = _Forwarded()
    corrupt = _Forwarded()

    def __init__(self, source: VideoDataset) -> None:
        self.source = source

    def __getattr__(self, name: str) -> Any:
        """What this class does not have is looked for in the source; private names are not."""
        if name.startswith("_") or name == "source":
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.source, name)

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`."""
        return self.source.read(video, start, stop, fields)

    def files(self, video: int) -> tuple[str, ...]:
        """See `VideoDataset.files`."""
        return self.source.files(video)

    def original_size(self, video: int) -> tuple[int, int] | None:
        """See `VideoDataset.original_size`."""
        return self.source.original_size(video)

    def video_label(self, video: int) -> int:
        """See `VideoDataset.video_label`."""
        return self.source.video_label(video)

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        return self.source.identity()

    def prepare_fields(
        self,
        fields: Sequence[str],
        progress: Callable[[Iterable, int, str], Iterable] | None = None,
    ) -> None:
        """See `VideoDataset.prepare_fields`."""
        self.source.prepare_fields(fields, progress)
