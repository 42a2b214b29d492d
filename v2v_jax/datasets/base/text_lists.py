"""Lists of names that come with datasets, as editors and systems of all kinds write them."""

from __future__ import annotations

import codecs
import collections
import contextlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from absl import logging

from v2v_jax.errors import DataError
from v2v_jax.system.messages import some_of

_MAX_BYTES = 1 << 26
_MARKS = (  # of Windows' editors; UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_lines(path: str | os.PathLike[str], remedy: str) -> list[tuple[str, str]]:
    """The lines of a list that are not blank, without blanks around them.

    Lines may end as on any system. The text is UTF-8, or UTF-16 or UTF-32 with a byte order mark;
    what is none of them is read as Windows' Western European, with a warning.

    Args:
      path: the list.
      remedy: what to do about a list that cannot be read, for the message.

    Returns:
      (line, "path, line n") of each.

    Raises:
      DataError: it cannot be read, or holds bytes that no text has.
    """
    path = os.fspath(path)
    try:
        if not os.path.isfile(path):
            raise OSError(None, "it is not a file")  # reading a pipe would wait for ever
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = _decode(path, data)
    except (OSError, UnicodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"List {path} cannot be read ({reason}); {remedy}.") from error
    # Not splitlines(), which also splits at characters that names may hold.
    lines = re.split(r"\r\n|\r|\n", text)
    return [(line.strip(), f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _decode(path: str, data: bytes) -> str:
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _checked(data.decode(encoding))
    try:
        return _checked(data.decode("utf-8"))
    except UnicodeDecodeError:
        text = _checked(data.decode("cp1252"))  # undefined there: five bytes, which are an error
    logging.warning("List %s is not UTF-8; it is read as Windows-1252.", path)
    return text


def _checked(text: str) -> str:
    """ValueError for characters that text files do not hold, but binary files do."""
    wrong = re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text)
    if wrong:
        raise ValueError(f"it holds the character {wrong[0]!r}, so it is not a text")
    return text


def as_present(names: Iterable[str], present: Iterable[str]) -> list[str]:
    """The names as those folders or files write them that are there; others as they are.

    A letter with an accent is one character in a list and two in the names of a Mac, and names of
    an old archive are in Windows' code, as its lists are read.
    """
    exact = set(present)
    known = {_letters(name): name for name in exact}
    return [name if name in exact else known.get(_letters(name), name) for name in names]


def _letters(name: str) -> str:
    """A name as what people read, however it is written."""
    text = name
    for code in ("cp1252", "utf-8"):  # the latter wherever it is that
        with contextlib.suppress(UnicodeError):
            text = os.fsencode(name).decode(code)
    return unicodedata.normalize("NFC", text)


def without_repeats(dataset: str, names: Sequence[str], source: str) -> list[str]:
    """The names in their order, each once; warns of those that a list names more than once."""
    times = collections.Counter(names)
    repeated = [name for name, count in times.items() if count > 1]
    if repeated:
        logging.warning(
            "Dataset %s: %s repeats names (%d: %s); each video is used once.",
            *(dataset, source, len(repeated), some_of(repeated)),
        )
    return list(times)


def warn_of_overlap(dataset: str, train: Sequence[str], test: Sequence[str], source: str) -> None:
    """Warns of videos that the lists for training and for testing both name."""
    known = set(train)
    both = [name for name in dict.fromkeys(test) if name in known]
    if both:
        logging.warning(
            "Dataset %s: %d of the %d videos for testing are also for training (%s), so the test "
            "does not show what the network does with new videos; remove them from a list in %s.",
            *(dataset, len(both), len(set(test)), some_of(both), source),
        )
