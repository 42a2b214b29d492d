"""Kubric's MOVi (Greff et al., CVPR 2022): rendered videos with exact flow, depth and objects.

Its features are those of challenges/movi/movi_e.py in google-research/kubric, the same for MOVi-A
to F. A record is a whole video: frames, masks and depth are pictures of their own, flow is a list
of numbers. Only what a window needs is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from v2v_jax.datasets.base.class_masks import OBJECT_NAMES, object_mask
from v2v_jax.datasets.base.listing import MIN_FRAMES, check_window
from v2v_jax.datasets.base.resizing import resize_flow, resize_nearest
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE
from v2v_jax.datasets.tfds.catalogue import TfdsVideos
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.pictures import Picture

VARIANTS = ("movi_a", "movi_b", "movi_c", "movi_d", "movi_e", "movi_f")
_FULL = 65535  # of uint16: stands for the greatest value of the record's range
_FLOW_RANGE, _DEPTH_RANGE = "metadata/forward_flow_range", "metadata/depth_range"
_FOCAL_LENGTH, _SENSOR_WIDTH = "camera/focal_length", "camera/sensor_width"


class Movi(TfdsVideos):
    """MOVi as tensorflow-datasets stores it, converted to array_record files.

    Labels: background 0, any object 1. Flow is forward flow, also of the last frame, which Kubric
    renders from one frame more than the video has; it is valid everywhere, also where the point is
    hidden next. Depth is along the optical axis: Kubric stores the distance to the camera's centre,
    which is converted by the record's camera. The test split is MOVi's own, of objects and
    backgrounds that its training split does not have.
    """

    name: ClassVar[str] = "movi"
    fields: ClassVar[tuple[str, ...]] = ("video", "labels", "flow", "flow_valid", "depth")
    label_names: tuple[str, ...] = OBJECT_NAMES
    _configs: ClassVar[tuple[str, ...]] = ("256x256", "128x128", "512x512")
    _splits: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}
    _frames_key: ClassVar[str] = "video"
    _masks_key: ClassVar[str] = "segmentations"
    _name_key: ClassVar[str] = "metadata/video_name"
    _more_keys: ClassVar[tuple[str, ...]] = (
        *("forward_flow", "depth"),
        *(_FLOW_RANGE, _DEPTH_RANGE, _FOCAL_LENGTH, _SENSOR_WIDTH),
    )

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        split: str,
        *,
        variant: str = "movi_e",
        resolution: str = "256x256",
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = MIN_FRAMES,
    ) -> None:
        """Opens a prepared dataset and lists its videos; see `TfdsVideos`.

        Args:
          data_dir: the folder that holds `movi_e/256x256/1.0.0`.
          split: "train" or "test".
          variant: movi_a to movi_f.
          resolution: a configuration of the variant.
          frame_size: (H, W) to resize to.
          min_frames: shorter videos are left out with a warning.

        Raises:
          DataError: as `TfdsVideos`, or an unknown variant.
        """
        if variant not in VARIANTS:
            raise DataError(
                f"MOVi has no variant {variant!r}; choose one of {', '.join(VARIANTS)}."
            )
        self._catalogue_name = variant
        super().__init__(
            data_dir, split, config=resolution, frame_size=frame_size, min_frames=min_frames
        )
        first = self._record(self._indices[0])[self._frames_key].bytes_list.value[0]
        self.native_size = Picture(first, f"frame 0 of {self._label}").size

    def _remedy(self, data_dir: str) -> str:
        return (
            f"copy gs://kubric-public/tfds/{self._label} into it and run "
            f"v2v convert-tfds {data_dir}/{self._label}/1.0.0"
        )

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`: `video` uint8 RGB, `labels` uint8 0 or 1, `flow` float16 (u, v),
        rescaled with the frames, `flow_valid` bool, `depth` float16 in metres along the axis.

        Raises:
          CorruptVideoError: the record or one of its pictures cannot be read.
          DataError: a mask or depth is not of its frame's size.
        """
        self.check_fields(fields)
        info = self.videos[video]
        check_window(info, start, stop)
        record = self._record(self._indices[video])
        where = [f"{number} of {self._label} {info.name}" for number in range(start, stop)]
        pictures = record[self._frames_key].bytes_list.value[start:stop]
        frames = [Picture(p, f"frame {name}") for p, name in zip(pictures, where)]
        sizes = [frame.size for frame in frames]
        arrays: dict[str, np.ndarray] = {}
        if "video" in fields:
            arrays["video"] = np.stack([frame.frame(self.frame_size) for frame in frames])
        if "labels" in fields:
            masks = record[self._masks_key].bytes_list.value[start:stop]
            arrays["labels"] = np.stack(
                [
                    object_mask(Picture(mask, f"mask {n}"), size, self.frame_size, indexed=True)
                    for mask, size, n in zip(masks, sizes, where)
                ]
            )
        if "flow" in fields or "flow_valid" in fields:
            flow, valid = self._flow(record, start, stop, sizes[0], info.name)
            arrays |= {"flow": flow, "flow_valid": valid}
        if "depth" in fields:
            pictures = record["depth"].bytes_list.value[start:stop]
            to_axis = _axis_factor(record, sizes[0])
            arrays["depth"] = np.stack(
                [
                    self._depth(Picture(p, f"depth {n}"), record, to_axis)
                    for p, n in zip(pictures, where)
                ]
            )
        return {field: arrays[field] for field in fields}

    def _flow(
        self, record: Any, start: int, stop: int, size: tuple[int, int], name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Flow (T,H,W,2) float16 and validity (T,H,W) bool of some frames, resized."""
        h, w = size
        numbers = record["forward_flow"].int64_list.value
        if len(numbers) % (2 * h * w) or len(numbers) < stop * 2 * h * w:
            raise CorruptVideoError(
                f"The forward_flow of {self._label} {name} has {len(numbers)} numbers, not "
                f"two for each of {w}x{h} pixels; fetch the dataset again."
            )
        window = np.array(numbers[start * 2 * h * w : stop * 2 * h * w], np.float32)
        rows_columns = _decode(window, record, _FLOW_RANGE).reshape(-1, h, w, 2)
        everywhere = np.ones((h, w), bool)
        resized = [
            resize_flow(frame[..., ::-1], everywhere, self.frame_size) for frame in rows_columns
        ]
        return (
            np.stack([flow for flow, _ in resized]).astype(np.float16),
            np.stack([valid for _, valid in resized]),
        )

    def _depth(self, picture: Picture, record: Any, to_axis: np.ndarray) -> np.ndarray:
        """(H,W) float16 metres along the axis, resized; inf beyond float16's range."""
        if picture.size != to_axis.shape:
            (h, w), (frame_h, frame_w) = picture.size, to_axis.shape
            raise DataError(
                f"The picture {picture.name} is {w}x{h}, its frame is {frame_w}x{frame_h}; fetch "
                "the dataset again."
            )
        values = picture.numbers().astype(np.float32)
        depth = resize_nearest(_decode(values, record, _DEPTH_RANGE) * to_axis, self.frame_size)
        with np.errstate(over="ignore"):
            return depth.astype(np.float16)


def _decode(values: np.ndarray, record: Any, key: str) -> np.ndarray:
    """uint16 values → float32 in the range that the record names."""
    least, most = record[key].float_list.value
    return values / np.float32(_FULL) * np.float32(most - least) + np.float32(least)


def _axis_factor(record: Any, size: tuple[int, int]) -> np.ndarray:
    """(H,W) float32: depth along the optical axis, per distance to the camera's centre."""
    h, w = size
    [focal_length] = record[_FOCAL_LENGTH].float_list.value
    [sensor_width] = record[_SENSOR_WIDTH].float_list.value
    x, y = ((np.arange(n) + 0.5 - n / 2) * sensor_width / w / focal_length for n in (w, h))
    return (1 / np.sqrt(1 + x**2 + y[:, None] ** 2)).astype(np.float32)
