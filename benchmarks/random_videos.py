"""A data set of random pixels and labels: what reads it measures neither decoding nor rendering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from v2v_jax.datasets.base.video_dataset import FIELDS, FRAME_SIZE, VideoDataset, VideoInfo


class RandomVideos(VideoDataset):
    """Videos whose every voxel is drawn anew; not to learn from."""

    name = "random"
    fields = ("video", "labels")

    def __init__(
        self,
        num_videos: int = 16,
        num_frames: int = 32,
        *,
        num_classes: int = 8,
        frame_size: tuple[int, int] = FRAME_SIZE,
    ):
        self.videos = [VideoInfo(f"random{i}", num_frames) for i in range(num_videos)]
        self.label_names = tuple(f"class{i}" for i in range(num_classes))
        self.frame_size = tuple(frame_size)

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`; the frames are a function of (video, start)."""
        rng = np.random.default_rng((video, start))
        highest = {"video": 256, "labels": len(self.label_names)}
        shape = (stop - start, *self.frame_size)
        return {
            f: rng.integers(0, highest[f], (*shape, *FIELDS[f].channels), np.uint8) for f in fields
        }
