"""Reads GATECH as tensorflow-datasets prepared it; TensorFlow is imported on opening only."""

from __future__ import annotations

from typing import Any

from v2v_jax.datasets.base.video_dataset import VideoInfo
from v2v_jax.datasets.gatech.dataset import CLASSES, Gatech
from v2v_jax.datasets.tfds.chunked_tfds import ChunkedTfds


class GatechTfds(ChunkedTfds):
    """The same arrays as `Gatech.read` gives, from array_record files."""

    name = Gatech.name
    fields = Gatech.fields
    label_names = CLASSES.names
    preparing_options = " --source=FOLDER"

    def _building(self) -> Any:
        from v2v_jax.datasets.gatech import gatech_dataset_builder

        return gatech_dataset_builder

    def _list_videos(self, builder: Any) -> list[VideoInfo]:
        videos = (builder.info.metadata or {}).get(self.split, [])
        return [VideoInfo(name, frames) for name, frames in videos]
