"""Videos decoded in other processes: the same frames, errors in their place, nothing left over."""

import concurrent.futures

import numpy as np
import pytest

from tests.networks import noise
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.decoding import DecodingPool
from v2v_jax.media.frame_sources import FrameResizer
from v2v_jax.media.video import VideoFile, write_video


@pytest.fixture(scope="module", params=[2, 0], ids=["processes", "here"])
def pool(request):
    with DecodingPool(request.param) as pool:
        yield pool


@pytest.fixture
def path(tmp_path):
    write_video(tmp_path / "in.mp4", noise(70, 26, 38, 3))
    return tmp_path / "in.mp4"


def expected(path, size):
    resize = FrameResizer(size)
    return np.stack([resize(frame) for frame in VideoFile(path).stream()])


@pytest.mark.parametrize("size", [(26, 38), (17, 21)])
def test_the_frames_are_those_of_this_process(pool, path, size):
    with pool.open(path) as video:
        assert video.facts == (70, (26, 38))
        frames = np.stack(list(video.frames(size)))
        np.testing.assert_array_equal(frames, expected(path, size))
        with pytest.raises(ValueError, match="were read"):
            next(video.frames(size))


def test_more_threads_than_processes(pool, path):
    def read(_):
        with pool.open(path) as video:
            return np.stack(list(video.frames((17, 21))))

    with concurrent.futures.ThreadPoolExecutor(5) as threads:
        for frames in threads.map(read, range(7)):
            np.testing.assert_array_equal(frames, expected(path, (17, 21)))
    assert len(pool._started) <= 2


def test_who_stops_midway_leaves_no_frames_to_the_next(pool, path, tmp_path):
    write_video(tmp_path / "other.mp4", noise(3, 16, 16, 3, seed=1))
    for _ in range(3):
        with pool.open(path) as video:
            next(video.frames((26, 38)))
    with pool.open(tmp_path / "other.mp4") as video:
        frames = np.stack(list(video.frames((16, 16))))
    np.testing.assert_array_equal(frames, expected(tmp_path / "other.mp4", (16, 16)))


def test_errors_are_those_of_this_process_and_do_no_harm(pool, path, tmp_path):
    with pytest.raises(DataError, match=r"none.mp4 does not exist"):
        pool.open(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(CorruptVideoError, match=r"text.mp4"):
        pool.open(tmp_path / "text.mp4")
    with pool.open(path) as video:
        assert len(list(video.frames((8, 8)))) == 70


def test_damage_is_said_after_the_frames_before_it(pool, path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    whole, before = VideoFile(path).stream(), 0
    with pytest.raises(CorruptVideoError) as here:
        for _ in whole:
            before += 1
    with pool.open(path) as video:
        frames = video.frames((26, 38))
        for _ in range(before):
            next(frames)
        with pytest.raises(CorruptVideoError) as there:
            next(frames)
    assert str(there.value) == str(here.value) and 0 < before < 70


def test_a_process_that_is_killed_is_replaced(path):
    with DecodingPool(1) as pool:
        with pool.open(path) as video:
            video._process._process.kill()
            with pytest.raises(DataError, match="ended before"):
                list(video.frames((300, 300)))
        with pool.open(path) as video:
            assert len(list(video.frames((8, 8)))) == 70
