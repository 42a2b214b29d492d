"""What lives in a scene: vehicles, people, foliage, buildings and mounds, as sprites.

Look-alikes come in pairs that only motion tells apart. A vehicle is drawn before it is decided
whether it drives (cars) or stands parked (solid); a figure before it is decided whether it walks
(humans) or is a statue (solid); foliage before it is decided whether it flutters (porous) or grows
on a trellis (vertical mix).
"""

from __future__ import annotations

import numpy as np

from v2v_jax.datasets.scenes import textures
from v2v_jax.datasets.scenes.camera import FOCAL, half_view
from v2v_jax.datasets.scenes.drawing import MARGIN, Canvas, box, convex, ellipse, grid, haze
from v2v_jax.datasets.scenes.sprites import Flutter, Sprite, Swing

SKY, GROUND, SOLID, POROUS, CARS, HUMANS, VERTICAL_MIX, MAIN_MIX = range(8)

FOLIAGE = {"green": 5.0, "autumn": 1.6, "brown": 0.8, "grey": 0.6, "red": 0.5}
MASONRY = {"grey": 2, "beige": 2.4, "red": 1.4, "brown": 1.2, "white": 1, "blue": 0.7, "green": 0.8}
CLOTHES = {"blue": 2, "red": 1.5, "grey": 2, "green": 1.3, "white": 1, "brown": 1.2, "beige": 1}
PAINT = {"red": 1.5, "blue": 1.5, "grey": 2, "white": 1.5, "green": 1.2, "beige": 1, "brown": 0.7}
MOUND = {"green": 2.5, "brown": 2, "grey": 1.5, "autumn": 1.2, "beige": 1, "red": 0.6}
SKIN = np.array([[224, 178, 146], [186, 134, 100], [120, 82, 62]], np.float32)
GLASS = np.array([58, 68, 80], np.float32)
RUBBER = np.array([34, 34, 36], np.float32)
EDGE_OF_DOTS = 3.0  # texels; softer than outlines, for the dots are small


def _canvas(z: float, height: float, width: float) -> tuple[Canvas, float]:
    """A canvas for an object of so many metres at depth z, and its texels a metre."""
    scale = FOCAL / z
    return Canvas(int(np.ceil(height * scale)), int(np.ceil(width * scale))), scale


def _sprite(canvas: Canvas, z: float, air: np.ndarray, x: float, label: int, **more) -> Sprite:
    """A sprite that stands on the ground with the middle of its lower edge at x."""
    height, width = canvas.shape
    anchor = more.pop("anchor", ((width - 1) / 2, float(height - 1 - MARGIN)))
    texture = haze(canvas.finished(), z, air)
    return Sprite(texture, z / FOCAL, anchor, x, z, label, **more)


def vehicle(rng: np.random.Generator, z: float, air: np.ndarray) -> Sprite:
    """A car, a van or a truck seen from the side, driving or parked. Stands at depth z metres."""
    kind = rng.choice(["car", "van", "truck"], p=[0.55, 0.25, 0.2])
    length = {"car": 4.2, "van": 4.6, "truck": 5.6}[kind] * rng.uniform(0.92, 1.1)
    height = {"car": 1.5, "van": 2.0, "truck": 2.5}[kind] * rng.uniform(0.94, 1.06)
    canvas, m = _canvas(z, height, length)
    w, h = length * m, height * m
    name = str(rng.choice(["plain", "planks", "patches", "bricks"], p=[0.35, 0.2, 0.3, 0.15]))
    paint = textures.material(rng, *canvas.shape, name, textures.colour(rng, PAINT), 14.0)
    floor, belt = h - 0.3 * m, h - 0.9 * m
    if kind == "car":
        _paint_car(canvas, paint, w, belt, floor, m)
    else:
        cab = w * (0.62 if kind == "van" else 0.7)
        canvas.paint(
            box(canvas, 0, 0, cab if kind == "truck" else w - 0.3 * m, floor, 0.15 * m), paint
        )
        canvas.paint(box(canvas, cab * 0.8, 0.25 * m, w, floor, 0.25 * m), 0.85 * paint)
        canvas.stain(
            box(canvas, w - 1.1 * m, 0.45 * m, w - 0.2 * m, belt + 0.05 * m, 0.1 * m), GLASS
        )
    canvas.stain(box(canvas, -9, floor - 0.12 * m, w + 9, floor + 9), 0.5 * RUBBER)
    for wheel in (0.2 * w, 0.8 * w):
        canvas.paint(ellipse(canvas, wheel, h - 0.33 * m, 0.33 * m, 0.33 * m), RUBBER)
        canvas.paint(ellipse(canvas, wheel, h - 0.33 * m, 0.15 * m, 0.15 * m), 4 * RUBBER)
    if rng.random() < 0.5:
        canvas.rgba = canvas.rgba[:, ::-1].copy()  # facing left; which way says nothing of motion
    drives = rng.random() < 0.62
    half = half_view(z) + length / 2 + 0.5
    speed = rng.choice([-1, 1]) * rng.uniform(1.8, 5.0) * z / FOCAL if drives else 0.0
    label = CARS if drives else SOLID
    x = rng.uniform(-half, half)
    return _sprite(canvas, z, air, x, label, speed=speed, period=2 * half, kind="vehicle")


