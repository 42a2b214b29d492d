"""ZIP archives of named bytes that carry a SHA-256 of all of them as their comment.

Nothing in them is code, and any ZIP program opens them. The same content gives the same file.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

from v2v_jax.system.whole_files import whole_file

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_MAX_BYTES = 4 << 30  # of all members together, as their headers have it
# What zipfile raises for archives that are damaged, or encrypted.
_DAMAGED = (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)


class NoArchiveError(Exception):
    """It is no such archive, or cannot be read to its end; the text says why."""


def write_sealed(
    path: str | os.PathLike[str], members: Mapping[str, bytes], *, compress: bool = False
) -> None:
    """Writes an archive, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with (
        whole_file(pathlib.Path(path)) as temporary,
        zipfile.ZipFile(temporary, "w", method) as archive,
    ):
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST), data, method)
        archive.comment = digest(members).encode()


def read_sealed(path: str | os.PathLike[str]) -> tuple[dict[str, bytes], bool]:
    """The members of an archive, and whether its sum is the one that was written.

    Raises:
      NoArchiveError: see there.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
                raise ValueError(f"it claims more than {_MAX_BYTES >> 30} GiB")
            members = {name: archive.read(name) for name in archive.namelist()}
            comment = archive.comment
    except _DAMAGED as error:
        raise NoArchiveError(str(error)) from error
    return members, comment == digest(members).encode()


def read_member(path: str | os.PathLike[str], name: str) -> bytes:
    """One member alone, not compared with the sum.

    Raises:
      NoArchiveError: see there; or it has no such member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > _MAX_BYTES:
                raise ValueError(f"it claims more than {_MAX_BYTES >> 30} GiB")
            return archive.read(name)
    except _DAMAGED as error:
        raise NoArchiveError(str(error)) from error


def digest(members: Mapping[str, bytes]) -> str:
    """SHA-256 of names and contents, in the order of the names, hexadecimal."""
    total = hashlib.sha256()
    for name in sorted(members):
        total.update(f"{name}\0{len(members[name])}\0".encode())
        total.update(members[name])
    return total.hexdigest()
