"""An object in a process of its own: results, errors, what it prints, how it ends."""

import errno
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

from v2v_jax.errors import CorruptVideoError, TooManyCorruptError, UserError
from v2v_jax.system.remote_object import CannotStart, ProcessDied, RemoteObject


def doubled(array):
    return {"twice": 2 * array, "view": array[::2, 1:]}


def printing(_):
    print("a note of somebody's library")
    return "result"


def failing(_, kind):
    raise kind


def environment(_):
    accelerators = (os.environ["JAX_PLATFORMS"], os.environ["CUDA_VISIBLE_DEVICES"])
    return accelerators, signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture(scope="module")
def remote():
    found = RemoteObject(pickle.dumps(np.arange(600_000).reshape(-1, 3)))
    yield found
    found.kill()


def test_arrays_come_back_as_they_are(remote):
    array = np.arange(600_000).reshape(-1, 3)
    for _ in range(3):
        found = remote.call(doubled)
        np.testing.assert_array_equal(found["twice"], 2 * array)
        np.testing.assert_array_equal(found["view"], array[::2, 1:])


def test_what_is_printed_is_no_result(capfd):
    assert RemoteObject(pickle.dumps(7)).call(printing) == "result"
    assert capfd.readouterr() == ("", "a note of somebody's library\n")


def test_errors_are_raised_here(remote):
    with pytest.raises(CorruptVideoError, match="^bad$") as caught:
        remote.call(failing, CorruptVideoError("bad"))
    assert type(caught.value) is CorruptVideoError and not hasattr(caught.value, "__notes__")
    with pytest.raises(IndexError, match="^a bug") as caught:
        remote.call(failing, IndexError("a bug"))
    [traceback] = caught.value.__notes__
    assert traceback.startswith("In a worker process:") and "in failing" in traceback
    assert remote.call(printing) == "result"


def not_picklable(_):
    raise TooManyCorruptError("1 of 1 videos cannot be read.", [("a", "b")])


def test_an_error_that_cannot_be_sent_keeps_its_sentence(remote):
    with pytest.raises(UserError, match=r"^1 of 1 videos cannot be read\.$") as caught:
        remote.call(not_picklable)
    assert type(caught.value) is UserError


def test_it_takes_no_accelerator_and_no_interrupts(remote):
    accelerators, blocked = remote.call(environment)
    assert accelerators == ("cpu", "") and {signal.SIGINT, signal.SIGTERM} <= blocked
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_process_that_dies():
    remote = RemoteObject(pickle.dumps(7))
    for _ in range(2):
        with pytest.raises(ProcessDied, match=r"^ended \(exit status 3\)$"):
            remote.call(leaving, 3)


def leaving(_, status):
    os._exit(status)


def test_what_cannot_start(monkeypatch):
    with pytest.raises(CannotStart, match="^UnpicklingError: "):
        RemoteObject(b"no pickle")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CannotStart, match=r"^one ended \(exit status 1\) at its start$"):
        RemoteObject(pickle.dumps(7))

    def refuse(*_, **__):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(CannotStart, match="^Resource temporarily unavailable$"):
        RemoteObject(pickle.dumps(7))
