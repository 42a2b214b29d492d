"""How often the motion in a clip says what the class of its whole video is, on rendered scenes.

    python -m experiments.motion_classes

C3D sees clips, the class (v2v_jax/datasets/scenes/motion.py) is of a video. Who knows all that
moves in a clip, and nothing of the rest, still answers wrongly where the rest differs: a bound for
what can be learnt of longer videos. So does who sees a crop of the frame alone, where another
object is the largest: the second table. Nothing is rendered.
"""

from __future__ import annotations

import argparse

import numpy as np

from v2v_jax.datasets.scenes import Scenes
from v2v_jax.datasets.scenes.camera import REFERENCE_SIZE
from v2v_jax.datasets.scenes.motion import OBJECTS, video_label
from v2v_jax.datasets.scenes.sprites import Cast
from v2v_jax.datasets.scenes.world import Scene

_CROPS = ((112, 112), (112, 160), REFERENCE_SIZE)
_EVERY = 6  # frames between those that are looked at, as in `motion`


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


def main_object(scene: Scene, num_frames: int, crop: tuple[int, int]) -> int:
    """The object's part of the class (an index into OBJECTS) by what the middle of frames shows."""
    cast, areas = Cast(scene.sprites), np.zeros(len(scene.sprites))
    top, left = ((n - c) / 2 for n, c in zip(REFERENCE_SIZE, crop))
    inside = lambda low, high, start, size: np.clip(
        np.minimum(high, start + size) - np.maximum(low, start), 0, None
    )
    for t in range(0, num_frames, _EVERY):
        placement = cast.place(scene.camera.pose(t, REFERENCE_SIZE), t)
        x0, x1, y0, y1 = cast.boxes(placement, REFERENCE_SIZE).T
        areas += inside(x0, x1, left, crop[1]) * inside(y0, y1, top, crop[0])
    sizes: dict[tuple[str, float, float], float] = {}
    for sprite, area in zip(scene.sprites, areas):
        if sprite.kind:  # a person's parts share their place
            key = sprite.kind, sprite.x, sprite.z
            sizes[key] = sizes.get(key, 0.0) + area
    kind, x, z = max(sizes, key=sizes.__getitem__)
    moves = any(s.speed != 0 for s in scene.sprites if (s.kind, s.x, s.z) == (kind, x, z))
    return 2 * (kind == "person") + moves


def seen(num_videos: int, num_frames: int) -> dict[tuple[int, int], float]:
    """Crop → share of the videos whose object is the largest in the middle of the frame, too."""
    scenes = Scenes("test", num_videos=num_videos, num_frames=num_frames)
    rows = []
    for video in range(num_videos):
        scene = scenes.scene(video)
        whole = video_label(scene, num_frames) % len(OBJECTS)
        rows.append([main_object(scene, num_frames, crop) == whole for crop in _CROPS])
    return dict(zip(_CROPS, np.mean(rows, axis=0).tolist()))


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
    print("\n| crop | main object |\n|---|---|")
    for crop, share in seen(args.videos, args.clip_length).items():
        print(f"| {crop[0]}×{crop[1]} | {100 * share:.1f} % |")


if __name__ == "__main__":
    main()
