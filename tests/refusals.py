"""What the operating system refuses: to another user, and to who has too many files open."""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
from collections.abc import Iterator

import pytest

_NOBODY = 65534


@contextlib.contextmanager
def as_nobody(folder: pathlib.Path) -> Iterator[None]:
    """As a user without rights, who may search the folders that lead to `folder`.

    Permissions mean nothing to root, as whom containers run.
    """
    if os.geteuid():
        yield
        return
    opened = [path for path in (folder, *folder.parents) if path.stat().st_uid == 0]
    modes = {path: path.stat().st_mode for path in opened}
    for path, mode in modes.items():
        path.chmod(mode | 0o755)
    try:
        os.seteuid(_NOBODY)
    except OSError:
        pytest.skip("another user cannot be had here")
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """The process may open no further file."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
