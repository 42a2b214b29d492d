"""ZIP archives of named bytes that carry a SHA-256 of all of them as their comment.

Nothing in them is code, and any ZIP program opens them. The same content gives the same file.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence

from v2v_jax.system.whole_files import whole_file

_EARLIEST = (1980, 1, 1, 0, 0, 0)
_MAX_BYTES = 4 << 30  # of all members together, as their headers have it
_MAX_RATIO = 50  # of that and the file's size: more than weights can be compressed by
_MAX_MEMBERS = 10_000
_ENCRYPTED = 1  # of a member's flags
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


def read_sealed(
    path: str | os.PathLike[str], *, compressed: bool = False
) -> tuple[dict[str, bytes], bool]:
    """The members of an archive, and whether its sum is the one that was written.

    What they claim is compared with the file before anything is read.

    Args:
      compressed: whether members may be, as `write_sealed` compresses.

    Raises:
      NoArchiveError: see there; or it has members that `write_sealed` does not write.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive.infolist(), os.path.getsize(path), compressed)
            members = {name: archive.read(name) for name in archive.namelist()}
            comment = archive.comment
    except _DAMAGED as error:
        raise NoArchiveError(str(error)[:300]) from error
    return members, comment == digest(members).encode()


def read_member(path: str | os.PathLike[str], name: str) -> bytes:
    """One member alone, not compared with the sum.

    Raises:
      NoArchiveError: see there; or it has no such member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members([archive.getinfo(name)], os.path.getsize(path), compressed=True)
            return archive.read(name)
    except _DAMAGED as error:
        raise NoArchiveError(str(error)[:300]) from error


def _check_members(infos: Sequence[zipfile.ZipInfo], size: int, compressed: bool) -> None:
    """Raises ValueError if members are of other kinds, or claim more than such a file can hold."""
    if len(infos) > _MAX_MEMBERS or len({info.filename for info in infos}) != len(infos):
        raise ValueError("it has too many members, or two of one name")
    methods = {zipfile.ZIP_STORED, *((zipfile.ZIP_DEFLATED,) if compressed else ())}
    for info in infos:
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"its member {info.filename[:100]!r} is encrypted")
        if info.compress_type not in methods:
            raise ValueError(f"its member {info.filename[:100]!r} is compressed in another way")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise ValueError(f"its member {info.filename[:100]!r} claims another size")
    claimed = sum(info.file_size for info in infos)
    most = min(_MAX_BYTES, size * (_MAX_RATIO if compressed else 1))
    if claimed > most or sum(info.compress_size for info in infos) > size:
        raise ValueError(f"its members claim {claimed} bytes, in a file of {size}")


def digest(members: Mapping[str, bytes]) -> str:
    """SHA-256 of names and contents, in the order of the names, hexadecimal."""
    total = hashlib.sha256()
    for name in sorted(members):
        total.update(f"{name}\0{len(members[name])}\0".encode())
        total.update(members[name])
    return total.hexdigest()
