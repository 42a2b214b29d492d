"""Files that hold a network (`v2v export`): an archive with a record that says what is in it.

What every such file has: about.json, with its format, the version that wrote it and the record that
is stored with every checkpoint, and weights/LAYER/….npy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import v2v_jax
from v2v_jax.errors import CheckpointError
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.sealed_archive import NoArchiveError, read_member, read_sealed, write_sealed

WEIGHTS = "weights/"
_ABOUT = "about.json"


def write_archive(
    path: str | os.PathLike[str],
    format: int,
    record: Mapping[str, Any],
    members: Mapping[str, bytes],
    *,
    compress: bool = False,
) -> None:
    """Writes such a file, whole or not at all; the same content gives the same bytes.

    Raises:
      OSError: it cannot be written.
    """
    whole = {"format": format, "version": v2v_jax.__version__, **record}
    about = json.dumps(whole, indent=1).encode()
    write_sealed(path, {_ABOUT: about, **members}, compress=compress)


def open_archive(
    path: str | os.PathLike[str],
    what: str,
    format: int,
    *,
    kind: str | None = None,
    compressed: bool = False,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The members of such a file and its record.

    Args:
      what: it is to be, with its article, for messages.
      format: that this version reads.
      kind: the record's.
      compressed: whether members may be.

    Raises:
      CheckpointError: it is no such file, of another format, or not as it was written.
    """
    try:
        members, intact = read_sealed(path, compressed=compressed)
        record = parse_object(members[_ABOUT])
        written_as, version = record["format"], record["version"]
        if record.get("kind") != kind:
            raise ValueError(f"it holds {str(record.get('kind'))[:50]}")
    except (NoArchiveError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not {what}, or is damaged ({str(error)[:200]}); export it again."
        ) from error
    if written_as != format:
        raise CheckpointError(
            f"{path} has format {written_as}, written by version {version} of v2v_jax; version "
            f"{v2v_jax.__version__} reads format {format}. Export the checkpoint again."
        )
    if not intact:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not the one that was written; export it again."
        )
    if "about" not in record:
        raise CheckpointError(
            f"{path} is not {what}: its record of the training is missing; export it again."
        )
    return members, record


def kind_of(path: str | os.PathLike[str]) -> Any:
    """The kind in a file's record, which alone is read; None where there is none."""
    try:
        return parse_object(read_member(path, _ABOUT)).get("kind")
    except (NoArchiveError, ValueError):
        return None
