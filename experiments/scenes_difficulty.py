"""How hard is the dataset `scenes`? Voxel accuracy of ever stronger ways of guessing.

    python -m experiments.scenes_difficulty                               (minutes on a CPU)
    python -m experiments.scenes_difficulty --networks=runs/difficulty    (minutes on a GPU)

Rows of the table:
  commonest class   always the class with the most training voxels
  row position      the commonest class of each image row
  colour            a 16x16x16 RGB histogram of each class: colour alone
  colour and row    the same for each sixteenth of the picture's height
  v2v_2d, v2v       configs/seg.py with 2D-V2V, which sees single frames, and with V2V; the runs,
                    their metrics and pictures stay in the folder that --networks names

The guessers see the whole frame, the networks' accuracy is that of the centre crop.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from configs import seg
from v2v_jax.datasets.scenes import LABEL_NAMES, Scenes

COLOUR_BINS = 16  # a channel
ROW_BINS = 16
Cells = Callable[[np.ndarray], np.ndarray]


def one_cell(video: np.ndarray) -> np.ndarray:
    """(T,H,W,3) uint8 → (T,H,W) int: every voxel in the same cell."""
    return np.zeros(video.shape[:3], np.int64)


def row_cell(video: np.ndarray) -> np.ndarray:
    """(T,H,W,3) uint8 → (T,H,W) int: which of ROW_BINS strips a voxel lies in."""
    t, h, w, _ = video.shape
    strip = np.arange(h) * ROW_BINS // h
    return np.broadcast_to(strip[None, :, None], (t, h, w))


def colour_cell(video: np.ndarray) -> np.ndarray:
    """(T,H,W,3) uint8 → (T,H,W) int: the voxel's colour, COLOUR_BINS a channel."""
    red, green, blue = np.moveaxis(video.astype(np.int64) * COLOUR_BINS // 256, -1, 0)
    return (red * COLOUR_BINS + green) * COLOUR_BINS + blue


def colour_row_cell(video: np.ndarray) -> np.ndarray:
    """(T,H,W,3) uint8 → (T,H,W) int: the voxel's colour and strip."""
    return colour_cell(video) * ROW_BINS + row_cell(video)


GUESSERS: dict[str, tuple[Cells, int]] = {
    "commonest class": (one_cell, 1),
    "row position": (row_cell, ROW_BINS),
    "colour": (colour_cell, COLOUR_BINS**3),
    "colour and row": (colour_row_cell, COLOUR_BINS**3 * ROW_BINS),
}


def read_sample(dataset: Scenes, every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (video (T,H,W,3), labels (T,H,W)) of single frames, `every` frames apart."""
    for video in range(len(dataset.videos)):
        for start in range(0, dataset.num_frames, every):
            frame = dataset.read(video, start, start + 1, ("video", "labels"))
            yield frame["video"], frame["labels"]


def cell_accuracies(train: Scenes, test: Scenes, every: int) -> tuple[dict[str, float], np.ndarray]:
    """Fits every guesser on `train` and scores it on `test`.

    Returns:
      Voxel accuracy (0..1) by guesser, and the share of each class in `test`, (8,) float64.
    """
    classes = len(LABEL_NAMES)
    counts = {name: np.zeros((cells, classes), np.int64) for name, (_, cells) in GUESSERS.items()}
    for video, labels in read_sample(train, every):
        for name, (cell_of, cells) in GUESSERS.items():
            joint = cell_of(video) * classes + labels
            counts[name] += np.bincount(joint.ravel(), minlength=cells * classes).reshape(
                cells, classes
            )
    commonest = int(counts["commonest class"].argmax())
    guesses = {}
    for name, count in counts.items():
        # A cell that training never filled falls back to the commonest class.
        guesses[name] = np.where(count.sum(1) > 0, count.argmax(1), commonest)
    right = dict.fromkeys(GUESSERS, 0)
    share = np.zeros(classes)
    for video, labels in read_sample(test, every):
        share += np.bincount(labels.ravel(), minlength=classes)
        for name, (cell_of, _) in GUESSERS.items():
            right[name] += int((guesses[name][cell_of(video)] == labels).sum())
    return {name: hits / share.sum() for name, hits in right.items()}, share / share.sum()


def network_accuracies(folder: pathlib.Path, num_steps: int | None) -> dict[str, float]:
    """Trains and evaluates 2D-V2V and V2V as configs/seg.py has them, resuming what is there.

    Returns:
      Voxel accuracy (0..1) of the best checkpoint, by model.
    """
    from v2v_jax.evaluation.evaluator import evaluate
    from v2v_jax.training.loop import train_and_evaluate

    accuracies = {}
    for model in ("v2v_2d", "v2v"):
        config = seg.get_config(f"model={model}")
        if num_steps is not None:
            config.num_steps = num_steps
            config.eval_every = max(1, num_steps // 4)
        train_and_evaluate(config, folder / model)
        accuracies[model] = evaluate(config, folder / model)["accuracy"]
    return accuracies


def main(argv: list[str] | None = None) -> None:
    """Prints the class distribution and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_videos", type=int, default=200)
    parser.add_argument("--test_videos", type=int, default=60)
    parser.add_argument("--every", type=int, default=12, help="use every n-th frame")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", type=pathlib.Path, help="folder to train the networks in")
    parser.add_argument(
        "--num_steps", type=int, help="of their training; default: configs/seg.py's"
    )
    args = parser.parse_args(argv)
    train = Scenes("train", seed=args.seed, num_videos=args.train_videos)
    test = Scenes("test", seed=args.seed, num_videos=args.test_videos)
    accuracies, share = cell_accuracies(train, test, args.every)
    if args.networks is not None:
        accuracies |= network_accuracies(args.networks, args.num_steps)
    print("class          share of test voxels, %")
    for name, value in zip(LABEL_NAMES, share, strict=True):
        print(f"{name:<15}{100 * value:6.1f}")
    print("\nguesser            voxel accuracy, %")
    for name, value in accuracies.items():
        print(f"{name:<19}{100 * value:6.1f}")


if __name__ == "__main__":
    main()
