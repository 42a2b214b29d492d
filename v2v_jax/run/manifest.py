"""Manifests: SHA-256 sums of all files of a folder, so that no change to one passes unseen.

A manifest is the text file SHA256SUMS in that folder, as `sha256sum` writes it and
`sha256sum -c SHA256SUMS` checks it, between two comments: a title, and the sum of the lines above.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import stat

from v2v_jax.system.whole_files import sync_folder

NAME = "SHA256SUMS"
_LAST = b"# The sum of the lines above is "
_MAX_BYTES = 1 << 26  # a manifest of some 500,000 files


class Damaged(Exception):
    """A folder is not what its manifest says; the message says in what."""


def write(folder: pathlib.Path, title: str) -> None:
    """Sums all files below `folder`, then writes the manifest; all is on the disk on return.

    Args:
      title: one line, which `verify` has to be given too.

    Raises:
      OSError: a file cannot be read, or the manifest not be written.
    """
    lines = [f"# {title}\n"]
    for name in _files(folder):
        lines.append(f"{_sum(folder / name, sync=True)}  {name}\n")
    text = "".join(lines).encode()
    with open(folder / NAME, "wb") as file:
        file.write(text + _LAST + hashlib.sha256(text).hexdigest().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    for path, _, _ in os.walk(folder):
        sync_folder(path)


def verify(folder: pathlib.Path, title: str) -> None:
    """Compares all files below `folder` with its manifest.

    Raises:
      Damaged: there is no manifest, it has another title, or a file is missing, additional or not
        what was written.
      OSError: a file cannot be read.
    """
    sums = _read(folder, title)
    found = _files(folder)
    for name in sums:
        if name not in found:
            raise Damaged(f"{name} is missing")
    for name in found:
        if name not in sums:
            raise Damaged(f"{name} is not in its {NAME}")
        if _sum(folder / name) != sums[name]:
            raise Damaged(f"{name} is not what was written")


def _read(folder: pathlib.Path, title: str) -> dict[str, str]:
    path = folder / NAME
    if not path.is_file():
        raise Damaged(f"it has no {NAME}, so it was not finished")
    if path.stat().st_size > _MAX_BYTES:
        raise Damaged(f"its {NAME} is larger than any that was written")
    data = path.read_bytes()
    text, last = data[: -len(_LAST) - 65], data[-len(_LAST) - 65 :]
    if last != _LAST + hashlib.sha256(text).hexdigest().encode() + b"\n":
        raise Damaged(f"its {NAME} is not what was written")
    first, *lines = text.decode().splitlines()
    if first != f"# {title}":
        raise Damaged(f"its {NAME} is that of another folder: {first[2:]}")
    return {line[66:]: line[:64] for line in lines}


def _files(folder: pathlib.Path) -> list[str]:
    """All that is not a folder, relative, sorted, the manifest left out."""
    found = []
    for path, _, names in os.walk(folder):
        found += [(pathlib.Path(path) / name).relative_to(folder).as_posix() for name in names]
    return sorted(name for name in found if name != NAME)


def _sum(path: pathlib.Path, sync: bool = False) -> str:
    # hashlib lets other threads run meanwhile: a step of training does not wait for this.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Damaged(f"{path.name} is not a file")
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
