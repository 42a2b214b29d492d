"""What a lens, a sensor and a producer do to a sharp rendering; the truth stays the rendering's.

Every video of the wide domain has a `Look`, drawn once. Frames are planes (3, H, W) float32, RGB
0..255.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from v2v_jax.datasets.scenes.camera import Wave, random_wave

_STEADY = Wave(np.zeros(1), np.zeros(1), np.zeros(1))


@dataclasses.dataclass(frozen=True)
class Look:
    """How a video was taken.

    Attributes:
      shutter: share of the time between two frames during which it is open.
      blur: standard deviation of the focus blur, pixels at the reference size.
      focus: metres at which nothing of that blur is seen; 0: it is everywhere.
      exposure: log2 of the gain over time; flicker: its standard deviation from frame to frame.
      balance: gain of each colour over time, as logarithms.
      gamma: exponent of the tone curve; contrast about the middle grey.
      saturation: 0 grey, 1 as rendered.
      grain: standard deviation of the noise in grey levels; coarse: as many pixels wide.
      bars: share of the height and of the width that each of two bars covers.
      bar_level: grey level of the bars.
    """

    shutter: float
    blur: float
    focus: float
    exposure: Wave
    flicker: float
    balance: tuple[Wave, Wave, Wave]
    tint: np.ndarray
    gamma: float
    contrast: float
    saturation: float
    grain: float
    coarse: bool
    bars: tuple[float, float]
    bar_level: float


def random_look(rng: np.random.Generator) -> Look:
    """Draws a look: every flaw is absent in many videos."""

    def maybe(odds: float, low: float, high: float, otherwise: float) -> float:
        value = rng.uniform(low, high)  # drawn in any case: one choice does not shift the others
        return value if rng.random() < odds else otherwise

    def drift(odds: float, limit: float) -> Wave:
        wave = random_wave(rng, rng.uniform(0.2, 1) * limit, 0.05, (20, 150))
        return wave if rng.random() < odds else _STEADY

    bars = [(0.0, 0.0), (rng.uniform(0.05, 0.17), 0.0), (0.0, rng.uniform(0.06, 0.2))]
    return Look(
        shutter=maybe(0.4, 0.2, 1.0, 0.0),
        blur=maybe(0.45, 0.3, 2.2, 0.0),
        focus=maybe(0.4, 2.0, 25.0, 0.0),
        exposure=drift(0.35, 0.6),
        flicker=maybe(0.12, 0.005, 0.06, 0.0),
        balance=tuple(drift(0.2, 0.1) for _ in range(3)),
        tint=np.exp(rng.normal(0, 0.07, 3)).astype(np.float32),
        gamma=maybe(0.5, 0.65, 1.5, 1.0),
        contrast=maybe(0.5, 0.5, 1.35, 1.0),
        saturation=maybe(0.35, 0.0, 1.5, 1.0),
        grain=maybe(0.75, 0.0, 1.0, 0.0) ** 2 * 12,
        coarse=bool(rng.random() < 0.3),
        bars=bars[rng.choice(3, p=[0.86, 0.09, 0.05])],
        bar_level=maybe(0.3, 0.0, 30.0, 0.0),
    )


def covered(look: Look, frame_size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: under a letter box's bars."""
    mask = np.zeros(frame_size, bool)
    rows, columns = (round(share * size) for share, size in zip(look.bars, frame_size))
    mask[:rows] = mask[frame_size[0] - rows :] = True
    mask[:, :columns] = mask[:, frame_size[1] - columns :] = True
    return mask


def defocus(look: Look, planes: np.ndarray, depth: np.ndarray, scale: float) -> np.ndarray:
    """The frame as the lens shows it.

    Args:
      planes: (3, H, W).
      depth: (H, W) metres.
      scale: pixels of this frame that are one of the reference size.
    """
    if not look.blur:
        return planes
    if not look.focus:
        return _gaussian(planes, look.blur * scale)
    # The circle of confusion grows with the difference of the inverse distances.
    amount = np.minimum(np.abs(look.focus / np.maximum(depth, 0.5).astype(np.float32) - 1), 1)
    half = _gaussian(planes, 0.5 * look.blur * scale)
    full = _gaussian(planes, look.blur * scale)
    near = planes + np.minimum(2 * amount, 1) * (half - planes)
    return near + np.maximum(2 * amount - 1, 0) * (full - half)


def _gaussian(planes: np.ndarray, sigma: float) -> np.ndarray:
    """(3, H, W) blurred by a Gaussian, the rim repeated."""
    radius = int(np.ceil(2.5 * sigma))
    if radius < 1:
        return planes
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (1, 2):
        pad = [(0, 0)] * 3
        pad[axis] = (radius, radius)
        padded = np.pad(planes, pad, "edge")
        size = planes.shape[axis]
        planes = sum(
            weight * padded.take(range(shift, shift + size), axis)
            if axis == 1
            else weight * padded[:, :, shift : shift + size]
            for shift, weight in enumerate(weights)
        )
    return planes


def expose(
    look: Look, planes: np.ndarray, t: float, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """The sensor's and the producer's part: (3, H, W) → (H, W, 3) uint8, without bars.

    Args:
      t: frame.
      scale: as of `defocus`.
      rng: of this frame.
    """
    flicker = look.flicker * rng.standard_normal()
    gain = 2 ** (look.exposure(t) + flicker) * look.tint
    gain = gain * np.exp([wave(t) for wave in look.balance])
    light = np.clip(planes * gain.astype(np.float32)[:, None, None] / 255, 0, 1)
    if look.gamma != 1:
        light = light ** np.float32(look.gamma)
    light = 255 * (0.5 + np.float32(look.contrast) * (light - 0.5))
    if look.saturation != 1:
        grey = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), light, 1)
        light = grey + np.float32(look.saturation) * (light - grey)
    if look.grain:
        light = light + np.float32(look.grain) * _grain(look, light.shape, scale, rng)
    exposed = np.clip(light + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(exposed, 0, -1))


def _grain(
    look: Look, shape: tuple[int, ...], scale: float, rng: np.random.Generator
) -> np.ndarray:
    """(3, H, W) float32 noise of standard deviation 1, more of it in brightness than in colour."""
    grain = rng.standard_normal(shape, np.float32)
    grain = 0.8 * rng.standard_normal(shape[1:], np.float32) + 0.6 * grain
    if look.coarse:
        grain = _gaussian(grain, 0.8 * scale)
        grain = grain / np.float32(max(grain.std(), 1e-3))
    return grain
