"""What a scene's video is about, as one label: the camera's and the main object's motion.

Both follow from the scene's parameters, nothing is rendered. Mirroring changes neither. A network
that tells these classes apart has learnt motion against a moving background: the same vehicles
drive and park, the same figures walk and stand as statues.
"""

from __future__ import annotations

import itertools

import numpy as np

from v2v_jax.datasets.scenes.camera import REFERENCE_SIZE
from v2v_jax.datasets.scenes.sprites import Cast
from v2v_jax.datasets.scenes.world import Scene

CAMERAS = ("steady camera", "slow pan", "fast pan")
PAN_SPEEDS = (0.5, 1.0)  # pixels a frame at REFERENCE_SIZE, between the three
OBJECTS = ("parked vehicle", "driving vehicle", "statue", "walking person")
VIDEO_LABEL_NAMES = tuple(f"{c}, {o}" for c, o in itertools.product(CAMERAS, OBJECTS))
_EVERY = 6  # frames between those at which the objects' sizes are compared


def video_label(scene: Scene, num_frames: int, first: int = 0) -> int:
    """The class of a video of the frames first … first + num_frames - 1.

    It is an index into VIDEO_LABEL_NAMES. The camera's part is the mean speed of its pan. The main
    object is the vehicle or person that fills the most of the picture, by its box and on average
    over the video.
    """
    frames = np.arange(first, first + max(num_frames, 2))
    pan = np.array([scene.camera.pan(t) for t in frames])
    camera = int(np.searchsorted(PAN_SPEEDS, np.abs(np.diff(pan)).mean(), side="right"))
    kind, moves = _main_object(scene, range(first, first + num_frames, _EVERY))
    return len(OBJECTS) * camera + 2 * (kind == "person") + moves


def _main_object(scene: Scene, frames: range) -> tuple[str, bool]:
    """Its kind, "vehicle" or "person", and whether it moves."""
    cast = Cast(scene.sprites)
    area = np.zeros(len(scene.sprites))
    for t in frames:
        placement = cast.place(scene.camera.pose(t, REFERENCE_SIZE), t)
        left, right, top, bottom = cast.boxes(placement, REFERENCE_SIZE).T
        area += np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    sizes: dict[tuple[str, float, float], list] = {}
    for sprite, size in zip(scene.sprites, area):
        if sprite.kind:  # a person's parts share their place
            entry = sizes.setdefault((sprite.kind, sprite.x, sprite.z), [0.0, sprite])
            entry[0] += size
    _, main = max(sizes.values(), key=lambda entry: entry[0])
    return main.kind, main.speed != 0.0