def _paint_car(
    canvas: Canvas, paint: np.ndarray, w: float, belt: float, floor: float, m: float
) -> None:
    """A saloon: body, cabin and windows; w, belt and floor in texels, m texels a metre."""
    cabin = [(0.26 * w, 0.0), (0.66 * w, 0.0), (0.84 * w, belt + 2), (0.12 * w, belt + 2)]
    canvas.paint(convex(canvas, cabin), paint)
    canvas.paint(box(canvas, 0, belt - 0.05 * m, w, floor, 0.2 * m), paint)
    glass = [(0.29 * w, 0.12 * m), (0.64 * w, 0.12 * m), (0.77 * w, belt), (0.19 * w, belt)]
    canvas.stain(convex(canvas, glass), GLASS)
    canvas.stain(box(canvas, 0.46 * w, 0, 0.49 * w, belt), 0.8 * paint)


def person(rng: np.random.Generator, z: float, air: np.ndarray) -> list[Sprite]:
    """A person walking, or a statue in mid-stride: a far leg, a near leg, and the rest."""
    height = rng.uniform(1.55, 1.9)
    hip = 0.5 * height
    leg_half = 0.09 * height / 1.75
    walks = rng.random() < 0.64
    label = HUMANS if walks else SOLID
    half = half_view(z) + 0.8
    speed = rng.choice([-1, 1]) * rng.uniform(0.9, 2.4) * z / FOCAL if walks else 0.0
    x = rng.uniform(-half, half)
    place = {"x": x, "label": label, "speed": speed, "period": 2 * half, "kind": "person"}
    stride = rng.uniform(0.30, 0.45)
    pace = 2 * np.pi / rng.uniform(11, 18) if walks else 0.0
    phase = rng.uniform(0, 2 * np.pi)
    trousers = textures.colour(rng, CLOTHES)
    sprites = []
    for side, shade in ((0.0, 0.72), (np.pi, 1.0)):
        canvas, m = _canvas(z, hip + 0.12, 2 * leg_half)
        w, h = 2 * leg_half * m, (hip + 0.12) * m
        cloth = textures.material(rng, *canvas.shape, "patches", trousers * shade, 9.0)
        canvas.paint(box(canvas, 0, 0, w, h - 0.02 * m, 0.3 * w), cloth)
        canvas.stain(box(canvas, -9, h - 0.1 * m, w + 9, h + 9), RUBBER)
        swing = Swing(MARGIN + 0.12 * m, stride, pace, phase + side, hip * m)
        sprites.append(_sprite(canvas, z, air, deformation=swing, **place))
    canvas, m = _canvas(z, height - hip + 0.15, 0.52 * height / 1.75)
    _paint_upper_body(rng, canvas, m, height - hip)
    sprites.append(_sprite(canvas, z, air, base=hip - 0.15, **place))
    return sprites


def _paint_upper_body(rng: np.random.Generator, canvas: Canvas, m: float, torso: float) -> None:
    """Torso, arms and head on a canvas; m texels a metre, `torso` metres from hip to crown."""
    w = canvas.shape[1] - 2 * MARGIN - 1
    head = 0.13 * torso / 0.87
    shirt = textures.colour(rng, CLOTHES)
    name = str(rng.choice(["plain", "planks", "bricks", "leaves"]))
    cloth = textures.material(rng, *canvas.shape, name, shirt, 12.0)
    neck = 2 * head * m
    bottom = (torso + 0.1) * m
    skin = SKIN[rng.integers(3)]
    canvas.paint(box(canvas, w * 0.02, neck, w * 0.98, neck + 0.5 * m, 0.1 * m), 0.8 * cloth)
    canvas.paint(box(canvas, w * 0.2, neck * 0.95, w * 0.8, bottom, 0.1 * m), cloth)
    canvas.paint(ellipse(canvas, w / 2, head * m, 0.9 * head * m, head * m), skin)
    hair = np.maximum(
        ellipse(canvas, w / 2, head * m, 0.95 * head * m, 1.02 * head * m),
        canvas.y - 0.75 * head * m,
    )
    canvas.paint(hair, textures.colour(rng, {"brown": 2, "grey": 1}) * 0.6)


