"""Locks, so that one process at a time writes to a folder; the system frees those of the dead."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

import filelock

# What a file system answers that has no locks, as some of networks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class InUseError(Exception):
    """Another process, or another part of this one, holds the lock."""


class locked:
    """Holds a lock for a block, or an ExitStack; gives whether there are locks.

    The lock is a file that is there for as long. A process that is killed frees it: then only the
    file is left, which keeps nobody off.

        with locked(folder / ".lock") as has_locks:
    """

    def __init__(self, path: str | os.PathLike[str], waiting: Callable[[], object] | None = None):
        """Nothing is held yet.

        Args:
          path: its folder is made where it is missing.
          waiting: called if another one holds the lock, which is then waited for; None: an error.
        """
        self._path, self._waiting = path, waiting
        self._lock = filelock.FileLock(path, thread_local=False, fallback_to_soft=False)

    def __enter__(self) -> bool:
        """Raises InUseError if another one holds it, OSError if the file cannot be created."""
        try:
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout as error:
                if self._waiting is None:
                    raise InUseError(os.fspath(self._path)) from error
                self._waiting()
                self._lock.acquire()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return self._lock.is_locked

    def __exit__(self, *_: object) -> None:
        if self._lock.is_locked:
            # While it is held: who opened the file before looks whether it still has its name.
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._lock.release()
