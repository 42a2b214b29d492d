"""read_videos: every video once, by threads and by processes, and errors in their place."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from absl import logging

from tests.tiny import ROOT
from v2v_jax.datasets.base import reading
from v2v_jax.datasets.base.reading import Readers, map_videos, read_videos
from v2v_jax.datasets.base.video_dataset import DECODING_SHARE, VideoDataset, VideoInfo
from v2v_jax.errors import CorruptVideoError, DataError, UserError
from v2v_jax.system import processors


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
    """The same, read by two processes."""

    python_share = 1.0
    processes = 2


@pytest.fixture(autouse=True)
def two_processors(monkeypatch):
    monkeypatch.setattr(processors, "count", lambda: 2)


@pytest.mark.parametrize("kind", [Counted, Bound])
@pytest.mark.parametrize("count", [1, 4, 5, 23])
def test_every_video_comes_once_and_whole(kind, count):
    """With two workers four videos are under way at first: no later one may be forgotten."""
    dataset = kind(count)
    found = list(read_videos(dataset, ("video",)))
    assert sorted(video for video, _ in found) == list(range(count))
    for video, frames in found:
        expected = dataset.read(video, 0, dataset.videos[video].num_frames)
        assert list(frames) == ["video"]
        np.testing.assert_array_equal(frames["video"], expected["video"])


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_any_number_of_threads(count, monkeypatch):
    monkeypatch.setattr(processors, "count", lambda: count)
    found = dict(read_videos(Counted(9), ("video",)))
    assert sorted(found) == list(range(9))


@pytest.mark.parametrize("kind", [Counted, Bound])
def test_a_corrupt_video_is_delivered_as_its_error(kind):
    found = dict(read_videos(kind(6, corrupt=(0, 5)), ("video",)))
    assert sorted(found) == list(range(6))
    for video, frames in found.items():
        if video in (0, 5):
            assert type(frames) is CorruptVideoError and str(frames) == f"video{video} is damaged."
        else:
            assert frames["video"][0, 0, 0, 0] == video


@pytest.mark.parametrize("kind", [Counted, Bound])
def test_any_other_error_is_raised(kind):
    with pytest.raises(DataError, match=r"^video3 has a wrong mask\.$") as caught:
        list(read_videos(kind(12, wrong=(3,)), ("video",)))
    assert type(caught.value) is DataError


def test_few_videos_wait_in_memory_and_whoever_stops_early_reads_no_more():
    dataset = Counted(50)
    reading = read_videos(dataset, ("video",))
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


# ------------------------------------------------------------------------------------------------
# Processes or threads


class Sized(VideoDataset):
    """A thousand frames a video at C3D's size: 22 million pixels."""

    name, frame_size = "sized", (128, 171)

    def __init__(self, count, share):
        self.videos = [VideoInfo(f"{i}", 1000) for i in range(count)]
        self.python_share = share

    def read(self, video, start, stop, fields=("video",)):
        return {}


@pytest.mark.parametrize(
    ("share", "cores", "videos", "expected"),
    [
        (1.0, 1, 40, (0, 1)),  # rendered in Python: a second thread would only wait
        (1.0, 2, 40, (2, 1)),
        (1.0, 16, 40, (16, 1)),
        (DECODING_SHARE, 2, 40, (0, 2)),
        (DECODING_SHARE, 4, 40, (0, 4)),  # 4 x 0.25: the lock is just about busy
        (DECODING_SHARE, 5, 40, (5, 4)),
        (DECODING_SHARE, 16, 40, (16, 4)),
        (DECODING_SHARE, 16, 2, (5, 4)),  # read before more of them had started
        (DECODING_SHARE, 16, 1, (0, 4)),
        (0.0, 16, 40, (0, 16)),
    ],
)
def test_what_reads(share, cores, videos, expected, monkeypatch):
    monkeypatch.setattr(processors, "count", lambda: cores)
    dataset = Sized(videos, share)
    assert (reading._processes(dataset, 1), reading._threads(dataset)) == expected
    dataset.processes = 1
    assert reading._processes(dataset, 1) == 0
    dataset.processes = 3
    assert reading._processes(dataset, 1) == 3


