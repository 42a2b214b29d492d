"""How much moves in the clips of UCF101 that are at hand: the size of Brox's flow, a clip a row.

    python -m experiments.ucf101_motion --ucf101=data/ucf101

Zero flow's end-point error against Brox's method, in pixels of the frames that the network is
trained on, for `--pairs` pairs of frames spread evenly over each clip; and, over a split, how that
is distributed over voxels.
"""

from __future__ import annotations

import argparse

import numpy as np

from experiments.distillation import UCF101_SIZE
from experiments.flow_methods import pairs_of
from v2v_jax.datasets.readers.ucf101 import Ucf101
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.system import compilation_cache

QUANTILES = (0.5, 0.9, 0.99)


def speeds(dataset: Ucf101, video: int, pairs: int) -> np.ndarray:
    """(P,H,W) px a frame of the network's frames, of some pairs of one clip."""
    size = Preprocessing().frame_size
    scale = np.array([size[1] / UCF101_SIZE[1], size[0] / UCF101_SIZE[0]], np.float32)
    last = dataset.videos[video].num_frames - 2
    found = []
    for t in np.linspace(0, last, pairs).round().astype(int).tolist():
        frames = dataset.read(video, t, t + 2)["video"]
        found.append(pairs_of(frames, [0], "Brox")[0] * scale)
    return np.linalg.norm(found, axis=-1)


def main(argv: list[str] | None = None) -> None:
    """Prints a table of both splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ucf101", required=True, help="folder of UCF101")
    parser.add_argument("--pairs", type=int, default=8, help="of each clip")
    args = parser.parse_args(argv)
    compilation_cache.enable()
    heads = "".join(f" | {100 * q:.0f} % of voxels below" for q in QUANTILES)
    print(f"| split | clip | mean speed, px{heads} |\n|{'---|' * (3 + len(QUANTILES))}")
    for split in ("train", "test"):
        dataset = Ucf101(args.ucf101, split, allow_missing=True, frame_size=UCF101_SIZE)
        found = [speeds(dataset, video, args.pairs) for video in range(len(dataset.videos))]
        named = [(info.name, clip) for info, clip in zip(dataset.videos, found)]
        for name, clip in [*named, ("all", np.concatenate(found))]:
            cells = [clip.mean(), *np.quantile(clip, QUANTILES)]
            print(f"| {split} | {name} | " + " | ".join(f"{x:.2f}" for x in cells) + " |")


if __name__ == "__main__":
    main()
