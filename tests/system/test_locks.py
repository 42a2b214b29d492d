"""Locks: one writer at a time; a process that dies leaves none behind."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.tiny import ROOT
from v2v_jax.system.locks import InUseError, locked


def test_a_second_one_is_refused_until_the_first_has_ended(tmp_path):
    path = tmp_path / ".lock"
    with locked(path) as has_locks:
        assert has_locks and path.exists()
        with pytest.raises(InUseError), locked(path):
            pass
        assert path.exists()
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    with locked(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_those_who_wait_come_one_after_the_other(tmp_path):
    path, inside, most, waited = tmp_path / ".lock", [], [], []

    def enter(number):
        with locked(path, waiting=lambda: waited.append(number)):
            inside.append(number)
            most.append(len(inside))
            threading.Event().wait(0.02)
            inside.remove(number)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1] and waited


HOLD = """
import sys, time
from v2v_jax.system.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_leaves_no_lock(tmp_path):
    """Only the file is left, which keeps nobody off."""
    path = tmp_path / ".lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InUseError), locked(path):
            pass
    finally:
        process.kill()
        process.communicate()
    assert path.exists()
    with locked(path) as has_locks:
        assert has_locks


FORK = """
import os, sys, time
from v2v_jax.system.locks import locked
with locked(sys.argv[1]):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_children_of_a_killed_process_do_not_keep_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", FORK, str(tmp_path / ".lock")], cwd=ROOT, stdout=subprocess.PIPE
    )
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        process.stdout.close()
        with locked(tmp_path / ".lock") as has_locks:
            assert has_locks
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / ".lock") as has_locks:
        assert not has_locks


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError), locked(tmp_path / "file" / ".lock"):
        pass
