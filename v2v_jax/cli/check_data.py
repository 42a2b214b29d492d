"""Reads a whole dataset once, before anyone trains on it, and reports what is in it.

    v2v check-data --config=seg:dataset=gatech --config.data.root=DIR

All splits, with all fields that the task needs: videos, frames, clips, original sizes, histogram
of the labels, magnitude of the flow, range of the depth, and every file that cannot be read, with
the reason. The exit status is 1 if there is any. With --workdir=FOLDER the report is also written
to FOLDER/check_data.json, and to FOLDER/check_data.html, with pictures of some videos: frames
beside their masks, flow or depth.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from v2v_jax import datasets
from v2v_jax.cli import config_options
from v2v_jax.cli.command_line import Parser
from v2v_jax.datasets.base import listing
from v2v_jax.datasets.base.reading import map_videos, read_checked, read_video_labels
from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL, VIDEO_LABEL, VideoDataset
from v2v_jax.errors import DataError, TooManyCorruptError
from v2v_jax.system import messages
from v2v_jax.system.console import console, print_table, progress
from v2v_jax.system.whole_files import write_text

if TYPE_CHECKING:
    from v2v_jax.evaluation.contact_sheet import Samples

_WINDOW = 64  # frames read at a time, so that long videos need no more memory than short ones
# Bins of flow's magnitude and of depth: 1 % wide, from 0.001 (px or m), so that a percentile is
# known to 1 % without keeping the values.
_BINS = np.concatenate([[0.0], 0.001 * 1.01 ** np.arange(1900), [np.inf]])
_SHOWN = 20  # unreadable files that are printed


@dataclasses.dataclass
class Contents:
    """What was found in some videos; numbers of several can be added up.

    Attributes:
      frames: frames that were read.
      color: sum over voxels of R, G, B and of their squares, (2,3) float64.
      labels: (256,) voxels of each label.
      flow, depth: histograms over `_BINS` of valid voxels, int64.
      voxels: all voxels.
      blank: names of videos of one colour throughout.
      problems: (name, reason) of what cannot be read.
    """

    frames: int = 0
    voxels: int = 0
    color: Any = dataclasses.field(default_factory=lambda: np.zeros((2, 3)))
    labels: Any = dataclasses.field(default_factory=lambda: np.zeros(256, np.int64))
    flow: Any = dataclasses.field(default_factory=lambda: np.zeros(len(_BINS) - 1, np.int64))
    depth: Any = dataclasses.field(default_factory=lambda: np.zeros(len(_BINS) - 1, np.int64))
    blank: list[str] = dataclasses.field(default_factory=list)
    problems: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __iadd__(self, other: Contents) -> Contents:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, value)
        return self


def check_video(dataset: VideoDataset, video: int, fields: Sequence[str]) -> Contents:
    """Reads all frames of a video; what cannot be read is a problem and not an error."""
    found, info = Contents(), dataset.videos[video]
    least, most = 255, 0
    for start in range(0, info.num_frames, _WINDOW):
        stop = min(start + _WINDOW, info.num_frames)
        try:
            frames = read_checked(dataset, video, start, stop, fields)
        except DataError as error:
            found.problems.append((info.name, str(error)))
            break  # the rest of a damaged video is of no use
        found += _contents(frames, f"{info.name}, frames {start} to {stop - 1}")
        least = min(least, int(frames["video"].min()))
        most = max(most, int(frames["video"].max()))
    if found.frames and least == most:
        found.blank.append(info.name)
    return found


def _contents(frames: dict[str, np.ndarray], name: str) -> Contents:
    video = frames["video"].reshape(-1, 3).astype(np.float64)
    found = Contents(len(frames["video"]), len(video))
    found.color = np.stack([video.sum(0), (video**2).sum(0)])
    if "labels" in frames:
        found.labels = np.bincount(frames["labels"].ravel(), minlength=256)
    if "flow" in frames:
        flow = frames["flow"][frames["flow_valid"]].astype(np.float32)
        if not np.isfinite(flow).all():
            found.problems.append((name, "flow that is marked as valid is not finite"))
            flow = flow[np.isfinite(flow).all(-1)]
        found.flow = np.histogram(np.linalg.norm(flow, axis=-1), _BINS)[0]
    if "depth" in frames:
        depth = frames["depth"].astype(np.float32)
        if np.isnan(depth).any() or (depth < 0).any():
            found.problems.append((name, "depth is negative or not a number"))
        found.depth = np.histogram(depth[np.isfinite(depth) & (depth >= 0)], _BINS)[0]
    return found


# ------------------------------------------------------------------------------------------------


# Called with a split's name, its dataset and the fields that the task needs.
OnSplit = Callable[[str, VideoDataset, Sequence[str]], None]


def check(config: ConfigDict, on_split: OnSplit = lambda *_: None) -> dict[str, Any]:
    """Reads all splits of `config.data` for `config.task`.

    Args:
      on_split: called with each split that can be opened, once it is read.

    Returns:
      split → JSON-ready report; `problems` in it lists (name, reason).

    Raises:
      ConfigError: a value that cannot be used.
    """
    from v2v_jax.run import recipes  # JAX is imported where a command runs, not for its help

    recipes.validate(config)
    reports: dict[str, dict[str, Any]] = {}
    with messages.without(listing.LEAVES_OUT):  # the report says so
        for split in datasets.split_names(config.data):
            if split == "validation" and not reports["train"]["videos"]:
                continue  # it is part of what could not be opened, as was said
            reports[split] = _check_split(config, split, on_split)
    return reports


def _check_split(config: ConfigDict, split: str, on_split: OnSplit) -> dict[str, Any]:
    from v2v_jax.tasks import task_class

    fields = task_class(config.task).fields
    try:
        size, clip = config.preprocessing.frame_size, config.preprocessing.clip_length
        dataset = datasets.load(config.data, split, tuple(size), min_frames=clip)
        dataset.prepare_fields(fields, progress)
    except TooManyCorruptError as error:
        return {"videos": 0, "problems": error.corrupt}
    except DataError as error:  # nothing can be opened at all
        return {"videos": 0, "problems": [(f"{config.data.name}, {split} split", str(error))]}
    found = Contents(problems=list(getattr(dataset, "corrupt", [])))
    of_frames = [field for field in fields if field != VIDEO_LABEL]
    videos = map_videos(functools.partial(check_video, fields=of_frames), dataset)
    count = len(dataset.videos)
    for _, contents in progress(videos, count, f"reading {dataset.name}, {split}"):
        found += contents
    report = _report(dataset, config, split, found, fields)
    on_split(split, dataset, of_frames)
    if VIDEO_LABEL in fields:
        try:
            counts = np.bincount(
                read_video_labels(dataset), minlength=len(dataset.video_label_names)
            )
            names = zip(dataset.video_label_names, counts.tolist())
            report["videos of a class"] = dict(names)
        except DataError as error:
            report["problems"].append((f"{dataset.name}, labels of videos", str(error)))
    return report


def _report(
    dataset: VideoDataset, config: ConfigDict, split: str, found: Contents, fields: Sequence[str]
) -> dict[str, Any]:
    lengths = np.array([video.num_frames for video in dataset.videos])
    clip = config.preprocessing.clip_length
    stride = config.stride if split == "train" else clip
    report: dict[str, Any] = {
        "videos": len(lengths),
        "frames": int(lengths.sum()),
        "frames of a video": [int(lengths.min()), float(np.median(lengths)), int(lengths.max())],
        "clips": int(np.maximum((lengths - clip) // stride + 1, 0).sum()),
        "clip stride": stride,
        "original sizes": _sizes(dataset, found),
        "problems": sorted(set(found.problems)),
    }
    if found.voxels:
        mean = found.color[0] / found.voxels
        report["mean RGB"] = mean.tolist()
        report["standard deviation of RGB"] = np.sqrt(
            np.maximum(found.color[1] / found.voxels - mean**2, 0)
        ).tolist()
        report["blank videos"] = sorted(found.blank)
    if "labels" in fields and found.voxels:
        shares = found.labels / found.voxels
        report["labels"] = {n: float(shares[i]) for i, n in enumerate(dataset.label_names)}
        report["labels"]["(ignored)"] = float(shares[IGNORE_LABEL])
    if "flow" in fields and found.voxels:
        report["flow, px"] = _distribution(found.flow, found.voxels)
    if "depth" in fields and found.voxels:
        report["depth, m"] = _distribution(found.depth, found.voxels)
    return report


def _sizes(dataset: VideoDataset, found: Contents) -> dict[str, int]:
    sizes: collections.Counter[str] = collections.Counter()
    for video, info in enumerate(dataset.videos):
        try:
            size = dataset.original_size(video)
        except DataError as error:
            found.problems.append((info.name, str(error)))
            continue
        sizes["x".join(map(str, reversed(size))) if size else "as resized"] += 1
    return dict(sizes.most_common())


def _distribution(histogram: np.ndarray, voxels: int) -> dict[str, float]:
    """Share of valid voxels; least, percentiles and largest of the values, to 1 %."""
    count = histogram.sum()
    result = {"valid share": float(count / voxels)}
    if count:
        centers = np.sqrt(np.maximum(_BINS[:-1], 5e-4) * np.minimum(_BINS[1:], _BINS[-2]))
        centers[0] = 0.0  # less than 0.001
        filled = np.flatnonzero(histogram)
        result["least"] = float(centers[filled[0]])
        result["mean"] = float((centers * histogram).sum() / count)
        for percent in (50, 99):
            place = np.searchsorted(np.cumsum(histogram), percent / 100 * count)
            result[f"{percent} %"] = float(centers[place])
        result["largest"] = float(centers[filled[-1]])
    return result


# ------------------------------------------------------------------------------------------------


def print_report(name: str, reports: dict[str, dict[str, Any]]) -> None:
    """Prints one table of all splits, and what cannot be read."""
    rows = _rows(reports)
    print_table(name, ("", *reports), [(label, *cells) for label, cells in rows.items()])
    for split, report in reports.items():
        for problem in _sentences(report["problems"][:_SHOWN]):
            console.print(f"{split}: {problem}")
        more = len(report["problems"]) - _SHOWN
        if more > 0:
            console.print(f"{split}: and {more} more")


def _rows(reports: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """What is told → its text for every split."""
    rows: dict[str, list[str]] = {}
    for column, report in enumerate(reports.values()):
        for label, text in _lines(report):
            rows.setdefault(label, [""] * len(reports))[column] = text
    return rows


def _write(
    folder: pathlib.Path,
    title: str,
    reports: dict[str, dict[str, Any]],
    drawn: Mapping[str, Samples],
) -> None:
    """Writes check_data.json and check_data.html."""
    from v2v_jax.evaluation.contact_sheet import contact_sheet
    from v2v_jax.evaluation.report.tables import Row, Table

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "check_data.json", json.dumps(reports, indent=1) + "\n")
    rows = [Row(label.strip(), cells) for label, cells in _rows(reports).items()]
    problems = {split: _sentences(report["problems"]) for split, report in reports.items()}
    page = contact_sheet(title, Table("All splits", ("", *reports), rows), problems, drawn)
    write_text(folder / "check_data.html", page)
    console.print(f"Pictures of some videos are in {folder / 'check_data.html'}")


def _sentences(problems: Sequence[tuple[str, str]]) -> list[str]:
    """What is wrong, each with the name of what has it, once."""
    return [reason if name in reason else f"{name}: {reason}" for name, reason in problems]


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for key, value in report.items():
        if key == "problems":
            lines.append(("cannot be read", str(len(value))))
        elif key == "blank videos":
            lines.append((key, f"{len(value)}{': ' if value else ''}{', '.join(value[:3])}"))
        elif key == "labels":
            lines += [(f"  {label}", f"{share:.2%}") for label, share in value.items()]
        elif key == "original sizes":
            shown = ", ".join(f"{size} ({n})" for size, n in list(value.items())[:3])
            lines.append((key, shown + (", …" if len(value) > 3 else "")))
        elif isinstance(value, dict):
            for label, number in value.items():
                share = label == "valid share"
                text = f"{number:.1%}" if share else f"{number:.4g}"
                lines.append((f"{key}: {label}", text))
        elif isinstance(value, list):
            lines.append((key, ", ".join(f"{number:.4g}" for number in value)))
        else:
            lines.append((key, str(value)))
    return lines


def add_options(parser: Parser) -> None:
    """See the module."""
    config_options.add_options(parser, needs_workdir=False)


def run(options: argparse.Namespace) -> None:
    """Checks and reports; DataError if anything cannot be read."""
    from v2v_jax.evaluation.contact_sheet import draw_samples

    config = options.config
    drawn: dict[str, Samples] = {}

    def draw(split: str, dataset: VideoDataset, fields: Sequence[str]) -> None:
        if options.workdir:
            drawn[split] = draw_samples(dataset, fields)

    reports = check(config, draw)
    title = f"{config.data.name} for {config.task}"
    print_report(title, reports)
    if options.workdir:
        _write(pathlib.Path(options.workdir), title, reports, drawn)
    else:
        console.print("Add --workdir=FOLDER for a page with pictures, FOLDER/check_data.html")
    count = sum(len(report["problems"]) for report in reports.values())
    if count:
        what = "1 problem" if count == 1 else f"{count} problems"
        raise DataError(f"{what} found, listed above with what helps; solve them before training.")
