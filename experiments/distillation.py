"""Distillation: does the network come closer to the truth than the teacher that it learned from?

    python -m experiments.distillation --network=runs/flow --sintel=data/sintel \\
        --ucf101=data/ucf101 --output=runs/distillation

The paper trains on Brox's flow and reports that the network is as good as Brox's method on Sintel.
For every dataset that is given, and unseen rendered scenes, this prints the network's end-point
error against the teacher and, where truth exists, the network's, the teacher's and zero flow's
against the truth; all over the same voxels, in pixels of the videos' own frames. UCF101 has no
truth. Writes OUTPUT/distillation.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

import v2v_jax
from experiments.flow_methods import (
    Score,
    open_sintel,
    pairs_of,
    sintel_sequences,
    sintel_truth,
)
from v2v_jax.datasets.readers.ucf101 import Ucf101
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.inference.predictor import Predictor
from v2v_jax.system import compilation_cache
from v2v_jax.system.console import console

# Frames (T,H,W,3), indices of those that are looked at, and of these flow and validity or None.
Clip = tuple[np.ndarray, list[int], np.ndarray | None, np.ndarray | None]
UCF101_SIZE = (240, 320)  # that all its videos have
COMPARISONS = {
    "network – teacher": ("network", "teacher"),
    "zero – teacher": ("zero", "teacher"),
    "network – truth": ("network", "truth"),
    "teacher – truth": ("teacher", "truth"),
    "zero – truth": ("zero", "truth"),
}


def scenes(num_videos: int, num_frames: int) -> Iterator[Clip]:
    """Unseen rendered scenes; only where the point stays visible, as in training."""
    dataset = Scenes("test", num_videos=num_videos, num_frames=num_frames)
    for video in range(num_videos):
        arrays = dataset.read(video, 0, num_frames, ("video", "flow", "flow_valid"))
        indices = list(range(num_frames - 1))  # the last frame's follower is not there
        flow = arrays["flow"][:-1].astype(np.float32)
        yield arrays["video"], indices, flow, arrays["flow_valid"][:-1]


def sintel(root: str, render_pass: str, partial: bool) -> Iterator[Clip]:
    """All of Sintel that has labels."""
    sequences = sintel_sequences(root, render_pass)
    for _, frames, truth in sintel_truth(open_sintel(root, sequences, render_pass, partial)):
        flow, valid = (np.stack([labels[k] for labels in truth.values()]) for k in (0, 1))
        yield frames, list(truth), flow, valid


def ucf101(root: str, num_frames: int) -> Iterator[Clip]:
    """The middle of the test clips that are at hand, as far as they have the usual size."""
    dataset = Ucf101(root, "test", allow_missing=True, frame_size=UCF101_SIZE)
    for video, info in enumerate(dataset.videos):
        count = min(num_frames, info.num_frames)
        start = (info.num_frames - count) // 2
        frames = dataset.read(video, start, start + count)["video"]
        yield frames, list(range(count - 1)), None, None


def compare(predictor: Predictor, clips: Iterator[Clip]) -> dict[str, float]:
    """End-point error of every comparison, over all voxels of the clips that count."""
    scores = {name: Score() for name in COMPARISONS}
    for frames, indices, truth, valid in clips:
        flows = {
            "network": predictor(frames)[indices],
            "teacher": pairs_of(frames, indices, "Brox"),
            "zero": np.zeros((len(indices), *frames.shape[1:3], 2), np.float32),
            "truth": truth,
        }
        counted = np.ones(flows["zero"].shape[:-1], bool) if valid is None else valid
        for name, (one, other) in COMPARISONS.items():
            if flows[other] is not None:
                scores[name].add(flows[one], flows[other], counted)
    return {n: s.values()["epe_native"] if s.counted else math.nan for n, s in scores.items()}


def markdown(result: dict[str, dict[str, float]]) -> str:
    """One row a dataset."""
    lines = ["| EPE, px | " + " | ".join(COMPARISONS) + " |", "|---" * (len(COMPARISONS) + 1) + "|"]
    for name, values in result.items():
        cells = ("–" if math.isnan(value) else f"{value:.3f}" for value in values.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Compares on every dataset, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=pathlib.Path, required=True, help="of configs/flow.py")
    parser.add_argument("--scenes", type=int, default=20, help="unseen videos; 0: none")
    parser.add_argument("--num_frames", type=int, default=32, help="of a scene or clip of UCF101")
    parser.add_argument("--sintel", help="folder that holds training/")
    parser.add_argument("--render_pass", choices=("clean", "final", "both"), default="both")
    parser.add_argument("--partial", action="store_true", help="an incomplete copy of Sintel")
    parser.add_argument("--ucf101", help="folder of UCF101; its test clips that are at hand")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    compilation_cache.enable()
    args.output.mkdir(parents=True, exist_ok=True)
    predictor = v2v_jax.load(args.network, full_frame=False)
    sources: dict[str, Iterator[Clip]] = {}
    if args.scenes:
        sources[f"{args.scenes} unseen scenes"] = scenes(args.scenes, args.num_frames)
    if args.sintel:
        sources["Sintel"] = sintel(args.sintel, args.render_pass, args.partial)
    if args.ucf101:
        sources["UCF101, test clips at hand"] = ucf101(args.ucf101, args.num_frames)
    result = {}
    for name, clips in sources.items():
        result[name] = compare(predictor, clips)
        console.print(f"{name}: done")
    known = {
        name: {key: None if math.isnan(value) else value for key, value in values.items()}
        for name, values in result.items()
    }
    device = jax.devices()[0].device_kind
    text = json.dumps({"device": device, "network": str(args.network), "rows": known}, indent=2)
    (args.output / "distillation.json").write_text(text + "\n")
    (args.output / "distillation.md").write_text(markdown(result))
    print(f"{args.network}, {device}\n\n{markdown(result)}")


if __name__ == "__main__":
    main()
