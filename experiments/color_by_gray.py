"""How much colour follows from grey level alone? Average distance error (ADE) of a colour table.

    python -m experiments.color_by_gray --ucf101=data/ucf101

Fits, on the training clips, the mean difference of the colour from the grey frame for each of 16
grey levels, and adds a part of it to the test clips' grey frames; part 0 is the grey frame itself.
Every fourth frame, centre crops of 112×112.
"""

from __future__ import annotations

import argparse

import numpy as np

from v2v_jax.datasets.readers.ucf101 import Ucf101
from v2v_jax.input.preprocess import LUMA

LEVELS = 16
PARTS = (0.0, 0.1, 0.3, 0.5, 1.0)


def read_colors(root: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All crops of a split: colour (N,112,112,3) and grey (N,112,112,1), float32 in [0,1]."""
    dataset = Ucf101(root, split, allow_missing=True)
    frames = [
        dataset.read(i, 0, video.num_frames)["video"][::4, 8:120, 29:141]
        for i, video in enumerate(dataset.videos)
    ]
    color = np.concatenate(frames).astype(np.float32) / 255
    return color, (color * np.array(LUMA, np.float32)).sum(-1, keepdims=True)


def levels_of(gray: np.ndarray) -> np.ndarray:
    """(N,H,W,1) grey in [0,1] → (N,H,W) level 0..LEVELS-1."""
    return np.minimum(gray[..., 0] * LEVELS, LEVELS - 1).astype(np.int64)


def main(argv: list[str] | None = None) -> None:
    """Prints the ADE for every part of the table's colour."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ucf101", required=True, help="folder of UCF101")
    args = parser.parse_args(argv)
    color, gray = read_colors(args.ucf101, "train")
    level = levels_of(gray)
    table = np.stack([(color - gray)[level == i].mean(0) for i in range(LEVELS)])
    color, gray = read_colors(args.ucf101, "test")
    tint = table[levels_of(gray)]
    print("part of the table's colour   ADE on the test clips")
    for part in PARTS:
        distance = np.sqrt(((gray + part * tint - color) ** 2).sum(-1))
        print(f"{part:<26}{distance.mean():10.4f}")


if __name__ == "__main__":
    main()
