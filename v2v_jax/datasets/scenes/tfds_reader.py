"""Reads `scenes` as tensorflow-datasets prepared it; TensorFlow is imported on opening only."""

from __future__ import annotations

from typing import Any

from v2v_jax.datasets.base.video_dataset import VideoInfo
from v2v_jax.datasets.scenes.dataset import LABEL_NAMES, Scenes
from v2v_jax.datasets.scenes.motion import VIDEO_LABEL_NAMES
from v2v_jax.datasets.tfds.chunked_tfds import ChunkedTfds


class ScenesTfds(ChunkedTfds):
    """The same arrays as `Scenes.read` gives, from array_record files."""

    name = Scenes.name
    fields = Scenes.fields
    label_names = LABEL_NAMES
    video_label_names = VIDEO_LABEL_NAMES

    def _building(self) -> Any:
        from v2v_jax.datasets.scenes import scenes_dataset_builder

        return scenes_dataset_builder

    def _list_videos(self, builder: Any) -> list[VideoInfo]:
        config = builder.builder_config
        # Whole videos only: of another number of records the caller tells.
        count = builder.info.splits[self.split].num_examples // config.chunks
        return [
            VideoInfo(f"scenes-{self.split}-{config.seed}-{index:05d}", config.num_frames)
            for index in range(count)
        ]

    def video_label(self, video: int) -> int:
        """See `VideoDataset.video_label`: computed, as it is not among what is stored."""
        return self._builder.builder_config.scenes(self.split).video_label(video)
