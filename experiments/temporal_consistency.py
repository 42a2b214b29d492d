"""Temporal consistency of trained networks: frame by frame against windows.

    python -m experiments.temporal_consistency runs/seg runs/seg-2d --output=runs/consistency.json

For each run (segmentation or colouring) and each way to apply it, over whole videos of the test
split that the run was configured with: how much the predictions change along the motion (see
`v2v_jax.evaluation.temporal_consistency`), and how right they are, as a constant answer would be
perfectly consistent. "truth" is what the same measure gives for labels or frames themselves:
edges between voxels, noise, light. Prints a Markdown table and writes the same as JSON.

The flow is the dataset's where it has flow, else Brox's; --flow=brox takes Brox's everywhere.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from v2v_jax import datasets
from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL, VideoDataset
from v2v_jax.errors import UserError
from v2v_jax.evaluation.temporal_consistency import brox_motion, color_changes, label_changes
from v2v_jax.inference.network import read_network
from v2v_jax.inference.predictor import Predictor
from v2v_jax.system.console import progress

# Task → name of the measure, of the accuracy, and the field that holds the truth.
_TASKS = {
    "segmentation": ("share of voxels whose label changes", "accuracy", "labels"),
    "color": ("mean RGB distance", "ADE", "video"),
}
Apply = Callable[[np.ndarray], np.ndarray]


def ways(run: pathlib.Path) -> tuple[Predictor, dict[str, Apply]]:
    """A run's predictor and the ways to apply it: name → (video → predictions)."""
    windows = Predictor(read_network(run), full_frame=False)
    apart = Predictor(windows.network, full_frame=False, overlap=0.0)
    length = windows.network.clip[0]

    def frame_by_frame(video: np.ndarray) -> np.ndarray:
        # A video of one frame: the network sees that frame standing still.
        return np.concatenate([windows(video[t : t + 1]) for t in range(len(video))])

    return windows, {
        "frame by frame": frame_by_frame,
        f"windows of {length}, end to end": apart,
        f"windows of {length}, overlapping": windows,
    }


def videos(
    dataset: VideoDataset, truth: str, count: int, frames: int, flow: str
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]]:
    """(fields, forward flow, where it is valid) of `count` videos, spread over the split."""
    own = flow == "true" or (flow == "auto" and "flow" in dataset.fields)
    fields = tuple({"video": 0, truth: 0} | ({"flow": 0, "flow_valid": 0} if own else {}))
    count = min(count, len(dataset.videos))
    for video in np.linspace(0, len(dataset.videos) - 1, count).round().astype(int):
        length = min(frames, dataset.videos[video].num_frames)
        clip = dataset.read(int(video), 0, length, fields)
        motion = (clip["flow"], clip["flow_valid"]) if own else brox_motion(clip["video"])
        yield clip, *motion


class Measure:
    """The sums of one way over the videos."""

    def __init__(self, task: str):
        self._labels = task == "segmentation"
        self.changed, self.compared, self.right, self.judged = 0.0, 0, 0.0, 0

    def add(
        self, predicted: np.ndarray, truth: np.ndarray, flow: np.ndarray, valid: np.ndarray
    ) -> None:
        """Adds one video: predictions and truth (T,H,W) labels or (T,H,W,3) uint8 RGB."""
        changes = label_changes if self._labels else color_changes
        changed, compared = changes(predicted, flow, valid)
        self.changed, self.compared = self.changed + changed, self.compared + compared
        if self._labels:
            known = truth != IGNORE_LABEL
            self.right += int((predicted == truth)[known].sum())
            self.judged += int(known.sum())
        else:
            difference = (predicted.astype(np.float64) - truth) / 255
            self.right += float(np.sqrt((difference**2).sum(-1)).sum())
            self.judged += truth[..., 0].size

    def result(self) -> dict[str, float]:
        """The share or mean that changes, and the accuracy or ADE."""
        ratio = lambda total, count: total / count if count else float("nan")
        return {
            "change": ratio(self.changed, self.compared),
            "score": ratio(self.right, self.judged),
            "voxels": self.compared,
        }


def measure(run: pathlib.Path, count: int, frames: int, flow: str) -> dict[str, Any]:
    """All ways of one run; see the module.

    Raises:
      UserError: no checkpoint, another task, or data that is missing.
    """
    predictor, applications = ways(run)
    if predictor.task not in _TASKS:
        raise UserError(f"{run} is for the task {predictor.task}; known: {', '.join(_TASKS)}.")
    config = ConfigDict(predictor.network.about["config"])
    dataset = datasets.load(config.data, "test", tuple(config.preprocessing.frame_size))
    change, score, field = _TASKS[predictor.task]
    sums = {name: Measure(predictor.task) for name in ("truth", *applications)}
    count = min(count, len(dataset.videos))
    for clip, motion, valid in progress(
        videos(dataset, field, count, frames, flow), count, f"{run.name}: videos"
    ):
        truth = clip[field]
        known = valid.copy()
        if predictor.task == "segmentation":  # what has no label cannot change it
            known &= (truth != IGNORE_LABEL)[: len(valid)]
        sums["truth"].add(truth, truth, motion, known)
        for name, apply in applications.items():
            sums[name].add(apply(clip["video"]), truth, motion, known)
    own = flow == "true" or (flow == "auto" and "flow" in dataset.fields)
    return {
        "run": str(run),
        "model": config.model.name,
        "task": predictor.task,
        "dataset": dataset.name,
        "videos": count,
        "flow": "the dataset's" if own else "Brox's",
        "measures": {"change": change, "score": score},
        "step": predictor.network.step,
        "device": jax.devices()[0].device_kind,
        "ways": {name: total.result() for name, total in sums.items()},
    }


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table of `measure`'s results."""
    lines = ["| run | applied | changes along the motion | accuracy or ADE |", "|---|---|---|---|"]
    for result in results:
        run = f"{result['run']} ({result['model']}, {result['dataset']}, flow: {result['flow']})"
        for name, values in result["ways"].items():
            lines.append(f"| {run} | {name} | {values['change']:.4f} | {values['score']:.4f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measures every run, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=pathlib.Path, nargs="+", help="workdirs of train.py")
    parser.add_argument("--videos", type=int, default=12, help="of the test split")
    parser.add_argument("--frames", type=int, default=48, help="of each video, at most")
    parser.add_argument("--flow", choices=("auto", "true", "brox"), default="auto")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file")
    args = parser.parse_args(argv)
    try:
        results = [measure(run, args.videos, args.frames, args.flow) for run in args.runs]
    except UserError as error:
        parser.exit(1, f"Error: {error}\n")
    print(table(results))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