def _wind(rng: np.random.Generator, frozen: bool) -> Flutter:
    """Waves of one or two texels, six to eleven frames long: about a pixel a frame."""
    along = tuple(
        (
            rng.uniform(1.1, 1.7) * share,
            rng.choice([-1, 1]) * 2 * np.pi / rng.uniform(26, 48),
            2 * np.pi / rng.uniform(6, 10),
            rng.uniform(0, 2 * np.pi),
        )
        for share in (1.0, 0.5)
    )
    across = (
        rng.uniform(0.9, 1.3),
        rng.choice([-1, 1]) * 2 * np.pi / rng.uniform(26, 44),
        2 * np.pi / rng.uniform(6, 10),
        rng.uniform(0, 2 * np.pi),
    )
    return Flutter(along, across, frozen)


def foliage(
    rng: np.random.Generator, x: float, z: float, air: np.ndarray, shape: str
) -> list[Sprite]:
    """A plant that flutters (porous) or is tied to a trellis and rigid (vertical mix).

    Args:
      x, z: metres.
      shape: "tree" (trunk and crown), "bush" or "hedge".
    """
    frozen = rng.random() < 0.44
    label = VERTICAL_MIX if frozen else POROUS
    size = rng.uniform(0.85, 1.2)
    height, width, lift = {
        "tree": (3.6 * size, 3.4 * size, rng.uniform(1.3, 2.0)),
        "bush": (1.5 * size, 2.0 * size, 0.0),
        "hedge": (rng.uniform(1.6, 3.2), rng.uniform(4.0, 8.0), 0.0),
    }[shape]
    canvas, m = _canvas(z, height, width)
    leaf = textures.colour(rng, FOLIAGE)
    name = str(rng.choice(["leaves", "grain", "bricks"], p=[0.75, 0.2, 0.05]))
    leaves = textures.material(rng, *canvas.shape, name, leaf, 24.0)
    light = 1.12 - 0.3 * np.clip(canvas.y / (height * m), 0, 1)
    canvas.paint(
        _leafy_outline(rng, canvas, shape, width * m, height * m), leaves * light[..., None]
    )
    sprites = []
    if lift:
        sprites.append(_trunk(rng, x, z, air, label, lift + 0.4 * height))
    wind = _wind(rng, frozen)
    sprites.append(_sprite(canvas, z, air, x, label, base=lift, deformation=wind))
    return sprites


def _leafy_outline(
    rng: np.random.Generator, canvas: Canvas, shape: str, w: float, h: float
) -> np.ndarray:
    """Signed distance (H, W) to a ragged outline, with some holes to look through."""
    ragged = 1.6 * textures.pattern(rng, "leaves", *canvas.shape)
    ragged = ragged + 1.2 * textures.pattern(rng, "patches", *canvas.shape)
    if shape == "hedge":
        distance = box(canvas, 4, 4, w - 4, h + 8, 4)
        return distance + np.minimum(0.8 * ragged, 3.5)
    if shape == "bush":
        distance = ellipse(canvas, w / 2, h * 0.9, w / 2 - 4, h * 0.9 - 4)
    else:
        lobes = [
            ellipse(
                canvas,
                w * rng.uniform(0.33, 0.67),
                h * rng.uniform(0.33, 0.67),
                w * rng.uniform(0.24, 0.33),
                h * rng.uniform(0.24, 0.33),
            )
            for _ in range(5)
        ]
        distance = np.minimum.reduce(lobes)
    return np.maximum(distance + ragged, 2.0 * (ragged - 4.2))


def _trunk(
    rng: np.random.Generator, x: float, z: float, air: np.ndarray, label: int, height: float
) -> Sprite:
    """A stem that ends inside the crown; it carries the crown's label."""
    width = rng.uniform(0.22, 0.4)
    canvas, m = _canvas(z, height, width)
    bark = textures.colour(rng, {"brown": 3, "grey": 1})
    rgb = textures.material(rng, *canvas.shape, "patches", 0.75 * bark, 12.0)
    canvas.paint(box(canvas, 0, 0, width * m, height * m + 3), rgb)
    return _sprite(canvas, z, air, x, label)


