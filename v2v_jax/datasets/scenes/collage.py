"""The other world of the wide domain: sheets of any shape that fly, turn and bend before a wall.

Street scenes show upright things on the ground, seen by a camera that is never rolled. Here nothing
is upright: a periodic backdrop and up to two dozen *sheets* (blobs, polygons, rods, rings, fences,
wires, rags with holes) with any texture or none, each with an own path, spin, growth and, for some,
waves that bend it; before them a camera that pans, rolls and zooms without bounds.

Lengths are pixels at REFERENCE_SIZE, from the frame's centre, x to the right and y down.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from v2v_jax.datasets.scenes import tiles
from v2v_jax.datasets.scenes.camera import Wave, random_wave
from v2v_jax.datasets.scenes.drawing import Canvas, box, convex, ellipse
from v2v_jax.datasets.scenes.sprites import Deformation, Flutter

VIEW = 140.0  # no frame sees further from its centre, zoom included
NEAREST = 2.0  # metres
_LARGEST_PAN = 48.0  # pixels a frame, of the nearest sheets
_REST = Wave(np.zeros(1), np.zeros(1), np.zeros(1))


@dataclasses.dataclass(frozen=True)
class Path:
    """A value over time: a constant speed and waves."""

    start: float
    speed: float
    wave: Wave = _REST

    def __call__(self, t: float) -> float:
        """The value at time t."""
        return self.start + self.speed * t + self.wave(t)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """One flat thing, or the backdrop.

    Attributes:
      texture: (h, w, 4) float32 as of a `Sprite`; the backdrop's is (SIZE, SIZE, 4) and repeats.
      anchor: texel coordinates (p, q) of the point that its path moves.
      x, y: of the anchor, before the camera's movement.
      angle: radians; growth: natural logarithm of its size.
      z: metres.
      follows: share of the camera's pan that it follows: 1 for all if the camera only turns, less
        for what is far away if it walks.
      period: the anchor comes round again after so many pixels either way; 0: never.
      deformation: None for a rigid one.
    """

    texture: np.ndarray
    anchor: tuple[float, float]
    x: Path
    y: Path
    angle: Path
    growth: Path
    z: float
    follows: float
    period: float = 0.0
    deformation: Deformation | None = None


@dataclasses.dataclass(frozen=True)
class Collage:
    """A backdrop, sheets from the farthest to the nearest, and the camera."""

    sheets: tuple[Sheet, ...]
    pan_x: Path
    pan_y: Path
    roll: Path
    zoom: Path

    def place(self, sheet: Sheet, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Where a sheet is at time t: texel (p, q) is seen at matrix @ ((p, q) - anchor) + offset.

        Returns:
          (2, 2) and (2,) float64, in pixels from the frame's centre.
        """
        centre = np.array(
            [
                sheet.x(t) + sheet.follows * self.pan_x(t),
                sheet.y(t) + sheet.follows * self.pan_y(t),
            ]
        )
        if sheet.period:
            centre = (centre + sheet.period / 2) % sheet.period - sheet.period / 2
        camera = _turn(self.roll(t), self.zoom(t))
        return camera @ _turn(sheet.angle(t), sheet.growth(t)), camera @ centre


def _turn(angle: float, growth: float) -> np.ndarray:
    c, s = np.cos(angle) * np.exp(growth), np.sin(angle) * np.exp(growth)
    return np.array([[c, -s], [s, c]])


# ------------------------------------------------------------------------------------------------
# Shapes: signed distances on a canvas of (h, w) texels, and how large it is


def _radii(rng: np.random.Generator) -> tuple[float, float]:
    """Half height and half width of a thing: often small, sometimes half the picture."""
    size = np.exp(rng.uniform(np.log(6), np.log(48)))
    aspect = np.exp(rng.normal(0, 0.35))
    return size * aspect, size / aspect


def _blob(rng: np.random.Generator) -> tuple[Canvas, np.ndarray]:
    ry, rx = _radii(rng)
    reach = 1.5
    canvas = Canvas(int(2 * reach * ry) + 2, int(2 * reach * rx) + 2)
    dx, dy = (canvas.x - reach * rx) / rx, (canvas.y - reach * ry) / ry
    angle = np.arctan2(dy, dx)
    rim = 1 + sum(
        rng.normal(0, 0.28) / k * np.cos(k * angle + rng.uniform(0, 6.28)) for k in range(2, 7)
    )
    return canvas, (np.hypot(dx, dy) - np.clip(rim, 0.3, 1.45)) * min(rx, ry)


def _polygon(rng: np.random.Generator) -> tuple[Canvas, np.ndarray]:
    ry, rx = _radii(rng)
    canvas = Canvas(int(2 * ry) + 2, int(2 * rx) + 2)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    corners = [(rx + rx * np.cos(a), ry + ry * np.sin(a)) for a in angles]
    return canvas, convex(canvas, corners)


