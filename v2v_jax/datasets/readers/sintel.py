"""MPI-Sintel (Butler et al., ECCV 2012): an animated film with true optical flow."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import PIL

from v2v_jax.datasets.base.listing import (
    MIN_FRAMES,
    check_split,
    check_window,
    file_identities,
    list_videos,
)
from v2v_jax.datasets.base.resizing import resize_flow, resize_mask
from v2v_jax.datasets.base.video_dataset import DECODING_SHARE, FRAME_SIZE, VideoDataset
from v2v_jax.errors import CorruptVideoError, DataError
from v2v_jax.media.flow_files import read_flow
from v2v_jax.media.folders import list_folders
from v2v_jax.media.pictures import Picture
from v2v_jax.system.natural_order import natural_key

PASSES = ("clean", "final")
# Sintel's test set has no public truth, and its training set no split: six of the 23 sequences,
# one of each kind of scene, are this project's.
HELD_OUT = ("ambush_2", "ambush_6", "bamboo_2", "cave_4", "market_6", "temple_2")
_FRAME = re.compile(r"frame_(\d{4})\.png")


@dataclasses.dataclass(frozen=True)
class _Sequence:
    """One rendered sequence, or a run of its frames.

    Attributes:
      render_pass, name: folders.
      numbers: of every frame of the video; a short run goes back and forth.
      labelled: whether the flow of a frame to the next one is known.
    """

    render_pass: str
    name: str
    numbers: tuple[int, ...]
    labelled: tuple[bool, ...]


class Sintel(VideoDataset):
    """The training part of MPI-Sintel, its only part with true flow.

    The root holds `training/{clean,final}/<sequence>/frame_%04d.png`, numbered from 1,
    `training/flow/<sequence>/frame_%04d.flo` and `training/{invalid,occlusions}/…png`, as the
    archive does. Flow k goes from frame k to k+1, so a sequence's last frame has none: it is not
    valid there. `flow_valid` is where the flow is known (the mask `invalid` is 0), also where the
    point leaves the frame, as Sintel's own end-point error counts it; `flow_occluded` is the mask
    `occlusions`.

    Attributes:
      corrupt: always empty: frames are files of their own and only listed, not opened.
    """

    name: ClassVar[str] = "sintel"
    fields: tuple[str, ...] = ("video", "flow", "flow_valid", "flow_occluded")
    python_share = DECODING_SHARE

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        render_pass: str = "clean",
        held_out: Sequence[str] = HELD_OUT,
        partial: bool = False,
        frame_size: tuple[int, int] = FRAME_SIZE,
        min_frames: int = MIN_FRAMES,
    ) -> None:
        """Lists the sequences of one split.

        Args:
          root: the folder with `training`.
          split: "train" or "test".
          render_pass: "clean", "final" (with blur, fog and so on) or "both", each a video.
          held_out: sequences of the test split; all others train.
          partial: only some of the files are at hand. Each run of consecutive frames is then a
            video, frames without a flow file have no valid flow, and a run shorter than
            `min_frames` is lengthened to it by reflection, back and forth; where it goes back
            nothing is valid.
          frame_size: (H, W) to resize to.
          min_frames: shorter sequences are left out with a warning, unless `partial`.

        Raises:
          DataError: an unknown pass or sequence; a missing folder, frame, flow file or mask.
        """
        check_split(self.name, split)
        if render_pass not in (*PASSES, "both"):
            raise DataError(
                f"Sintel has no render pass {render_pass!r}; choose clean, final or both."
            )
        self._root = os.path.join(os.fspath(root), "training")
        passes = PASSES if render_pass == "both" else (render_pass,)
        for kind in (*passes, "flow", "invalid"):
            if not os.path.isdir(os.path.join(self._root, kind)):
                raise DataError(
                    f"Sintel folder {os.path.join(self._root, kind)} does not exist; unpack "
                    "MPI-Sintel-complete.zip there."
                )
        if not os.path.isdir(os.path.join(self._root, "occlusions")):
            self.fields = ("video", "flow", "flow_valid")
        found = [
            sequence
            for folder, name in self._split_folders(passes, split, held_out)
            for sequence in self._list_sequence(folder, name, partial, min_frames)
        ]
        names = [f"{s.render_pass}/{s.name}" for s in found]
        if partial:
            names = [f"{name} from {s.numbers[0]:04d}" for name, s in zip(names, found)]
        listing = list_videos(
            self.name, names, lambda index: (found[index], len(found[index].numbers)), min_frames
        )
        self.frame_size = frame_size
        self.videos = listing.videos
        self.corrupt = listing.corrupt
        self._sequences = listing.handles
        first = self._path(self._sequences[0], self._sequences[0].numbers[0])
        self.native_size = Picture(first).size

    def _split_folders(
        self, passes: Sequence[str], split: str, held_out: Sequence[str]
    ) -> list[tuple[str, str]]:
        """(pass, sequence) of a split."""
        folders = {folder: list_folders(os.path.join(self._root, folder)) for folder in passes}
        present = set().union(*folders.values())
        missing = [name for name in held_out if name not in present]
        if missing or not held_out:
            wrong = f"names {missing[0]!r}, which is not in {self._root}" if missing else "is empty"
            raise DataError(
                f"Sintel: held_out {wrong}; set it to the test sequences, out of "
                f"{', '.join(sorted(present, key=natural_key))}."
            )
        return [
            (folder, name)
            for folder, names in folders.items()
            for name in names
            if (name in held_out) == (split == "test")
        ]

    def _list_sequence(
        self, render_pass: str, name: str, partial: bool, min_frames: int
    ) -> list[_Sequence]:
        """The sequence, or its runs of consecutive frames where only some are at hand."""
        folder = os.path.join(self._root, render_pass, name)
        numbers = sorted(int(m[1]) for n in os.listdir(folder) if (m := _FRAME.fullmatch(n)))
        with_flow = self._numbers_with_flow(name)
        if not partial:
            self._check_complete(folder, name, numbers, with_flow)
            known = tuple(number in with_flow for number in numbers[:-1])
            return [_Sequence(render_pass, name, tuple(numbers), (*known, False))]
        sequences = []
        for run in _runs(numbers):
            numbers = np.pad(run, (0, max(min_frames - len(run), 0)), mode="reflect").tolist()
            labelled = tuple(
                now in with_flow and after == now + 1 for now, after in itertools.pairwise(numbers)
            )
            numbers, labelled = tuple(numbers), (*labelled, False)
            sequences.append(_Sequence(render_pass, name, numbers, labelled))
        return sequences

    def _numbers_with_flow(self, name: str) -> set[int]:
        """The frames that have a flow file, each of which must have its masks."""
        folder = os.path.join(self._root, "flow", name)
        files = os.listdir(folder) if os.path.isdir(folder) else []
        stems = sorted(n[:-4] for n in files if re.fullmatch(r"frame_\d{4}\.flo", n))
        kinds = ("invalid", "occlusions") if "flow_occluded" in self.fields else ("invalid",)
        for kind in kinds:
            for stem in stems:
                path = os.path.join(self._root, kind, name, stem + ".png")
                if not os.path.isfile(path):
                    raise DataError(f"Sintel's mask {path} is missing; unpack the archive again.")
        return {int(stem[-4:]) for stem in stems}

    def _check_complete(
        self, folder: str, name: str, numbers: Sequence[int], with_flow: set[int]
    ) -> None:
        remedy = (
            "unpack the archive again, or set --config.data.partial=True to use what is at hand"
        )
        for number in range(1, len(numbers) + 1):
            if number not in numbers:
                raise DataError(
                    f"Frame {os.path.join(folder, f'frame_{number:04d}.png')} is missing; its "
                    f"sequence has {len(numbers)} frames, numbered from 0001; {remedy}."
                )
            if number < len(numbers) and number not in with_flow:
                path = os.path.join(self._root, "flow", name, f"frame_{number:04d}.flo")
                raise DataError(f"Flow file {path} is missing; {remedy}.")

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """See `VideoDataset.read`: `video` (T,H,W,3) uint8 RGB; `flow` (T,H,W,2) float16, rescaled
        with the frames; `flow_valid` and `flow_occluded` (T,H,W) bool.

        Raises:
          CorruptVideoError: a frame, flow file or mask cannot be read.
          DataError: one of them is not of the frames' size, or a mask of another kind.
        """
        self.check_fields(fields)
        check_window(self.videos[video], start, stop)
        sequence = self._sequences[video]
        decoded: dict[int, np.ndarray] = {}  # repeated frames once
        parts: dict[str, list[np.ndarray]] = {field: [] for field in fields}
        wants_flow = any(field != "video" for field in fields)
        for i in range(start, stop):
            number = sequence.numbers[i]
            if "video" in fields:
                if number not in decoded:
                    decoded[number] = self._frame(self._path(sequence, number))
                parts["video"].append(decoded[number])
            if wants_flow:
                labels = self._labels(sequence.name, number if sequence.labelled[i] else None)
                for field in parts.keys() & labels.keys():
                    parts[field].append(labels[field])
        return {field: np.stack(array) for field, array in parts.items()}

    def _frame(self, path: str) -> np.ndarray:
        picture = Picture(path)
        self._check_size(path, picture.size)
        return picture.frame(self.frame_size)

    def _labels(self, name: str, number: int | None) -> dict[str, np.ndarray]:
        """Flow, validity and occlusion of one frame, resized; None: nothing is known."""
        h, w = self.frame_size
        if number is None:
            nothing = np.zeros((h, w), bool)
            flow = np.zeros((h, w, 2), np.float16)
            return {"flow": flow, "flow_valid": nothing, "flow_occluded": nothing}
        flow, valid, occluded = self._native_labels(name, number)
        resized, kept = resize_flow(flow, valid, self.frame_size)
        labels = {"flow": resized.astype(np.float16), "flow_valid": kept}
        if occluded is not None:
            labels["flow_occluded"] = resize_mask(occluded, self.frame_size)
        return labels

    def _native_labels(
        self, name: str, number: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        path = self._label_path("flow", name, number)
        try:
            flow, known = read_flow(path)
        except DataError as error:
            raise CorruptVideoError(str(error)) from error
        self._check_size(path, flow.shape[:2])
        valid = known & ~self._mask(self._label_path("invalid", name, number))
        if "flow_occluded" not in self.fields:
            return flow, valid, None
        return flow, valid, self._mask(self._label_path("occlusions", name, number))

    def native_pairs(self) -> list[tuple[int, int]]:
        """(video, index of the frame in it) of every frame whose flow is known, once each."""
        return [
            (video, i)
            for video, sequence in enumerate(self._sequences)
            for i, known in enumerate(sequence.labelled)
            if known and sequence.numbers.index(sequence.numbers[i]) == i
        ]

    def native_frames(self, video: int) -> Iterator[np.ndarray]:
        """The frames (H,W,3) uint8 RGB of a video in their original size, each once, in order."""
        sequence = self._sequences[video]
        for number in sorted(set(sequence.numbers)):
            path = self._path(sequence, number)
            yield Picture(path).frame(self.native_size)

    def native_truth(
        self, video: int, index: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The labels of one of `native_pairs` as they are on disk.

        Returns:
          Flow (H,W,2) float32 in pixels of the original frames, valid (H,W) bool, and occluded
          (H,W) bool or None if there are no such masks.

        Raises:
          CorruptVideoError, DataError: as `read`.
        """
        sequence = self._sequences[video]
        return self._native_labels(sequence.name, sequence.numbers[index])

    def _mask(self, path: str) -> np.ndarray:
        picture = Picture(path)
        self._check_size(path, picture.size)
        if picture.kind != "grey":
            raise DataError(
                f"Mask {path} is a PNG of Pillow's mode {picture.mode}; expected grey, 0 and 255."
            )
        return picture.numbers() > (0 if picture.mode == "1" else 127)

    def _check_size(self, path: str, size: tuple[int, int]) -> None:
        if tuple(size) != tuple(self.native_size):
            (h, w), (wanted_h, wanted_w) = size, self.native_size
            raise DataError(
                f"{path} is {w}x{h}, the dataset's frames are {wanted_w}x{wanted_h}; unpack the "
                "archive again."
            )

    def _path(self, sequence: _Sequence, number: int) -> str:
        return self._label_path(sequence.render_pass, sequence.name, number)

    def _label_path(self, kind: str, name: str, number: int) -> str:
        extension = ".flo" if kind == "flow" else ".png"
        return os.path.join(self._root, kind, name, f"frame_{number:04d}{extension}")

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`."""
        kinds = ["flow", "invalid"] + ["occlusions"] * ("flow_occluded" in self.fields)
        paths = []
        for sequence in self._sequences:
            for number, labelled in zip(sequence.numbers, sequence.labelled):
                paths.append(self._path(sequence, number))
                if labelled:
                    paths += [self._label_path(kind, sequence.name, number) for kind in kinds]
        return {"files": file_identities(paths), "pillow": PIL.__version__}


def _runs(numbers: Iterable[int]) -> list[list[int]]:
    """Sorted numbers, cut wherever one is missing."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] + 1 == number:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
