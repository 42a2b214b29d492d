"""Paths as people give them: with a ~, as file:// addresses, or as addresses of other machines."""

from __future__ import annotations

import os
import re
import urllib.parse

from v2v_jax.errors import DataError

# What TensorStore cannot have in a path; without a word it would write elsewhere, or nothing.
_NOT_OF_ARRAYS = re.compile("[\\\\\ud800-\udfff]")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def local_path(text: str) -> str:
    """The path of a file of this machine: ~ is a home, file:///a%20b.mp4 is /a b.mp4.

    Raises:
      DataError: it is an address of another machine, and no file has that name.
    """
    found = _ADDRESS.match(text)
    if found is None or os.path.exists(text):
        return os.path.expanduser(text)
    if found[1].lower() == "file":
        address = urllib.parse.urlsplit(text)
        if address.netloc in ("", "localhost"):
            return urllib.parse.unquote(address.path)
    raise DataError(
        f"{text} is an address, and only files of this machine are read and written; give a path "
        "(of what lies elsewhere, fetch it first)."
    )


def check_array_path(path: str | os.PathLike[str]) -> None:
    """Refuses a folder that checkpoints or labels cannot be in, before any work is done for it.

    Raises:
      DataError: there is a backslash in its path, or bytes that are no UTF-8.
    """
    if _NOT_OF_ARRAYS.search(os.fspath(path)):
        raise DataError(
            f"{os.fspath(path)} has a backslash in it, or letters that are no UTF-8, which the "
            "library that writes arrays cannot have; choose or rename the folder without them."
        )