def building(rng: np.random.Generator, x: float, z: float, air: np.ndarray) -> tuple[Sprite, float]:
    """A house front with windows, a door and a flat or gabled roof, and its width in metres."""
    width, height = rng.uniform(7, 16), rng.uniform(4.5, 15)
    canvas, m = _canvas(z, height, width)
    w, h = width * m, height * m
    name = str(rng.choice(["bricks", "planks", "patches", "leaves", "grain"]))
    base = textures.colour(rng, MASONRY)
    wall = textures.material(rng, *canvas.shape, name, base, 13.0)
    roof = textures.material(
        rng, *canvas.shape, "planks", textures.colour(rng, MASONRY) * 0.8, 12.0
    )
    eaves = 0.0
    if rng.random() < 0.5:
        eaves = min(0.3 * h, 3.0 * m)
        gable = [(0.25 * w, 0), (0.75 * w, 0), (w, eaves + 1), (0, eaves + 1)]
        canvas.paint(convex(canvas, gable), roof)
    canvas.paint(box(canvas, 0.02 * w, eaves, 0.98 * w, h + 4), wall)
    storeys, columns = max(1, int((h - eaves) / m / 3.0)), max(2, int(width / 2.6))
    step = (w / columns, (h - eaves) / storeys)
    pane = (step[0] * rng.uniform(0.35, 0.6), step[1] * rng.uniform(0.35, 0.55))
    windows = grid(canvas, step[0] / 2, eaves + step[1] / 2, step, pane, (columns, storeys))
    glass = GLASS * rng.uniform(0.8, 1.9) + rng.normal(0, 8, 3).astype(np.float32)
    canvas.stain(windows, glass, opacity=0.85)
    door = step[0] * (int(rng.integers(columns)) + 0.5)
    canvas.stain(box(canvas, door - 0.6 * m, h - 2.2 * m, door + 0.6 * m, h + 9), 0.5 * base)
    return _sprite(canvas, z, air, x, SOLID), width


def wall(rng: np.random.Generator, x: float, z: float, air: np.ndarray) -> Sprite:
    """A low wall, in stone, wood or covered with what looks like leaves."""
    width, height = rng.uniform(3, 8), rng.uniform(0.8, 1.8)
    canvas, m = _canvas(z, height, width)
    name = str(rng.choice(["bricks", "planks", "leaves"]))
    rgb = textures.material(rng, *canvas.shape, name, textures.colour(rng, MASONRY), 18.0)
    canvas.paint(box(canvas, 0, 0, width * m, height * m + 4), rgb)
    canvas.stain(box(canvas, -9, -9, width * m + 9, 0.15 * m), 0.7 * rgb)
    return _sprite(canvas, z, air, x, SOLID)


def mound(rng: np.random.Generator, x: float, z: float, air: np.ndarray) -> Sprite:
    """A low heap at the ground: rubble, a flower bed, earth (main mix)."""
    width, height = rng.uniform(1.8, 4.5), rng.uniform(0.5, 1.0)
    canvas, m = _canvas(z, height, width)
    w, h = width * m, height * m
    base = textures.colour(rng, MOUND)
    name = str(rng.choice(["leaves", "grain", "patches"]))
    rgb = textures.material(rng, *canvas.shape, name, base, 20.0)
    if rng.random() < 0.5:  # flowers or stones
        dots = 3.0 - 2.2 * textures.pattern(rng, "leaves", *canvas.shape)
        alpha = np.clip(0.5 - dots / EDGE_OF_DOTS, 0, 1)[..., None]
        rgb = rgb + alpha * (textures.colour(rng, PAINT) - rgb)
    ragged = 1.1 * textures.pattern(rng, "patches", *canvas.shape)
    ragged += 0.6 * textures.pattern(rng, "leaves", *canvas.shape)
    heaps = [
        ellipse(canvas, w * c, h + 1, w * rng.uniform(0.22, 0.3), h * rng.uniform(0.6, 0.9))
        for c in (0.32, 0.5, 0.68)
    ]
    canvas.paint(np.minimum.reduce(heaps) + ragged, rgb)
    return _sprite(canvas, z, air, x, MAIN_MIX)


def hills(rng: np.random.Generator, air: np.ndarray) -> Sprite:
    """A wooded ridge along the horizon (vertical mix)."""
    z = 160.0
    width, height = 2 * half_view(z) + 4, rng.uniform(5, 16)
    canvas, m = _canvas(z, height, width)
    x = canvas.x / (width * m) * 2 * np.pi
    waves = sum(rng.uniform(0.05, 0.2) * np.sin(k * x + rng.uniform(0, 6.28)) for k in (1, 2, 3, 5))
    ridge = height * m * (0.45 + waves)
    rgb = textures.material(rng, *canvas.shape, "leaves", textures.colour(rng, FOLIAGE), 14.0)
    canvas.paint(ridge - canvas.y + 0.4 * textures.pattern(rng, "leaves", *canvas.shape), rgb)
    return _sprite(canvas, z, air, 0.0, VERTICAL_MIX)
