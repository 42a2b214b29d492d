"""A dataset to look at: some frames of some videos with what is known of them, on one HTML page.

What `draw_samples` finds is what `contact_sheet` shows:

    samples = draw_samples(dataset, ("video", "labels"))
    page = contact_sheet("gatech", tables, {"train": samples})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from v2v_jax.datasets.base.reading import read_checked
from v2v_jax.datasets.base.video_dataset import VideoDataset
from v2v_jax.drawing import colors
from v2v_jax.drawing.legends import Legend
from v2v_jax.drawing.panels import panels
from v2v_jax.errors import DataError
from v2v_jax.evaluation.report.embedded_media import poster_uri
from v2v_jax.evaluation.report.legend_markup import markup
from v2v_jax.evaluation.report.page import template
from v2v_jax.evaluation.report.tables import Table

VIDEOS = 12  # of a split, spread evenly over it
_MOMENTS = (0.15, 0.5, 0.85)  # of a video


@dataclasses.dataclass(frozen=True)
class Sample:
    """A video's picture: its name, and frames beside their masks, flow and depth, (H,W,3) uint8."""

    name: str
    picture: np.ndarray


@dataclasses.dataclass(frozen=True)
class Samples:
    """Some videos of one split, and what their colours, black among them, mean."""

    samples: Sequence[Sample]
    legends: Sequence[Legend]
    black: str = ""


def draw_samples(dataset: VideoDataset, fields: Sequence[str], count: int = VIDEOS) -> Samples:
    """Draws `count` videos, spread evenly over the dataset; those that cannot be read are left out.

    Args:
      fields: what is drawn beside the video: those of labels, flow and depth that are in it.
      count: how many videos at most.

    Returns:
      Pictures, with the same colours for the same numbers in all of them.
    """
    total = len(dataset.videos)
    chosen = np.linspace(0, total - 1, min(count, total)).round().astype(int)
    found: list[tuple[str, list[int], dict[str, np.ndarray]]] = []
    for video in chosen.tolist():
        info = dataset.videos[video]
        moments = sorted({round(share * (info.num_frames - 1)) for share in _MOMENTS})
        try:
            frames = [read_checked(dataset, video, t, t + 1, fields) for t in moments]
        except DataError:  # the check says so
            continue
        clip = {field: np.concatenate([f[field] for f in frames]) for field in frames[0]}
        found.append((f"{info.name}, {info.num_frames} frames", moments, clip))
    scales = _Scales([clip for *_, clip in found])
    samples = [
        Sample(name, panels(scales.columns(dataset, clip), range(len(t)), row_names=_names(t)))
        for name, t, clip in found
    ]
    return Samples(samples, scales.legends(dataset), scales.black)


def _names(moments: Sequence[int]) -> list[str]:
    return [f"frame {moment}" for moment in moments]


class _Scales:
    """One scale of colours for all pictures, from the values that they show."""

    def __init__(self, clips: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._labels = any("labels" in clip for clip in clips)
        self._speed: float | None = None
        self._depth: tuple[float, float] | None = None
        if any("flow" in clip for clip in clips):
            speeds = [_speed(clip) for clip in clips]
            self._speed = max(speeds) or 1.0
        if any("depth" in clip for clip in clips):
            self._depth = colors.depth_range(np.concatenate([c["depth"].ravel() for c in clips]))

    def columns(
        self, dataset: VideoDataset, clip: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Title → (T,H,W,3) uint8 RGB."""
        columns = {"video": clip["video"]}
        if "labels" in clip:
            columns["labels"] = colors.overlay(clip["video"], clip["labels"], dataset.label_names)
        if self._speed is not None:
            valid = clip["flow_valid"]
            columns["flow"] = colors.flow_to_color(clip["flow"], self._speed, valid)
        if self._depth is not None:
            columns["depth"] = colors.depth_to_color(clip["depth"], *self._depth)
        return columns

    @property
    def black(self) -> str:
        """What is black in the columns, if anything is."""
        if self._speed is not None:
            return "Black: the flow is not known there."
        return "" if self._depth is None else "Black: no depth is known there, or it is the sky."

    def legends(self, dataset: VideoDataset) -> list[Legend]:
        """What the columns' colours mean."""
        legends: list[Legend] = []
        if self._labels:
            legends.append(colors.label_legend(dataset.label_names, over_video=True))
        if self._speed is not None:
            legends.append(colors.flow_legend(max_magnitude=self._speed))
        if self._depth is not None:
            legends.append(colors.depth_legend(*self._depth))
        return legends


def _speed(clip: Mapping[str, np.ndarray]) -> float:
    """The 99th percentile of the known speeds, px: one wild voxel must not pale the rest."""
    known = clip["flow"][clip["flow_valid"]].astype(np.float32)
    known = known[np.isfinite(known).all(-1)]
    return float(np.percentile(np.linalg.norm(known, axis=-1), 99)) if known.size else 0.0


def contact_sheet(
    title: str, table: Table, problems: Mapping[str, Sequence[str]], splits: Mapping[str, Samples]
) -> str:
    """The HTML page, which needs nothing beside itself.

    Args:
      title: of the page.
      table: what is in the splits, by number.
      problems: split → what is wrong, a sentence each.
      splits: split → its pictures.
    """
    return template("contact_sheet.html").render(
        title=title,
        table=table,
        problems={split: list(found) for split, found in problems.items() if found},
        sections={"numbers": "In numbers", **{split: f"{split} split" for split in splits}},
        splits={
            split: {
                "samples": [(one.name, poster_uri(one.picture)) for one in drawn.samples],
                "legends": [markup(legend) for legend in drawn.legends],
                "black": drawn.black,
            }
            for split, drawn in splits.items()
        },
    )
