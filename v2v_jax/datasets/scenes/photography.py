"""What a lens, a sensor and a producer do to a sharp rendering; the truth stays the rendering's.

Every video of the wide domain has a `Look`, drawn once. Frames are planes (3, H, W) float32, RGB
0..255.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from v2v_jax.datasets.scenes.camera import REFERENCE_SIZE, Wave, random_wave

_STEADY = Wave(np.zeros(1), np.zeros(1), np.zeros(1))


@dataclasses.dataclass(frozen=True)
class Look:
    """How a video was taken.

    Attributes:
      shutter: share of the time between two frames during which it is open.
      blur: standard deviation of the focus blur, pixels at the reference size.
      sharpening: how much of the finest detail is added again.
      focus: metres at which nothing of that blur is seen; 0: it is everywhere.
      exposure: log2 of the gain over time; flicker: its standard deviation from frame to frame.
      balance: gain of each colour over time, as logarithms.
      gamma: exponent of the tone curve; contrast about the middle grey.
      saturation: 0 grey, 1 as rendered.
      grain: standard deviation of the noise in grey levels; coarse: as many pixels wide.
      bars: share of the height and of the width that each of two bars covers.
      bar_level: grey level of the bars.
      caption: writing over the picture, or None.
    """

    shutter: float
    blur: float
    focus: float
    sharpening: float
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
    caption: Caption | None


@dataclasses.dataclass(frozen=True)
class Caption:
    """A line of writing that stands still over the picture; lengths in pixels at REFERENCE_SIZE.

    Attributes:
      top, left: of its corner.
      marks: (h, w) bool, the letters.
      boxed: whether it has a ground of its own.
      ink, ground: RGB.
    """

    top: float
    left: float
    marks: np.ndarray
    boxed: bool
    ink: np.ndarray
    ground: np.ndarray


def _random_caption(rng: np.random.Generator) -> Caption:
    letter, letters = int(rng.integers(4, 10)), int(rng.integers(4, 24))
    width = max(3, round(0.7 * letter))
    strokes = rng.random((letter, width * letters)) < 0.3  # as thin as letters are at this size
    strokes[:, ::width] = False
    strokes[rng.integers(0, letter, 2)] |= rng.random(width * letters) < 0.5
    strokes[:, 1::width] |= rng.random((letter, 1)) < 0.8
    gaps = np.repeat(rng.random(letters) < 0.15, width)
    marks = np.pad(strokes & ~gaps, 1)
    light = rng.random() < 0.75
    ink, ground = (255.0, 20.0) if light else (10.0, 235.0)
    colour = rng.uniform(0.4, 1, 3) if rng.random() < 0.3 else np.ones(3)
    rows, columns = REFERENCE_SIZE
    top = rng.uniform(0.75, 0.97) if rng.random() < 0.7 else rng.uniform(0.02, 0.2)
    left = rng.uniform(0.02, max(0.03, 1 - marks.shape[1] / columns))
    colours = [np.clip(level * colour, 0, 255).astype(np.uint8) for level in (ink, ground)]
    return Caption(
        top * rows - letter / 2, left * columns, marks, bool(rng.random() < 0.4), *colours
    )


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
        blur=maybe(0.35, 0.3, 1.8, 0.0),
        focus=maybe(0.5, 2.0, 25.0, 0.0),
        sharpening=maybe(0.35, 0.2, 1.2, 0.0),
        exposure=drift(0.35, 0.6),
        flicker=maybe(0.12, 0.005, 0.06, 0.0),
        balance=tuple(drift(0.2, 0.1) for _ in range(3)),
        tint=np.exp(rng.normal(0, 0.07, 3)).astype(np.float32),
        gamma=maybe(0.6, 0.7, 1.6, 1.0),
        contrast=maybe(0.75, 0.7, 1.9, 1.0),
        saturation=maybe(0.5, 0.0, 1.1, 1.0),
        grain=maybe(0.6, 0.0, 1.0, 0.0) ** 2 * 9,
        coarse=bool(rng.random() < 0.3),
        bars=bars[rng.choice(3, p=[0.86, 0.09, 0.05])],
        bar_level=maybe(0.3, 0.0, 30.0, 0.0),
        caption=_random_caption(rng) if rng.random() < 0.15 else None,
    )


def covered(look: Look, frame_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What a producer lays over the picture: a letter box's bars and a caption.

    Returns:
      (H, W) bool, where; and (H, W, 3) uint8, what is seen there.
    """
    height, width = frame_size
    mask = np.zeros(frame_size, bool)
    shown = np.full((*frame_size, 3), round(look.bar_level), np.uint8)
    rows, columns = (round(share * size) for share, size in zip(look.bars, frame_size))
    mask[:rows] = mask[height - rows :] = True
    mask[:, :columns] = mask[:, width - columns :] = True
    if look.caption is not None:
        scale = max(height / REFERENCE_SIZE[0], width / REFERENCE_SIZE[1])
        y = np.floor(np.arange(height) / scale - look.caption.top).astype(int)
        x = np.floor(np.arange(width) / scale - look.caption.left).astype(int)
        high, wide = look.caption.marks.shape
        inside = ((y >= 0) & (y < high))[:, None] & (x >= 0) & (x < wide)
        marks = look.caption.marks[np.ix_(np.clip(y, 0, high - 1), np.clip(x, 0, wide - 1))]
        marks = marks & inside
        shown[inside], shown[marks] = look.caption.ground, look.caption.ink
        mask |= inside if look.caption.boxed else marks
    return mask, shown


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
    if look.sharpening:
        light = light + np.float32(look.sharpening) * (light - _gaussian(light, 0.8 * scale))
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
