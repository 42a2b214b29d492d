"""Colour codes: classes, optical flow, probabilities and depth as RGB, with their legends.

Every colour code maps an array to RGB uint8 of the same leading axes, so that its result is a
column of `panels.panels` (a still: rows are frames) or of `panels.animation`:

    columns = {"input": video, "V2V": flow_to_color(flow, 15), "truth": flow_to_color(truth, 15)}
    write_png("flow.png", panels(columns, frames=(0, 5, 10), legends=[flow_legend(96)]))

Wrong shapes, dtypes and values raise ValueError, which says what was expected and what came.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import matplotlib
import numpy as np

from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.drawing.layout import TEXT_SIZE, expect
from v2v_jax.drawing.legends import Chips, ColorBar, Wheel

# The flow wheel: its corners, and the number of hues from one to the next.
_WHEEL_CORNERS = np.array(
    [
        (255, 0, 0),
        (255, 255, 0),
        (0, 255, 0),
        (0, 255, 255),
        (0, 0, 255),
        (255, 0, 255),
        (255, 0, 0),
    ]
)
_WHEEL_HUES = (15, 6, 4, 11, 13, 6)
_UNKNOWN_FLOW = 1e9  # the Middlebury files' threshold for "flow is not known here"
# GATECH's own ground truth files: sky, ground, solid, porous, cars, humans, vertical mix, main mix.
_GATECH_COLORS = (
    (255, 0, 0),
    (0, 130, 180),
    (0, 255, 0),
    (255, 255, 0),
    (120, 0, 255),
    (255, 0, 255),
    (160, 160, 160),
    (64, 64, 64),
)
_OBJECT_COLORS = ((0, 0, 0), (255, 210, 0))  # background, object
_IGNORED_GREYS = (96, 192)  # in stripes: no class looks like that
_CHECKERED_GREYS = (204, 255)  # in squares: transparent, as image editors show it
_HEAT_MAP, _DEPTH_MAP = "inferno", "plasma"  # plasma has no black: that means "no depth"


def _is_real(array: np.ndarray) -> bool:
    # bfloat16 has numpy kind "V": ask whether it converts rather than for its kind.
    return array.dtype != np.bool_ and np.can_cast(array.dtype, np.float64)


def flow_to_color(
    flow: np.ndarray, max_magnitude: float | None = None, valid: np.ndarray | None = None
) -> np.ndarray:
    """Colours optical flow: hue is direction, saturation is speed, white is rest.

    The colour wheel of Baker et al., "A Database and Evaluation Methodology for Optical Flow"
    (2007), in the rounding of their program: right is red, down yellow, left cyan, up violet.

    Args:
      flow: (…,H,W,2), any real dtype, (u right, v down) in pixels.
      max_magnitude: pixels that get full saturation; faster voxels turn darker. None takes the
        largest valid magnitude of the whole array, one scale for all frames. Give prediction and
        truth the same value, or their colours cannot be compared.
      valid: (…,H,W) bool, where the flow is known. Not finite or above 1e9 is never valid.

    Returns:
      (…,H,W,3) uint8 RGB, black where invalid.
    """
    flow = np.asarray(flow)
    expect(
        flow.ndim >= 3 and flow.shape[-1] == 2 and _is_real(flow),
        "flow",
        flow,
        "a real array (…,H,W,2)",
    )
    flow = flow.astype(np.float32)
    within = np.abs(flow) <= _UNKNOWN_FLOW  # false for NaN, too
    known = within[..., 0] & within[..., 1]
    if valid is not None:
        valid = np.asarray(valid)
        expect(
            valid.shape == known.shape and valid.dtype == np.bool_,
            "valid",
            valid,
            f"a bool array {known.shape}, like the flow",
        )
        known &= valid
    flow = np.where(known[..., None], flow, 0.0) + 0.0  # -0.0 would flip the angle of pure u
    speed = np.hypot(flow[..., 0], flow[..., 1])
    if max_magnitude is None:
        max_magnitude = float(speed.max(initial=0.0)) or 1.0
    if not 0.0 < max_magnitude < np.inf:
        raise ValueError(f"max_magnitude must be a positive number of pixels; got {max_magnitude}.")
    color = _wheel_color(flow, speed / np.float32(max_magnitude))
    color[~known] = 0
    return color


@functools.lru_cache(maxsize=1)
def _flow_wheel() -> np.ndarray:
    """(55,3) int64: the hues clockwise from red, in integer steps as in Baker et al.'s program."""
    arcs = []
    for start, stop, hues in zip(_WHEEL_CORNERS[:-1], _WHEEL_CORNERS[1:], _WHEEL_HUES, strict=True):
        arcs.append(start + np.sign(stop - start) * (255 * np.arange(hues)[:, None] // hues))
    return np.concatenate(arcs)


def _wheel_color(flow: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """(…,2) direction and (…) saturation (1 = the edge), float32 -> (…,3) uint8 RGB."""
    wheel = _flow_wheel().astype(np.float32)
    turn = (np.arctan2(-flow[..., 1], -flow[..., 0]) / np.pi + 1) / 2  # 0..1, clockwise from right
    position = turn * (len(wheel) - 1)
    lower = np.clip(position.astype(np.int32), 0, len(wheel) - 1)
    share = position - lower.astype(np.float32)
    steps = np.roll(wheel, -1, axis=0) - wheel
    color = np.empty((*lower.shape, 3), np.uint8)
    for channel in range(3):  # planes: gathering rows of three is several times as slow
        hue = wheel[:, channel].take(lower) + share * steps[:, channel].take(lower)
        color[..., channel] = np.where(
            saturation <= 1, np.float32(255) - saturation * (255 - hue), np.float32(0.75) * hue
        )
    return color


def flow_legend(size: int = 96, max_magnitude: float | None = None) -> Wheel:
    """The wheel: the colour at an offset from the centre is the colour of that motion.

    The disc has `size` pixels and stands on white; its edge is `max_magnitude`, in pixels a frame,
    which is said if it is given.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}.")
    axis = (np.arange(size) + 0.5 - size / 2) / (size / 2)
    offsets = np.stack(np.meshgrid(axis, axis), axis=-1)
    disc = flow_to_color(offsets, max_magnitude=1 + 1e-6)  # rounding must not darken the edge
    disc[np.hypot(offsets[..., 0], offsets[..., 1]) > 1] = 255
    if max_magnitude is None:
        return Wheel(disc)
    return Wheel(disc, f"full colour: {max_magnitude:.3g} px/frame (faster: darker)")


def label_colors(num_classes: int) -> np.ndarray:
    """The colour of every class, (num_classes,3) uint8 RGB, all different; num_classes 1..255.

    8 classes get GATECH's colours, equal to its ground truth files; 2 classes are background
    (black) and object (yellow); any other number gets colours that are far apart.
    """
    if not 1 <= num_classes <= IGNORE_LABEL:
        raise ValueError(f"num_classes must be in 1..{IGNORE_LABEL}; got {num_classes}.")
    fixed = {8: _GATECH_COLORS, 2: _OBJECT_COLORS}.get(num_classes)
    return _separated_colors(num_classes).copy() if fixed is None else np.array(fixed, np.uint8)


def label_table(label_names: Sequence[str]) -> list[dict[str, int | str | list[int]]]:
    """Every class's "index", "name" and "color" (RGB, 0..255), JSON-ready."""
    table = label_colors(len(label_names)).tolist()
    return [
        dict(index=index, name=name, color=color)
        for index, (name, color) in enumerate(zip(label_names, table, strict=True))
    ]


@functools.lru_cache(maxsize=8)
def _separated_colors(count: int) -> np.ndarray:
    """(count,3) uint8: each colour the farthest from all before it and from greys."""
    levels = np.linspace(0, 255, 12).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    seen = candidates * np.sqrt((2, 4, 3))  # the eye tells greens apart best, then blues
    greys = np.sqrt((2, 4, 3)) * np.linspace(0, 255, 6)[:, None]
    distance = np.linalg.norm(seen[:, None] - greys, axis=-1).min(axis=1)
    chosen = []
    for _ in range(count):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(seen - seen[chosen[-1]], axis=-1))
    return candidates[chosen].astype(np.uint8)


def labels_to_color(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Colours class indices by `label_colors`.

    Args:
      labels: (…,H,W), any integer dtype, 0..num_classes-1 or 255 (ignored: grey stripes).
      num_classes: 1..255.

    Returns:
      (…,H,W,3) uint8 RGB. A label out of range raises ValueError.
    """
    labels, table = np.asarray(labels), label_colors(num_classes)
    expect(
        labels.ndim >= 2 and np.issubdtype(labels.dtype, np.integer),
        "labels",
        labels,
        "an integer array (…,H,W)",
    )
    if not labels.size or (labels.min() >= 0 and labels.max() < num_classes):
        return table.take(labels, axis=0)  # four times as quick as table[labels]
    ignored = labels == IGNORE_LABEL
    wrong = labels[((labels < 0) | (labels >= num_classes)) & ~ignored]
    if wrong.size:
        raise ValueError(f"labels must be 0..{num_classes - 1} or {IGNORE_LABEL}; got {wrong[0]}.")
    rows, columns = np.indices(labels.shape[-2:])
    stripes = np.where((rows + columns) % 6 < 3, *_IGNORED_GREYS).astype(np.uint8)
    return np.where(ignored[..., None], stripes[..., None], table[np.where(ignored, 0, labels)])


def transparent_classes(label_names: Sequence[str]) -> np.ndarray:
    """(K,) bool: the classes that `overlay` leaves out, so that they do not darken the video.

    They are those that are called background, and those whose colour is black.
    """
    named = np.array([name.strip().casefold() == "background" for name in label_names], bool)
    return named | (label_colors(len(label_names)) == 0).all(axis=-1)


def overlay(video: np.ndarray, labels: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Lays the class colours half transparent over the video.

    Voxels that are ignored or of one of the `transparent_classes` show the video alone. `video` is
    (…,H,W,3) uint8 RGB, `labels` (…,H,W) as in `labels_to_color`, `label_names` are K names, index
    = label. Returns (…,H,W,3) uint8 RGB.
    """
    video, color = np.asarray(video), labels_to_color(labels, len(label_names))
    expect(
        video.dtype == np.uint8 and video.shape == color.shape,
        "video",
        video,
        f"uint8 {color.shape}, like the labels",
    )
    left_out = np.ones(IGNORE_LABEL + 1, bool)
    left_out[: len(label_names)] = transparent_classes(label_names)
    over, left_out = half_over(video, color), left_out.take(labels)
    if left_out.any():
        np.copyto(over, video, where=left_out[..., None])
    return over


def half_over(video: np.ndarray, color: np.ndarray) -> np.ndarray:
    """The mean of two (…,3) uint8 RGB, rounded up: one half transparent over the other."""
    return (video | color) - ((video ^ color) >> 1)  # without a carry, which takes wider numbers


def label_legend(
    label_names: Sequence[str], ignored: bool = True, over_video: bool = False
) -> Chips:
    """A chip of its colour before each class name.

    Args:
      label_names: K names, index = label.
      ignored: with ignored voxels at the end.
      over_video: for an `overlay`: what shows the video alone has a checkered chip.
    """
    labels = np.array([*range(len(label_names)), *[IGNORE_LABEL] * ignored])
    cells = np.broadcast_to(labels[:, None, None], (len(labels), TEXT_SIZE, TEXT_SIZE))
    names = (*label_names, *["ignored"] * ignored)
    chips = labels_to_color(cells, len(label_names))
    if over_video:
        rows, columns = np.indices((TEXT_SIZE, TEXT_SIZE)) // 4
        checkered = np.where((rows + columns) % 2, *_CHECKERED_GREYS).astype(np.uint8)
        seen_through = [*transparent_classes(label_names), *[True] * ignored]
        chips[seen_through] = checkered[..., None]
    return Chips(names, chips)


@functools.lru_cache(maxsize=2)
def _color_table(name: str) -> np.ndarray:
    """(256,3) uint8 of one of matplotlib's perceptually uniform colour maps."""
    return np.rint(255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).astype(np.uint8)


def class_heat_maps(probabilities: np.ndarray, label_names: Sequence[str]) -> dict[str, np.ndarray]:
    """The softmax of every class as a heat map, black (0) over red to light yellow (1).

    `panels({"input": video, **class_heat_maps(p, names)}, frames)` is the paper's figure 4.

    Args:
      probabilities: (T,H,W,K) real, in 0..1; anything beyond (logits) raises ValueError.
      label_names: K different class names, index = label.

    Returns:
      Class name -> (T,H,W,3) uint8 RGB, in the order of the names.
    """
    p, names = np.asarray(probabilities), list(label_names)
    expect(
        p.ndim == 4 and p.shape[-1] == len(set(names)) == len(names) and _is_real(p),
        "probabilities",
        p,
        f"real (T,H,W,K), K = {len(names)} different names",
    )
    p = p.astype(np.float32)
    if not np.all((p >= -0.01) & (p <= 1.01)):  # a low precision may round beyond 1
        raise ValueError("probabilities must be in 0..1: apply the softmax to the logits first.")
    heat = _color_table(_HEAT_MAP)[np.rint(255 * np.clip(p, 0, 1)).astype(np.int64)]
    return {name: heat[..., k, :] for k, name in enumerate(names)}


def depth_range(depth: np.ndarray) -> tuple[float, float]:
    """The range that shows a depth well: the 1st and 99th percentile of the depths that exist.

    `depth` is in metres, of any shape; not finite or <= 0 means "none". Returns (near, far) in
    metres, 0 < near < far; (1, 2) where there is no depth at all.
    """
    depth = np.asarray(depth)
    expect(_is_real(depth), "depth", depth, "a real array")
    depth = depth[np.isfinite(depth) & (depth > 0)].astype(np.float64)
    near, far = np.percentile(depth, (1, 99)) if depth.size else (1.0, 2.0)
    return float(near), float(max(far, near * 1.001))


def depth_to_color(
    depth: np.ndarray, near: float | None = None, far: float | None = None
) -> np.ndarray:
    """Colours depth on a logarithmic scale: near is yellow, far is blue, none is black.

    Args:
      depth: (…,H,W) real, metres along the optical axis; not finite or <= 0 means "none".
      near, far: metres at the ends of the scale, beyond which the colour stays; None takes them
        from `depth_range(depth)`. Give prediction and truth the same two values.

    Returns:
      (…,H,W,3) uint8 RGB.
    """
    depth = np.asarray(depth)
    expect(depth.ndim >= 2 and _is_real(depth), "depth", depth, "a real array (…,H,W)")
    measured = depth_range(depth)
    near, far = measured[0] if near is None else near, measured[1] if far is None else far
    if not 0 < near < far < np.inf:
        raise ValueError(f"near and far must be metres with 0 < near < far; got {near}, {far}.")
    known = np.isfinite(depth) & (depth > 0)
    nearness = np.log(far / np.where(known, depth, far).astype(np.float64)) / np.log(far / near)
    index = np.rint(255 * np.clip(nearness, 0, 1)).astype(np.int64)
    return np.where(known[..., None], _color_table(_DEPTH_MAP)[index], 0).astype(np.uint8)


def depth_legend(near: float, far: float) -> ColorBar:
    """The scale of `depth_to_color`, with numbers in metres."""
    bar = depth_to_color(np.geomspace(near, far, 256)[None], near, far)[0]
    ticks = [f"{tick:.3g} m" for tick in np.geomspace(near, far, 5)]
    return ColorBar(bar, _beyond(ticks))


def scalar_to_color(values: np.ndarray, least: float, most: float) -> np.ndarray:
    """Colours any quantity on a linear scale: `least` is blue, `most` yellow, not finite black.

    Args:
      values: (…,H,W) real.
      least, most: the ends of the scale, beyond which the colour stays.

    Returns:
      (…,H,W,3) uint8 RGB.
    """
    values = np.asarray(values)
    expect(values.ndim >= 2 and _is_real(values), "values", values, "a real array (…,H,W)")
    if not -np.inf < least <= most < np.inf:
        raise ValueError(f"least and most must be numbers with least <= most; got {least}, {most}.")
    known = np.isfinite(values)
    share = (np.where(known, values, least).astype(np.float64) - least) / ((most - least) or 1.0)
    index = np.rint(255 * np.clip(share, 0, 1)).astype(np.int64)
    return np.where(known[..., None], _color_table(_DEPTH_MAP)[index], 0).astype(np.uint8)


def scalar_legend(least: float, most: float) -> ColorBar:
    """The scale of `scalar_to_color`, with its numbers."""
    ticks = [f"{tick:.3g}" for tick in np.linspace(least, most, 5)]
    return ColorBar(_color_table(_DEPTH_MAP), _beyond(ticks))


def _beyond(ticks: Sequence[str]) -> list[str]:
    """Numbers of a scale whose colours stay beyond its ends."""
    return [f"≤ {ticks[0]}", *ticks[1:-1], f"≥ {ticks[-1]}"]


def probability_legend() -> ColorBar:
    """The scale of `class_heat_maps`, 0 to 1."""
    return ColorBar(_color_table(_HEAT_MAP), ["0", "0.25", "0.5", "0.75", "1"])
