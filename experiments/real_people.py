"""The network of people beside its teachers: regions on DAVIS's test sequences, and flicker.

    python -m experiments.real_people --runs=runs/real --davis=data/davis2016 \\
        --selfie=data/teachers/selfie_segmentation.tflite --motion=runs/motion

RUNS holds masks/people-*.npz and teacher.npz, what ESPNetv2 said of every test frame (from
`experiments.real_runs` and `real_data`). Prints a Markdown table: J of every test sequence with
people against DAVIS's masks (of everything that moves with them), and the share of voxels whose
label changes along Brox's motion in the first frames, at 120×213. Brox's motion is kept in MOTION.
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from experiments.real_data import FRAME_SIZE, PEOPLE, cover
from experiments.real_results import Truth, predicted, resized
from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.evaluation.davis_measures import measure
from v2v_jax.evaluation.temporal_consistency import brox_motion, label_changes
from v2v_jax.labelling.teachers import Teacher
from v2v_jax.labelling.tflite_teacher import tflite_teacher
from v2v_jax.system import compilation_cache

FRAMES = 25  # of each sequence, whose flicker is measured
NAMES = ("TensorFlow Lite's model alone", "teacher", "student")


def small(masks: np.ndarray) -> np.ndarray:
    """The first masks (T,H,W) bool at 120×213."""
    return np.stack([cover(m.astype(np.uint8), FRAME_SIZE, nearest=True) for m in masks[:FRAMES]])


def motion(folder: pathlib.Path, name: str, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Brox's forward flow of the first frames and where it is valid; kept."""
    path = folder / f"davis_val@{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        flow, valid = brox_motion(np.stack([cover(f, FRAME_SIZE) for f in frames[:FRAMES]]))
        np.savez(path, flow=flow, valid=valid)
    with np.load(path) as stored:
        return stored["flow"], stored["valid"]


def answers(
    frames: np.ndarray, others: np.ndarray, student: np.ndarray, people: Teacher
) -> dict[str, np.ndarray]:
    """`NAMES` → (T,H,W) bool.

    Args:
      others: (T,h,w), eighths of 255: what ESPNetv2 takes for objects that are no persons.
    """
    codes, _ = people.encoded(frames, 1.0)  # (T,H,W,2), of background and person
    alone = codes[..., 1] > 127
    veto = resized(others, frames.shape[1:3]) > 127 / 8
    return dict(zip(NAMES, (alone, alone & ~veto, student)))


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("runs", "davis", "selfie", "motion"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--student", default="", help="labels; default: those in RUNS/masks")
    parser.add_argument("--output", type=pathlib.Path, help="folder for masks, for pictures")
    args = parser.parse_args(argv)
    compilation_cache.enable()
    people = tflite_teacher(str(args.selfie))
    truth, dataset = Truth(str(args.davis)), Davis(args.davis, "test")
    path = args.student or next((args.runs / "masks").glob("people-*.npz"))
    students = predicted(pathlib.Path(path), truth[truth.test[0]].shape[1:])
    teacher = np.load(args.runs / "teacher.npz")
    scores, counts = {n: [] for n in NAMES}, {n: np.zeros(2) for n in NAMES}
    print("| sequence | " + " | ".join(f"{n}: J, flicker" for n in NAMES) + " |")
    print("|---" * (1 + len(NAMES)) + "|")
    for number, info in enumerate(dataset.videos):
        if info.name not in PEOPLE:
            continue
        frames = np.stack(list(dataset.native_frames(number)))
        flow, valid = motion(args.motion, info.name, frames)
        found = answers(frames, teacher[f"{info.name}/others"], students[info.name], people)
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(args.output / f"{info.name}.npz", **found)
        cells = []
        for name, masks in found.items():
            j = measure(masks, truth[info.name])["J"].mean
            changed = label_changes(small(masks), flow, valid)
            scores[name].append(j)
            counts[name] += changed
            cells.append(f"{j:.3f}, {changed[0] / changed[1]:.4f}")
        print(f"| {info.name} | " + " | ".join(cells) + " |", flush=True)
    cells = (f"{np.mean(scores[n]):.3f}, {counts[n][0] / counts[n][1]:.4f}" for n in NAMES)
    print("| mean | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
