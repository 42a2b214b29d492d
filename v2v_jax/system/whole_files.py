"""Files and folders that appear whole or not at all: written beside their place, then renamed.

    write_text(path, text)

    with whole_file(path) as temporary:  # a hidden name beside it, with the same extension
        picture.save(temporary)

What a killed process leaves behind has a name of its own: `is_temporary` tells it from all else.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator

StrPath = str | os.PathLike[str]

_RANDOM = r"[0-9a-f]{32}"
_PART = ".part"
_TEMPORARY = re.compile(rf"\..*\.{_RANDOM}{re.escape(_PART)}(\.[^.]*)?", re.DOTALL)
_LONGEST_NAME = 255  # bytes, of nearly all file systems


def write_text(path: StrPath, text: str, *, durable: bool = True) -> None:
    """Writes a UTF-8 file whole or not at all; durable: it is on the disk when this returns."""
    write_bytes(path, text.encode(), durable=durable)


def write_bytes(path: StrPath, data: bytes, *, durable: bool = True) -> None:
    """Writes a file whole or not at all; durable: it is on the disk when this returns."""
    with whole_file(path, durable=durable) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def whole_file(path: StrPath, *, durable: bool = True) -> Iterator[pathlib.Path]:
    """Yields a path to write a file or folder at, which gets its name when the block has ended.

    After an exception there is nothing new, and what stood at `path` is as it was. A folder takes
    the place of an empty one only.

    Args:
      path: a file there is replaced.
      durable: a power cut right after the block loses nothing of it.

    Raises:
      OSError: there is no such folder, it cannot be written, the disk is full.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        publish(temporary, path, durable=durable)
    finally:
        discard(temporary)


def temporary_path(path: StrPath) -> pathlib.Path:
    """A new hidden name beside `path`, with its extension: `.clip.<32 random digits>.part.mp4`.

    For those who write over a longer time than a block: then `publish`, or `discard`.
    """
    path = pathlib.Path(path)
    return path.with_name(f"{_prefix(path)}{uuid.uuid4().hex}{_PART}{path.suffix}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of that name is an unfinished one of this module's."""
    return _TEMPORARY.fullmatch(name) is not None


def leftovers(path: StrPath) -> list[pathlib.Path]:
    """What processes that were killed, or are still at work, have begun to write for `path`."""
    path = pathlib.Path(path)
    own = re.compile(
        f"{re.escape(_prefix(path))}{_RANDOM}{re.escape(_PART + path.suffix)}", re.DOTALL
    )
    try:
        names = os.listdir(path.parent)
    except OSError:
        return []
    return [path.with_name(name) for name in sorted(names) if own.fullmatch(name)]


def publish(temporary: StrPath, path: StrPath, *, durable: bool = True) -> None:
    """Gives a complete file or folder its name; durable: after all of it has reached the disk.

    Raises:
      OSError: also where `path` is a folder that holds something.
    """
    temporary, path = pathlib.Path(temporary), pathlib.Path(path)
    if durable:
        sync(temporary)
    os.replace(temporary, path)
    if durable:
        sync_folder(path.parent)


def discard(path: StrPath) -> None:
    """Removes a file or folder, where there is one, as far as that can be done."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def sync_folder(path: StrPath) -> None:
    """Puts a folder's entries on the disk, so that a new or renamed file survives a power cut."""
    _sync_one(path)


def sync(path: StrPath) -> None:
    """Puts a file, or a folder with all that is in it, on the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_one(os.path.join(folder, name))
        _sync_one(folder)
    if not os.path.isdir(path):
        _sync_one(path)


def _sync_one(path: StrPath) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prefix(path: pathlib.Path) -> str:
    """How the temporary names of `path` begin; short enough for the rest of them."""
    rest = len(f"..{'0' * 32}{_PART}{path.suffix}".encode())
    stem = path.stem.encode()[: max(_LONGEST_NAME - rest, 0)].decode(errors="ignore")
    return f".{stem}."
