"""Brox's optical flow, the teacher that made the paper's flow labels.

Source: Brox, Bruhn, Papenberg, Weickert, *High Accuracy Optical Flow Estimation Based on a Theory
for Warping*, ECCV 2004. The energy to minimise is, over pixels,

    ψ(q0² + γ (q1² + q2²)) + α ψ(|∇u|² + |∇v|²),   ψ(s²) = √(s² + 1e-6),

where q0 is the linearised difference of the two frames' grey values and q1, q2 those of their
x- and y-derivatives. Filters, borders, pyramid and solver are those of OpenCV's CUDA program, whose
labels the paper used: one warp a pyramid level and red-black successive over-relaxation.

Here are the function itself, the pyramid and the resampling; level.py has what happens at one
level, kernels.py the same for NVIDIA GPUs.

Levels of similar size lie in the upper left corner of one array of even size, their canvas, and one
compiled `lax.scan` solves them; what it does at a border depends on the level's true size, a traced
number. Compiling each level of its own takes five times as long.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from v2v_jax.brox import kernels, level

MIN_SIZE = 16  # pixels a side
COARSEST = 15  # the pyramid ends with the first level that has a side as short as this
# How much padding a group of levels may add to save compilations; 1 is the area of the frames.
MAX_PADDING = 0.7
MAX_PADDING_ON_ACCELERATORS = 0.3

# Parameters for brox_flow that find flow better than OpenCV's; docs/records/brox.md compares them.
ACCURATE = {"warps": 5, "inner": 3, "warped_levels": 9}

Size = tuple[int, int]  # H, W


def brox_flow(
    frame0: jax.Array,
    frame1: jax.Array,
    *,
    alpha: float = 0.197,
    gamma: float = 50.0,
    scale: float = 0.8,
    inner: int = 10,
    outer: int = 77,
    solver: int = 10,
    warps: int = 1,
    warped_levels: int = 77,
) -> jax.Array:
    """Flow from `frame0` to `frame1` (Brox et al., ECCV 2004, as OpenCV's CUDA code does it).

    The defaults are the labels' parameters; `**ACCURATE` gives better flow. A new shape, scale,
    outer or warped_levels compiles anew, on accelerators other counts too. No gradient flows
    through it.

    Args:
      frame0, frame1: (H,W) or (B,H,W) float grey in [0,1], sides of 16 pixels or more.
      alpha: weight of the smoothness of the flow, > 0.
      gamma: weight of the constancy of the image's gradient, ≥ 0.
      scale: of a pyramid level to the next finer one, 0 < scale < 1.
      inner: recomputations of the robust weights a warp.
      outer: limit on the number of pyramid levels (OpenCV's name).
      solver: red-black sweeps for one set of weights.
      warps: times frame 1 is warped, a level; OpenCV has 1, more find the motion better.
      warped_levels: the finest levels, which have so many warps. A coarser one has a single warp,
        and warps · inner recomputations: more of them can lead it to far too large motion.

    Returns:
      (H,W,2) or (B,H,W,2) float32 (u right, v down), pixels: frame0[y,x] lies at
      frame1[y + v, x + u].

    Raises:
      ValueError: the frames' shapes, dtypes or values, or a parameter, are none of the above.
        Values are looked at only outside of `jax.jit`, where they are known.
    """
    counts = {"inner": inner, "outer": outer, "solver": solver, "warps": warps}
    _check_parameters(alpha, gamma, scale, warped_levels=warped_levels, **counts)
    frame0, frame1 = (x if isinstance(x, jax.Array) else np.asarray(x) for x in (frame0, frame1))
    _check_frames(frame0, frame1)
    frames = lax.stop_gradient(jnp.stack([jnp.asarray(x, jnp.float32) for x in (frame0, frame1)]))
    on_cpu = jax.default_backend() == "cpu"
    solve = functools.partial(
        # Other counts need no compilation on CPUs; the other compilers make use of them.
        _flow_of_any_counts if on_cpu else _flow_of_known_counts,
        alpha=jnp.float32(alpha),
        gamma=jnp.float32(gamma),
        scale=float(scale),
        warped_levels=int(warped_levels),
        **{name: int(count) for name, count in counts.items()},
        max_padding=MAX_PADDING if on_cpu else MAX_PADDING_ON_ACCELERATORS,
        minimise=(kernels if kernels.available() else level).minimise,
    )
    if frames.ndim == 3:
        return solve(frames[:, None])[0]
    if isinstance(frames, jax.core.Tracer):
        return solve(frames)
    # A CPU takes one pair after the other, whose fields stay in its cache. The iteration amplifies
    # rounding errors ten thousandfold: only the same program gives a batch exactly what pairs get.
    pairs = frames.shape[1]
    step = 1 if on_cpu else kernels.most_pairs(frames.shape[2:])
    parts = [solve(frames[:, k : k + step]) for k in range(0, pairs, step)]
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def grey_of_rgb(rgb: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """The grey values that Brox's method expects: OpenCV's conversion of 8-bit frames, over 255.

    Other roundings of the same weights move the flow by 0.018 px on the mean.

    Args:
      rgb: (…,3) uint8.

    Returns:
      (…) float32 in [0,1], floor((9797 R + 19234 G + 3737 B) / 2^15) / 255; NumPy for NumPy.

    Raises:
      ValueError: not uint8, or not of three channels.
    """
    if rgb.dtype != np.uint8 or rgb.ndim < 1 or rgb.shape[-1] != 3:
        raise ValueError(f"grey_of_rgb: RGB is (…,3) uint8, not {rgb.shape} {rgb.dtype}.")
    r, g, b = (rgb[..., k].astype(np.int32) for k in range(3))
    return ((9797 * r + 19234 * g + 3737 * b) >> 15).astype(np.float32) / np.float32(255)


def _check_parameters(alpha: float, gamma: float, scale: float, **counts: int) -> None:
    if not 0 < alpha < math.inf:
        raise ValueError(f"brox_flow: alpha must be a positive number, not {alpha}.")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"brox_flow: gamma must be zero or a positive number, not {gamma}.")
    if not 0 < scale < 1:
        raise ValueError(f"brox_flow: scale must lie between 0 and 1, not {scale}.")
    for name, count in counts.items():
        if count != int(count) or count < 1:
            raise ValueError(f"brox_flow: {name} must be a whole number from 1, not {count}.")


def _check_frames(frame0: jax.Array, frame1: jax.Array) -> None:
    shape = frame0.shape
    if shape != frame1.shape:
        raise ValueError(f"brox_flow: the frames' shapes differ, {shape} and {frame1.shape}.")
    if len(shape) not in (2, 3):
        raise ValueError(f"brox_flow: frames are (H,W) or (B,H,W) grey, not {shape}.")
    if min(shape[-2:]) < MIN_SIZE or 0 in shape:
        raise ValueError(
            f"brox_flow: frames need {MIN_SIZE} pixels a side or more and a batch that is not "
            f"empty, not {shape}."
        )
    for name, frame in (("frame0", frame0), ("frame1", frame1)):
        if not jnp.issubdtype(frame.dtype, jnp.floating):
            raise ValueError(f"brox_flow: {name} must be float grey in [0,1], not {frame.dtype}.")
        if isinstance(frame, jax.core.Tracer):
            continue
        low, high = float(frame.min()), float(frame.max())
        # A resized frame may overshoot by a rounding error. A NaN fails every comparison.
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(
                f"brox_flow: {name} must be grey in [0,1], but its values are {low:g} to {high:g}."
            )


def _flow(
    frames: jax.Array,
    alpha: jax.Array,
    gamma: jax.Array,
    *,
    scale: float,
    outer: int,
    warped_levels: int,
    warps: int | jax.Array,
    inner: int | jax.Array,
    max_padding: float,
    **options: Callable[..., jax.Array] | int | jax.Array,
) -> jax.Array:
    """(2,B,H,W) float32 → (B,H,W,2), from the coarsest level to the finest."""
    solve = functools.partial(level.solve, alpha=alpha, gamma=gamma, **options)
    sizes = pyramid_sizes(frames.shape[-2:], scale, outer)
    pyramid = [frames]
    for (h, w), (next_h, next_w) in zip(sizes, sizes[1:]):
        down = shrinking(h, next_h, scale), shrinking(w, next_w, scale)
        pyramid.append(_resample(pyramid[-1], *map(_taps, down)))

    def step(flow, level, **counts):
        frames, size, up = level
        flow = _resample(flow, *up) / scale
        return solve(frames, flow, size, **counts), None

    flow = jnp.zeros((2, frames.shape[1], 0, 0))
    for group in reversed(_groups(sizes, max_padding, warped_levels)):
        canvas = tuple(n + n % 2 for n in sizes[group[0]])
        levels = group[::-1]
        ups = [_enlarging_taps(sizes, k, canvas, scale) for k in levels]
        inputs = (
            jnp.stack([_to_canvas(pyramid[k], canvas) for k in levels]),
            np.array([sizes[k] for k in levels], np.int32),
            jax.tree.map(lambda *x: np.stack(x), *ups),
        )
        counts = {"warps": warps, "inner": inner}
        if group[0] >= warped_levels:
            counts = {"warps": 1, "inner": warps * inner}
        flow, _ = lax.scan(functools.partial(step, **counts), _to_canvas(flow, canvas), inputs)
    h, w = sizes[0]
    return jnp.moveaxis(flow[:, :, :h, :w], 0, -1)


_STATIC = ("scale", "outer", "warped_levels", "max_padding", "minimise")
_flow_of_any_counts = jax.jit(_flow, static_argnames=_STATIC)
_flow_of_known_counts = jax.jit(_flow, static_argnames=(*_STATIC, "inner", "solver", "warps"))


def pyramid_sizes(size: Size, scale: float, outer: int) -> list[Size]:
    """Sizes of the levels, the finest first: ceil(size · scale^k), the power in float32."""
    sizes, power = [tuple(size)], np.float32(1)
    while min(sizes[-1]) > COARSEST and len(sizes) < outer:
        power = np.float32(power * np.float32(scale))
        sizes.append(tuple(math.ceil(np.float32(n) * power) for n in size))
    return sizes


def _groups(sizes: list[Size], max_padding: float, split: int) -> list[list[int]]:
    """Levels that share a canvas, the finest first; with level `split` a group begins."""
    area = [h * w for h, w in sizes]
    groups: list[list[int]] = []
    padding = math.inf
    for k in range(len(sizes)):
        padding += area[groups[-1][0]] - area[k] if groups else 0
        if padding > max_padding * area[0] or k == split:
            groups.append([])
            padding = 0
        groups[-1].append(k)
    return groups


def _to_canvas(x: jax.Array, canvas: Size) -> jax.Array:
    """(…,h,w) → (…,H,W): zeros to the right and below."""
    pad = [(0, 0)] * (x.ndim - 2) + [(0, n - m) for n, m in zip(canvas, x.shape[-2:])]
    return jnp.pad(x, pad)


# ---- Resampling ---------------------------------------------------------------------------------


def shrinking(n: int, m: int, scale: float) -> np.ndarray:
    """(m,n) float32: pixel i is the mean over x ± 1/scale, x = i/scale, as far as inside."""
    step = 1 / scale
    weights = np.zeros((m, n))
    for i in range(m):
        begin, end = max(step * (i - 1), 0), min(step * (i + 1), n - 1)
        first, last = math.floor(begin), math.ceil(end)
        weights[i, first + 1 : last] = 1
        weights[i, first] = 1 - begin + first
        weights[i, last] += last - end
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def enlarging(n: int, m: int, scale: float) -> np.ndarray:
    """(m,n) float32: Catmull-Rom at x = scale·i, of the taps inside, divided by their sum."""
    x = np.float32(scale) * np.arange(m, dtype=np.float32)
    x = np.minimum(x, n - 0.01)  # at n no tap would have a weight; only rounding leads there
    d = np.abs(x[:, None] - np.arange(n))
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _taps(matrix: np.ndarray, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A banded matrix (m,n) → columns (m,T) int32 and weights (m,T) of `count` entries a row."""
    m, n = matrix.shape
    first = (matrix != 0).argmax(1)
    last = n - 1 - (matrix != 0)[:, ::-1].argmax(1)
    count = count or int((last - first).max()) + 1
    at = first[:, None] + np.arange(count)
    inside = np.minimum(at, n - 1)
    weights = np.where(at < n, matrix[np.arange(m)[:, None], inside], 0)
    return inside.astype(np.int32), weights.astype(np.float32)


def _enlarging_taps(sizes: list[Size], k: int, canvas: Size, scale: float) -> tuple:
    """From level k+1 to k, for the rows and the columns of the canvas; weights 0 outside."""
    taps = []
    for axis in (0, 1):
        index = np.zeros((canvas[axis], 4), np.int32)
        weights = np.zeros((canvas[axis], 4), np.float32)
        if k + 1 < len(sizes):  # the coarsest level begins with zero flow
            n, m = sizes[k + 1][axis], sizes[k][axis]
            index[:m], weights[:m] = _taps(enlarging(n, m, scale), 4)
        taps.append((index, weights))
    return tuple(taps)


def _resample(x: jax.Array, rows: tuple, columns: tuple) -> jax.Array:
    """(…,h,w) → (…,H,W) by the taps of rows and of columns.

    Not as matrix products, for which a GPU's compiler tries out dozens of programs each.
    """
    for (index, weights), axis in ((columns, x.ndim - 1), (rows, x.ndim - 2)):
        index, weights = jnp.asarray(index), jnp.asarray(weights)
        weights = weights if axis == x.ndim - 1 else weights[:, None]

        def add(t, total, x=x, axis=axis, index=index, weights=weights):
            taken = jnp.take(x, index[:, t], axis=axis, mode="clip")
            return total + weights[:, ..., t] * taken

        count = index.shape[1]
        shape = (*x.shape[:axis], index.shape[0], *x.shape[axis + 1 :])
        x = jnp.zeros(shape, x.dtype)
        if count <= 8:
            for t in range(count):
                x = add(t, x)
        else:
            x = lax.fori_loop(0, count, add, x)
        x = lax.optimization_barrier(x)  # or each pass is computed anew for each tap of the next
    return x
