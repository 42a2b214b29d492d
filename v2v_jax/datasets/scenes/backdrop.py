"""The sky and the ground, each painted once a scene as the resting camera would see it.

Both are looked up again by every frame: the ground by (column, row) = (f0 X / Z, f0 h / Z) of the
world point, which fixes the paint to the world while its detail always suits the screen, however
far away it is; the sky by the direction of sight.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from v2v_jax.datasets.scenes import textures
from v2v_jax.datasets.scenes.camera import FOCAL
from v2v_jax.datasets.scenes.drawing import haze_share

GROUND_ROWS = 112  # below the horizon
GROUND_COLUMNS = 464
SKY_ROWS = 128  # above the horizon
SKY_COLUMNS = 512  # periodic, so that clouds may drift for ever
BEYOND = 8  # rows painted past the horizon, for bilinear sampling there

GROUND_COLOURS = {"green": 3, "grey": 2.2, "beige": 1.6, "brown": 1.5, "autumn": 0.8, "red": 0.4}
SKY_TOP = ((92, 132, 190), (120, 150, 190), (150, 160, 172), (112, 118, 128), (150, 138, 150))
SKY_LOW = ((190, 206, 222), (200, 204, 208), (214, 200, 184), (178, 182, 188), (224, 190, 160))


@dataclasses.dataclass(frozen=True)
class Backdrop:
    """Paint of the ground and the sky.

    Attributes:
      ground: (GROUND_ROWS, GROUND_COLUMNS, 3) float32 RGB; row r lies at f0 h / Z = r + 1, column c
        at f0 X / Z = c - (GROUND_COLUMNS - 1) / 2.
      sky: (SKY_ROWS + BEYOND, SKY_COLUMNS, 3) float32 RGB; row r lies SKY_ROWS - r reference pixels
        above the horizon.
      drift: movement of the clouds to the right, reference pixels a frame.
      air: (3,) RGB, the colour of the haze.
    """

    ground: np.ndarray
    sky: np.ndarray
    drift: float
    air: np.ndarray


def _sky(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paints the sky and returns it with the air's colour at the horizon."""
    top = np.array(SKY_TOP[rng.integers(len(SKY_TOP))], np.float32) + rng.normal(0, 8, 3)
    low = np.array(SKY_LOW[rng.integers(len(SKY_LOW))], np.float32) + rng.normal(0, 6, 3)
    rows = SKY_ROWS + BEYOND
    height = np.clip((SKY_ROWS - np.arange(rows)) / SKY_ROWS, 0, 1)[:, None, None]
    rgb = low + (top - low) * height**0.8
    cover, strength = rng.uniform(-0.8, 1.0), rng.uniform(0.15, 0.8)
    shape = textures.pattern(rng, "patches", rows, SKY_COLUMNS)
    shape = shape + 0.35 * textures.pattern(rng, "leaves", rows, SKY_COLUMNS)
    cloud = np.array([232, 232, 236]) if rng.random() < 0.7 else np.array([104, 108, 116])
    share = strength / (1 + np.exp(-2.5 * (shape + cover)))[..., None]
    rgb = rgb + share * (cloud - rgb)
    return rgb.astype(np.float32), low.astype(np.float32)


def _world_pattern(
    rng: np.random.Generator, name: str, x: np.ndarray, row: np.ndarray, step: float
) -> np.ndarray:
    """A pattern on the ground in perspective, without detail too fine for the screen.

    Between two octaves of scale the finer one hands over to the coarser, so that a texel never gets
    smaller than a pixel; along the line of sight the pattern follows the screen's rows.

    Args:
      x: (R, C) metres; row: (R, 1) screen rows below the horizon; step: metres a pixel at row 1.
    """
    tile = textures.bank()[name]
    level = np.log2(step / row)  # of the pixel's width in metres
    fine = np.floor(level)
    result = 0.0
    for k, weight in ((fine, 1 - (level - fine)), (fine + 1, level - fine)):
        p = x / 2.0**k
        p0 = np.floor(p)
        frac = p - p0
        plane = (np.abs(k).astype(int) * 7) % 3
        rows = (np.arange(x.shape[0])[:, None] + 37 * np.abs(k).astype(int)) % textures.BANK_SIZE
        left = tile[plane, rows, p0.astype(int) % textures.BANK_SIZE]
        right = tile[plane, rows, (p0.astype(int) + 1) % textures.BANK_SIZE]
        result = result + weight * (left + frac * (right - left))
    return result


def _ground(rng: np.random.Generator, height: float, air: np.ndarray) -> np.ndarray:
    """Paints the ground for a camera `height` metres above it."""
    row = np.arange(1, GROUND_ROWS + 1)[:, None].astype(np.float64)
    z = FOCAL * height / row
    step = height  # metres a pixel at row 1: Z / f0 = height / row
    x = (np.arange(GROUND_COLUMNS)[None, :] - (GROUND_COLUMNS - 1) / 2) * z / FOCAL
    name = str(rng.choice(["leaves", "grain", "patches", "bricks"]))
    base = textures.colour(rng, GROUND_COLOURS)
    detail = _world_pattern(rng, name, x + rng.uniform(0, 99), row, step)
    broad = _world_pattern(rng, "patches", x / 3 + rng.uniform(0, 99), row, step)
    rgb = base + (15 * np.tanh(0.8 * detail) + 9 * broad)[..., None] * (base / base.mean())
    if rng.random() < 0.75:
        rgb = _road(rng, rgb, x, row, height, detail)
    share = haze_share(z)[..., None]
    return np.clip(rgb + share * (air - rgb), 0, 255).astype(np.float32)


def _band(row: np.ndarray, height: float, near: float, far: float, soft: float) -> np.ndarray:
    """(R, 1) share of each row that lies between two depths, its edges `soft` rows wide."""
    bottom, top = FOCAL * height / near, FOCAL * height / far
    return np.clip((bottom - row) / soft + 0.5, 0, 1) * np.clip((row - top) / soft + 0.5, 0, 1)


def _road(
    rng: np.random.Generator,
    rgb: np.ndarray,
    x: np.ndarray,
    row: np.ndarray,
    height: float,
    detail: np.ndarray,
) -> np.ndarray:
    """Adds a road across the view: asphalt, kerbs, and a dashed line where there is room."""
    near, far = rng.uniform(6.5, 8.0), rng.uniform(15.0, 18.0)
    asphalt = textures.colour(rng, {"grey": 5, "beige": 1, "brown": 1})
    surface = asphalt + 7 * detail[..., None]
    share = _band(row, height, near, far, 2.0)[..., None]
    rgb = rgb + share * (surface - rgb)
    kerb = np.array([176, 174, 168]) + rng.normal(0, 8, 3)
    for edge in (near, far):
        share = 0.7 * _band(row, height, edge * 0.97, edge * 1.03, 2.0)[..., None]
        rgb = rgb + share * (kerb - rgb)
    middle = 0.5 * (near + far)
    dash = np.clip((1.0 - np.abs(x % 4.0 - 2.0)) / (0.02 * middle) + 0.5, 0, 1)
    share = 0.6 * (_band(row, height, middle * 0.97, middle * 1.03, 2.0) * dash)[..., None]
    return rgb + share * (np.array([206, 204, 196]) - rgb)


def random_backdrop(rng: np.random.Generator, camera_height: float) -> Backdrop:
    """Paints a sky and a ground for a camera so many metres above the ground."""
    sky, air = _sky(rng)
    ground = _ground(rng, camera_height, air)
    drift = float(rng.choice([-1, 1]) * rng.uniform(0.05, 0.5))
    return Backdrop(ground, sky, drift, air)