def test_what_is_read_many_times_is_worth_more_processes(monkeypatch):
    monkeypatch.setattr(processors, "count", lambda: 16)
    assert reading._processes(Sized(1, DECODING_SHARE), times=16) == 16


class Homeless(Bound):
    """Cannot be sent to another process."""

    def __init__(self, count):
        super().__init__(count)
        self.lock = threading.Lock()


class Unknown(Bound):
    """Cannot be found in another process."""


Unknown.__module__ = "nowhere"


@pytest.fixture
def warnings(monkeypatch):
    texts = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: texts.append(text % args))
    return texts


def test_what_cannot_be_sent_is_read_by_threads_and_that_is_said_once(warnings):
    assert sorted(dict(read_videos(Homeless(9), ("video",)))) == list(range(9))
    assert len(warnings) == 1 and "cannot pickle '_thread.lock' object" in warnings[0]
    assert "--config.data.processes=1 does without" in warnings[0]


def test_what_is_not_found_there_is_read_by_threads(warnings, monkeypatch):
    monkeypatch.setitem(sys.modules, "nowhere", sys.modules[__name__])
    assert sorted(dict(read_videos(Unknown(9), ("video",)))) == list(range(9))
    assert len(warnings) == 1 and "No module named 'nowhere'" in warnings[0]


def pid_of(dataset, video):
    return os.getpid()


def modules_of(dataset, video):
    return {"jax", "tensorflow", "flax", "orbax"} & set(sys.modules)


def killed(dataset, video):
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_import_no_jax_and_end_with_the_readers():
    with Readers(Bound(1)) as readers:
        submit = readers.threads.submit
        [pid] = {submit(readers.call, pid_of, 0).result() for _ in range(3)}
        assert pid != os.getpid()
        assert submit(readers.call, modules_of, 0).result() == set()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_killed_process_is_one_sentence():
    text = r"^One of the 2 processes that read counted was killed \(SIGKILL\); where memory is"
    with pytest.raises(UserError, match=text):
        list(map_videos(killed, Bound(9)))


# A program without `if __name__ == "__main__"`, which says where the videos were read.
_SCRIPT = """
import os, signal, sys
from tests.datasets.test_reading import Bound, map_videos, pid_of
from v2v_jax.datasets.base.reading import read_videos
print("begun", flush=True)
pids = {pid for _, pid in map_videos(pid_of, Bound(9))}
print(len(pids), os.getpid() in pids, flush=True)
if len(sys.argv) > 1:
    reading = read_videos(Bound(2000), ("video",))
    next(reading)
    print("reading", flush=True)
    list(reading)
"""


def start_script(tmp_path, *arguments, **options):
    path = tmp_path / "script.py"
    path.write_text(_SCRIPT)
    return subprocess.Popen(
        [sys.executable, path, *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_a_script_needs_no_guard(tmp_path):
    process = start_script(tmp_path)
    assert process.communicate() == ("begun\n2 False\n", "")


def left_in_group(group):
    """The processes of a group, but for those that have ended and nobody has waited for."""
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdecimal():
            try:
                with open(f"/proc/{folder}/stat") as file:
                    state, _, of_group = file.read().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(of_group) == group and state != "Z":
                found.append(int(folder))
    return found


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are looked for in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_leave_quietly_with_their_parent(tmp_path, number):
    """Ctrl-C and a cluster's SIGTERM go to the whole group, and they do not heed it."""
    process = start_script(tmp_path, "on", start_new_session=True)
    while process.stdout.readline() != "reading\n":
        pass
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT)  # the script's own
    deadline = time.monotonic() + 10
    while left_in_group(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
