"""UCF101 and DAVIS out of the catalogue of tensorflow-datasets, with random access to frames.

The catalogue stores a video as one record of pictures, each compressed on its own. A record has to
be read whole, but only the frames asked for are decompressed, by Pillow. Random access to records
needs data prepared as array_record files.

TensorFlow is imported only when a dataset is opened, and never takes accelerator memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import PIL
from absl import logging

from v2v_jax.datasets.base.class_masks import OBJECT_NAMES, object_mask
from v2v_jax.datasets.base.listing import (
    MIN_FRAMES,
    check_split,
    check_window,
    file_identities,
    list_videos,
)
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE, VideoDataset
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.pictures import Picture
from v2v_jax.system import causes
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.whole_files import write_text


class TfdsVideos(VideoDataset):
    """What these datasets share: records, their frame counts, decoding."""

    # Set by the subclasses: configurations, splits by our names, keys of the record.
    _configs: ClassVar[tuple[str, ...]]
    _splits: ClassVar[dict[str, str]]
    _frames_key: ClassVar[str]
    _masks_key: ClassVar[str] = ""
    _name_key: ClassVar[str] = ""
    _more_keys: ClassVar[tuple[str, ...]] = ()
    _catalogue_name: str

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str,
        *,
        config: str | None = None,
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = MIN_FRAMES,
    ) -> None:
        """Opens a prepared dataset and lists its videos.

        The first time all records are read to count their frames; the counts are then kept beside
        the data, if that folder can be written.

        Args:
          data_dir: where tensorflow-datasets prepared its data.
          split: "train" or "test".
          config: the catalogue's configuration; None takes the usual one.
          frame_size: (H, W) to resize to.
          min_frames: shorter videos are left out with a warning.

        Raises:
          DataError: not prepared, prepared in another format, an unknown configuration, or too many
            videos that cannot be read.
        """
        check_split(self.name, split)
        config = config or self._configs[0]
        if config not in self._configs:
            raise DataError(
                f"{self._catalogue_name} has no configuration {config!r} in tensorflow-datasets; "
                f"choose one of {', '.join(self._configs)}."
            )
        self.frame_size = frame_size
        self._label = f"{self._catalogue_name}/{config}"
        self._records, folder, self._files, fingerprint = _open_records(
            self._label,
            os.fspath(data_dir),
            self._splits[split],
            self._remedy(os.fspath(data_dir)),
        )
        counts = folder / f"v2v_frame_counts-{self._splits[split]}.json"
        known = _read_counts(counts, fingerprint)
        names: dict[int, str] = {}

        def open_one(index: int) -> tuple[int, int]:
            if index not in known:
                known[index] = self._inspect(index)
            name, num_frames = known[index]
            names[index] = name
            return index, num_frames

        size = len(self._records)
        placeholders = [f"{self._label} {split} record {index}" for index in range(size)]
        counted = len(known) < size
        listing = list_videos(self.name, placeholders, open_one, min_frames)
        if counted:
            _write_counts(counts, fingerprint, known)
        self._indices = listing.handles
        self.videos = [
            type(info)(names[index] or info.name, info.num_frames)
            for info, index in zip(listing.videos, listing.handles, strict=True)
        ]
        self.corrupt = listing.corrupt

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`: `video` (T,H,W,3) uint8 RGB, `labels` (T,H,W) uint8.

        Raises:
          CorruptVideoError: the record or one of its pictures cannot be read.
          DataError: a mask is not of its frame's size.
        """
        self.check_fields(fields)
        info = self.videos[video]
        check_window(info, start, stop)
        record = self._record(self._indices[video])
        pictures = record[self._frames_key].bytes_list.value
        masks = record[self._masks_key].bytes_list.value if "labels" in fields else ()
        arrays: dict[str, list[np.ndarray]] = {field: [] for field in fields}
        for number in range(start, stop):
            where = f"{number} of {self._label} {info.name}"
            frame = Picture(pictures[number], f"frame {where}")
            if "video" in fields:
                arrays["video"].append(frame.frame(self.frame_size))
            if "labels" in fields:
                mask = Picture(masks[number], f"mask {where}")
                labels = object_mask(mask, frame.size, self.frame_size, indexed=True)
                arrays["labels"].append(labels)
        return {field: np.stack(array) for field, array in arrays.items()}

    def _remedy(self, data_dir: str) -> str:
        """How to get the data; not `tfds build`, which needs Apache Beam."""
        return (
            f"python -c \"import tensorflow_datasets as tfds; tfds.builder('{self._label}', "
            f"data_dir='{data_dir}', file_format='array_record').download_and_prepare()\""
        )

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        return {"files": file_identities(self._files), "pillow": PIL.__version__}

    def _record(self, index: int) -> Any:
        """The features of a record: a map from key to tf.train.Feature."""
        from google.protobuf.message import DecodeError

        try:
            features = self._records[index].features.feature
        except (ValueError, RuntimeError, IndexError, DecodeError) as error:
            raise CorruptVideoError(
                f"Record {index} of {self._label} cannot be read ({error}); prepare the dataset "
                "again."
            ) from error
        keys = (self._frames_key, self._masks_key, self._name_key)
        # Asking a protobuf map for a key that it lacks would create an empty one.
        for key in filter(None, (*keys, *self._more_keys)):
            if key not in features:
                raise CorruptVideoError(
                    f"Record {index} of {self._label} has no {key}; prepare the dataset again."
                )
        return features

    def _inspect(self, index: int) -> tuple[str, int]:
        """Name (empty if the record has none) and number of frames, without decoding pixels."""
        record = self._record(index)
        num_frames = len(record[self._frames_key].bytes_list.value)
        if self._masks_key and len(record[self._masks_key].bytes_list.value) != num_frames:
            raise CorruptVideoError(
                f"Record {index} of {self._label} has {num_frames} frames and "
                f"{len(record[self._masks_key].bytes_list.value)} masks; prepare the dataset again."
            )
        name = record[self._name_key].bytes_list.value[0].decode() if self._name_key else ""
        return name, num_frames


