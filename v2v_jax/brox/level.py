"""One pyramid level of Brox's method: derivatives, warping, robust weights, red-black sweeps.

A level lies in the upper left corner of a larger array of even size; `size` is its own.

`minimise` holds every field as four planes, by the parity of row and column. A pixel's neighbours
then lie in two other planes at the same place or one beside it, half a red-black sweep touches only
the pixels it changes, and all access is contiguous.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-6  # in ψ
OMEGA = 1.99  # over-relaxation
# Weights of the pixels at -2, -1, 1, 2: a fourth-order difference.
DERIVATIVE = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}

# The planes of u and those of v. Four planes are those of (even row, even column), (even, odd),
# (odd, even), (odd, odd), each (B,H/2,W/2): separate arrays, as a sweep replaces one at a time.
Flow = tuple[tuple[jax.Array, ...], ...]


def solve(
    frames: jax.Array,
    flow: jax.Array,
    size: jax.Array,
    *,
    warps: int | jax.Array,
    minimise: Callable[..., jax.Array],
    **parameters: float | jax.Array,
) -> jax.Array:
    """Improves the flow at one level.

    Args:
      frames: (2,B,H,W), two frames.
      flow: (2,B,H,W), u and v, zero outside of the level's size.
      size: (2,) int32, the level's h and w.
      warps: times frame 1 is warped.
      minimise: the function of this name here, or another that does the same.
      parameters: for it.

    Returns:
      (2,B,H,W), zero outside.
    """
    derivatives0, derivatives1 = _derivatives(frames[0], size), _derivatives(frames[1], size)

    def warp(_, flow):
        terms = _data_terms(derivatives0, derivatives1, flow, size)
        return minimise(terms, flow, size, **parameters)

    return lax.fori_loop(0, warps, warp, flow)


def minimise(
    terms: jax.Array,
    flow: jax.Array,
    size: jax.Array,
    *,
    alpha: jax.Array,
    gamma: jax.Array,
    inner: int | jax.Array,
    solver: int | jax.Array,
) -> jax.Array:
    """The flow that has the least energy, as far as so many iterations find it.

    Args:
      terms: (8,B,H,W), Iz, Ixz, Iyz, Ix, Iy, Ixx, Ixy, Iyy, zero outside of the level.
      flow: (2,B,H,W), by which frame 1 was warped, likewise.
      size: (2,) int32, the level's h and w.
      alpha, gamma: the energy's weights.
      inner: times the robust weights are computed.
      solver: sweeps for one set of weights.

    Returns:
      (2,B,H,W), zero outside.
    """
    terms, planes = _split(terms), _split(flow)
    start = tuple(tuple(planes[p, k] for p in range(4)) for k in range(2))

    def reweight(_, flow):
        system = _linear_system(terms, start, flow, size, alpha, gamma)
        sweep = functools.partial(_sweep, system)
        return lax.fori_loop(0, solver, lambda _, planes: sweep(planes), flow)

    return jnp.stack(_join(lax.fori_loop(0, inner, reweight, start)))


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
    """Frame 1 warped by the flow, less frame 0 → (8,B,H,W), the terms of `minimise`.

    They are zero outside of the level's size: no data there, so no flow.
    """
    warped = _warp(derivatives1, flow, size)
    differences = warped[..., :3] - derivatives0[..., :3]
    terms = jnp.moveaxis(jnp.concatenate([differences, warped[..., 1:]], -1), -1, 0)
    inside = (_rows(terms) < size[0]) & (_columns(terms) < size[1])
    return jnp.where(inside, terms, 0)


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
    fields = [terms[:, k] for k in range(8)]
    before, now = ([jnp.stack(planes) for planes in pair] for pair in (start, flow))
    a, d, c, ru, rv = data_equations(fields, before, now, alpha, gamma)
    u, v = now
    bu, bv = ru + a * u + c * v, rv + d * v + c * u
    edges = _split(jnp.stack(_edge_weights(*_join(flow), size)))
    left, up, total = (edges[:, k] for k in range(3))
    # Outside of the level both a and the edge weights are 0.
    inverse_u, inverse_v = 1 / jnp.maximum(a + total, 1e-12), 1 / jnp.maximum(d + total, 1e-12)
    return left, up, c, bu, bv, inverse_u, inverse_v


def data_equations(
    terms: Sequence[jax.Array],
    start: Sequence[jax.Array],
    flow: Sequence[jax.Array],
    alpha: jax.Array,
    gamma: jax.Array,
) -> tuple[jax.Array, ...]:
    """What the data term gives to each pixel's equations, see `_linear_system`; also in kernels.

    Args:
      terms: Iz, Ixz, Iyz, Ix, Iy, Ixx, Ixy, Iyy, arrays of one shape.
      start, flow: u and v at which frame 1 was warped, and now.

    Returns:
      D a, D d, D c and what the data pulls at u and v now, bu - D a u - D c v and
      bv - D d v - D c u, of that shape.
    """
    iz, ixz, iyz, ix, iy, ixx, ixy, iyy = terms
    (u0, v0), (u, v) = start, flow
    du, dv = u - u0, v - v0
    q0 = iz + ix * du + iy * dv
    q1 = ixz + ixx * du + ixy * dv
    q2 = iyz + ixy * du + iyy * dv
    data = 0.5 / alpha * lax.rsqrt(q0 * q0 + gamma * (q1 * q1 + q2 * q2) + EPSILON)
    a = data * (ix * ix + gamma * (ixx * ixx + ixy * ixy))
    d = data * (iy * iy + gamma * (iyy * iyy + ixy * ixy))
    c = data * (ix * iy + gamma * ixy * (ixx + iyy))
    ru = -data * (ix * q0 + gamma * (ixx * q1 + ixy * q2))
    rv = -data * (iy * q0 + gamma * (ixy * q1 + iyy * q2))
    return a, d, c, ru, rv


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
