"""Files and folders that appear whole or not at all: written beside their place, then renamed.

    write_text(path, text)

    with whole_file(path) as temporary:  # a hidden name beside it, with the same extension
        picture.save(temporary)

What a killed process leaves behind has a name of its own: `is_temporary` tells it from all else.
The name says which process it was; who writes the same file again removes what dead ones left.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import socket
import uuid
from collections.abc import Iterator

StrPath = str | os.PathLike[str]

_RANDOM = r"[0-9a-f]{32}"
_PART = ".part"
_TEMPORARY = re.compile(rf"\.(.*)\.{_RANDOM}{re.escape(_PART)}(\.[^.]*)?", re.DOTALL)
_LONGEST_NAME = 255  # bytes, of nearly all file systems


def write_text(path: StrPath, text: str, *, durable: bool = True) -> None:
    """Writes a UTF-8 file whole or not at all; durable: it is on the disk when this returns.

    Bytes of a file's name that are no UTF-8 are written as \\udcNN, as Python shows them.
    """
    write_bytes(path, text.encode(errors="backslashreplace"), durable=durable)


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
    """A new hidden name beside `path`, with its extension: `.clip.<32 digits>.part.mp4`.

    For those who write over a longer time than a block: then `publish`, or `discard`. What
    processes of this machine that are dead have begun to write for `path` is removed. For a path
    that is such a name itself it is another one of the same file, so that it is found as well.
    """
    path = pathlib.Path(path)
    if outer := _TEMPORARY.fullmatch(path.name):
        path = path.with_name(f"{outer[1]}{outer[2] or ''}")
    for left in leftovers(path):
        if _is_dead(left.name.removeprefix(_prefix(path))[:32]):
            discard(left)
    return path.with_name(f"{_prefix(path)}{_new_digits()}{_PART}{path.suffix}")


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


# The 32 digits: 8 of the machine and its start, 8 of the process, 8 of when it began, 8 random.


def _new_digits() -> str:
    pid = os.getpid()
    return f"{_machine()}{pid:08x}{_began(pid) or 0:08x}{uuid.uuid4().hex[:8]}"


def _is_dead(digits: str) -> bool:
    """Whether the process of this machine that made a name is gone; False for other machines'."""
    if digits[:8] != _machine():
        return False
    return _began(int(digits[8:16], 16)) != int(digits[16:24], 16)


@functools.cache
def _machine() -> str:
    """8 digits of what process numbers are valid in: the machine since its start, the container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:8]


def _began(pid: int) -> int | None:
    """When a process began, in ticks since the machine's start, 32 bits; None if there is none.

    Where the system does not tell (other than Linux) it is 0 for all, so that none counts as dead.
    """
    if not os.path.isdir("/proc/self"):
        return 0
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return int(text.rpartition(")")[2].split()[19]) % 2**32
    except (OSError, ValueError, IndexError):
        return None


def _prefix(path: pathlib.Path) -> str:
    """How the temporary names of `path` begin; short enough for the rest of them.

    Names are bytes to Linux, perhaps of another code than UTF-8: they are measured as such. One
    that has to be cut keeps a sum of the whole, so that no other file's names begin alike.
    """
    stem = path.stem
    rest = len(os.fsencode(f"..{'0' * 32}{_PART}{path.suffix}"))
    most = _LONGEST_NAME - rest
    if len(os.fsencode(stem)) > most:
        end = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"
        while stem and len(os.fsencode(stem + end)) > most:
            stem = stem[:-1]
        stem += end
    return f".{stem}."
