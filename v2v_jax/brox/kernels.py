"""Pallas kernels for NVIDIA GPUs: the equations of Brox's method and their red-black sweeps.

Memory bounds them, a pair of 320×240 has 21 million updates of a pixel. So all that the sweeps
touch is float16, computed with in float32: a sweep moves 30 bytes a pixel where float32 takes 60.
That costs no accuracy, as each set of equations is for the *change* of the flow: its right side is
what is left of the equations at the present flow, found in float32. Rounding the matrix and the
change only bends the way to a solution, not the solution. Several sweeps at a time on tiles with
margins would move less, but were slower: docs/records/brox.md.

Fields are stored by colour, (…,2,H,W/2): of colour 0 the pixels with even i+j, of colour 1 the
others, element k of row i being the pixel in column 2k or 2k + 1. A neighbour above or below has
the same k; of the two beside, one has the same k and the other k+1 or k-1.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from v2v_jax.brox.level import EPSILON, OMEGA, data_equations
from v2v_jax.system import triton

TERMS, FLOW, SYSTEM = 8, 2, 7  # fields of these arrays, (B,fields,2,H,W/2)
EQUATIONS_BLOCK, SWEEP_BLOCK = 512, 512  # pixels of a program
HALF = jnp.float16
# D a, D d and D c are stored so many times smaller: of frames in [0,1] they reach 330,000 with the
# default parameters, and float16 ends at 65,504.
SCALE = 8
LARGEST = 60_000.0  # of what is stored, with room for what smoothness adds, 2 at most


def available() -> bool:
    """Whether this process computes on an NVIDIA GPU that can run the kernels."""
    return triton.available()


def most_pairs(size: tuple[int, int]) -> int:
    """The most pairs of frames of this size that fit the programs' addresses."""
    return max(1, triton.MAX_ELEMENTS // (TERMS * (size[0] + 1) * (size[1] + 1)))


def minimise(
    terms: jax.Array,
    flow: jax.Array,
    size: jax.Array,
    *,
    alpha: jax.Array,
    gamma: jax.Array,
    inner: int,
    solver: int,
    interpret: bool = False,
) -> jax.Array:
    """`brox_level.minimise` by these kernels."""
    inside = jnp.arange(flow.shape[2])[:, None] < size[0]
    inside &= jnp.arange(flow.shape[3])[None] < size[1]
    terms, start = (split_colours(jnp.swapaxes(x, 0, 1)) for x in (terms, flow))
    terms = terms.astype(HALF)
    weights = jnp.stack([alpha, gamma]).astype(jnp.float32)

    def reweight(_, state):
        flow, change = state
        system = linear_system(terms, start, flow, size, weights, interpret=interpret)
        return sweeps(system, flow, change, size=size, count=solver, interpret=interpret)

    flow, _ = lax.fori_loop(0, inner, reweight, (start, jnp.zeros(start.shape, HALF)))
    return jnp.where(inside, jnp.swapaxes(join_colours(flow), 0, 1), 0)


def split_colours(x: jax.Array) -> jax.Array:
    """(…,H,W) of even W → (…,2,H,W/2)."""
    *rest, h, w = x.shape
    pairs = x.reshape(*rest, h, w // 2, 2)
    odd = jnp.arange(h)[:, None] % 2 == 1
    even_column, odd_column = pairs[..., 0], pairs[..., 1]
    zero = jnp.where(odd, odd_column, even_column)
    return jnp.stack([zero, jnp.where(odd, even_column, odd_column)], -3)


def join_colours(x: jax.Array) -> jax.Array:
    """The inverse of `split_colours`."""
    *rest, _, h, k = x.shape
    odd = jnp.arange(h)[:, None] % 2 == 1
    zero, one = x[..., 0, :, :], x[..., 1, :, :]
    pairs = jnp.stack([jnp.where(odd, one, zero), jnp.where(odd, zero, one)], -1)
    return pairs.reshape(*rest, h, 2 * k)


# ---- The equations ------------------------------------------------------------------------------


def linear_system(
    terms: jax.Array,
    start: jax.Array,
    flow: jax.Array,
    size: jax.Array,
    weights: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """The robust weights at `flow` and with them each pixel's equation for the flow's change e.

    With D the data weight, s the edge weights to the four neighbours and S their sum, at a pixel

        (D a + S) e + D c f = Σ s e_neighbour + ru,   (D d + S) f + D c e = Σ s f_neighbour + rv,

    where e is u's change, f is v's, and ru, rv are what is left of the equations at `flow`. Where
    float16 would not hold an equation, its data term is weakened, which still is the stronger.

    Args:
      terms: (B,8,2,H,W/2) float16, Iz, Ixz, Iyz, Ix, Iy, Ixx, Ixy, Iyy, 0 outside of the level.
      start: (B,2,2,H,W/2) float32, the flow that frame 1 was warped by.
      flow: likewise, the present one.
      size: (2,) int32, the level's h and w.
      weights: (2,), α and γ.

    Returns:
      (B,7,2,H,W/2) float16: edges to the left and the upper neighbour, D a, D d, D c (these three
      over `SCALE`), ru, rv; 0 beside the level in its last column, anything further out.
    """
    b, _, _, rows, columns = terms.shape
    field, n, block = 2 * rows * columns, rows * columns, EQUATIONS_BLOCK

    def linear_system(size_ref, weights_ref, terms_ref, start_ref, flow_ref, system_ref):
        pair = pl.program_id(0)
        h, w = size_ref[0], size_ref[1]
        alpha, gamma = weights_ref[0], weights_ref[1]
        p = pl.program_id(1) * block + jnp.arange(block)
        colour, rest = triton.divide(p, n)
        i, k = triton.divide(rest, columns)
        j = 2 * k + ((i + colour) & 1)
        inside = (p < field) & (i < h) & (j < w)

        def load(ref, base, at):
            return triton.load(ref.at[base + at], mask=inside, other=0.0).astype(jnp.float32)

        term = [load(terms_ref, (pair * TERMS + f) * field, p) for f in range(TERMS)]
        start = [load(start_ref, (pair * FLOW + f) * field, p) for f in range(FLOW)]
        across = (jnp.maximum(i - 1, 0), i, jnp.minimum(i + 1, h - 1))
        along = (jnp.maximum(j - 1, 0), j, jnp.minimum(j + 1, w - 1))
        # Where the 3×3 pixels around lie; the border's pixels are repeated beyond it.
        around = [[((y + x) & 1) * n + y * columns + (x >> 1) for x in along] for y in across]
        total = [EPSILON] * 4
        centre, differences = [], []
        for f in range(FLOW):
            base = (pair * FLOW + f) * field
            (a, b, c), (d, e, g), (x, y, z) = (
                [load(flow_ref, base, at) for at in row] for row in around
            )
            centre.append(e)
            differences.append((d - e, g - e, b - e, y - e))
            # Across the edge a difference, along it the mean of central differences beside it.
            squares = (
                (e - d, y - b + x - a),  # left
                (g - e, z - c + y - b),  # right
                (e - b, g - d + c - a),  # up
                (y - e, g - d + z - x),  # down
            )
            total = [s + p * p + 0.0625 * q * q for s, (p, q) in zip(total, squares)]
        exists = (j > 0, j < w - 1, i > 0, i < h - 1)
        edges = [
            jnp.where(inside & there, 0.5 * lax.rsqrt(s), 0) for s, there in zip(total, exists)
        ]
        data = _held_by_half(data_equations(term, start, centre, alpha, gamma))
        ru, rv = (
            r + sum(s * difference for s, difference in zip(edges, each))
            for r, each in zip(data[3:], differences)
        )
        for f, value in enumerate((edges[0], edges[2], *data[:3], ru, rv)):
            at = (pair * SYSTEM + f) * field + p
            mask = (p < field) & (i < h) & (2 * k < w)
            triton.store(system_ref.at[at], value.astype(HALF), mask=mask)

    return triton.call(
        linear_system,
        grid=(b, pl.cdiv(field, block)),
        out_shape=jax.ShapeDtypeStruct((b * SYSTEM * field,), HALF),
        interpret=interpret,
    )(size, weights, terms.reshape(-1), start.reshape(-1), flow.reshape(-1)).reshape(
        b, SYSTEM, 2, rows, columns
    )


def _held_by_half(data: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """`data_equations` as they are stored, weakened as a whole where that is too large."""
    a, d, c, ru, rv = data
    a, d, c = (x * (1 / SCALE) for x in (a, d, c))
    largest = jnp.maximum(jnp.maximum(a, d), jnp.maximum(jnp.abs(ru), jnp.abs(rv)))
    a, d, c, ru, rv = (jnp.minimum(1, LARGEST / largest) * x for x in (a, d, c, ru, rv))
    # Rounding must not make c² > a d: the energy would then have no minimum.
    return a, d, (1 - float(jnp.finfo(HALF).eps)) * c, ru, rv


# ---- Sweeps -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Place:
    """Pixels of both colours that a program works on: pair, row i, element k of the row."""

    pair: jax.Array
    i: jax.Array
    k: jax.Array
    rows: int
    columns: int
    h: jax.Array
    w: jax.Array

    def parity(self, colour: int) -> jax.Array:
        """0 where the pixel's column is 2k, 1 where it is 2k + 1."""
        return (self.i + colour) & 1

    def address(self, fields: int, field: int, colour: int) -> jax.Array:
        plane = (self.pair * fields + field) * 2 + colour
        return plane * (self.rows * self.columns) + self.i * self.columns + self.k

    def inside(self, di: int = 0, dk: jax.Array | int = 0) -> jax.Array:
        """Whether the pixels so far down and to the right are in the level."""
        i, k = self.i + di, self.k + dk
        return (i >= 0) & (i < self.h) & (k >= 0) & (2 * k < self.w)

    def load(self, ref, at: jax.Array, di: int = 0, dk: jax.Array | int = 0) -> jax.Array:
        """float32 from there, which is for the pixels so far down and to the right."""
        mask = self.inside(di, dk)
        return triton.load(ref.at[at], mask=mask, other=0.0).astype(jnp.float32)

    def equation(self, ref, colour: int) -> tuple[jax.Array, ...]:
        """Edges to the neighbours with the same k, with another k, above, below, and the rest."""
        own = lambda field: self.address(SYSTEM, field, colour)
        other = lambda field: self.address(SYSTEM, field, 1 - colour)
        odd = self.parity(colour)
        left, up, *rest = (self.load(ref, own(f)) for f in range(SYSTEM))
        # A pixel's right edge is its right neighbour's left edge.
        right = self.load(ref, other(0) + odd, 0, odd)
        down = self.load(ref, other(1) + self.columns, 1)
        odd = odd == 1
        return jnp.where(odd, left, right), jnp.where(odd, right, left), up, down, *rest

    def neighbours(self, ref, colour: int) -> list[list[jax.Array]]:
        """Of both unknowns the values at the pixels that `equation` has the edges to."""
        odd = self.parity(colour)
        shifts = ((0, 0), (0, 2 * odd - 1), (-1, 0), (1, 0))
        return [
            [
                self.load(ref, self.address(FLOW, f, 1 - colour) + di * self.columns + dk, di, dk)
                for di, dk in shifts
            ]
            for f in range(FLOW)
        ]


def _relax(equation, u, v, neighbours):
    """New u and v; neighbours: of u and of v, in the order of the edges."""
    *edges, a, d, c, ru, rv = equation
    # Of the rounded edges: smoothing then neither pulls to zero nor away from it.
    total = sum(edges)
    weight_u, weight_v = (OMEGA / jnp.maximum(SCALE * x + total, 1e-12) for x in (a, d))
    pull_u, pull_v = (sum(e * n for e, n in zip(edges, values)) for values in neighbours)
    c = SCALE * c
    u = (1 - OMEGA) * u + weight_u * (pull_u + ru - c * v)
    return u, (1 - OMEGA) * v + weight_v * (pull_v + rv - c * u)


def sweeps(
    system: jax.Array,
    flow: jax.Array,
    change: jax.Array,
    *,
    size: jax.Array,
    count: int,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Sweeps from a change of zero, in place; the last one adds the change to the flow.

    Args:
      system: (B,7,2,H,W/2) float16 of `linear_system`.
      flow: (B,2,2,H,W/2) float32.
      change: likewise, float16: room to work in, whatever it holds.
      size: (2,) int32, the level's h and w.
      count: of sweeps, from 1.

    Returns:
      flow, new inside of the level, and change.
    """

    def sweep(state, first=False, last=False):
        for colour in (0, 1):
            half = functools.partial(_half_sweep, colour=colour, first=first, last=last)
            state = half(size, system, *state, interpret=interpret)
        return state

    state = sweep((flow, change), first=True, last=count == 1)
    between = max(0, count - 2)
    state = lax.fori_loop(0, between, lambda _, x: sweep(x), state, unroll=max(1, min(between, 4)))
    return sweep(state, last=True) if count > 1 else state


def _half_sweep(size, system, flow, change, *, colour, first, last, interpret):
    """One colour, in place: a pixel's neighbours have the other colour."""
    b, _, _, rows, columns = flow.shape
    n, block = rows * columns, SWEEP_BLOCK

    def half_sweep(size_ref, system_ref, flow_ref, change_ref, new_flow_ref, new_change_ref):
        p = pl.program_id(1) * block + jnp.arange(block)
        i, k = triton.divide(p, columns)
        place = _Place(pl.program_id(0), i, k, rows, columns, size_ref[0], size_ref[1])
        at = [place.address(FLOW, f, colour) for f in range(FLOW)]
        zero = jnp.zeros(block, jnp.float32)
        own = [zero if first else place.load(change_ref, a) for a in at]
        around = [[zero] * 4] * FLOW
        if colour == 1 or not first:
            around = place.neighbours(change_ref, colour)
        new = _relax(place.equation(system_ref, colour), *own, around)
        inside = place.inside()
        for a, value in zip(at, new):
            if last:
                total = place.load(flow_ref, a) + value
                triton.store(new_flow_ref.at[a], total, mask=inside)
            if colour == 0 or not last:  # or else nobody reads it
                value = jnp.clip(value, -LARGEST, LARGEST).astype(HALF)
                triton.store(new_change_ref.at[a], value, mask=inside)

    half_sweep.__name__ = f"half_sweep_{colour}" + "_first" * first + "_last" * last
    shapes = [jax.ShapeDtypeStruct((x.size,), x.dtype) for x in (flow, change)]
    result = triton.call(
        half_sweep,
        grid=(b, pl.cdiv(n, block)),
        out_shape=shapes,
        interpret=interpret,
        input_output_aliases={2: 0, 3: 1},
    )(size, system.reshape(-1), flow.reshape(-1), change.reshape(-1))
    return tuple(x.reshape(flow.shape) for x in result)
