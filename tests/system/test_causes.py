"""What is advised where the system refuses a file: never what would destroy it."""

import errno
import os

import pytest

from v2v_jax.system import causes


@pytest.mark.parametrize(
    ("number", "reading", "writing"),
    [
        (errno.EACCES, "who may read", "may write"),
        (errno.EMFILE, "ulimit -n", "ulimit -n"),
        (errno.ESTALE, "the network", "the network"),
        (errno.ENOENT, "check the path", "an existing"),
        (errno.ENOSPC, None, "make room"),
        (errno.EDQUOT, None, "make room"),
        (errno.EROFS, None, "may write"),
        (errno.ENAMETOOLONG, "check the path", "shorter"),
        (errno.EBADF, None, "writable folder with enough space"),
        (None, None, "writable folder with enough space"),
    ],
)
def test_remedies_fit_their_causes(number, reading, writing):
    error = OSError(number, os.strerror(number or 0), "a.mp4")
    assert writing in causes.for_writing(error)
    found = causes.for_reading(error)
    assert found is None if reading is None else reading in found
    for advice in filter(None, (found, causes.for_writing(error))):
        assert "remove" not in advice and "delete" not in advice


def test_libraries_that_tell_it_in_words_alone():
    said = "NOT_FOUND: Error opening file: /x: [OS error 24: EMFILE Too many open files] [source"
    assert causes.is_of_machine(ValueError(said)) and causes.is_refusal(ValueError(said))
    assert causes.reason(ValueError(said)) == "Too many open files"
    assert causes.is_full(RuntimeError("write: No space left on device"))
    assert causes.for_reading(ValueError("CRC-32C mismatch")) is None
    assert causes.reason(ValueError("CRC-32C mismatch\nmore")) == "CRC-32C mismatch"
    assert causes.is_refusal(MemoryError()) and not causes.is_of_machine(MemoryError())


def test_what_may_be_damage_is_no_refusal():
    assert not causes.is_refusal(OSError(errno.EIO, "")) and not causes.is_refusal(KeyError("x"))
    assert not causes.is_refusal(FileNotFoundError(errno.ENOENT, ""))
