"""GATECH (Raza et al., Geometric context from videos, 2013) as it circulates on disk."""

from __future__ import annotations

import os
import re
from typing import ClassVar

from absl import logging

from v2v_jax.datasets.base.class_masks import ClassTable
from v2v_jax.datasets.base.labelled_videos import (
    LabelledVideos,
    Pictures,
    VideoPair,
    picture_names,
)
from v2v_jax.datasets.base.listing import MIN_FRAMES, check_split
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE
from v2v_jax.errors import DataError
from v2v_jax.media.folders import (
    PICTURE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    LeftOut,
    list_files,
    list_pictures,
)
from v2v_jax.media.video import VideoFile
from v2v_jax.system.natural_order import natural_key

_FOLDERS = {"train": "Images", "test": "Images_test"}
_FRAMES, _MASKS = "Original", "Ground_Truth"
_VIDEOS = {"train": 63, "test": 38}  # in the official split
_PICTURE = re.compile(r"(?P<video>.+)_(?P<frame>\d+)")
# Values 0..8 of the index masks and the same as colours, as GATECH circulates; void is ignored.
CLASSES = ClassTable.make(
    names=(
        *("void", "sky", "ground", "solid", "porous"),
        *("cars", "humans", "vertical mix", "main mix"),
    ),
    colors=(
        *((255, 128, 0), (255, 0, 0), (0, 130, 180), (0, 255, 0), (255, 255, 0)),
        *((120, 0, 255), (255, 0, 255), (160, 160, 160), (64, 64, 64)),
    ),
)


class Gatech(LabelledVideos):
    """Outdoor videos with eight classes.

    The root holds `Images/{Original,Ground_Truth}` for training and
    `Images_test/{Original,Ground_Truth}` for testing. In both are either pictures
    `<video>_<frame>.tiff` (or .png, …), whose numbers are not padded with zeros, or video files
    `<video>.avi` (or .mp4, …), whose masks are colours. Masks that are pictures hold class numbers
    0..8 or the classes' colours.
    """

    name: ClassVar[str] = "gatech"

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = MIN_FRAMES,
    ) -> None:
        """Lists the videos of one official split; warns if they are not 63 or 38.

        Args:
          root: the folder with `Images` and `Images_test`.
          split: "train" or "test".
          frame_size: (H, W) to resize to.
          min_frames: shorter videos are left out with a warning.

        Raises:
          DataError: a missing folder, frame or mask, a name that cannot be understood, mixed
            formats.
        """
        check_split(self.name, split)
        folder = os.path.join(os.fspath(root), _FOLDERS[split])
        for part in (_FRAMES, _MASKS):
            if not os.path.isdir(os.path.join(folder, part)):
                raise DataError(
                    f"GATECH folder {os.path.join(folder, part)} does not exist; expected "
                    f"{{Images,Images_test}}/{{{_FRAMES},{_MASKS}}} in {os.fspath(root)}."
                )
        videos = _list_videos(folder)
        names = sorted(videos, key=natural_key)

        def open_one(index: int) -> Pictures | VideoPair:
            files = videos[names[index]]
            return files if isinstance(files, Pictures) else _open_pair(*files)

        super().__init__(names, open_one, CLASSES, frame_size, min_frames)
        if len(names) != _VIDEOS[split]:
            logging.warning(
                "GATECH: %d videos in %s, the official %s split has %d.",
                *(len(names), folder, split, _VIDEOS[split]),
            )


def _list_videos(folder: str) -> dict[str, Pictures | tuple[str, str]]:
    """Name → pictures, or the paths of frames and masks where they are video files."""
    frames, masks = os.path.join(folder, _FRAMES), os.path.join(folder, _MASKS)
    extensions = {
        part: {
            kind
            for kind, names in (
                ("pictures", list_pictures(part, LeftOut())),
                ("videos", list_files(part, VIDEO_EXTENSIONS, LeftOut())),
            )
            if names
        }
        for part in (frames, masks)
    }
    for part, kinds in extensions.items():
        if not kinds:
            raise DataError(
                f"GATECH folder {part} has neither pictures ({', '.join(PICTURE_EXTENSIONS)}) nor "
                f"videos ({', '.join(VIDEO_EXTENSIONS)})."
            )
        if kinds != extensions[frames] or len(kinds) > 1:
            raise DataError(
                f"GATECH folders {frames} and {masks} are of mixed formats, pictures and videos; "
                "keep one."
            )
    if "pictures" in extensions[frames]:
        return _list_pictures(frames, masks)
    return _list_video_files(frames, masks)


def _list_pictures(frames: str, masks: str) -> dict[str, Pictures]:
    left_out = LeftOut()
    frame_names, mask_names = (picture_names(f, "gatech", left_out) for f in (frames, masks))
    left_out.report(f"Dataset gatech in {os.path.dirname(frames)}")
    videos: dict[str, dict[int, str]] = {}
    for stem, name in frame_names.items():
        match = _PICTURE.fullmatch(stem)
        if match is None:
            raise DataError(
                f"GATECH picture {os.path.join(frames, name)} is not named <video>_<frame>; unpack "
                "the dataset again."
            )
        numbers = videos.setdefault(match["video"], {})
        if int(match["frame"]) in numbers:
            raise DataError(
                f"GATECH pictures {numbers[int(match['frame'])]} and {stem} in {frames} are both "
                f"frame {match['frame']} of video {match['video']}; unpack the dataset again."
            )
        numbers[int(match["frame"])] = stem
    _check_pairs(frames, masks, frame_names, mask_names)
    result = {}
    for video, numbers in videos.items():
        for number in range(min(numbers), max(numbers)):
            if number not in numbers:
                raise DataError(
                    f"GATECH frame {number} of video {video} is missing in {frames}, which has "
                    f"{min(numbers)} to {max(numbers)}; unpack the dataset again."
                )
        stems = [numbers[number] for number in sorted(numbers)]
        result[video] = Pictures(
            tuple(os.path.join(frames, frame_names[stem]) for stem in stems),
            tuple(os.path.join(masks, mask_names[stem]) for stem in stems),
        )
    return result


def _list_video_files(frames: str, masks: str) -> dict[str, tuple[str, str]]:
    left_out = LeftOut()
    found = [
        {os.path.splitext(name)[0]: name for name in list_files(f, VIDEO_EXTENSIONS, left_out)}
        for f in (frames, masks)
    ]
    left_out.report(f"Dataset gatech in {os.path.dirname(frames)}")
    _check_pairs(frames, masks, *found)
    return {
        stem: (os.path.join(frames, name), os.path.join(masks, found[1][stem]))
        for stem, name in found[0].items()
    }


def _check_pairs(frames: str, masks: str, *names: dict[str, str]) -> None:
    """Raises DataError unless every frame (or video) has its mask and every mask its frame."""
    for what, folder, these, others in (
        ("mask", masks, names[0], names[1]),
        ("frame", frames, names[1], names[0]),
    ):
        missing = sorted((s for s in these if s not in others), key=natural_key)
        if missing:
            raise DataError(
                f"GATECH {what} {os.path.join(folder, missing[0])}.* is missing, the first of "
                f"{len(missing)}; unpack the dataset again."
            )


def _open_pair(frames: str, masks: str) -> VideoPair:
    pair = VideoPair(VideoFile(frames), VideoFile(masks))
    if pair.masks.num_frames != pair.num_frames:
        raise DataError(
            f"GATECH video {frames} has {pair.num_frames} frames, its masks {masks} "
            f"{pair.masks.num_frames}; fetch both again."
        )
    return pair
