"""Flat upright pictures that stand in the world, and the ways in which they move.

A sprite is a texture on a plane parallel to the image plane. A point of it has texel coordinates
(p right, q down). A deformation takes them to
    p' = p + dx(q, t),    q' = q + dy(p', t),
two shears in a row, which can be undone exactly: q = q' - dy(p', t), p = p' - dx(q, t). That is why
the flow of a fluttering tree is known exactly, and not only that of a rigid wall.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from v2v_jax.datasets.scenes.camera import Pose


class Deformation(Protocol):
    """Two shears (see above) in texels; arrays of any one shape in, the same shape out."""

    reach: tuple[float, float]  # largest |dx| and |dy|

    def dx(self, q: np.ndarray, t: float) -> np.ndarray:
        """Displacement to the right of row q at frame t."""

    def dy(self, p: np.ndarray, t: float) -> np.ndarray | float:
        """Displacement down of (already displaced) column p at frame t."""


@dataclasses.dataclass(frozen=True)
class Flutter:
    """Foliage in the wind: waves that run through it, along and across.

    Attributes:
      along, across: (amplitude in texels, wave number in rad/texel, rad/frame, phase), two waves
        that displace rows sideways, and one that displaces columns up and down.
      frozen: the same bent shape for ever, as on rigid foliage.
    """

    along: tuple[tuple[float, float, float, float], ...]
    across: tuple[float, float, float, float]
    frozen: bool

    @property
    def reach(self) -> tuple[float, float]:
        """Largest displacements to the side and up or down, in texels."""
        return sum(wave[0] for wave in self.along), self.across[0]

    def dx(self, q: np.ndarray, t: float) -> np.ndarray:
        """Displacement to the right of row q at frame t, texels."""
        t = 0.0 if self.frozen else t
        a, k, w, phase = self.along[0]
        shift = np.float32(a) * np.sin(
            np.float32(k) * q + np.float32((w * t + phase) % 6.283185307)
        )
        for a, k, w, phase in self.along[1:]:
            shift += np.float32(a) * np.sin(
                np.float32(k) * q + np.float32((w * t + phase) % 6.283185307)
            )
        return shift

    def dy(self, p: np.ndarray, t: float) -> np.ndarray:
        """Displacement down of displaced column p at frame t, texels."""
        a, k, w, phase = self.across
        t = 0.0 if self.frozen else t
        return np.float32(a) * np.sin(np.float32(k) * p + np.float32((w * t + phase) % 6.283185307))


@dataclasses.dataclass(frozen=True)
class Swing:
    """A leg or an arm: swings about its upper end like a pendulum, as a shear.

    Attributes:
      hinge: row of the upper end, texels.
      amplitude: largest sideways displacement per texel of length.
      frequency: rad/frame; 0 holds the pose.
      phase: rad.
      length: texels below the hinge.
    """

    hinge: float
    amplitude: float
    frequency: float
    phase: float
    length: float

    @property
    def reach(self) -> tuple[float, float]:
        """Largest displacements to the side and up or down, in texels."""
        return self.amplitude * self.length, 0.0

    def dx(self, q: np.ndarray, t: float) -> np.ndarray:
        """Displacement to the right of row q at frame t, texels."""
        slope = self.amplitude * np.sin(self.frequency * t + self.phase)
        return np.float32(slope) * (q - np.float32(self.hinge))

    def dy(self, p: np.ndarray, t: float) -> float:
        """A limb does not move up or down."""
        return 0.0


@dataclasses.dataclass(frozen=True)
class Sprite:
    """One flat object.

    Attributes:
      texture: (h, w, 4) float32, colour premultiplied by alpha (RGB 0..255, alpha 0..1), with two
        clear texels all around.
      texel: side of a texel in metres.
      anchor: texel coordinates (p, q) of the point that stands at (x, base).
      x, base, z: metres; base is the anchor's height above the ground.
      speed: metres a frame to the right; `period` metres further on it comes round again, far
        outside the picture.
      label: class index.
      deformation: None for a rigid sprite.
      kind: "vehicle", "person" (each of its parts), or empty for all else.
    """

    texture: np.ndarray
    texel: float
    anchor: tuple[float, float]
    x: float
    z: float
    label: int
    base: float = 0.0
    speed: float = 0.0
    period: float = 1.0
    deformation: Deformation | None = None
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where all sprites of a scene are seen at one instant, (N,) float64 each.

    The displaced texel (p', q') of a sprite is seen at pixel (ox + s p', oy + s q').
    """

    s: np.ndarray
    ox: np.ndarray
    oy: np.ndarray


class Cast:
    """The sprites of a scene, their numbers side by side: placing all at once is ten times faster.

    Attributes:
      sprites: as given.
      z: (N,) float64, their depths in metres.
    """

    def __init__(self, sprites: Sequence[Sprite]) -> None:
        self.sprites = tuple(sprites)

        def column(of: Callable[[Sprite], float]) -> np.ndarray:
            return np.array([of(sprite) for sprite in sprites], np.float64)

        self.z = column(lambda sprite: sprite.z)
        self._texel = column(lambda sprite: sprite.texel)
        self._x = column(lambda sprite: sprite.x)
        self._base = column(lambda sprite: sprite.base)
        self._speed = column(lambda sprite: sprite.speed)
        self._period = column(lambda sprite: sprite.period)
        self._anchor_p = column(lambda sprite: sprite.anchor[0])
        self._anchor_q = column(lambda sprite: sprite.anchor[1])
        reach = [s.deformation.reach if s.deformation else (0.0, 0.0) for s in sprites]
        self._reach = np.array(reach, np.float64).reshape(-1, 2).T
        sizes = [sprite.texture.shape[:2] for sprite in sprites]
        self._rows, self._columns = np.array(sizes, np.float64).reshape(-1, 2).T

    def x_at(self, t: float) -> np.ndarray:
        """(N,) X of the anchors at frame t, metres."""
        half = self._period / 2
        moved = (self._x + self._speed * t + half) % self._period - half
        return np.where(self._speed == 0.0, self._x, moved)

    def place(self, pose: Pose, t: float) -> Placement:
        """Projects all sprites at frame t."""
        zoom = pose.f / (self.z - pose.tz)
        s = zoom * self._texel
        ox = pose.cx + zoom * (self.x_at(t) - pose.tx) - s * self._anchor_p
        oy = pose.cy + zoom * (pose.h - self._base) - s * self._anchor_q
        return Placement(s, ox, oy)

    def boxes(self, placement: Placement, frame_size: tuple[int, int]) -> np.ndarray:
        """(N, 4) int: left, right, top, bottom of the pixels that each sprite may touch.

        Empty (left >= right or top >= bottom) for a sprite outside of the frame.
        """
        s, (reach_x, reach_y) = placement.s, self._reach
        left = np.maximum(np.ceil(placement.ox - s * reach_x), 0)
        right = np.minimum(
            np.floor(placement.ox + s * (self._columns - 1 + reach_x)) + 1, frame_size[1]
        )
        top = np.maximum(np.ceil(placement.oy - s * reach_y), 0)
        bottom = np.minimum(
            np.floor(placement.oy + s * (self._rows - 1 + reach_y)) + 1, frame_size[0]
        )
        return np.stack([left, right, top, bottom], axis=-1).astype(int)
