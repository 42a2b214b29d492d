"""Pallas kernels for NVIDIA GPUs: the equations of Brox's method and their red-black sweeps.

Counting bytes: half a sweep reads a pixel's equation, its neighbours and itself and writes itself,
60 bytes of device memory a pixel and sweep, and a pair of 320×240 has 21 million such updates. The
kernel moves no more than that. Several sweeps at a time on tiles with margins would move less, but
were slower: docs/records/brox.md.

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
    weights = jnp.stack([alpha, gamma]).astype(jnp.float32)

    def reweight(_, flow):
        system = linear_system(terms, start, flow, size, weights, interpret=interpret)
        step = functools.partial(sweep, system, size=size, interpret=interpret)
        return lax.fori_loop(0, solver, lambda _, flow: step(flow), flow, unroll=min(solver, 5))

    flow = lax.fori_loop(0, inner, reweight, start)
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
    block: int = 512,
    interpret: bool = False,
) -> jax.Array:
    """The robust weights at `flow` and with them each pixel's equation.

    With D the data weight, s the edge weights to the four neighbours and S their sum, at a pixel

        (D a + S) u + D c v = Σ s u_neighbour + bu,   (D d + S) v + D c u = Σ s v_neighbour + bv.

    Args:
      terms: (B,8,2,H,W/2), Iz, Ixz, Iyz, Ix, Iy, Ixx, Ixy, Iyy, 0 outside of the level.
      start: (B,2,2,H,W/2), the flow that frame 1 was warped by.
      flow: likewise, the present one.
      size: (2,) int32, the level's h and w.
      weights: (2,), α and γ.

    Returns:
      (B,7,2,H,W/2): edges to the left and the upper neighbour, D c, bu, bv, ω/(D a + S),
      ω/(D d + S); 0 beside the level in its last column, anything further out.
    """
    b, _, _, rows, columns = terms.shape
    field, n = 2 * rows * columns, rows * columns

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
            return triton.load(ref.at[base + at], mask=inside, other=0.0)

        term = [load(terms_ref, (pair * TERMS + f) * field, p) for f in range(TERMS)]
        start = [load(start_ref, (pair * FLOW + f) * field, p) for f in range(FLOW)]
        across = (jnp.maximum(i - 1, 0), i, jnp.minimum(i + 1, h - 1))
        along = (jnp.maximum(j - 1, 0), j, jnp.minimum(j + 1, w - 1))
        # Where the 3×3 pixels around lie; the border's pixels are repeated beyond it.
        around = [[((y + x) & 1) * n + y * columns + (x >> 1) for x in along] for y in across]
        total = [EPSILON] * 4
        centre = []
        for f in range(FLOW):
            base = (pair * FLOW + f) * field
            (a, b, c), (d, e, g), (x, y, z) = (
                [load(flow_ref, base, at) for at in row] for row in around
            )
            centre.append(e)
            # Across the edge a difference, along it the mean of central differences beside it.
            squares = (
                (e - d, y - b + x - a),  # left
                (g - e, z - c + y - b),  # right
                (e - b, g - d + c - a),  # up
                (y - e, g - d + z - x),  # down
            )
            total = [s + p * p + 0.0625 * q * q for s, (p, q) in zip(total, squares)]
        exists = (j > 0, j < w - 1, i > 0, i < h - 1)
        left, right, up, down = (
            jnp.where(inside & there, 0.5 * lax.rsqrt(s), 0) for s, there in zip(total, exists)
        )
        a, d, c, bu, bv = data_equations(term, start, centre, alpha, gamma)
        edges = left + right + up + down
        inverses = (jnp.where(inside, OMEGA / jnp.maximum(x + edges, 1e-12), 0) for x in (a, d))
        for f, value in enumerate((left, up, c, bu, bv, *inverses)):
            at = (pair * SYSTEM + f) * field + p
            triton.store(system_ref.at[at], value, mask=(p < field) & (i < h) & (2 * k < w))

    return triton.call(
        linear_system,
        grid=(b, pl.cdiv(field, block)),
        out_shape=jax.ShapeDtypeStruct((b * SYSTEM * field,), jnp.float32),
        interpret=interpret,
    )(size, weights, terms.reshape(-1), start.reshape(-1), flow.reshape(-1)).reshape(
        b, SYSTEM, 2, rows, columns
    )


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

    def equation(self, ref, colour: int) -> tuple[jax.Array, ...]:
        """Edges to the neighbours with the same k, with another k, above, below, and the rest."""
        own = lambda field: self.address(SYSTEM, field, colour)
        other = lambda field: self.address(SYSTEM, field, 1 - colour)
        load = lambda at, mask: triton.load(ref.at[at], mask=mask, other=0.0)
        here, odd = self.inside(), self.parity(colour)
        left, up, *rest = (load(own(f), here) for f in range(SYSTEM))
        # A pixel's right edge is its right neighbour's left edge.
        right = load(other(0) + odd, self.inside(0, odd))
        down = load(other(1) + self.columns, self.inside(1))
        odd = odd == 1
        return jnp.where(odd, left, right), jnp.where(odd, right, left), up, down, *rest


def _relax(equation, u, v, neighbours):
    """New u and v; neighbours: of u and of v, in the order of the edges."""
    *edges, c, bu, bv, inverse_u, inverse_v = equation
    pull_u, pull_v = (sum(e * n for e, n in zip(edges, values)) for values in neighbours)
    u = (1 - OMEGA) * u + inverse_u * (pull_u + bu - c * v)
    return u, (1 - OMEGA) * v + inverse_v * (pull_v + bv - c * u)


def sweep(
    system: jax.Array,
    flow: jax.Array,
    *,
    size: jax.Array,
    block: int = 512,
    interpret: bool = False,
) -> jax.Array:
    """One sweep, in two launches and in place: a pixel's neighbours have the other colour.

    Args:
      system: (B,7,2,H,W/2) of `linear_system`.
      flow: (B,2,2,H,W/2).
      size: (2,) int32, the level's h and w.

    Returns:
      flow, new inside of the level.
    """
    b, _, _, rows, columns = flow.shape
    n = rows * columns

    def half_sweep(size_ref, system_ref, flow_ref, out_ref, *, colour):
        p = pl.program_id(1) * block + jnp.arange(block)
        i, k = triton.divide(p, columns)
        place = _Place(pl.program_id(0), i, k, rows, columns, size_ref[0], size_ref[1])
        odd = place.parity(colour)
        shifts = ((0, 0), (0, 2 * odd - 1), (-1, 0), (1, 0))
        at = [place.address(FLOW, f, colour) for f in range(FLOW)]
        load = lambda at, mask: triton.load(flow_ref.at[at], mask=mask, other=0.0)
        around = [
            [
                load(place.address(FLOW, f, 1 - colour) + di * columns + dk, place.inside(di, dk))
                for di, dk in shifts
            ]
            for f in range(FLOW)
        ]
        here = place.inside()
        u, v = (load(a, here) for a in at)
        equation = place.equation(system_ref, colour)
        for a, value in zip(at, _relax(equation, u, v, around)):
            triton.store(out_ref.at[a], value, mask=here)

    result = flow.reshape(-1)
    for colour in (0, 1):
        body = functools.partial(half_sweep, colour=colour)
        body.__name__ = f"half_sweep_{colour}"
        result = triton.call(
            body,
            grid=(b, pl.cdiv(n, block)),
            out_shape=jax.ShapeDtypeStruct(result.shape, jnp.float32),
            interpret=interpret,
            input_output_aliases={2: 0},
        )(size, system.reshape(-1), result)
    return result.reshape(flow.shape)
