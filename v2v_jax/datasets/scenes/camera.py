"""A pinhole camera without roll that pans, tilts, zooms, shakes and walks a little.

A world point (X right, Y up from the ground, Z ahead; metres) is seen at
    x = cx + f (X - tx) / (Z - tz),    y = cy + f (h - Y) / (Z - tz).
Panning and tilting move the principal point (cx, cy), zooming changes f, walking changes (tx, tz).
Every path is a sum of sinusoids of time: bounded, so that a scene of bounded width serves videos of
any length, and known at every instant, so that any frame can be rendered alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np

REFERENCE_SIZE = (128, 171)  # (H, W) at which lengths "in pixels" below are meant
FOCAL = 150.0  # pixels at REFERENCE_SIZE: a horizontal field of view of 59 degrees
PAN_LIMIT = 26.0  # pixels at REFERENCE_SIZE, each way, shake included
TILT_LIMIT = 8.0
ZOOM_LIMIT = 0.09  # of the focal length
WALK_X_LIMIT = 1.8  # metres
WALK_Z_LIMIT = 0.35


@dataclasses.dataclass(frozen=True)
class Wave:
    """A sum of sinusoids of time: amplitude, angular frequency (rad/frame) and phase, (N,) each."""

    amplitude: np.ndarray
    frequency: np.ndarray
    phase: np.ndarray

    def __call__(self, t: float) -> float:
        """The value at frame t."""
        return float(np.dot(self.amplitude, np.sin(self.frequency * t + self.phase)))


def random_wave(
    rng: np.random.Generator, limit: float, peak_speed: float, periods: tuple[float, float]
) -> Wave:
    """A slow two-component wave.

    Args:
      limit: largest absolute value.
      peak_speed: largest change a frame.
      periods: shortest and longest period in frames.
    """
    frequency = 2 * np.pi / rng.uniform(*periods, 2)
    amplitude = np.array([0.75, 0.25]) * peak_speed / frequency
    amplitude *= min(1.0, limit / amplitude.sum())
    return Wave(amplitude, frequency, rng.uniform(0, 2 * np.pi, 2))


@dataclasses.dataclass(frozen=True)
class Pose:
    """The camera at one instant: focal length and principal point in pixels, the rest in metres."""

    f: float
    cx: float
    cy: float
    h: float
    tx: float
    tz: float


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """The camera's movement through one scene; lengths in pixels are meant at REFERENCE_SIZE."""

    height: float
    horizon: float  # the horizon's offset below the frame's centre
    pan: Wave
    tilt: Wave
    shake_x: Wave
    shake_y: Wave
    zoom: Wave
    walk_x: Wave
    walk_z: Wave

    def pose(self, t: float, frame_size: tuple[int, int]) -> Pose:
        """The pose at frame t for frames of (H, W) pixels."""
        height, width = frame_size
        # The larger ratio: whatever the aspect, no frame sees more than the reference frame does.
        scale = max(height / REFERENCE_SIZE[0], width / REFERENCE_SIZE[1])
        return Pose(
            f=FOCAL * scale * (1 + self.zoom(t)),
            cx=(width - 1) / 2 + scale * (self.pan(t) + self.shake_x(t)),
            cy=(height - 1) / 2 + scale * (self.horizon + self.tilt(t) + self.shake_y(t)),
            h=self.height,
            tx=self.walk_x(t),
            tz=self.walk_z(t),
        )


def _shake(rng: np.random.Generator, strength: float) -> Wave:
    frequency = 2 * np.pi / rng.uniform(5, 14, 3)
    return Wave(strength * rng.uniform(0.2, 0.5, 3), frequency, rng.uniform(0, 2 * np.pi, 3))


def random_camera(rng: np.random.Generator) -> CameraPath:
    """Draws a camera: mostly hand-held and moving, sometimes nearly still."""
    still = rng.random() < 0.12
    energy = 0.1 if still else 1.0
    shake = energy * rng.uniform(0.1, 0.7)
    return CameraPath(
        height=rng.uniform(1.6, 2.3),
        horizon=rng.uniform(-22, 10),
        pan=random_wave(rng, PAN_LIMIT - 3, energy * rng.uniform(0.5, 3.6), (40, 110)),
        tilt=random_wave(rng, TILT_LIMIT - 2, energy * rng.uniform(0.0, 0.8), (40, 100)),
        shake_x=_shake(rng, shake),
        shake_y=_shake(rng, shake),
        zoom=random_wave(rng, ZOOM_LIMIT, energy * rng.uniform(0.0, 0.009), (50, 120)),
        walk_x=random_wave(rng, WALK_X_LIMIT, energy * rng.uniform(0.02, 0.15), (60, 140)),
        walk_z=random_wave(rng, WALK_Z_LIMIT, energy * rng.uniform(0.0, 0.02), (60, 120)),
    )


def half_view(z: float) -> float:
    """How far (metres) from X = 0 the camera may ever see at depth z, to either side."""
    half_width = REFERENCE_SIZE[1] / 2 + PAN_LIMIT
    return half_width * (z + WALK_Z_LIMIT) / (FOCAL * (1 - ZOOM_LIMIT)) + WALK_X_LIMIT
