"""What folders hold: the videos in a folder and its subfolders, the pictures of one folder.

Every list of files in the package is made here, so that all of them agree on what is a video or a
picture and leave the same things out: hidden files, which are half written or companions of macOS
(`._name`), and links that lead nowhere. What is left out is counted and named once.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from absl import logging

from v2v_jax.errors import DataError
from v2v_jax.system import causes
from v2v_jax.system.messages import some_of
from v2v_jax.system.natural_order import natural_key

# In lower case; letter case does not count. All are containers or streams that `video` opens.
VIDEO_EXTENSIONS = (
    *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m1v"),
    *(".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg"),
    *(".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm"),
    *(".wmv", ".y4m"),
)
PICTURE_EXTENSIONS = (
    *(".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_RUN = ("checkpoints", "eval", "tensorboard")  # what is in a run's folder
_said: set[str] = set()  # both splits of a dataset list the same folder
_lock = threading.Lock()  # datasets list many folders at once


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is never data: `.x.part.mp4`, macOS's `._x.mp4`."""
    return name.startswith(".")


@dataclasses.dataclass
class LeftOut:
    """What some lists of files left out.

    Attributes:
      hidden: hidden files that look like data by their extension.
      broken: links that lead nowhere (and pipes and devices).
      closed: folders that may not be read.
      results: folders of this program's runs, which hold pictures and videos of an evaluation.
      others: number of files of each other extension.
    """

    hidden: list[str] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)
    closed: list[str] = dataclasses.field(default_factory=list)
    results: list[str] = dataclasses.field(default_factory=list)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def report(self, where: str) -> None:
        """Warns once of what was left out of a folder or dataset; says nothing if nothing was."""
        parts = [
            f"{_count(len(names), what)} ({some_of(sorted(names))})"
            for what, names in (
                ("hidden file", self.hidden),
                ("broken link", self.broken),
                ("closed folder", self.closed),
                ("folder of results", self.results),
            )
            if names
        ]
        if self.others:
            kinds = [f"{ext or 'no extension'}: {n}" for ext, n in self.others.most_common()]
            parts.append(f"{_count(self.others.total(), 'file')} of other kinds ({some_of(kinds)})")
        sentence = f"{where}: left out {'; '.join(parts)}."
        with _lock:
            new = bool(parts) and sentence not in _said
            _said.add(sentence)
        if new:
            logging.warning("%s", sentence)


def find_videos(folder: str | os.PathLike[str]) -> list[str]:
    """The videos in a folder and its subfolders, also those that are links, in natural order.

    Folders are searched once, however many links lead to them, so links may form circles. Warns of
    what is left out (`LeftOut`) where there are videos.

    Returns:
      Paths relative to `folder`; none if there are no videos.
    """
    folder = os.fspath(folder)
    left_out, names = LeftOut(), []
    searched = {os.path.realpath(folder)}
    # Folders first and links after them: a video keeps its name when a link to it is added.
    waiting = [folder]
    while waiting:
        links: list[str] = []
        for start in waiting:
            names += _search(folder, start, searched, links, left_out)
        waiting = [link for link in links if _is_new(link, searched)]
    if names or left_out.closed:
        left_out.report(f"Folder {folder}")
    return sorted(names, key=natural_key)


def _search(
    root: str, start: str, searched: set[str], links: list[str], left_out: LeftOut
) -> list[str]:
    """The videos below `start`, relative to `root`; linked folders are put into `links`."""
    names = []
    note = lambda error: left_out.closed.append(error.filename)
    for parent, folders, files in os.walk(start, onerror=note):
        results = _of_run(folders, files)
        left_out.results += [os.path.join(parent, name) for name in results if name == "eval"]
        visible = sorted(name for name in folders if not is_hidden(name) and name not in results)
        linked = [name for name in visible if os.path.islink(os.path.join(parent, name))]
        links += [os.path.join(parent, name) for name in linked]
        folders[:] = [
            name
            for name in visible
            if name not in linked and _is_new(os.path.join(parent, name), searched)
        ]
        is_file = functools.partial(_is_file, parent)
        chosen = _choose(parent, files, is_file, VIDEO_EXTENSIONS, left_out)
        names += [os.path.relpath(os.path.join(parent, name), root) for name in chosen]
    return names


def _of_run(folders: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """The subfolders that are no data, if these are the names in a run's folder (--workdir)."""
    return _RUN if "config.json" in files and "checkpoints" in folders else ()


def _is_new(folder: str, searched: set[str]) -> bool:
    """Whether a folder was not searched yet; from now on it counts as such."""
    real = os.path.realpath(folder)
    new = real not in searched
    searched.add(real)
    return new


def list_pictures(folder: str | os.PathLike[str], left_out: LeftOut | None = None) -> list[str]:
    """The names of the pictures in a folder, in natural order (2 before 10); perhaps none.

    Args:
      folder: only itself is searched, not its subfolders.
      left_out: gets what is left out, for the caller to report; None: it is reported here.
    """
    return list_files(folder, PICTURE_EXTENSIONS, left_out)


def list_files(
    folder: str | os.PathLike[str], extensions: Sequence[str], left_out: LeftOut | None = None
) -> list[str]:
    """As `list_pictures`, for other extensions (in lower case)."""
    folder = os.fspath(folder)
    found = LeftOut() if left_out is None else left_out
    # Which knows what is a file without asking for each.
    with _readable(folder), os.scandir(folder) as entries:
        files = {entry.name: entry.is_file() for entry in entries if not entry.is_dir()}
    names = _choose(folder, files, files.__getitem__, extensions, found)
    if left_out is None and names:
        found.report(f"Folder {folder}")
    return sorted(names, key=natural_key)


def list_folders(folder: str | os.PathLike[str]) -> list[str]:
    """The names of the subfolders that are data, in natural order; links to folders count.

    Those that are hidden, and what a run has in its folder, are none.
    """
    folder = os.fspath(folder)
    with _readable(folder):
        names = [name for name in os.listdir(folder) if not is_hidden(name)]
    results = _of_run(names, names)
    names = [name for name in names if name not in results]
    return sorted(
        (name for name in names if os.path.isdir(os.path.join(folder, name))), key=natural_key
    )


@contextlib.contextmanager
def _readable(folder: str) -> Iterator[None]:
    """DataError for a folder that is there and may not be read."""
    try:
        yield
    except OSError as error:
        if not causes.is_refusal(error):
            raise
        raise DataError(
            f"Folder {folder} cannot be read ({causes.reason(error)}); {causes.for_reading(error)}."
        ) from error


def _choose(
    folder: str,
    files: Iterable[str],
    is_file: Callable[[str], bool],
    extensions: Sequence[str],
    left_out: LeftOut,
) -> list[str]:
    """Those of a folder's files that have one of the extensions and can be opened."""
    chosen = []
    for name in sorted(files):
        extension = os.path.splitext(name)[1].lower()
        path = os.path.join(folder, name)
        if extension not in extensions:
            if not is_hidden(name):
                with _lock:
                    left_out.others[extension] += 1
        elif is_hidden(name):
            left_out.hidden.append(path)
        elif not is_file(name):
            left_out.broken.append(path)
        else:
            chosen.append(name)
    return chosen


def _is_file(folder: str, name: str) -> bool:
    return os.path.isfile(os.path.join(folder, name))


def _count(number: int, what: str) -> str:
    first, _, rest = what.partition(" of ")
    return f"{number} {first}{'s' * (number != 1)}{' of ' * bool(rest)}{rest}"
