"""Composes a scene: where everything stands, drawn from one random stream."""

from __future__ import annotations

import dataclasses

import numpy as np

from v2v_jax.datasets.scenes import actors
from v2v_jax.datasets.scenes.backdrop import Backdrop, random_backdrop
from v2v_jax.datasets.scenes.camera import CameraPath, half_view, random_camera
from v2v_jax.datasets.scenes.sprites import Sprite


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything that a renderer needs, independent of frame size and of the video's length.

    Attributes:
      camera: the camera's path.
      backdrop: sky and ground.
      sprites: from the farthest to the nearest.
      light: (3,) float32, gain of each colour channel.
    """

    camera: CameraPath
    backdrop: Backdrop
    sprites: tuple[Sprite, ...]
    light: np.ndarray


def _street_front(rng: np.random.Generator, air: np.ndarray) -> list[Sprite]:
    """A row of houses, trees and gaps across the whole view."""
    sprites: list[Sprite] = []
    depth = rng.uniform(26, 40)
    x, end = -half_view(depth) - 4, half_view(depth) + 4
    gaps, green = rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.4)
    while x < end:
        z = depth * rng.uniform(0.9, 1.15)
        kind = rng.random()
        if kind < gaps:
            x += rng.uniform(2, 8)
        elif kind < gaps + green:
            sprites += actors.foliage(rng, x + 2, z, air, "tree")
            x += 4
        else:
            house, width = actors.building(rng, x, z, air)
            sprites.append(dataclasses.replace(house, x=x + width / 2))
            x += width
    return sprites


def _spread(rng: np.random.Generator, z: float) -> float:
    """A random X anywhere in the view at depth z."""
    half = half_view(z)
    return rng.uniform(-half, half)


def _greenery(rng: np.random.Generator, air: np.ndarray) -> list[Sprite]:
    """Trees, bushes and hedges behind the road, and sometimes a tree close by."""
    sprites: list[Sprite] = []
    for shape, count, near, far in (
        ("tree", rng.integers(4, 9), 15, 24),
        ("hedge", rng.integers(2, 6), 16, 25),
        ("bush", rng.integers(2, 6), 13, 20),
        ("bush", rng.integers(1, 5), 5.5, 8),
        ("tree", rng.integers(0, 3), 6.5, 9.5),
    ):
        for _ in range(count):
            z = rng.uniform(near, far)
            sprites += actors.foliage(rng, _spread(rng, z), z, air, shape)
    return sprites


def random_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene."""
    camera = random_camera(rng)
    backdrop = random_backdrop(rng, camera.height)
    air = backdrop.air
    sprites = _street_front(rng, air) + _greenery(rng, air)
    if rng.random() < 0.5:
        sprites.append(actors.hills(rng, air))
    for _ in range(rng.integers(0, 3)):
        z = rng.uniform(12, 24)
        sprites.append(actors.wall(rng, _spread(rng, z), z, air))
    for _ in range(rng.integers(2, 6)):
        z = rng.uniform(4.5, 8)
        sprites.append(actors.mound(rng, _spread(rng, z), z, air))
    for _ in range(rng.integers(4, 8)):
        sprites.append(actors.vehicle(rng, rng.uniform(8.5, 14.5), air))
    for _ in range(rng.integers(6, 13)):
        sprites += actors.person(rng, rng.uniform(4.5, 10), air)
    sprites.sort(key=lambda sprite: -sprite.z)  # stable: the parts of a person stay in order
    light = rng.uniform(0.8, 1.12) * rng.uniform(0.95, 1.05, 3)
    return Scene(camera, backdrop, tuple(sprites), light.astype(np.float32))