def _box(rng: np.random.Generator) -> tuple[Canvas, np.ndarray]:
    ry, rx = _radii(rng)
    canvas = Canvas(int(2 * ry) + 2, int(2 * rx) + 2)
    return canvas, box(canvas, 0, 0, 2 * rx, 2 * ry, rng.uniform(0, 0.8) * min(rx, ry))


def _disc(rng: np.random.Generator) -> tuple[Canvas, np.ndarray]:
    ry, rx = _radii(rng)
    canvas = Canvas(int(2 * ry) + 2, int(2 * rx) + 2)
    distance = ellipse(canvas, rx, ry, rx, ry)
    if rng.random() < 0.35:  # a ring
        distance = np.maximum(distance, -distance - rng.uniform(2.5, 0.5 * min(rx, ry) + 3))
    return canvas, distance


def _rod(rng: np.random.Generator) -> tuple[Canvas, np.ndarray]:
    """A stick, a wire or a branch: thin, and straight or not."""
    length, half = rng.uniform(30, 140), np.exp(rng.uniform(np.log(0.7), np.log(4.0)))
    sag = rng.choice([0.0, 1.0]) * rng.uniform(3, 15)
    canvas = Canvas(int(2 * (half + sag)) + 4, int(length) + 2)
    middle = half + sag + 1
    wave = sag * np.sin(canvas.x * rng.uniform(0.02, 0.12) + rng.uniform(0, 6.28))
    ends = np.abs(canvas.x - length / 2) - length / 2
    return canvas, np.maximum(np.abs(canvas.y - middle - wave) - half, ends)


def _fence(rng: np.random.Generator) -> tuple[Canvas, np.ndarray]:
    """Bars with gaps to look through."""
    high, wide = rng.uniform(25, 100), rng.uniform(40, 140)
    canvas = Canvas(int(high) + 2, int(wide) + 2)
    step, half = rng.uniform(8, 22), rng.uniform(0.9, 3.5)
    distance = np.abs((canvas.x + step / 2) % step - step / 2) - half
    if rng.random() < 0.6:
        rail = rng.uniform(8, 30)
        distance = np.minimum(distance, np.abs((canvas.y + rail / 2) % rail - rail / 2) - half)
    return canvas, np.maximum(distance, box(canvas, 0, 0, wide, high))


