"""Brox's optical flow, the teacher that made the paper's flow labels.

Source: Brox, Bruhn, Papenberg, Weickert, *High Accuracy Optical Flow Estimation Based on a Theory
for Warping*, ECCV 2004. The energy to minimise is, over pixels,

    ψ(q0² + γ (q1² + q2²)) + α ψ(|∇u|² + |∇v|²),   ψ(s²) = √(s² + 1e-6),

where q0 is the linearised difference of the two frames' grey values and q1, q2 those of their
x- and y-derivatives. Filters, borders, pyramid and solver are those of OpenCV's CUDA program, whose
labels the paper used: one warp a pyramid level and red-black successive over-relaxation.

How it is arranged here:

* **Canvas.** Levels of similar size lie in the upper left corner of one array of even size, their
  canvas, and one compiled `lax.scan` solves them; what it does at a border depends on the level's
  true size, a traced number. Compiling each level of its own takes five times as long.
* **Planes.** The solver holds every field as four planes, by the parity of row and column.
  A pixel's neighbours then lie in two other planes at the same place or one beside it, half a
  red-black sweep touches only the pixels it changes, and all access is contiguous.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

MIN_SIZE = 16  # pixels a side
EPSILON = 1e-6  # in ψ
OMEGA = 1.99  # over-relaxation
COARSEST = 15  # the pyramid ends with the first level that has a side as short as this
# How much padding a group of levels may add to save compilations; 1 is the area of the frames.
MAX_PADDING = 0.7
# Weights of the pixels at -2, -1, 1, 2: a fourth-order difference.
DERIVATIVE = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}

Size = tuple[int, int]  # H, W
# The planes of u and those of v. Four planes are those of (even row, even column), (even, odd),
# (odd, even), (odd, odd), each (B,H/2,W/2): separate arrays, as a sweep replaces one at a time.
Flow = tuple[tuple[jax.Array, ...], ...]


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
) -> jax.Array:
    """Flow from `frame0` to `frame1` (Brox et al., ECCV 2004, as OpenCV's CUDA code does it).

    The defaults are the labels' parameters. A new shape, or another scale, inner, outer, solver or
    warps, compiles anew. No gradient flows through it.

    Args:
      frame0, frame1: (H,W) or (B,H,W) float grey in [0,1], sides of 16 pixels or more.
      alpha: weight of the smoothness of the flow, > 0.
      gamma: weight of the constancy of the image's gradient, ≥ 0.
      scale: of a pyramid level to the next finer one, 0 < scale < 1.
      inner: recomputations of the robust weights a warp.
      outer: limit on the number of pyramid levels (OpenCV's name).
      solver: red-black sweeps for one set of weights.
      warps: times frame 1 is warped a level; OpenCV has 1, more find the motion better.

    Returns:
      (H,W,2) or (B,H,W,2) float32 (u right, v down), pixels: frame0[y,x] lies at
      frame1[y + v, x + u].

    Raises:
      ValueError: the frames' shapes, dtypes or values, or a parameter, are none of the above.
        Values are looked at only outside of `jax.jit`, where they are known.
    """
    _check_parameters(alpha, gamma, scale, inner=inner, outer=outer, solver=solver, warps=warps)
    frame0, frame1 = (x if isinstance(x, jax.Array) else np.asarray(x) for x in (frame0, frame1))
    _check_frames(frame0, frame1)
    frames = lax.stop_gradient(jnp.stack([jnp.asarray(x, jnp.float32) for x in (frame0, frame1)]))
    solve = functools.partial(
        _flow,
        alpha=jnp.float32(alpha),
        gamma=jnp.float32(gamma),
        scale=float(scale),
        inner=int(inner),
        outer=int(outer),
        solver=int(solver),
        warps=int(warps),
    )
    if frames.ndim == 3:
        return solve(frames[:, None])[0]
    if isinstance(frames, jax.core.Tracer) or jax.default_backend() != "cpu":
        return solve(frames)
    # A CPU takes one pair after the other, whose fields stay in its cache. The iteration amplifies
    # rounding errors ten thousandfold: only the same program gives a batch exactly what pairs get.
    return jnp.concatenate([solve(frames[:, k : k + 1]) for k in range(frames.shape[1])])


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


@functools.partial(jax.jit, static_argnames=("scale", "inner", "outer", "solver", "warps"))
def _flow(
    frames: jax.Array,
    alpha: jax.Array,
    gamma: jax.Array,
    *,
    scale: float,
    outer: int,
    **counts: int,
) -> jax.Array:
    """(2,B,H,W) float32 → (B,H,W,2), from the coarsest level to the finest; `counts`: loops."""
    sizes = pyramid_sizes(frames.shape[-2:], scale, outer)
    pyramid = [frames]
    for (h, w), (next_h, next_w) in zip(sizes, sizes[1:]):
        down = shrinking(h, next_h, scale), shrinking(w, next_w, scale)
        pyramid.append(_resample(pyramid[-1], *down))

    def step(flow, level):
        frames, size, up = level
        flow = _resample(flow, *up) / scale
        return _solve_level(frames, flow, size, alpha=alpha, gamma=gamma, **counts), None

    flow = jnp.zeros((2, frames.shape[1], 0, 0))
    for group in reversed(_groups(sizes)):
        canvas = tuple(n + n % 2 for n in sizes[group[0]])
        levels = group[::-1]
        ups = [_enlarging_matrices(sizes, k, canvas, scale) for k in levels]
        inputs = (
            jnp.stack([_to_canvas(pyramid[k], canvas) for k in levels]),
            np.array([sizes[k] for k in levels], np.int32),
            jax.tree.map(lambda *x: np.stack(x), *ups),
        )
        flow, _ = lax.scan(step, _to_canvas(flow, canvas), inputs)
    h, w = sizes[0]
    return jnp.moveaxis(flow[:, :, :h, :w], 0, -1)


def pyramid_sizes(size: Size, scale: float, outer: int) -> list[Size]:
    """Sizes of the levels, the finest first: ceil(size · scale^k), the power in float32."""
    sizes, power = [tuple(size)], np.float32(1)
    while min(sizes[-1]) > COARSEST and len(sizes) < outer:
        power = np.float32(power * np.float32(scale))
        sizes.append(tuple(math.ceil(np.float32(n) * power) for n in size))
    return sizes


def _groups(sizes: list[Size]) -> list[list[int]]:
    """Levels that share a canvas, the finest first, within MAX_PADDING."""
    area = [h * w for h, w in sizes]
    groups: list[list[int]] = []
    padding = math.inf
    for k in range(len(sizes)):
        padding += area[groups[-1][0]] - area[k] if groups else 0
        if padding > MAX_PADDING * area[0]:
            groups.append([])
            padding = 0
        groups[-1].append(k)
    return groups


def _to_canvas(x: jax.Array, canvas: Size) -> jax.Array:
    """(…,h,w) → (…,H,W): zeros to the right and below."""
    pad = [(0, 0)] * (x.ndim - 2) + [(0, n - m) for n, m in zip(canvas, x.shape[-2:])]
    return jnp.pad(x, pad)


# ---- Resampling: small constant matrices --------------------------------------------------------


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


def _enlarging_matrices(
    sizes: list[Size], k: int, canvas: Size, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """From level k+1 to k for rows (H,H) and columns (W,W) of the canvas; zero outside of them."""
    matrices = []
    for axis in (0, 1):
        padded = np.zeros((canvas[axis],) * 2, np.float32)
        if k + 1 < len(sizes):  # the coarsest level begins with zero flow
            n, m = sizes[k + 1][axis], sizes[k][axis]
            padded[:m, :n] = enlarging(n, m, scale)
        matrices.append(padded)
    return matrices[0], matrices[1]


def _resample(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """(…,h,w) → (…,H,W) by rows (H,h) and columns (W,w); full float32 on every accelerator."""
    product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    return product("Hh,...hw->...Hw", rows, product("...hw,Ww->...hW", x, columns))


# ---- One level ----------------------------------------------------------------------------------


def _solve_level(
    frames: jax.Array,
    flow: jax.Array,
    size: jax.Array,
    *,
    alpha: jax.Array,
    gamma: jax.Array,
    inner: int,
    solver: int,
    warps: int,
) -> jax.Array:
    """Improves the flow at one level.

    Args:
      frames: (2,B,H,W), two frames on a canvas.
      flow: (2,B,H,W), u and v, zero outside of the level's size.
      size: (2,) int32, the level's h and w.

    Returns:
      (2,B,H,W), zero outside.
    """
    derivatives0, derivatives1 = _derivatives(frames[0], size), _derivatives(frames[1], size)

    def warp(_, flow):
        terms = _data_terms(derivatives0, derivatives1, flow, size)
        planes = _split(flow)
        start = tuple(tuple(planes[p, k] for p in range(4)) for k in range(2))

        def reweight(_, flow):
            system = _linear_system(terms, start, flow, size, alpha, gamma)
            sweep = functools.partial(_sweep, system)
            return lax.fori_loop(0, solver, lambda _, planes: sweep(planes), flow)

        return jnp.stack(_join(lax.fori_loop(0, inner, reweight, start)))

    return lax.fori_loop(0, warps, warp, flow)


def _derivatives(frame: jax.Array, size: jax.Array) -> jax.Array:
    """(B,H,W) → (B,H,W,6): I, Ix, Iy, Ixx, Ixy, Iyy."""
    dx = functools.partial(_derivative, axis=2, n=size[1])
    dy = functools.partial(_derivative, axis=1, n=size[0])
    ix, iy = dx(frame), dy(frame)
    return jnp.stack([frame, ix, iy, dx(ix), dx(iy), dy(iy)], -1)


def _derivative(x: jax.Array, *, axis: int, n: jax.Array) -> jax.Array:
    """The filter's borders: n+i stands for n-1-i, but -1 for 2 and -2 for 3, as OpenCV has it."""
    length = x.shape[axis]
    i = jnp.arange(-2, length + 2)
    i = jnp.where(i < 0, 1 - i, jnp.where(i >= n, 2 * n - 1 - i, i))
    padded = jnp.take(x, jnp.clip(i, 0, n - 1), axis=axis)
    return sum(
        weight * lax.slice_in_dim(padded, 2 + offset, 2 + offset + length, axis=axis)
        for offset, weight in DERIVATIVE.items()
    )


def _data_terms(
    derivatives0: jax.Array, derivatives1: jax.Array, flow: jax.Array, size: jax.Array
) -> jax.Array:
    """Frame 1 warped by the flow, less frame 0 → planes of Iz, Ixz, Iyz, Ix, Iy, Ixx, Ixy, Iyy.

    Returns (4,8,B,H/2,W/2), zero outside of the level's size: no data there, so no flow.
    """
    warped = _warp(derivatives1, flow, size)
    differences = warped[..., :3] - derivatives0[..., :3]
    terms = jnp.moveaxis(jnp.concatenate([differences, warped[..., 1:]], -1), -1, 0)
    inside = (_rows(terms) < size[0]) & (_columns(terms) < size[1])
    return _split(jnp.where(inside, terms, 0))


def _warp(x: jax.Array, flow: jax.Array, size: jax.Array) -> jax.Array:
    """x (B,H,W,C), bilinear at each pixel plus flow (2,B,H,W); mirrored half a pixel outside."""
    b, h, w, c = x.shape
    at_y, at_x = _rows(flow[1]) + flow[1], _columns(flow[0]) + flow[0]
    y, x_ = jnp.floor(at_y), jnp.floor(at_x)
    fy, fx = (at_y - y)[..., None], (at_x - x_)[..., None]
    y, x_ = y.astype(jnp.int32), x_.astype(jnp.int32)
    pixels = x.reshape(b, h * w, c)

    def pixel(dy: int, dx: int) -> jax.Array:
        place = _mirror(y + dy, size[0]) * w + _mirror(x_ + dx, size[1])
        return jnp.take_along_axis(pixels, place.reshape(b, h * w, 1), axis=1).reshape(x.shape)

    upper = (1 - fx) * pixel(0, 0) + fx * pixel(0, 1)
    lower = (1 - fx) * pixel(1, 0) + fx * pixel(1, 1)
    return (1 - fy) * upper + fy * lower


def _mirror(i: jax.Array, n: jax.Array) -> jax.Array:
    i = jnp.mod(i, 2 * n)
    return jnp.minimum(i, 2 * n - 1 - i)


def _linear_system(
    terms: jax.Array,
    start: Flow,
    flow: Flow,
    size: jax.Array,
    alpha: jax.Array,
    gamma: jax.Array,
) -> tuple[jax.Array, ...]:
    """The robust weights at `flow` and with them the equations of a pixel.

    With D the data weight, s the edge weights to the four neighbours and S their sum, at a pixel

        (D a + S) u + D c v = Σ s u_neighbour + bu,   (D d + S) v + D c u = Σ s v_neighbour + bv.

    The unknowns are the whole flow and not its increment: a sweep reads two fields fewer.

    Returns:
      left, up (edge weights to those neighbours), D c, bu, bv, 1/(D a + S), 1/(D d + S),
      each (4,B,H/2,W/2).
    """
    iz, ixz, iyz, ix, iy, ixx, ixy, iyy = (terms[:, k] for k in range(8))
    (u0, v0), (u, v) = start, flow
    u0, v0 = jnp.stack(u0), jnp.stack(v0)
    du, dv = jnp.stack(u) - u0, jnp.stack(v) - v0
    q0 = iz + ix * du + iy * dv
    q1 = ixz + ixx * du + ixy * dv
    q2 = iyz + ixy * du + iyy * dv
    data = 0.5 / alpha * lax.rsqrt(q0 * q0 + gamma * (q1 * q1 + q2 * q2) + EPSILON)
    a = data * (ix * ix + gamma * (ixx * ixx + ixy * ixy))
    d = data * (iy * iy + gamma * (iyy * iyy + ixy * ixy))
    c = data * (ix * iy + gamma * ixy * (ixx + iyy))
    bu = a * u0 + c * v0 - data * (ix * iz + gamma * (ixx * ixz + ixy * iyz))
    bv = d * v0 + c * u0 - data * (iy * iz + gamma * (ixy * ixz + iyy * iyz))
    edges = _split(jnp.stack(_edge_weights(*_join(flow), size)))
    left, up, total = (edges[:, k] for k in range(3))
    # Outside of the level both a and the edge weights are 0.
    inverse_u, inverse_v = 1 / jnp.maximum(a + total, 1e-12), 1 / jnp.maximum(d + total, 1e-12)
    return left, up, c, bu, bv, inverse_u, inverse_v


def _edge_weights(u: jax.Array, v: jax.Array, size: jax.Array) -> tuple[jax.Array, ...]:
    """Diffusivities on the pixels' edges: to the left neighbour, the upper one, sum of all four.

    u, v: (B,H,W) → three of (B,H,W); 0 on the outer border and outside of it.
    """
    rows, columns = _rows(u), _columns(u)
    inside = (rows < size[0]) & (columns < size[1])
    across, along = [], []
    for f in (u, v):
        # Central differences, twice; the border's pixels are repeated beyond it.
        dx = jnp.where(columns == size[1] - 1, f, _from_right(f)) - _from_left(f, f[:, :, :1])
        dy = jnp.where(rows == size[0] - 1, f, _from_below(f)) - _from_above(f, f[:, :1])
        along.append((f - _from_left(f)) ** 2 + (0.25 * (dy + _from_left(dy))) ** 2)
        across.append((f - _from_above(f)) ** 2 + (0.25 * (dx + _from_above(dx))) ** 2)
    left = jnp.where(inside & (columns > 0), 0.5 * lax.rsqrt(sum(along) + EPSILON), 0)
    up = jnp.where(inside & (rows > 0), 0.5 * lax.rsqrt(sum(across) + EPSILON), 0)
    return left, up, left + up + _from_right(left) + _from_below(up)


def _sweep(system: tuple[jax.Array, ...], flow: Flow) -> Flow:
    """One red-black sweep: the pixels with even i+j, then the others; at each u, then v."""
    us, vs = list(flow[0]), list(flow[1])
    for plane in (0, 3, 1, 2):  # a colour's two planes do not touch each other
        left, up, c, bu, bv, inverse_u, inverse_v = system
        # A pixel's right edge is its right neighbour's left edge.
        weights = left[plane], _neighbours(left, plane)[1], up[plane], _neighbours(up, plane)[3]
        u, v = us[plane], vs[plane]
        pull = _weighted_sum(weights, _neighbours(us, plane))
        u = u + OMEGA * (inverse_u[plane] * (pull + bu[plane] - c[plane] * v) - u)
        pull = _weighted_sum(weights, _neighbours(vs, plane))
        v = v + OMEGA * (inverse_v[plane] * (pull + bv[plane] - c[plane] * u) - v)
        us[plane], vs[plane] = u, v
    return tuple(us), tuple(vs)


def _neighbours(planes: Sequence[jax.Array], plane: int) -> tuple[jax.Array, ...]:
    """Left, right, upper and lower neighbours of one plane's pixels; 0 outside of the canvas."""
    row, column = divmod(plane, 2)
    beside, over = planes[2 * row + 1 - column], planes[2 * (1 - row) + column]
    return (
        beside if column else _from_left(beside),
        _from_right(beside) if column else beside,
        over if row else _from_above(over),
        _from_below(over) if row else over,
    )


def _weighted_sum(weights: Sequence[jax.Array], values: Sequence[jax.Array]) -> jax.Array:
    return sum(weight * value for weight, value in zip(weights, values))


# ---- Arrays -------------------------------------------------------------------------------------


def _split(x: jax.Array) -> jax.Array:
    """(…,H,W) of even size → planes (4,…,H/2,W/2), as `Flow` has them."""
    *rest, h, w = x.shape
    x = jnp.moveaxis(x.reshape(*rest, h // 2, 2, w // 2, 2), (-3, -1), (0, 1))
    return x.reshape(4, *rest, h // 2, w // 2)


def _join(flow: Flow) -> list[jax.Array]:
    """The inverse, of u and v: (B,H,W) each."""
    joined = []
    for ee, eo, oe, oo in flow:
        b, h, w = ee.shape
        rows = jnp.stack([jnp.stack([ee, eo], -1), jnp.stack([oe, oo], -1)], 2)
        joined.append(rows.reshape(b, 2 * h, 2 * w))
    return joined


def _rows(x: jax.Array) -> jax.Array:
    """(…,H,W) → (H,1): 0, 1, …"""
    return jnp.arange(x.shape[-2])[:, None]


def _columns(x: jax.Array) -> jax.Array:
    return jnp.arange(x.shape[-1])[None]


def _from_left(x: jax.Array, first: jax.Array | float = 0.0) -> jax.Array:
    """x (B,H,W) → at each pixel its left neighbour's value, `first` in the first column."""
    return jnp.concatenate([jnp.broadcast_to(first, x[:, :, :1].shape), x[:, :, :-1]], 2)


def _from_above(x: jax.Array, first: jax.Array | float = 0.0) -> jax.Array:
    return jnp.concatenate([jnp.broadcast_to(first, x[:, :1].shape), x[:, :-1]], 1)


def _from_right(x: jax.Array) -> jax.Array:
    return jnp.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1)))


def _from_below(x: jax.Array) -> jax.Array:
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
