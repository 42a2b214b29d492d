"""Datasets that this package prepared for tensorflow-datasets, with random access to their frames.

One record holds some successive frames of a video (`CHUNK` of the builder's module), so that a
window of frames touches no more records than it must. TensorFlow is imported on opening only.
"""

from __future__ import annotations

import abc
import os
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from v2v_jax.datasets.base.listing import file_identities, list_videos
from v2v_jax.datasets.base.video_dataset import FIELDS, FRAME_SIZE, VideoDataset, VideoInfo
from v2v_jax.datasets.scenes.dataset import check_window
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.system import causes


class ChunkedTfds(VideoDataset):
    """The arrays that a dataset's own reader gives, from array_record files.

    Attributes:
      config: the configuration's name.
      frame_size, videos: see `VideoDataset`.
    """

    # Set by the subclasses: further options of the program that prepares it, for messages.
    preparing_options: ClassVar[str] = ""

    @abc.abstractmethod
    def _building(self) -> Any:
        """The builder's module, with `Builder` and `CHUNK`; it imports TensorFlow."""

    @abc.abstractmethod
    def _list_videos(self, builder: Any) -> list[VideoInfo]:
        """The videos of `self.split` in the order of their records."""

    def __init__(
        self,
        split: str,
        data_dir: str | os.PathLike[str],
        *,
        config: str = "",
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = 1,
    ) -> None:
        """Opens a prepared dataset.

        Args:
          split: "train" or "test".
          data_dir: where tensorflow-datasets prepared it.
          config: a configuration of the builder; empty: the prepared one of this frame size.
          frame_size: (H, W); must be the configuration's.
          min_frames: shorter videos are left out with a warning.

        Raises:
          DataError: unknown split or configuration, another frame size, not prepared, prepared
            without random access, or no video that is long enough.
        """
        self.split = split
        self.frame_size = (int(frame_size[0]), int(frame_size[1]))
        self._data_dir = os.fspath(data_dir)
        self._min_frames = min_frames
        self.config = config
        self._open()

    def _open(self) -> None:
        """Finds the configuration and lists its videos."""
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        building = self._building()
        builder = self._find_builder(building.Builder)
        self.config = builder.builder_config.name
        if self.split not in builder.info.splits:
            raise DataError(
                f"Dataset {self.name} has no split {self.split!r}: choose "
                f"{' or '.join(builder.info.splits)}."
            )
        formats = {kind.value for kind in builder.info.available_file_formats()}
        if "array_record" not in formats:
            raise DataError(
                f"{self.name} in {builder.data_path} is prepared as "
                f"{', '.join(sorted(formats))}, which has no random access; delete it and run: "
                f"{self._remedy(self.config)}"
            )
        self._builder = builder
        self._chunk = building.CHUNK
        stored = self._list_videos(builder)
        chunks = [-(-video.num_frames // self._chunk) for video in stored]
        self._first_record = np.concatenate([[0], np.cumsum(chunks)]).astype(int)
        records = builder.info.splits[self.split].num_examples
        if not stored or self._first_record[-1] != records:
            raise DataError(
                f"{self.name} in {builder.data_path} was written by another version of this "
                f"program; delete it and run: {self._remedy(self.config)}"
            )
        listing = list_videos(
            self.name,
            [video.name for video in stored],
            lambda index: (index, stored[index].num_frames),
            self._min_frames,
        )
        self.videos, self._stored = listing.videos, listing.handles
        self._sources: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        """Only what is needed to open the files again in another process."""
        return {
            "split": self.split,
            "frame_size": self.frame_size,
            "_data_dir": self._data_dir,
            "_min_frames": self._min_frames,
            "config": self.config,
        }

    def __setstate__(self, state: dict) -> None:
        """Opens the files again."""
        self.__dict__.update(state)
        self._open()

    def _find_builder(self, builder_class: Any) -> Any:
        """The prepared builder of the configuration asked for, or of the frame size."""
        known = {entry.name: entry for entry in builder_class.BUILDER_CONFIGS}
        if self.config and self.config not in known:
            raise DataError(
                f"{self.name} has no configuration {self.config!r}; choose one of "
                f"{', '.join(known)}."
            )
        fitting = [
            name
            for name, entry in known.items()
            if tuple(entry.frame_size) == self.frame_size and self.config in ("", name)
        ]
        if not fitting:
            sizes = ", ".join(
                f"{name} {entry.frame_size[0]}x{entry.frame_size[1]}"
                for name, entry in known.items()
            )
            raise DataError(
                f"{self.name} is prepared at fixed frame sizes ({sizes}), not at "
                f"{self.frame_size[0]}x{self.frame_size[1]}."
            )
        for name in fitting:
            builder = builder_class(data_dir=self._data_dir, config=name)
            if builder.is_prepared():
                return builder
        raise DataError(
            f"{self.name}/{fitting[0]} is not prepared in {self._data_dir}; run: "
            f"{self._remedy(fitting[0])}"
        )

    def _remedy(self, config: str) -> str:
        return (
            f"v2v prepare-tfds {self.name} --config={config} "
            f"--data_dir={self._data_dir}{self.preparing_options}"
        )

    def _source(self, fields: tuple[str, ...]) -> Any:
        """Random access to the records, of which only these fields are decompressed."""
        import tensorflow_datasets as tfds

        with self._lock:
            if fields not in self._sources:
                unwanted = [field for field in self.fields if field not in fields]
                self._sources[fields] = self._builder.as_data_source(
                    self.split,
                    decoders={field: tfds.decode.SkipDecoding() for field in unwanted},
                )
            return self._sources[fields]

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """Reads frames start..stop-1 of one video, from the records that hold them and no other.

        Returns:
          As the dataset's own reader.

        Raises:
          CorruptVideoError: a record cannot be read.
          DataError: no such video, frames or field.
        """
        self.check_fields(fields)
        check_window(self, video, start, stop)
        parts: dict[str, list[np.ndarray]] = {field: [] for field in fields}
        for chunk in range(start // self._chunk, -(-stop // self._chunk)):
            first = chunk * self._chunk
            record = self._record(video, chunk, tuple(fields))
            window = slice(max(start - first, 0), stop - first)
            for field in fields:
                parts[field].append(record[field][window])
        return {
            field: np.concatenate(arrays).astype(FIELDS[field].dtype, copy=False)
            for field, arrays in parts.items()
        }

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        return {"files": file_identities(self._builder.info.splits[self.split].filepaths)}

    def _record(self, video: int, chunk: int, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
        """One record, decoded and checked to be the one meant."""
        info, stored = self.videos[video], self._stored[video]
        try:
            record = self._source(fields)[int(self._first_record[stored]) + chunk]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            if causes.is_refusal(error):
                raise DataError(
                    f"Record {chunk} of {info.name} in {self._builder.data_path} cannot be read "
                    f"({causes.reason(error)}); {causes.for_reading(error)}."
                ) from error
            raise CorruptVideoError(
                f"Record {chunk} of {info.name} in {self._builder.data_path} cannot be read "
                f"({error}); delete that folder and run: {self._remedy(self.config)}"
            ) from error
        if (record["video_index"], record["first_frame"]) != (stored, chunk * self._chunk):
            raise CorruptVideoError(
                f"Record {chunk} of {info.name} in {self._builder.data_path} is not the expected "
                f"one (video {record['video_index']}, frame {record['first_frame']}); delete that "
                f"folder and run: {self._remedy(self.config)}"
            )
        return record
