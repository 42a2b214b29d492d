"""What a configuration becomes: here, which videos are long enough."""

import numpy as np
import pytest

from tests.tiny import tiny_config
from v2v_jax.errors import DataError
from v2v_jax.media.video import write_video
from v2v_jax.run.experiment import make_experiment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of ten frames."""
    root = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 255, (10, 48, 64, 3), np.uint8)
    for name in ("a", "b", "c", "d"):
        write_video(root / f"{name}.mp4", frames)
    return root


def make(folder, clip_length, split="train"):
    config = tiny_config("color", "dataset=folder", data__root=str(folder))
    config.preprocessing.clip_length = clip_length
    return make_experiment(config, split)


def test_videos_as_long_as_a_clip_are_used(folder):
    names = [video.name for video in make(folder, 8).dataset.videos]
    assert names


def test_shorter_ones_are_named(folder):
    with pytest.raises(DataError, match=r"videos are shorter than 16 frames \(.* \(10\)"):
        make(folder, 16)
