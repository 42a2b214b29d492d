"""UCF101 (Soomro et al., 2012): 13,320 clips of people's actions, in three official splits."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from absl import logging

from v2v_jax.datasets.base.listing import MIN_FRAMES, VideoFileDataset, check_inside, check_split
from v2v_jax.datasets.base.text_lists import read_lines, warn_of_overlap, without_repeats
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE
from v2v_jax.errors import DataError

_SPLITS = ("train", "test")
_REMEDY = "unpack ucfTrainTestlist again"
VIDEOS = "UCF-101"  # the folder of the videos, in the root
# "Class/v_Class_g08_c01.avi 1": the label is there in the lists for training only.
_LINE = re.compile(r"(?P<folder>[^/\\\s]+)/(?P<file>[^/\\\s]+\.avi)(?:\s+(?P<label>\d+))?", re.I)


class _Entry(NamedTuple):
    """A line of a list: class folder, file, 1-based class number, "list, line n" for messages."""

    folder: str
    file: str
    label: int | None
    where: str


class Ucf101(VideoFileDataset):
    """UCF101's videos.

    The root holds `UCF-101/<Class>/*.avi` and `ucfTrainTestlist/*.txt`, which the two official
    archives unpack to.
    """

    name: ClassVar[str] = "ucf101"

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        list_number: int = 1,
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = MIN_FRAMES,
        allow_missing: bool = False,
    ) -> None:
        """Lists one split and indexes its videos.

        Args:
          root: the folder with `UCF-101` and `ucfTrainTestlist`.
          split: "train" or "test".
          list_number: which of the three official splits, 1..3.
          frame_size: (H, W) to resize to.
          min_frames: shorter videos are left out with a warning.
          allow_missing: use the videos at hand if not all that are listed are there.

        Raises:
          DataError: missing folder, list or videos, a malformed line, too many corrupt videos.
        """
        check_split(self.name, split)
        if list_number not in (1, 2, 3):
            raise DataError(f"UCF101 has no split number {list_number}; choose 1, 2 or 3.")
        root = os.fspath(root)
        videos = os.path.join(root, VIDEOS)
        lists = os.path.join(root, "ucfTrainTestlist")
        for folder in (videos, lists):
            if not os.path.isdir(folder):
                raise DataError(
                    f"UCF101 folder {folder} does not exist; unpack the archives of the videos "
                    f"(UCF-101) and of the lists (ucfTrainTestlist) into {root}."
                )
        list_path = os.path.join(lists, f"{split}list{list_number:02d}.txt")
        entries = list(_read_list(list_path))
        _check_labels(entries, os.path.join(lists, "classInd.txt"))
        found = _find_files(videos, entries)
        missing = [entry for entry, path in zip(entries, found, strict=True) if path is None]
        if missing:
            _report_missing(missing, len(entries), list_path, videos, allow_missing)
        self.video_label_names = _class_names(lists, list_number)
        paths = without_repeats(self.name, [p for p in found if p is not None], list_path)
        _warn_of_overlap(lists, list_number)
        check_inside(self.name, videos, paths, list_path)
        names = [os.path.relpath(path, videos) for path in paths]
        super().__init__(names, paths, frame_size, min_frames)
        numbers = {name.lower(): number for number, name in enumerate(self.video_label_names)}
        self._labels = [numbers[_class_of(video.name)] for video in self.videos]

    def video_label(self, video: int) -> int:
        """See `VideoDataset.video_label`: the folder's place among `video_label_names`."""
        return self._labels[video]


def _warn_of_overlap(lists: str, list_number: int) -> None:
    """Warns of videos that both lists of a split name, where both are at hand."""
    paths = [os.path.join(lists, f"{split}list{list_number:02d}.txt") for split in _SPLITS]
    if all(map(os.path.exists, paths)):
        train, test = ([f"{e.folder}/{e.file}".lower() for e in _read_list(p)] for p in paths)
        warn_of_overlap("ucf101", train, test, lists)


def _class_of(name: str) -> str:
    """Class/v_Class_g01_c01.avi → class."""
    return pathlib.PurePath(name).parts[0].lower()


