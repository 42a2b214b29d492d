"""Procedural pictures of many kinds for the wide domain, each a square that repeats without seams.

Natural pictures have flat regions, edges at all scales and texture of every spectrum: the kinds
below go from nothing at all to fine grain, and one is *dead leaves*, discs and rectangles that hide
one another, whose statistics are close to those of photographs. All are smoothed to what bilinear
sampling carries.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

SIZE = 256  # texels a side
_SMOOTHING = 0.6  # texels, standard deviation


def _palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) float32 RGB: a few random colours, often akin, sometimes hardly apart."""
    base = rng.uniform(20, 235, 3)
    if rng.random() < 0.65:  # greyish, as most things are
        base = base.mean() + 0.25 * (base - base.mean())
    spread = rng.choice([8.0, 25.0, 60.0, 110.0], p=[0.2, 0.3, 0.3, 0.2])
    common = rng.normal(0, spread, (count, 1))
    own = rng.normal(0, 0.5 * spread, (count, 3))
    return np.clip(base + common + own, 0, 255).astype(np.float32)


def _paint(palette: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(H, W) values 0..1 → (H, W, 3) colours, linear between those of a palette."""
    place = np.clip(value, 0, 1) * (len(palette) - 1)
    low = np.minimum(place.astype(int), len(palette) - 2)
    share = (place - low).astype(np.float32)[..., None]
    return palette[low] + share * (palette[low + 1] - palette[low])


def noise(rng: np.random.Generator, slope: float, shortest: float, longest: float) -> np.ndarray:
    """(SIZE, SIZE) float32 Gaussian noise of spectrum 1/f^slope between two wavelengths, std 1."""
    frequency = _frequencies()
    squared = frequency * frequency
    gain = frequency ** np.float32(-slope) * np.exp(-((squared * np.float32(shortest**2)) ** 2))
    gain *= 1 - np.exp(-((squared * np.float32(longest**2)) ** 2))
    gain[0, 0] = 0
    spectrum = rng.standard_normal((2, *gain.shape), np.float32) * gain
    field = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], s=(SIZE, SIZE))
    return (field / field.std()).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _frequencies() -> np.ndarray:
    """(SIZE, SIZE/2 + 1) float32, cycles a texel, never 0."""
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :]
    return np.maximum(np.hypot(fx, fy), 0.5 / SIZE).astype(np.float32)


def _plain(rng: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(_palette(rng, 1)[0], (SIZE, SIZE, 3)).copy()


def _shaded(rng: np.random.Generator) -> np.ndarray:
    """Hardly any texture: a slow change of light."""
    return _paint(_palette(rng, 3), 0.5 + 0.25 * noise(rng, 2.5, 40, 400))


def _clouds(rng: np.random.Generator) -> np.ndarray:
    """Anything from marble to felt."""
    field = noise(rng, rng.uniform(0.5, 2.2), rng.uniform(2.5, 8), rng.uniform(30, 300))
    return _paint(_palette(rng, int(rng.integers(2, 5))), 0.5 + rng.uniform(0.15, 0.35) * field)


def _patches(rng: np.random.Generator) -> np.ndarray:
    """Camouflage: noise cut into a few tones."""
    field = noise(rng, rng.uniform(1.0, 2.0), rng.uniform(4, 16), 200)
    tones = int(rng.integers(2, 5))
    steps = 0.5 + 0.3 * field
    hard = np.floor(np.clip(steps, 0, 0.999) * tones) / max(tones - 1, 1)
    return _paint(_palette(rng, max(tones, 2)), hard)


def _waves(rng: np.random.Generator) -> np.ndarray:
    """Stripes, straight or wandering, soft or hard."""
    y, x = np.mgrid[:SIZE, :SIZE] * (2 * np.pi / SIZE)
    ky, kx = rng.integers(-40, 41, 2) if rng.random() < 0.7 else rng.integers(-8, 9, 2)
    wander = rng.choice([0.0, 0.6, 2.5]) * noise(rng, 2, 40, 300)
    value = np.sin(kx * x + ky * y + wander)
    if rng.random() < 0.5:
        value = np.clip(4 * value, -1, 1)
    return _paint(_palette(rng, 2), 0.5 + 0.5 * value)


def _lattice(rng: np.random.Generator) -> np.ndarray:
    """Checks, tiles with joints, dots, bricks."""
    y, x = np.mgrid[:SIZE, :SIZE]
    high, wide = rng.choice([8, 16, 32], 2)
    row = y // high
    x = x + rng.choice([0, wide // 2]) * (row % 2)
    column = x // wide % (SIZE // wide)
    kind = rng.integers(4)
    if kind == 0:
        value = (row + column) % 2
    elif kind == 1:
        value = np.hypot(y % high - high / 2, x % wide - wide / 2) < 0.35 * min(high, wide)
    else:
        tone = rng.random((SIZE // high, SIZE // wide))[row, column]
        joint = (y % high < 1 + high // 12) | (x % wide < 1 + wide // 12)
        value = np.where(joint, rng.choice([0.0, 1.0]), 0.25 + 0.5 * tone)
    return _paint(_palette(rng, 3), value.astype(np.float32))


def _dead_leaves(rng: np.random.Generator) -> np.ndarray:
    """Discs and rectangles of all sizes, in front of one another."""
    result = np.broadcast_to(_palette(rng, 1)[0], (SIZE, SIZE, 3)).copy()
    count = int(rng.integers(60, 260))
    radii = np.sort(3 / (1 - rng.random(count) * 0.97) ** rng.uniform(0.6, 1.0))[::-1]
    colours = _palette(rng, 40)
    for radius in np.minimum(radii, 90):
        high, wide = radius * rng.uniform(0.4, 1.6, 2)
        rows = np.arange(-int(high) - 1, int(high) + 2)
        columns = np.arange(-int(wide) - 1, int(wide) + 2)
        if rng.random() < 0.5:
            inside = (rows[:, None] / high) ** 2 + (columns / wide) ** 2 <= 1
        else:
            inside = np.ones((len(rows), len(columns)), bool)
        top, left = rng.integers(SIZE, size=2)
        where = np.ix_((rows + top) % SIZE, (columns + left) % SIZE)
        light = 1 + rng.uniform(-0.25, 0.25) * (rows / (high + 1))[:, None, None]
        colour = colours[rng.integers(len(colours))] * light
        result[where] = np.where(inside[..., None], colour, result[where])
    return np.clip(result, 0, 255)


def _writing(rng: np.random.Generator) -> np.ndarray:
    """Rows of small marks on paper or a board."""
    ink, paper = _palette(rng, 2)
    if abs(float((ink - paper).mean())) < 60:
        ink = 255 - paper
    size = int(rng.choice([8, 16, 32]))
    marks = rng.random((SIZE // size * 4, SIZE // size * 4)) < 0.5
    marks[3::4] = False  # between the lines
    marks &= np.repeat(rng.random((marks.shape[0], marks.shape[1] // 4)) < 0.75, 4, axis=1)
    mask = np.kron(marks, np.ones((size // 4, size // 4), bool))
    return np.where(mask[..., None], ink, paper).astype(np.float32)


def _mixed(rng: np.random.Generator) -> np.ndarray:
    """One kind here, another there."""
    first, second = picture(rng, mix=False), picture(rng, mix=False)
    share = np.clip(0.5 + 3 * noise(rng, 2, 30, 300), 0, 1)[..., None]
    return first + share * (second - first)


_KINDS: dict[Callable[[np.random.Generator], np.ndarray], float] = {
    _plain: 0.06,
    _shaded: 0.1,
    _clouds: 0.24,
    _patches: 0.08,
    _waves: 0.08,
    _lattice: 0.1,
    _dead_leaves: 0.2,
    _writing: 0.04,
    _mixed: 0.1,
}


def picture(rng: np.random.Generator, *, mix: bool = True) -> np.ndarray:
    """A random picture: (SIZE, SIZE, 3) float32 RGB 0..255; both axes wrap round.

    Args:
      mix: whether it may be made of two kinds.
    """
    kinds = {kind: odds for kind, odds in _KINDS.items() if mix or kind is not _mixed}
    odds = np.array(list(kinds.values()))
    rgb = list(kinds)[rng.choice(len(kinds), p=odds / odds.sum())](rng)
    if rng.random() < 0.4:  # light falls on it unevenly
        rgb = rgb * (1 + 0.12 * noise(rng, 2.5, 50, 400))[..., None]
    if rng.random() < 0.35:  # and nothing is quite smooth
        rgb = rgb + rng.uniform(1, 7) * noise(rng, 0.5, 2.5, 60)[..., None]
    return _smooth(np.clip(rgb, 0, 255).astype(np.float32))


def _smooth(rgb: np.ndarray) -> np.ndarray:
    """A Gaussian of _SMOOTHING texels, over the seams."""
    weights = np.exp(-0.5 * (np.arange(-2, 3) / _SMOOTHING) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        rgb = sum(
            weight * np.roll(rgb, shift, axis) for shift, weight in zip(range(-2, 3), weights)
        )
    return rgb
