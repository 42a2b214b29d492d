"""The dataset `scenes` for tensorflow-datasets: rendered once, then read from disk.

Prepare it with random access to records by

    v2v prepare-tfds scenes --data_dir=DIR

and, after importing this module, open it with `tfds.data_source("scenes/default", data_dir=DIR)`.

A record holds CHUNK successive frames of one video, so that a window of 16 frames touches at most
two records however long the video is. All arrays are lossless: bytes, compressed with zlib. A
`Video` feature would store each frame as a picture of its own and decode the whole record for any
part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from v2v_jax.datasets.base.video_dataset import FIELDS, FRAME_SIZE
from v2v_jax.datasets.scenes.dataset import LABEL_NAMES, SENSOR_NOISE, SPLITS, Scenes

CHUNK = 16  # frames a record


@dataclasses.dataclass(kw_only=True)
class ScenesConfig(tfds.core.BuilderConfig):
    """What to render; see `v2v_jax.datasets.scenes.Scenes`."""

    frame_size: tuple[int, int] = FRAME_SIZE
    num_train_videos: int = 400
    num_validation_videos: int = 60
    num_test_videos: int = 60
    num_frames: int = 48
    seed: int = 0
    noise: float = SENSOR_NOISE

    @property
    def chunks(self) -> int:
        """Records a video."""
        return -(-self.num_frames // CHUNK)

    def scenes(self, split: str) -> Scenes:
        """The rendered dataset that this configuration stores."""
        return Scenes(
            split,
            seed=self.seed,
            num_videos=getattr(self, f"num_{split}_videos"),
            num_frames=self.num_frames,
            frame_size=self.frame_size,
            noise=self.noise,
        )


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of `scenes`; tensorflow-datasets names it after this package."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "First release.",
        "1.1.0": "A validation split.",
    }
    BUILDER_CONFIGS: ClassVar[list[ScenesConfig]] = [
        ScenesConfig(name="default", description="128x171 pixels, as C3D and V2V resize to."),
        ScenesConfig(
            name="small",
            description="128x171 pixels, a tenth of the videos.",
            num_train_videos=40,
            num_validation_videos=6,
            num_test_videos=6,
        ),
        ScenesConfig(
            name="tiny",
            description="64x86 pixels, a few short videos, for tests.",
            frame_size=(64, 86),
            num_train_videos=3,
            num_validation_videos=1,
            num_test_videos=2,
            num_frames=24,
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        """Features of a record: which frames it holds, and one array a field (T,H,W,...)."""
        height, width = self.builder_config.frame_size
        features: dict[str, Any] = {
            field: tfds.features.Tensor(
                shape=(None, height, width, *FIELDS[field].channels),
                dtype=FIELDS[field].dtype,
                encoding="zlib",
            )
            for field in Scenes.fields
        }
        features["video_index"] = tfds.features.Scalar(dtype=np.int64)
        features["first_frame"] = tfds.features.Scalar(dtype=np.int64)
        features["name"] = tfds.features.Text()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            description=(
                "Rendered street scenes with exact labels (" + ", ".join(LABEL_NAMES) + "), "
                "forward flow in pixels per frame, its validity, and depth in metres."
            ),
            # Records stay in the order of their keys, so that a frame's record can be computed.
            disable_shuffling=True,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        """Nothing is downloaded."""
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (number of the record, its features)."""
        config = self.builder_config
        scenes = config.scenes(split)
        for video, info in enumerate(scenes.videos):
            for chunk in range(config.chunks):
                start = chunk * CHUNK
                stop = min(start + CHUNK, config.num_frames)
                example: dict[str, Any] = dict(scenes.read(video, start, stop, scenes.fields))
                example |= {"video_index": video, "first_frame": start, "name": info.name}
                yield video * config.chunks + chunk, example