class TfdsUcf101(TfdsVideos):
    """UCF101 of tensorflow-datasets: `ucf101/ucf101_1` (official split 1) and its siblings."""

    name: ClassVar[str] = "tfds_ucf101"
    _catalogue_name: ClassVar[str] = "ucf101"
    _configs: ClassVar[tuple[str, ...]] = ("ucf101_1", "ucf101_2", "ucf101_3", "ucf101_1_256")
    _splits: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}
    _frames_key: ClassVar[str] = "video"

    def __init__(self, data_dir: str | os.PathLike[str], split: str, **options: Any) -> None:
        """See `_TfdsVideos`."""
        super().__init__(data_dir, split, **options)
        import tensorflow_datasets as tfds

        info = tfds.builder(self._label, data_dir=os.fspath(data_dir)).info
        self.video_label_names = tuple(info.features["label"].names)

    def video_label(self, video: int) -> int:
        """See `VideoDataset.video_label`; reads the whole record."""
        record = self._record(self._indices[video])
        value = record["label"].int64_list.value if "label" in record else ()
        if len(value) != 1:
            raise DataError(
                f"{self.videos[video].name} of {self._label} has no class; prepare the dataset "
                "again."
            )
        return int(value[0])


class TfdsDavis(TfdsVideos):
    """DAVIS 2017 of tensorflow-datasets; its validation split is our test split.

    Labels: background 0, any object 1, void 255.
    """

    name: ClassVar[str] = "tfds_davis"
    fields: ClassVar[tuple[str, ...]] = ("video", "labels")
    label_names: tuple[str, ...] = OBJECT_NAMES
    _catalogue_name: ClassVar[str] = "davis"
    _configs: ClassVar[tuple[str, ...]] = ("480p", "full_resolution")
    _splits: ClassVar[dict[str, str]] = {"train": "train", "test": "validation"}
    _frames_key: ClassVar[str] = "video/frames"
    _masks_key: ClassVar[str] = "video/segmentations"
    _name_key: ClassVar[str] = "metadata/video_name"


def _open_records(
    label: str, data_dir: str, split: str, remedy: str
) -> tuple[Sequence[Any], Any, list[Any], list[int]]:
    """A prepared split: records as tf.train.Example, folder, files, numbers that identify it.

    The records are parsed here without the catalogue's decoders: those decode whole videos, and
    SkipDecoding does not work on sequences outside of tf.data.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")
    try:
        builder = tfds.builder(label, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:  # not in the catalogue, nor prepared there
        builder = None
    if builder is None or split not in builder.info.splits:
        raise DataError(f"{label} is not prepared in {data_dir}; prepare it: {remedy}")
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise DataError(
            f"{label} in {data_dir} is prepared as {', '.join(sorted(formats))}, which has no "
            "random access; convert it: v2v convert-tfds "
            f"{builder.data_path}"
        )
    try:
        records = builder.as_data_source(
            split,
            deserialize_method=tfds.decode.DeserializeMethod.DESERIALIZE_NO_DECODE,
            file_format="array_record",
        )
        # Files of another size than when their frames were counted are counted, and checked, anew.
        files = list(builder.info.splits[split].filepaths)
        sizes = [path.stat().length for path in files]
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        if causes.is_refusal(error):
            raise DataError(
                f"The files of {label} in {builder.data_path} cannot be read "
                f"({causes.reason(error)}); {causes.for_reading(error)}."
            ) from error
        raise DataError(
            f"The files of {label} in {builder.data_path} cannot be opened ({error}); delete them "
            f"and prepare them again: {remedy}"
        ) from error
    return records, builder.data_path, files, [len(records), *sizes]


def _read_counts(path: Any, fingerprint: list[int]) -> dict[int, tuple[str, int]]:
    """Record index → (name, number of frames), as far as known."""
    try:
        stored = parse_object(path.read_text())
        if stored["fingerprint"] != fingerprint:
            return {}
        return {int(index): (name, count) for index, (name, count) in stored["videos"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # not there yet or damaged: counted anew


def _write_counts(path: Any, fingerprint: list[int], videos: dict[int, tuple[str, int]]) -> None:
    try:
        write_text(path, json.dumps({"fingerprint": fingerprint, "videos": videos}), durable=False)
    except OSError as error:
        logging.info("Frame counts are not kept (%s); they are counted again each time.", error)
