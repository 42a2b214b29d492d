"""What may be given as a video, and what is said of all else."""

import io
import re

import numpy as np
import PIL.Image
import pytest

from v2v_jax.errors import DataError
from v2v_jax.media.frame_sources import open_source

FRAMES = np.arange(5 * 6 * 8 * 3, dtype=np.uint8).reshape(5, 6, 8, 3)


def drawn(video):
    return np.stack(list(open_source(video).frames))


FLOATS = FRAMES / np.float32(255)
CHANNELS_FIRST = (0, 3, 1, 2)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (FRAMES[None], r"\(1, 5, 6, 8, 3\).*one video of the batch after the other, as video\[0\]"),
        (FRAMES[0], r"one picture give picture\[None\]"),
        (FRAMES.ravel(), r"expected \(T,H,W,3\)"),
        (FLOATS * np.nan, r"not finite.*replace these, numpy.nan_to_num\(video\)"),
        (FRAMES.astype(np.int64) - 100, r"int64 in -100..155; expected .*bring it into 0..255"),
        (FRAMES * 1e4, r"float64 in 0..2.55e\+06; .*undo its normalisation"),
        (np.array(["a"] * 5 * 6 * 8 * 3).reshape(FRAMES.shape), "expected .* convert it"),
    ],
)
def test_arrays_of_another_form_are_refused_with_the_way_to_the_right_one(given, advice):
    with pytest.raises(DataError, match=advice):
        open_source(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (FRAMES.transpose(0, 3, 1, 2), "put its colours last, video.t"),
        (FRAMES.transpose(3, 0, 1, 2), "put its colours last, video.t"),
        (FLOATS, r"float32 in 0..1; expected .T,H,W,3. uint8 RGB, 0..255: multiply by 255 and"),
        (FLOATS.astype(np.float64), "float64 in 0..1; .* multiply by 255 and convert"),
        (FLOATS.transpose(CHANNELS_FIRST), "put its colours last and multiply by 255 and convert"),
        (2 * FLOATS - 1, "float32 in -1..1; .* add 1, multiply by 127.5 and convert"),
        (FRAMES.astype(np.float16), "float16 in 0..255; .* round it and convert"),
        (FRAMES.astype(np.int64), "int64 in 0..255; .* convert it"),
        (FRAMES.astype(np.uint16) * 4, "uint16 in 0..1020; .* divide by 4"),
        (FRAMES.astype(np.uint16) * 16, "uint16 in 0..4080; .* divide by 16"),
        (FRAMES.astype(np.uint16) * 257, "uint16 in 0..65535; .* divide by 256"),
    ],
)
def test_the_advice_helps(given, words):
    """The expression in the message, evaluated, is a video that is taken: the one that was meant.

    Of an array and, as of frames that come one by one, of its frames.
    """
    with pytest.raises(DataError, match=words) as caught:
        open_source(given)
    video = eval(advised(str(caught.value)), {"video": given, "numpy": np})
    np.testing.assert_array_equal(drawn(video), FRAMES)
    if given.shape[0] != len(FRAMES):
        return
    with pytest.raises(DataError, match="The video, frame 0, is .*: ") as caught:
        drawn(iter(given))
    # A frame alone may not show the range of all: what is said of it is true of it.
    frame = eval(advised(str(caught.value)), {"frame": given[0], "numpy": np})
    assert frame.shape == FRAMES[0].shape and frame.dtype == np.uint8


def advised(message):
    """The expression at a message's end."""
    return re.search(r": .*?, ([(v2f].*)\.$", message)[1]


def test_a_mask_of_bools_and_pictures_one_by_one():
    with pytest.raises(DataError, match=r"multiply by 255, 255 \* frame.astype\(numpy.uint8\)"):
        drawn([FRAMES[0, ..., 0] > 9])
    with pytest.raises(DataError, match="frame 0, is .5, 6, 8, 3. uint8; .*frames one by one"):
        drawn([FRAMES])
    with pytest.raises(DataError, match="frame 1, cannot be made a NumPy array"):
        drawn([FRAMES[0], [[1], [2, 3]]])


def test_a_view_of_memory_is_an_array():
    source = open_source(memoryview(FRAMES))
    assert source.num_frames == len(FRAMES)
    np.testing.assert_array_equal(np.stack(list(source.frames)), FRAMES)


@pytest.mark.parametrize("path", ["", "x" * 5000, "a\0b.mp4", " "])
def test_paths_that_lead_nowhere(path):
    with pytest.raises(DataError, match="path is empty|does not exist|too long"):
        open_source(path)


WRONG = [None, 7, b"bytes", bytearray(b"x"), {"video": FRAMES}, {1, 2}, io.BytesIO(b"x"), object()]


@pytest.mark.parametrize("given", WRONG)
def test_what_is_no_video_at_all(given):
    with pytest.raises(DataError, match=f"The video is {type(given).__name__}; expected a path"):
        open_source(given)


def test_one_picture_is_no_video(tmp_path):
    PIL.Image.fromarray(FRAMES[0]).save(tmp_path / "photo.JPG", "JPEG")
    with pytest.raises(DataError, match=r"photo\.JPG is one picture; give a video, or a folder"):
        open_source(tmp_path / "photo.JPG")
