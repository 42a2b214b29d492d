"""What helps where the operating system refuses to read or write a file.

Such a refusal is no damage of the file: advice to fetch it again, or to delete it, would do harm.
"""

from __future__ import annotations

import errno
import os

_MACHINE = dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)")
_CONNECTION = dict.fromkeys(
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.ECONNRESET),
    "check the disk, or the network that it is on, and try again",
)
_READING = {
    **_MACHINE,
    **_CONNECTION,
    # A damaged file, too, may ask for more than there is.
    errno.ENOMEM: "free some memory, or fetch the file again if there is enough",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check who may read it"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG), "check the path"),
    errno.ELOOP: "check where its links lead",
}
_WRITING = {
    **_MACHINE,
    **_CONNECTION,
    errno.ENOMEM: "free some memory",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there, or choose another disk"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"
    ),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), "choose an existing, writable folder"),
    **dict.fromkeys(
        (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST),
        "move what is in the way, or choose another name",
    ),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "choose a disk that holds files of that size",
}


def for_reading(error: BaseException) -> str | None:
    """What to do about a file that the system did not let be read; None: it was not the system."""
    return _READING.get(_number(error))


def for_writing(error: BaseException) -> str:
    """What to do about a file that could not be written."""
    return _WRITING.get(_number(error), "choose an existing, writable folder with enough space")


def is_of_machine(error: BaseException) -> bool:
    """Whether no file is to blame, but that the process may open no more of them."""
    return _number(error) in _MACHINE


def is_full(error: BaseException) -> bool:
    """Whether a disk, or the share of it that a user has, is full."""
    return _number(error) in (errno.ENOSPC, errno.EDQUOT)


def is_refusal(error: BaseException) -> bool:
    """Whether a file was not read at all, so that nothing is known of its content.

    Not where a disk fails to give a part of it (EIO), or where it is not there.
    """
    number = _number(error)
    readable = (errno.EIO, errno.ENOENT, errno.ENOTDIR)
    return number in _READING and number not in readable


def reason(error: BaseException) -> str:
    """What the system said, in its own words, else the first line of the message."""
    number = _number(error)
    if number:
        return os.strerror(number)
    text = getattr(error, "strerror", None) or str(error)
    return (text.splitlines() or [""])[0][:200] or type(error).__name__


def _number(error: BaseException) -> int:
    """The system's number of an error; 0 where it is none of the system's, or an unknown one.

    TensorStore and others tell it in words alone.
    """
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    number = getattr(error, "errno", None)
    if number in _READING or number in _WRITING:
        return number
    if isinstance(error, OSError) and number is not None:
        return 0
    text = str(error)
    for known in (*_READING, *_WRITING):
        if os.strerror(known) in text:
            return known
    return 0
