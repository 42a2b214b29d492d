"""read_videos: every video once, by threads and by processes, and errors in their place."""

import os
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.tiny import ROOT
from v2v_jax.datasets.base.reading import read_videos
from v2v_jax.datasets.base.video_dataset import VideoDataset, VideoInfo
from v2v_jax.errors import CorruptVideoError, DataError


class Counted(VideoDataset):
    """Video i has i % 3 + 1 frames of the grey i; the later ones are finished first."""

    name = "counted"
    frame_size = (2, 3)

    def __init__(self, count, *, corrupt=(), wrong=()):
        self.videos = [VideoInfo(f"video{i}", i % 3 + 1) for i in range(count)]
        self.corrupt, self.wrong = corrupt, wrong
        self.started = 0

    def read(self, video, start, stop, fields=("video",)):
        self.started += 1
        time.sleep(0.01 if video % 4 == 0 else 0.001)
        if video in self.corrupt:
            raise CorruptVideoError(f"video{video} is damaged.")
        if video in self.wrong:
            raise DataError(f"video{video} has a wrong mask.")
        return {f: np.full((stop - start, *self.frame_size, 3), video, np.uint8) for f in fields}


class Bound(Counted):
    """The same, read by processes."""

    python_bound = True


@pytest.mark.parametrize("kind", [Counted, Bound])
@pytest.mark.parametrize("count", [1, 4, 5, 23])
def test_every_video_comes_once_and_whole(kind, count):
    """With two workers four videos are under way at first: no later one may be forgotten."""
    dataset = kind(count)
    found = list(read_videos(dataset, ("video",), workers=2))
    assert sorted(video for video, _ in found) == list(range(count))
    for video, frames in found:
        expected = dataset.read(video, 0, dataset.videos[video].num_frames)
        assert list(frames) == ["video"]
        np.testing.assert_array_equal(frames["video"], expected["video"])


SHARED = "ro", "size=64k"  # as containers have it: read-only, or small


@pytest.mark.parametrize("options", SHARED)
def test_whatever_dev_shm_is(options):
    """Processes take their locks from there; where they cannot, threads read."""
    code = (
        "import numpy as np; from tests.datasets.test_reading import Bound, read_videos\n"
        "if __name__ == '__main__':\n"
        "    found = dict(read_videos(Bound(9), ('video',), workers=2))\n"
        "    print(sorted(found), {int(f['video'].min()) == v for v, f in found.items()})\n"
    )
    mount = f"mount -t tmpfs -o {options} none /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("another /dev/shm cannot be mounted here: that takes root")
    program = f"{mount} && exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{list(range(9))} {{True}}\n", done.stderr
    assert ("see that /dev/shm can be written" in done.stderr) == (options == "ro")


@pytest.mark.parametrize("workers", [None, 1, 2, 7, 100])
def test_any_number_of_workers(workers):
    found = dict(read_videos(Counted(9), ("video",), workers))
    assert sorted(found) == list(range(9))


@pytest.mark.parametrize("kind", [Counted, Bound])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrupt_video_is_delivered_as_its_error(kind, workers):
    found = dict(read_videos(kind(6, corrupt=(0, 5)), ("video",), workers))
    assert sorted(found) == list(range(6))
    for video, frames in found.items():
        if video in (0, 5):
            assert type(frames) is CorruptVideoError and str(frames) == f"video{video} is damaged."
        else:
            assert frames["video"][0, 0, 0, 0] == video


@pytest.mark.parametrize("kind", [Counted, Bound])
@pytest.mark.parametrize("workers", [1, 2])
def test_any_other_error_is_raised(kind, workers):
    with pytest.raises(DataError, match=r"^video3 has a wrong mask\.$"):
        list(read_videos(kind(12, wrong=(3,)), ("video",), workers))


def test_few_videos_wait_in_memory_and_whoever_stops_early_reads_no_more():
    dataset = Counted(50)
    reading = read_videos(dataset, ("video",), workers=2)
    for _ in range(3):
        next(reading)
    time.sleep(0.3)  # all 50 would be read by now
    assert 3 <= dataset.started <= 3 + 4
    reading.close()
    before = dataset.started
    time.sleep(0.05)
    assert dataset.started == before


def test_no_videos():
    assert list(read_videos(Counted(0), ("video",))) == []