def _class_names(lists: str, list_number: int) -> tuple[str, ...]:
    """The classes in the order of `classInd.txt`; without it the folders of both lists, sorted."""
    path = os.path.join(lists, "classInd.txt")
    names = []
    if os.path.exists(path):
        names = [name for _, name in sorted(_read_classes(path).items())]
    known = {name.lower() for name in names}
    more = {}
    for split in _SPLITS:
        file = os.path.join(lists, f"{split}list{list_number:02d}.txt")
        for entry in _read_list(file) if os.path.exists(file) else ():
            if entry.folder.lower() not in known:
                more[entry.folder.lower()] = entry.folder
    return (*names, *(more[key] for key in sorted(more)))


def _read_list(path: str) -> Iterator[_Entry]:
    empty = True
    for line, where in read_lines(path, _REMEDY):
        empty = False
        match = _LINE.fullmatch(line.replace("\\", "/"))
        if match is None or match["folder"] in (".", ".."):
            raise DataError(
                f"{where}: {line[:80]!r} is not a video within the dataset's folder; expected "
                "'Class/v_Class_gNN_cNN.avi' with a class number in training lists; unpack "
                "ucfTrainTestlist again."
            )
        label = int(match["label"]) if match["label"] else None
        yield _Entry(match["folder"], match["file"], label, where)
    if empty:
        raise DataError(f"UCF101 list {path} is empty; unpack ucfTrainTestlist again.")


def _read_classes(path: str) -> dict[int, str]:
    """1-based class number → name, of `classInd.txt`."""
    classes = {}
    for line, where in read_lines(path, _REMEDY):
        number, _, name = line.replace("\t", " ").partition(" ")
        name = name.strip()
        if not number.isdecimal() or not name:
            raise DataError(
                f"{where}: {line[:80]!r} is malformed; expected 'number Class'; unpack "
                "ucfTrainTestlist again."
            )
        classes[int(number)] = name
    return classes


def _check_labels(entries: list[_Entry], class_path: str) -> None:
    """Compares the class numbers with `classInd.txt`, where that file is at hand."""
    if not os.path.exists(class_path):
        return
    classes = _read_classes(class_path)
    for entry in entries:
        if entry.label is None:
            continue
        if classes.get(entry.label, "").lower() != entry.folder.lower():
            raise DataError(
                f"{entry.where}: class number {entry.label} is not that of {entry.folder} in "
                f"{class_path} (1..{len(classes)}); unpack ucfTrainTestlist again."
            )


def _find_files(videos: str, entries: list[_Entry]) -> list[str | None]:
    """The file of each entry or None.

    Letter case does not count: the lists write HandstandPushups/v_HandStandPushups_…, and archives
    with either spelling of the files circulate.
    """
    folders = {name.lower(): name for name in os.listdir(videos)}
    files: dict[str, dict[str, str]] = {}
    found: list[str | None] = []
    for entry in entries:
        key = entry.folder.lower()
        if key not in files:
            folder = os.path.join(videos, folders.get(key, entry.folder))
            names = os.listdir(folder) if os.path.isdir(folder) else []
            files[key] = {name.lower(): os.path.join(folder, name) for name in names}
        found.append(files[key].get(entry.file.lower()))
    return found


def _report_missing(
    missing: list[_Entry], listed: int, list_path: str, videos: str, allow_missing: bool
) -> None:
    first = f"{missing[0].folder}/{missing[0].file}"
    if len(missing) == listed:
        raise DataError(
            f"None of the {listed} videos that {list_path} lists is in {videos}, the first being "
            f"{first}; unpack the archive of the videos there."
        )
    if not allow_missing:
        raise DataError(
            f"{len(missing)} of the {listed} videos that {list_path} lists are not in {videos}, "
            f"the first being {first}; unpack the archive again, or set allow_missing to use the "
            f"{listed - len(missing)} at hand."
        )
    logging.warning(
        "UCF101: using %d of the %d videos that %s lists; %d are missing, the first being %s.",
        *(listed - len(missing), listed, list_path, len(missing), first),
    )