def _rag(rng: np.random.Generator) -> tuple[Canvas, np.ndarray]:
    """A ragged outline with holes."""
    canvas, distance = _blob(rng)
    rows, columns = canvas.shape
    field = tiles.noise(rng, 1.5, 5, 60)
    repeats = (-(-rows // tiles.SIZE), -(-columns // tiles.SIZE))
    ragged = 2.5 * np.tile(field, repeats)[:rows, :columns]
    return canvas, np.maximum(distance + ragged, 1.5 * (ragged - rng.uniform(2.5, 6)))


_SHAPES = {
    _blob: 0.3,
    _polygon: 0.17,
    _box: 0.15,
    _disc: 0.12,
    _rod: 0.12,
    _fence: 0.06,
    _rag: 0.08,
}


def _cut_out(rng: np.random.Generator, pictures: list[np.ndarray]) -> np.ndarray:
    """(h, w, 4) float32: a random shape of some picture, premultiplied, clear all around."""
    odds = np.array(list(_SHAPES.values()))
    canvas, distance = list(_SHAPES)[rng.choice(len(_SHAPES), p=odds / odds.sum())](rng)
    rows, columns = (
        (np.arange(size) + rng.integers(tiles.SIZE)) % tiles.SIZE for size in canvas.shape
    )
    picture = pictures[rng.integers(len(pictures))][np.ix_(rows, columns)]
    if rng.random() < 0.5:  # other colours, lighter or darker
        picture = picture[..., rng.permutation(3)] * rng.uniform(0.5, 1.3)
    canvas.paint(distance, np.minimum(picture, 255))
    if rng.random() < 0.3:  # a rim
        canvas.stain(-distance - rng.uniform(1.5, 4), rng.uniform(0, 255, 3).astype(np.float32))
    return canvas.finished()


# ------------------------------------------------------------------------------------------------
# Motion


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A positive number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _bending(rng: np.random.Generator) -> Flutter:
    """Waves of up to a few texels that run through a sheet, and never fold it."""

    def wave() -> tuple[float, float, float, float]:
        length, period = log_uniform(rng, 24, 150), log_uniform(rng, 8, 80)
        amplitude = rng.uniform(0.02, 0.07) * length
        turning = rng.choice([-1, 1]) * 2 * np.pi / period
        return amplitude, 2 * np.pi / length, turning, rng.uniform(0, 2 * np.pi)

    return Flutter((wave(), wave()), wave(), frozen=False)


@dataclasses.dataclass(frozen=True)
class Pace:
    """How much moves.

    Attributes:
      camera, things: pixels a frame of the camera's pan and of the things' own paths.
      parallax: 0, the camera turns, to 1, it walks.
    """

    camera: float
    things: float
    parallax: float

    def follows(self, z: float) -> float:
        """See `Sheet.follows`."""
        return 1 - self.parallax * (1 - NEAREST / z)


def random_pace(rng: np.random.Generator) -> Pace:
    """From a tripod before still life to a camera that is torn around."""
    camera = rng.choice(4, p=[0.42, 0.22, 0.18, 0.18])
    pan = (0.0, log_uniform(rng, 0.1, 1), log_uniform(rng, 1, 6), log_uniform(rng, 6, 44))[camera]
    things = log_uniform(rng, 0.2, 12) if rng.random() < 0.9 else 0.0
    return Pace(pan, things, max(0.0, rng.uniform(-0.6, 1.0)))


def _wandering(rng: np.random.Generator, start: float, speed: float) -> Path:
    """A path of about this speed, some of it back and forth."""
    straight = rng.uniform(0, 1)
    return Path(start, straight * speed, _wave(rng, 400.0, (1 - straight) * abs(speed)))


def _wave(rng: np.random.Generator, limit: float, peak_speed: float) -> Wave:
    return random_wave(rng, limit, peak_speed, (25, 120)) if peak_speed else _REST


def _around(rng: np.random.Generator, speed: float) -> tuple[float, float]:
    """A velocity of this speed, rather sideways than up or down."""
    angle = rng.choice([0, np.pi]) + rng.normal(0, 0.7)
    return speed * np.cos(angle), speed * np.sin(angle)


def _random_sheet(rng: np.random.Generator, pace: Pace, pictures: list[np.ndarray]) -> Sheet:
    texture = _cut_out(rng, pictures)
    height, width = texture.shape[:2]
    z = NEAREST / rng.uniform(0.25, 1.0)
    moves = rng.random() < 0.65
    speed = min(pace.things * np.exp(rng.normal(0, 0.6)), 25.0) if moves else 0.0
    u, v = _around(rng, speed)
    turning = rng.random() < 0.4 and moves
    radius = np.hypot(height, width) / 2
    spin = np.clip(rng.normal(0, 0.35 * speed / max(radius, 12)), -0.25, 0.25) if turning else 0.0
    growing = _wave(rng, 0.3, 0.02 * min(speed, 3)) if turning else _REST
    # It comes round again out of sight: no frame shows it before or after.
    half = VIEW + 1.5 * radius + min(pace.camera / 0.1, _LARGEST_PAN) + speed
    near = 1.0 if rng.random() < 0.2 else rng.uniform(0.2, 0.4)  # most begin in view
    return Sheet(
        texture,
        ((width - 1) / 2, (height - 1) / 2),
        _wandering(rng, near * rng.uniform(-half, half), u),
        _wandering(rng, near * rng.uniform(-half, half), v),
        _wandering(rng, rng.uniform(0, 2 * np.pi), spin),
        Path(0.0, 0.0, growing),
        z,
        pace.follows(z),
        2 * half,
        _bending(rng) if moves and rng.random() < 0.35 else None,
    )


def _backdrop(rng: np.random.Generator, pace: Pace) -> Sheet:
    texture = np.ones((tiles.SIZE, tiles.SIZE, 4), np.float32)
    texture[..., :3] = tiles.picture(rng)
    z = NEAREST / rng.uniform(0.1, 0.25)
    still = Path(0.0, 0.0)
    bends = pace.things > 0 and rng.random() < 0.12  # water, a curtain
    return Sheet(
        texture,
        (rng.uniform(0, tiles.SIZE), rng.uniform(0, tiles.SIZE)),
        *(still, still),
        Path(rng.uniform(-0.4, 0.4), 0.0),
        Path(rng.uniform(-0.2, 0.5), 0.0),
        z,
        pace.follows(z),
        deformation=_bending(rng) if bends else None,
    )


def random_collage(rng: np.random.Generator) -> Collage:
    """Draws a collage and the camera before it."""
    pace = random_pace(rng)
    count = int(rng.integers(2, 28))
    pictures = [tiles.picture(rng) for _ in range(rng.integers(3, 8))]
    sheets = [_random_sheet(rng, pace, pictures) for _ in range(count)]
    sheets.sort(key=lambda sheet: -sheet.z)
    backdrop = _backdrop(rng, pace)
    u, v = _around(rng, min(pace.camera / backdrop.follows, _LARGEST_PAN))
    turning = rng.random() < 0.5
    spin = _wave(rng, 0.5, 0.004 * min(pace.camera, 8)) if turning else _REST
    zooming = _wave(rng, 0.25, 0.003 * min(pace.camera, 8)) if turning else _REST
    return Collage(
        (backdrop, *sheets),
        _wandering(rng, 0.0, u),
        _wandering(rng, 0.0, v),
        Path(rng.normal(0, 0.08), 0.0, spin),
        Path(0.0, 0.0, zooming),
    )
