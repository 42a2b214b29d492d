"""The C library's heap: freed memory goes back, and libraries without glibc's functions are met."""

import ctypes
import os
import pathlib
import subprocess
import sys
from unittest import mock

import pytest

from tests.tiny import tiny_config
from v2v_jax.training import heap, loop, training_run


class Glibc:
    """Notes what is asked of it; there is something to release the first time."""

    def __init__(self):
        self.calls = []

    def malloc_trim(self, pad):
        self.calls.append(("trim", pad.value))
        return len(self.calls) == 1

    def mallopt(self, parameter, value):
        self.calls.append(("option", parameter.value, value.value))
        return 1


def test_what_is_asked_of_glibc_and_what_it_answers(monkeypatch):
    library = Glibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert heap.release() is True and heap.release() is False
    assert library.calls == [("trim", 0), ("trim", 0)]
    for cores, heaps in ((1, 4), (2, 4), (16, 32), (None, 4)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert heap.share() is True
        assert library.calls[-1] == ("option", -8, heaps)  # M_ARENA_MAX


@pytest.mark.parametrize("library", [object(), None])
def test_other_c_libraries_are_left_alone(monkeypatch, library):
    """Without glibc's functions (musl, macOS), or without any library to ask (Windows)."""

    def load(name):
        if library is None:
            raise TypeError("not a name")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert heap.release() is False
    assert heap.share() is False


def test_the_users_number_of_arenas_goes_before(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("asked"))
    assert heap.share() is False


def test_training_shares_heaps_before_anything_else(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(heap, "share", lambda: asked.append("share"))
    monkeypatch.setattr(loop, "Setup", lambda config: asked.append("setup"))
    monkeypatch.setattr(loop, "train", lambda *args: asked.append("train"))
    loop.train_and_evaluate(tiny_config(), tmp_path)
    assert asked == ["share", "setup", "train"]


def test_training_gives_memory_back_when_a_checkpoint_is_written(monkeypatch):
    """After the first step, of compiling; and once after each checkpoint, not at every step."""
    asked = []
    monkeypatch.setattr(heap, "release", lambda: asked.append(run.step))
    run = training_run.TrainingRun.__new__(training_run.TrainingRun)
    run.first_step, run._monitor, run._checkpoints = 4, mock.Mock(), mock.Mock()
    run._stop = mock.Mock(reached=lambda: False)
    run._checkpoints.check = lambda: run.step in (7, 9)
    for step in range(5, 11):
        run.take(step, None, {})
    assert asked == [5, 7, 9]


_THREADS = """
import ctypes, os, pathlib, re, tempfile, threading
from v2v_jax.training import heap
assert heap.share()
libc, done = ctypes.CDLL(None), threading.Event()
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
for _ in range(64):
    threading.Thread(target=lambda: (libc.malloc(99), done.wait()), daemon=True).start()
path = tempfile.mkstemp()[1]
file = ctypes.c_void_p(libc.fopen(path.encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
print(pathlib.Path(path).read_text().count("<heap nr="), max(2 * os.cpu_count(), 4))
os.unlink(path)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="glibc's alone")
def test_threads_share_heaps():
    environment = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
    result = subprocess.run(
        [sys.executable, "-c", _THREADS],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
        env=environment,
    )
    heaps, allowed = map(int, result.stdout.split())
    assert heaps == min(allowed, 65)


_HOLES = """
import ctypes, pathlib
from v2v_jax.training import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024
blocks = [libc.malloc(1 << 16) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 16)
kept = libc.malloc(1 << 16)  # above them, so that they are no end of the heap
for block in blocks:
    libc.free(block)
before = resident()
print(heap.release(), before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's alone")
def test_release_gives_back_holes():
    result = subprocess.run(
        [sys.executable, "-c", _HOLES],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    released, size = result.stdout.split()
    assert released == "True" and int(size) > 50 << 20
