"""Which weights ship with the package, and whether their files are the ones that were shipped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib

from v2v_jax.errors import CheckpointError

FOLDER = pathlib.Path(__file__).parent
INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class ShippedWeights:
    """One network of the index.

    Attributes:
      name: as in `v2v_jax.load(name)`.
      file: of `v2v export --bits`, relative to the index.
      task: what it predicts.
      data: what it was trained on.
      data_licence: of that data, and whose they are.
      score: its results, for people.
      metric: that was measured before and after the weights were stored in `bits`.
      measured_on: on which data.
      value: of the metric, as shipped.
      value_before: of the weights as they were trained.
      baseline: of the metric, the task's trivial answer.
      model: the network, with its width.
      clip: T×H×W that it was trained on.
      parameters: how many weights.
      bits: of a kernel's weight.
      bytes: size of the file.
      sha256: of the file, hexadecimal.
      licence: of the weights.
      card: Markdown file relative to the index: training, limits.
    """

    name: str
    file: str
    task: str
    data: str
    data_licence: str
    score: str
    metric: str
    measured_on: str
    value: float
    value_before: float
    baseline: float
    model: str
    clip: str
    parameters: int
    bits: int
    bytes: int
    sha256: str
    licence: str
    card: str

    @property
    def loss(self) -> float:
        """By what share of the metric storing it in `bits` changed it; positive or not."""
        return abs(self.value / self.value_before - 1)


_KINDS = {"int": int, "str": str, "float": float}


def read_index(folder: str | os.PathLike[str] | None = None) -> list[ShippedWeights]:
    """All weights of an index, in its order; imports nothing heavy.

    Args:
      folder: that holds index.json; None: the package's own.

    Raises:
      CheckpointError: the index is damaged.
    """
    path = pathlib.Path(FOLDER if folder is None else folder) / INDEX
    try:
        entries = [ShippedWeights(**entry) for entry in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"The index of shipped weights {path} is damaged ({error}); install the package again."
        ) from error
    for entry in entries:
        for field in dataclasses.fields(ShippedWeights):
            if type(getattr(entry, field.name)) is not _KINDS[str(field.type)]:
                raise CheckpointError(
                    f"The index of shipped weights {path} is damaged ({entry.name}: {field.name} "
                    f"is {getattr(entry, field.name)!r}); install the package again."
                )
    return entries


def entry_of(name: str, folder: str | os.PathLike[str] | None = None) -> ShippedWeights:
    """What the index says of weights.

    Raises:
      CheckpointError: there are no such weights; the message lists the known ones.
    """
    known = {entry.name: entry for entry in read_index(folder)}
    if name not in known:
        raise CheckpointError(
            f"No weights are called {name!r}; "
            + (f"known names: {', '.join(known)}." if known else "none ship with this version.")
        )
    return known[name]


def find(name: str, folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """The verified file of weights.

    Args:
      name: of the index.
      folder: see `read_index`.

    Raises:
      CheckpointError: there are no such weights (the message lists the known ones), or the file is
        missing or not the one that was shipped.
    """
    folder = pathlib.Path(FOLDER if folder is None else folder)
    entry = entry_of(name, folder)
    path = folder / entry.file
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"The weights {name} cannot be read from {path} ({error.strerror}); install the "
            "package again."
        ) from error
    if found != entry.sha256:
        raise CheckpointError(
            f"The weights {name} in {path} are damaged: their SHA-256 is not the index's; install "
            "the package again."
        )
    return path
