"""How often the motion in a clip says what the class of its whole video is, on rendered scenes.

    python -m experiments.motion_classes

C3D sees clips, the class (v2v_jax/datasets/scenes/motion.py) is of a video. Who knows all that
moves in a clip, and nothing of the rest, still answers wrongly where the rest differs: a bound for
what can be learnt of longer videos. Nothing is rendered.
"""

from __future__ import annotations

import argparse

import numpy as np

from v2v_jax.datasets.scenes import Scenes
from v2v_jax.datasets.scenes.motion import OBJECTS, video_label


def agreement(num_videos: int, num_frames: int, clip_length: int) -> dict[str, float]:
    """Shares of clips, end to end, that have the class of their video: camera, object, both."""
    scenes = Scenes("test", num_videos=num_videos, num_frames=num_frames)
    rows = []
    for video in range(num_videos):
        scene = scenes.scene(video)
        whole = divmod(video_label(scene, num_frames), len(OBJECTS))
        for first in range(0, num_frames - clip_length + 1, clip_length):
            part = divmod(video_label(scene, clip_length, first), len(OBJECTS))
            same = [a == b for a, b in zip(part, whole)]
            rows.append([*same, all(same)])
    return dict(zip(("camera", "main object", "both"), np.mean(rows, axis=0).tolist()))


def main(argv: list[str] | None = None) -> None:
    """Prints the shares for videos of several lengths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--clip_length", type=int, default=16)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32, 48])
    args = parser.parse_args(argv)
    print("| frames a video | camera | main object | both |\n|---|---|---|---|")
    for num_frames in args.frames:
        shares = agreement(args.videos, num_frames, args.clip_length)
        print(f"| {num_frames} | " + " | ".join(f"{100 * s:.1f} %" for s in shares.values()) + " |")


if __name__ == "__main__":
    main()
