"""What may be given as a video, and what is said of all else."""

import numpy as np
import PIL.Image
import pytest

from v2v_jax.errors import DataError
from v2v_jax.media.frame_sources import open_source

FRAMES = np.arange(5 * 6 * 8 * 3, dtype=np.uint8).reshape(5, 6, 8, 3)


def drawn(video):
    return np.stack(list(open_source(video).frames))


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (FRAMES[None], r"\(1, 5, 6, 8, 3\).*one video of the batch after the other, as video\[0\]"),
        (FRAMES.transpose(0, 3, 1, 2), r"colours last, by video.transpose\(0, 2, 3, 1\)"),
        (FRAMES.transpose(3, 0, 1, 2), r"colours last, by video.transpose\(1, 2, 3, 0\)"),
        (FRAMES / np.float32(255), r"\(255 \* video\).round\(\).astype\(numpy.uint8\)"),
        (FRAMES.astype(np.int64), r"give video.astype\(numpy.uint8\)"),
        (FRAMES[0], r"one picture give picture\[None\]"),
        (FRAMES.ravel(), r"expected \(T,H,W,3\)"),
    ],
)
def test_arrays_in_another_order_are_refused_with_the_way_to_the_right_one(given, advice):
    with pytest.raises(DataError, match=advice):
        open_source(given)


def test_the_advice_helps():
    np.testing.assert_array_equal(drawn(FRAMES[None][0]), FRAMES)
    np.testing.assert_array_equal(drawn(FRAMES.transpose(0, 3, 1, 2).transpose(0, 2, 3, 1)), FRAMES)
    np.testing.assert_array_equal(drawn(FRAMES.transpose(3, 0, 1, 2).transpose(1, 2, 3, 0)), FRAMES)
    floats = FRAMES / np.float32(255)
    np.testing.assert_array_equal(drawn((255 * floats).round().astype(np.uint8)), FRAMES)
    np.testing.assert_array_equal(drawn(FRAMES[0][None]), FRAMES[:1])
    np.testing.assert_array_equal(drawn(FRAMES[..., 0])[..., 1], FRAMES[..., 0])


@pytest.mark.parametrize("given", [None, 7, b"bytes", {"video": FRAMES}, object()])
def test_what_is_no_video_at_all(given):
    with pytest.raises(DataError, match=f"The video is {type(given).__name__}; expected a path"):
        open_source(given)


def test_one_picture_is_no_video(tmp_path):
    PIL.Image.fromarray(FRAMES[0]).save(tmp_path / "photo.JPG", "JPEG")
    with pytest.raises(DataError, match=r"photo\.JPG is one picture; give a video, or a folder"):
        open_source(tmp_path / "photo.JPG")
