"""The C library's heap: freed memory goes back, and libraries without glibc's functions are met."""

import ctypes
import pathlib
import subprocess
import sys
from unittest import mock

import pytest

from v2v_jax.training import heap, training_run


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
    assert heap.share() is True
    assert library.calls == [("trim", 0), ("trim", 0), ("option", -8, 1)]  # M_ARENA_MAX


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


def test_training_gives_memory_back_when_a_checkpoint_is_written(monkeypatch):
    """After the first step, of compiling; and once after each checkpoint, not at every step."""
    asked = []
    monkeypatch.setattr(heap, "share", lambda: asked.append("share"))
    monkeypatch.setattr(heap, "release", lambda: asked.append(run.step))
    run = training_run.TrainingRun.__new__(training_run.TrainingRun)
    run.first_step, run._monitor, run._checkpoints = 4, mock.Mock(), mock.Mock()
    run._stop = mock.Mock(reached=lambda: False)
    run._checkpoints.check = lambda: run.step in (7, 9)
    for step in range(5, 11):
        run.take(step, None, {})
    assert asked == ["share", 5, 7, 9]


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
