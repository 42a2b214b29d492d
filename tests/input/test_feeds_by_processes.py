"""feed=tf_data whose clips processes read: the same bytes, errors and warnings as by threads."""

import os
import pathlib
import signal
import time

import numpy as np
import pytest

from tests.memory_dataset import (
    RULES,
    Memory,
    assert_same,
    batches_of,
    plans_for,
    warnings_of,
)
from tests.processes import finish, start, wait_for_step
from tests.tiny import tiny_arguments
from v2v_jax.datasets.readers.video_folder import VideoFolder
from v2v_jax.errors import DataError, UserError
from v2v_jax.input.feeds import make_feed
from v2v_jax.media.video import write_video
from v2v_jax.system import sharding


@pytest.fixture
def videos(tmp_path):
    """A folder of videos of noise, opened; the third was damaged since."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    for number in range(5):
        frames = rng.integers(0, 255, (9, 16, 24, 3), np.uint8)
        write_video(tmp_path / "train" / f"{number}.mp4", frames)
    write_video(tmp_path / "test" / "5.mp4", frames)
    dataset = VideoFolder(tmp_path, "train", frame_size=RULES.frame_size, min_frames=3)
    path = tmp_path / "train" / "2.mp4"
    path.write_bytes(path.read_bytes()[:300])
    return dataset


def test_processes_deliver_what_threads_do(videos, monkeypatch):
    """Also in place of what cannot be read, which is counted and said once."""
    plans = plans_for(videos, range(8))
    assert any((plan.video == 2).any() for plan in plans)
    found, warnings = {}, warnings_of(monkeypatch)
    for videos.processes in (1, 2):
        found[videos.processes], feed = batches_of("tf_data", videos, plans, ("video",))
        assert len(feed.skipped) == 1 and len(feed._readers._remotes) in (0, 2)
    assert_same(found[2], found[1])
    assert warnings[0] == warnings[1] and "2.mp4 cannot be" in warnings[0]
    assert len(warnings) == 2


def test_an_error_in_a_process_comes_out_as_it_is():
    dataset = Memory(wrong=[2])
    dataset.processes = 2
    with pytest.raises(DataError, match=r"^clip2\.avi has a mask of another size\.$") as caught:
        batches_of("tf_data", dataset, plans_for(dataset))
    assert type(caught.value) is DataError


def test_a_killed_process_ends_the_batches(videos):
    videos.processes = 2
    feed = make_feed("tf_data", videos, ("video",), RULES, sharding.make_mesh())
    batches = feed.batches(plans_for(videos, range(10_000)))
    next(batches)
    os.kill(feed._readers._remotes[0]._process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"processes that read folder was killed \(SIGKILL\);"):
        for _ in batches:
            pass


def test_processes_end_with_the_feed(videos):
    videos.processes = 2
    _, feed = batches_of("tf_data", videos, plans_for(videos, [0]), ("video",))
    process = feed._readers._remotes[0]._process
    assert process.poll() is None
    del feed
    deadline = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def readers_of(pid):
    """The processes that read for a program, whichever of its threads started them."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are looked for in /proc")
@pytest.mark.parametrize("stopped", [False, True])
def test_the_program_ends_with_one_sentence(stopped, tmp_path):
    """Status 1 if a reader is killed, 0 after a SIGTERM to all; and none of them stays."""
    options = dict(num_steps=100_000, eval_every=100_000, feed="tf_data", data__processes=2)
    process = start(tmp_path, *tiny_arguments(**options))
    wait_for_step(tmp_path, 3, [process])
    readers = readers_of(process.pid)
    assert len(readers) >= 2
    if stopped:
        for pid in (*readers, process.pid):
            os.kill(pid, signal.SIGTERM)
    else:
        os.kill(readers[0], signal.SIGKILL)
    ((status, out, err),) = finish([process])
    assert "Traceback" not in err
    if stopped:
        assert status == 0 and "Stopped by SIGTERM" in out
    else:
        assert status == 1
        assert "Error: One of the 2 processes that read scenes was killed (SIGKILL);" in err
    for pid in readers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
