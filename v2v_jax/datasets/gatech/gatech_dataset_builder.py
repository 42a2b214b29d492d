"""GATECH for tensorflow-datasets: decoded and resized once, then read from disk.

Prepare it with random access to records by

    v2v prepare-tfds gatech --source=DIR --data_dir=DIR

where --source holds what `v2v_jax.datasets.gatech.Gatech` describes. As in `scenes` a record holds
CHUNK successive frames of one video, compressed with zlib.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from v2v_jax.datasets.base.reading import read_checked
from v2v_jax.datasets.base.video_dataset import FIELDS, FRAME_SIZE
from v2v_jax.datasets.gatech.dataset import CLASSES, Gatech

CHUNK = 16  # frames a record


@dataclasses.dataclass(kw_only=True)
class GatechConfig(tfds.core.BuilderConfig):
    """The size that frames and masks are resized to."""

    frame_size: tuple[int, int] = FRAME_SIZE


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builder of `gatech`; tensorflow-datasets names it after this package."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "The folder holds Images/{Original,Ground_Truth} and Images_test/{Original,Ground_Truth} "
        "(docs/reference/datasets.md)."
    )
    BUILDER_CONFIGS: ClassVar[list[GatechConfig]] = [
        GatechConfig(name="default", description="128x171 pixels, as C3D and V2V resize to."),
        GatechConfig(name="tiny", description="36x36 pixels, for tests.", frame_size=(36, 36)),
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
            for field in Gatech.fields
        }
        features["video_index"] = tfds.features.Scalar(dtype=np.int64)
        features["first_frame"] = tfds.features.Scalar(dtype=np.int64)
        features["name"] = tfds.features.Text()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            description=f"Outdoor videos with labels ({', '.join(CLASSES.names)}).",
            disable_shuffling=True,  # so that a frame's record can be computed
            metadata=tfds.core.MetadataDict(),  # split -> [name, number of frames] of its videos
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        """Lists both splits before anything is written, so that what is missing is said first."""
        size = self.builder_config.frame_size
        root = dl_manager.manual_dir
        splits = {split: Gatech(root, split, frame_size=size) for split in ("train", "test")}
        for split, videos in splits.items():
            self.info.metadata[split] = [[v.name, v.num_frames] for v in videos.videos]
        return {split: _examples(videos) for split, videos in splits.items()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Not used: each split comes with its generator."""
        raise NotImplementedError


def _examples(dataset: Gatech) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number of the record, its features)."""
    number = 0
    for video, info in enumerate(dataset.videos):
        for start in range(0, info.num_frames, CHUNK):
            stop = min(start + CHUNK, info.num_frames)
            example: dict[str, Any] = read_checked(dataset, video, start, stop, dataset.fields)
            example |= {"video_index": video, "first_frame": start, "name": info.name}
            yield number, example
            number += 1
