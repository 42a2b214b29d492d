"""Band-limited textures and the palettes that all classes of a scene share.

One bank of tileable patterns serves every object, whatever its class: leaves grow on trees, on
trellises and on flower beds, bricks pave the ground and wall the houses. Colour and pattern
therefore say little about the class. Wavelengths stay above about five texels (a texel is about
one pixel on the screen), so that bilinear sampling neither shimmers nor blurs them away.
"""

from __future__ import annotations

import functools

import numpy as np

BANK_SIZE = 256  # texels a side; the patterns repeat after that many
_BANK_SEED = 20151127
_VARIANTS = 3
PATTERNS = ("leaves", "patches", "grain", "planks", "bricks")

# RGB anchors of the colour families; every family is open to every class, with other odds.
FAMILIES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "green": ((62, 92, 40), (88, 118, 58), (104, 124, 72), (70, 104, 76)),
    "autumn": ((150, 104, 52), (136, 78, 48), (168, 134, 66)),
    "brown": ((112, 88, 66), (88, 70, 56), (134, 110, 84)),
    "grey": ((120, 120, 122), (92, 94, 98), (148, 146, 142), (70, 72, 76)),
    "beige": ((188, 172, 142), (170, 152, 120), (200, 188, 166)),
    "red": ((140, 74, 62), (160, 60, 54), (124, 62, 70)),
    "blue": ((84, 106, 140), (62, 82, 124), (116, 140, 168)),
    "white": ((206, 206, 202), (188, 192, 196)),
}


def band_noise(rng: np.random.Generator, size: int, shortest: float, longest: float) -> np.ndarray:
    """Tileable Gaussian noise whose wavelengths lie about between two bounds.

    Args:
      size: side of the square in texels.
      shortest, longest: wavelengths in texels.

    Returns:
      (size, size) float32 of mean 0 and standard deviation 1.
    """
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None, :]
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = 1.0
    octaves = np.log2(frequency)
    low, high = -np.log2(longest), -np.log2(shortest)
    distance = np.maximum(np.maximum(low - octaves, octaves - high), 0.0)
    gain = np.exp(-0.5 * (distance / 0.22) ** 2) / frequency  # 1/f: equal power an octave
    gain[0, 0] = 0.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * gain
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return (noise / noise.std()).astype(np.float32)


def _planks(rng: np.random.Generator) -> np.ndarray:
    """Vertical boards with slightly wandering seams."""
    x = np.arange(BANK_SIZE)[None, :] * (2 * np.pi / 8)
    wander = band_noise(rng, BANK_SIZE, 30, 90)
    return 1.2 * np.sin(x + 0.9 * wander) + 0.5 * band_noise(rng, BANK_SIZE, 8, 20)


def _bricks(rng: np.random.Generator) -> np.ndarray:
    """Courses of bricks, 8 texels high and 16 wide, with light joints and bricks of many tones."""
    y = np.arange(BANK_SIZE)[:, None]
    x = np.arange(BANK_SIZE)[None, :]
    course = y // 8
    shifted = (x + 8 * (course % 2)) % BANK_SIZE
    tone = rng.standard_normal((BANK_SIZE // 8, BANK_SIZE // 16))[course, shifted // 16]
    joint_y = np.maximum(0.0, 1.0 - np.abs(y % 8 - 3.5 - 4) / 2.2)
    joint_x = np.maximum(0.0, 1.0 - np.abs(shifted % 16 - 7.5 - 8) / 2.2)
    wall = 0.6 * tone + 2.0 * np.maximum(joint_y, joint_x)
    kernel = np.exp(-0.5 * (np.fft.fftfreq(BANK_SIZE) / 0.11) ** 2)  # blurs to the band's limit
    smooth = np.fft.ifft2(np.fft.fft2(wall) * kernel[:, None] * kernel[None, :]).real
    return smooth - smooth.mean()


@functools.lru_cache(maxsize=1)
def bank() -> dict[str, np.ndarray]:
    """Shared patterns: name → (3, 256, 256) float32, mean 0, standard deviation 1, tileable."""
    rng = np.random.default_rng(_BANK_SEED)
    makers = {
        "leaves": lambda: band_noise(rng, BANK_SIZE, 6.0, 11.0),
        "patches": lambda: band_noise(rng, BANK_SIZE, 14.0, 48.0),
        "grain": lambda: band_noise(rng, BANK_SIZE, 5.0, 20.0),
        "planks": lambda: _planks(rng),
        "bricks": lambda: _bricks(rng),
    }
    result = {}
    for name in PATTERNS:
        fields = [np.asarray(makers[name](), np.float32) for _ in range(_VARIANTS)]
        result[name] = np.stack([field / field.std() for field in fields])
    return result


def pattern(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    """A cut-out of one pattern: (height, width) float32, about standard normal, read-only."""
    variant = rng.integers(_VARIANTS)
    top, left = rng.integers(BANK_SIZE), rng.integers(BANK_SIZE)
    if max(height, width) <= BANK_SIZE:  # no need to gather
        return _twice(name)[variant, top : top + height, left : left + width]
    rows, columns = (np.arange(height) + top) % BANK_SIZE, (np.arange(width) + left) % BANK_SIZE
    return bank()[name][variant][rows[:, None], columns[None, :]]


@functools.lru_cache(maxsize=len(PATTERNS))
def _twice(name: str) -> np.ndarray:
    """(3, 512, 512) float32, read-only: the pattern and its repetition along both axes."""
    tiles = np.tile(bank()[name], (1, 2, 2))
    tiles.flags.writeable = False
    return tiles


def colour(rng: np.random.Generator, odds: dict[str, float]) -> np.ndarray:
    """A random colour: a family by its odds, an anchor in it, a little jitter. (3,) float32 RGB."""
    names = list(odds)
    weights = np.array([odds[name] for name in names])
    family = FAMILIES[names[rng.choice(len(names), p=weights / weights.sum())]]
    anchor = np.array(family[rng.integers(len(family))], np.float32)
    jitter = rng.normal(0, 8) + rng.normal(0, 7, 3)
    return np.clip(anchor + jitter, 15, 235).astype(np.float32)


def material(
    rng: np.random.Generator,
    height: int,
    width: int,
    name: str,
    base: np.ndarray,
    contrast: float,
) -> np.ndarray:
    """A textured surface.

    Args:
      name: a pattern's name in `PATTERNS`, or "plain".
      base: (3,) RGB, the mean colour.
      contrast: standard deviation in grey levels that the pattern adds.

    Returns:
      (height, width, 3) float32 RGB, 0..255.
    """
    tint = base / max(float(base.mean()), 1.0)
    shade = 0.5 * pattern(rng, "patches", height, width)
    if name != "plain":
        shade = shade + pattern(rng, name, height, width)
    drift = pattern(rng, "patches", height, width)[..., None]
    hue = rng.normal(0, 0.25 * contrast, 3).astype(np.float32)
    rgb = base + contrast * np.tanh(0.8 * shade)[..., None] * tint + drift * hue
    return np.clip(rgb, 5, 245).astype(np.float32)
