"""Pallas kernels for what NVIDIA GPUs' libraries and XLA are slow at in V2V.

The first and last convolution have few channels on one side: conv1a reads 3, conv_pre writes as
many as the task has outputs. What takes the time there is moving the other side's 64 channels
through memory. The kernels therefore never write what is only read once: conv1a's output goes
straight through ReLU and pooling, and conv_pre reads the transposed convolution's blocks where they
lie, without the depth-to-space copy in between. docs/performance.md has the measurements.

A `winner` (uint8) says which voxel of a pooling window was the largest, in row-major order, the
first one of equals; NO_WINNER where ReLU answers 0.

Arrays are (B,T,H,W,C), kernels (T,H,W,in,out). All functions are for one device; `per_device` runs
them on every device's share of a batch. Programs address elements with 32 bits, so that a batch
whose arrays are larger is worked off in parts.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

try:  # JAX means to retire this backend: without it layers.py uses its forms for every layer
    from jax.experimental.pallas import triton
except ImportError:
    triton = None

NO_WINNER = 255
# A100 and Orin, H100 and H200 (the one tried), B200 and B300. Others have some 100 KB of shared
# memory a block, and these kernels take up to 112.
_LARGE = ("8.0", "8.7", "9.0", "10.0", "10.3")
_MAX_ELEMENTS = 2**31 - 1
_PATCH = 4  # voxels along W in a row of an input patch
_CHANNELS = 8  # that conv_pre's gradient is padded to


@dataclasses.dataclass(frozen=True)
class BlockLayout:
    """Where the voxels (B,T,H,W,C) lie in blocks (B,T',H',W',st·sh·sw·C) that hold a margin too.

    Attributes:
      blocks: T',H',W'.
      strides: voxels a block in T, H, W.
      crop: voxels of margin before the first one that counts.
      size: T,H,W.
      channels: C.
    """

    blocks: tuple[int, int, int]
    strides: tuple[int, int, int]
    crop: tuple[int, int, int]
    size: tuple[int, int, int]
    channels: int

    @property
    def padded(self) -> tuple[int, int, int]:
        """T,H,W with the margins."""
        return tuple(n * s for n, s in zip(self.blocks, self.strides))

    def offset(self, b, t, h, w):
        """Element at which voxel (t,h,w) of clip b begins, t,h,w counted with the margin."""
        (nt, nh, nw), (st, sh, sw) = self.blocks, self.strides
        (bt, t), (bh, h), (bw, w) = _divide(t, st), _divide(h, sh), _divide(w, sw)
        block = ((b * nt + bt) * nh + bh) * nw + bw
        return (((block * st + t) * sh + h) * sw + w) * self.channels


def _divide(x: jax.Array, by: int) -> tuple[jax.Array, jax.Array]:
    # Not // and %: those also handle negative numbers, which hides from the compiler that
    # neighbouring threads read neighbouring addresses.
    by = jnp.full_like(x, by)
    return lax.div(x, by), lax.rem(x, by)


def _unravel(i: jax.Array, *sizes: int) -> list[jax.Array]:
    """Row-major index → coordinates of which all but the first run up to `sizes`."""
    coordinates = []
    for size in reversed(sizes):
        i, rest = _divide(i, size)
        coordinates.insert(0, rest)
    return [i, *coordinates]


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.dot_general(a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _product_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _each(mask: jax.Array, columns: int) -> jax.Array:
    return jnp.broadcast_to(mask[:, None], (mask.shape[0], columns))


def _pallas_call(body, *, grid, out_shape, name, warps, stages, interpret):
    return pl.pallas_call(
        body,
        grid=grid,
        out_shape=out_shape,
        name=name,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
    )


def per_device(
    function: Callable,
    *batched: jax.Array,
    whole: Sequence[jax.Array] = (),
    summed: bool | tuple[bool, ...] = False,
):
    """Runs `function(*batched, *whole)` on every device's share of the batch.

    The compiler cannot divide a kernel over devices by itself, and would gather the whole batch on
    each. Which devices there are is the mesh set by `jax.set_mesh`.

    Args:
      batched: arrays whose first axis is the batch.
      whole: arrays that every device has.
      summed: whether the result, or each of a tuple, is a sum over the batch; otherwise it is
        batched too.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.size == 1 or batched[0].shape[0] % mesh.size:
        return function(*batched, *whole)
    split, same = jax.P(mesh.axis_names), jax.P()
    total = summed
    if isinstance(total, bool):  # one answer for all results
        results = jax.eval_shape(function, *batched, *whole)
        total = jax.tree.map(lambda _: summed, results)

    def share(*arrays):
        results = function(*arrays)
        return jax.tree.map(lambda x, s: lax.psum(x, mesh.axis_names) if s else x, results, total)

    return jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(*[split] * len(batched), *[same] * len(whole)),
        out_specs=jax.tree.map(lambda s: same if s else split, total),
        check_vma=False,
    )(*batched, *whole)


_switched_off = contextvars.ContextVar("switched_off", default=False)


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """What is traced inside uses no kernel: for programs that are to run on any GPU."""
    token = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(token)


def available() -> bool:
    """Whether this process computes on a GPU that the kernels fit, and they are not switched off.

    Where it does not (a CPU that exports a program for GPUs), layers.py uses forms that run on all.
    """
    return not _switched_off.get() and _fits()


@functools.cache
def _fits() -> bool:
    if triton is None or jax.default_backend() != "gpu":
        return False
    return str(getattr(jax.devices()[0], "compute_capability", "")) in _LARGE


def _is_same_convolution(kernel_shape: Sequence[int], padding, dtype) -> bool:
    """Whether it is in bfloat16, with kernels of 3x3x3 or 1x3x3 and as large as its input."""
    size = tuple(kernel_shape[:3])
    return (
        available()
        and dtype == jnp.bfloat16
        and size in ((1, 3, 3), (3, 3, 3))
        and tuple(padding) == tuple((k // 2, k // 2) for k in size)
    )


def _in_parts(function: Callable, elements: int, *batched: jax.Array):
    """`function` on so few clips at a time that `elements` a clip can be addressed; as a list."""
    b = batched[0].shape[0]
    parts = -(-b * elements // _MAX_ELEMENTS)
    step = -(-b // parts)
    return [function(*(a[i : i + step] for a in batched)) for i in range(0, b, step)]


# ------------------------------------------------------------------------------------------------
# Few input channels: convolution, bias, ReLU and (1,2,2) max pooling in one


def can_pool(x_shape: Sequence[int], kernel_shape: Sequence[int], window, padding, dtype) -> bool:
    """Whether `conv_relu_pool` covers a convolution: conv1a's in V2V and its narrow versions."""
    cin, cout = kernel_shape[3:]
    return (
        _is_same_convolution(kernel_shape, padding, dtype)
        and tuple(window) == (1, 2, 2)
        and x_shape[2] % 2 == x_shape[3] % 2 == 0
        and cin <= 4
        and cout in (16, 32, 64)
    )


def conv_relu_pool(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    with_winner: bool = True,
    interpret: bool = False,
) -> tuple[jax.Array, ...]:
    """max_pool(relu(conv3d(x, kernel) + bias), (1,2,2)), zero padding "same".

    A program computes 64 pooled voxels at a time: four products, one a voxel of the window, of the
    same (kt,4,4,4) patches with the kernel at four places. Kernels stay in shared memory.

    Args:
      x: (B,T,H,W,C) bfloat16, C at most 4, H and W even.
      kernel: (kt,3,3,C,O), kt 1 or 3.
      bias: (O,).
      with_winner: whether the winners are wanted too.

    Returns:
      (B,T,H/2,W/2,O) in x's dtype, and its winners, a tuple of two, or of the first alone.
    """
    elements = math.prod(x.shape[1:4]) * 4
    parts = _in_parts(
        functools.partial(
            _conv_relu_pool,
            kernel=kernel,
            bias=bias,
            with_winner=with_winner,
            interpret=interpret,
        ),
        max(elements, elements * kernel.shape[-1] // 16),
        x,
    )
    return tuple(jnp.concatenate(part) if len(parts) > 1 else part[0] for part in zip(*parts))


def _conv_relu_pool(x, kernel, bias, with_winner, interpret, tile=64, programs=264):
    b, t, h, w, _ = x.shape
    kt, _, _, _, cout = kernel.shape
    patches = _Patches(x.shape, kt)
    weights = _window_kernels(kernel).astype(x.dtype)
    n = patches.count

    def conv_relu_pool(x_ref, w_ref, b_ref, y_ref, *winner_ref):
        program = pl.program_id(0)
        weight = [[w_ref[i, j] for j in range(4)] for i in range(kt)]
        bias = b_ref[...][None, :]
        columns = jnp.arange(cout)[None, :]

        def step(i, _):
            p = (program + i * programs) * tile + jnp.arange(tile)
            sums = [jnp.zeros((tile, cout), jnp.float32) for _ in range(4)]
            for dt in range(kt):
                patch = patches.load(x_ref, p, dt)
                sums = [s + _product(patch, weight[dt][j]) for j, s in enumerate(sums)]
            largest = functools.reduce(jnp.maximum, sums)
            y = largest + bias
            mask, at = _each(p < n, cout), (p[:, None], columns)
            triton.store(y_ref.at[at], jnp.maximum(y, 0).astype(y_ref.dtype), mask=mask)
            for ref in winner_ref:
                winner = jnp.full((tile, cout), 3)
                for j in (2, 1, 0):
                    winner = jnp.where(sums[j] == largest, j, winner)
                winner = jnp.where(y > 0, winner, NO_WINNER).astype(jnp.uint8)
                triton.store(ref.at[at], winner, mask=mask)
            return 0

        lax.fori_loop(0, -(-n // (tile * programs)), step, 0)

    results = _pallas_call(
        conv_relu_pool,
        grid=(programs,),
        out_shape=[
            jax.ShapeDtypeStruct((n, cout), dtype)
            for dtype in (x.dtype, jnp.uint8)[: 1 + with_winner]
        ],
        name="conv_relu_pool",
        warps=4,
        stages=1,
        interpret=interpret,
    )(patches.pad(x), weights, bias.astype(jnp.float32))
    return tuple(y.reshape(b, t, h // 2, w // 2, cout) for y in results)


def conv_relu_pool_weight_gradient(
    x: jax.Array, dy: jax.Array, winner: jax.Array, kt: int, interpret: bool = False
) -> jax.Array:
    """Gradient of `conv_relu_pool` with respect to its kernel, float32.

    Args:
      x: (B,T,H,W,C), its input.
      dy, winner: (B,T,H/2,W/2,O), its output's gradient, and its winners.
      kt: the kernel's size in T.

    Returns:
      (kt,3,3,C,O).
    """
    elements = max(math.prod(x.shape[1:4]) * 4, math.prod(dy.shape[1:]))
    gradient = functools.partial(_conv_relu_pool_weight_gradient, kt=kt, interpret=interpret)
    return sum(_in_parts(gradient, elements, x, dy, winner))


def _conv_relu_pool_weight_gradient(x, dy, winner, kt, interpret, tile=64, splits=88):
    cin, cout = x.shape[-1], dy.shape[-1]
    patches = _Patches(x.shape, kt)
    n = patches.count
    steps = -(-n // (tile * splits))

    def conv_relu_pool_weight_gradient(x_ref, dy_ref, winner_ref, out_ref):
        dt, split = pl.program_id(0), pl.program_id(1)
        columns = jnp.arange(cout)[None, :]

        def step(i, sums):
            p = (split * steps + i) * tile + jnp.arange(tile)
            mask, at = _each(p < n, cout), (p[:, None], columns)
            patch = patches.load(x_ref, p, dt)
            dy = triton.load(dy_ref.at[at], mask=mask, other=0.0)
            winner = triton.load(winner_ref.at[at], mask=mask, other=NO_WINNER)
            zero = jnp.zeros((), dy.dtype)
            won = [jnp.where(winner == j, dy, zero) for j in range(4)]
            return tuple(s + _product_transposed(patch, d) for s, d in zip(sums, won))

        start = tuple(jnp.zeros((patches.columns, cout), jnp.float32) for _ in range(4))
        for j, total in enumerate(lax.fori_loop(0, steps, step, start)):
            out_ref[split, dt, j] = total

    sums = _pallas_call(
        conv_relu_pool_weight_gradient,
        grid=(kt, splits),
        out_shape=jax.ShapeDtypeStruct((splits, kt, 4, patches.columns, cout), jnp.float32),
        name="conv_relu_pool_weight_gradient",
        warps=4,
        stages=1,
        interpret=interpret,
    )(patches.pad(x), dy.reshape(n, cout), winner.reshape(n, cout))
    sums = sums.sum(0).reshape(kt, 2, 2, _PATCH, _PATCH, 4, cout)
    places = [sums[:, i, j, i : i + 3, j : j + 3] for i in range(2) for j in range(2)]
    return sum(places)[:, :, :, :cin]


def _window_kernels(kernel: jax.Array) -> jax.Array:
    """(kt,3,3,C,O) → (kt,4,64,O): for each voxel of a (2,2) window, over its (4,4,4) patch."""
    kt, _, _, cin, cout = kernel.shape
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, 4 - cin), (0, 0)))
    places = [
        jnp.pad(kernel, ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
        for i in range(2)
        for j in range(2)
    ]
    return jnp.stack(places, 1).reshape(kt, 4, _PATCH * _PATCH * 4, cout)


class _Patches:
    """The (4,4) voxels of 4 channels that a (2,2) pooling window's convolutions see in a frame."""

    columns = _PATCH * _PATCH * 4

    def __init__(self, x_shape: Sequence[int], kt: int):
        b, t, h, w, _ = x_shape
        self._shape = (t, h // 2, w // 2)
        self._margin = kt // 2
        self._frames = t + 2 * self._margin
        self._row = (w + 2) * 4
        self._frame = (h + 2) * self._row
        self.count = b * math.prod(self._shape)

    def pad(self, x: jax.Array) -> jax.Array:
        """(B,T,H,W,C) → flat, with margins and 4 channels, so that a patch's rows are aligned."""
        m = self._margin
        return jnp.pad(x, ((0, 0), (m, m), (1, 1), (1, 1), (0, 4 - x.shape[-1]))).reshape(-1)

    def load(self, x_ref, p: jax.Array, dt: int) -> jax.Array:
        """(len(p),64): patches of the pooled voxels p in the frame `dt` of the kernel's."""
        b, t, h, w = _unravel(p, *self._shape)
        start = (b * self._frames + t + dt) * self._frame + 2 * h * self._row + 8 * w
        row, rest = _divide(jnp.arange(self.columns), _PATCH * 4)
        at = start[:, None] + (row * self._row + rest)[None, :]
        return triton.load(x_ref.at[at], mask=_each(p < self.count, self.columns), other=0.0)


# ------------------------------------------------------------------------------------------------
# Few outputs: a convolution that reads blocks


def can_read_blocks(layout: BlockLayout, kernel_shape: Sequence[int], padding, dtype) -> bool:
    """Whether `conv_of_blocks` covers a convolution: conv_pre's in V2V and its narrow versions."""
    cin, cout = kernel_shape[3:]
    return (
        _is_same_convolution(kernel_shape, padding, dtype)
        and cin == layout.channels
        and cin in (16, 32, 64)
        and cout <= _CHANNELS
        and layout.size[1] % 2 == 0
        # Pairs of voxels along W lie side by side in a block.
        and layout.size[2] % 2 == layout.strides[2] % 2 == layout.crop[2] % 2 == 0
    )


def conv_of_blocks(
    blocks: jax.Array, kernel: jax.Array, layout: BlockLayout, interpret: bool = False
) -> jax.Array:
    """conv3d with zero padding "same" over the voxels of blocks, float32.

    A program holds a row of 2 frames x 2 lines of output; every line of input that it loads is
    multiplied for all of these that it touches. The three taps along W are separate outputs, which
    the compiler adds up afterwards.

    Args:
      blocks: (B,T',H',W',…), bfloat16.
      kernel: (kt,3,3,C,K), K at most 8.

    Returns:
      (B,T,H,W,K) float32.
    """
    convolve = functools.partial(_conv_of_blocks, kernel=kernel, layout=layout, interpret=interpret)
    parts = _in_parts(convolve, math.prod(blocks.shape[1:]), blocks)
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _conv_of_blocks(blocks, kernel, layout, interpret, lines=2):
    (kt, _, _, c, k), (t, h, w) = kernel.shape, layout.size
    frames = 2 if t % 2 == 0 else 1
    columns = max(16, pl.next_power_of_2(3 * k))
    tile = min(128, max(16, pl.next_power_of_2(w)))
    tiles = -(-w // tile)
    weights = kernel.transpose(0, 1, 3, 2, 4).reshape(kt, 3, c, 3 * k)
    weights = jnp.pad(weights, ((0, 0),) * 3 + ((0, columns - 3 * k),))
    margin = kt // 2

    def conv_of_blocks(x_ref, w_ref, z_ref):
        b, t0, h0, w0 = _unravel(pl.program_id(0), t // frames, h // lines, tiles)
        t0, h0, ws = t0 * frames, h0 * lines, w0 * tile + jnp.arange(tile)
        channels = jnp.arange(c)[None, :]
        out = [(i, j) for i in range(frames) for j in range(lines)]
        sums = {key: jnp.zeros((tile, columns), jnp.float32) for key in out}
        for f in range(-margin, frames + margin):
            for g in range(-1, lines + 1):
                inside = (t0 + f >= 0) & (t0 + f < t) & (h0 + g >= 0) & (h0 + g < h)
                voxel = (layout.crop[0] + t0 + f, layout.crop[1] + h0 + g, layout.crop[2] + ws)
                x = triton.load(
                    x_ref.at[layout.offset(b, *voxel)[:, None] + channels],
                    mask=_each(inside & (ws < w), c),
                    other=0.0,
                )
                for i, j in out:
                    dt, dh = f - i + margin, g - j + 1
                    if 0 <= dt < kt and 0 <= dh < 3:
                        sums[i, j] += _product(x, w_ref[dt, dh])
        column = jnp.arange(columns)[None, :]
        for i, j in out:
            at = (((b * t + t0 + i) * h + h0 + j) * w + ws) * (3 * k)
            mask = (ws < w)[:, None] & (column < 3 * k)
            triton.store(z_ref.at[at[:, None] + column], sums[i, j].astype(z_ref.dtype), mask=mask)

    b = blocks.shape[0]
    z = _pallas_call(
        conv_of_blocks,
        grid=(b * (t // frames) * (h // lines) * tiles,),
        out_shape=jax.ShapeDtypeStruct((b * t * h * w * 3 * k,), blocks.dtype),
        name="conv_of_blocks",
        warps=4,
        stages=2,
        interpret=interpret,
    )(blocks.reshape(-1), weights)
    z = z.reshape(b, t, h, w, 3, k).astype(jnp.float32)
    z = jnp.pad(z, ((0, 0),) * 3 + ((1, 1), (0, 0), (0, 0)))
    return z[:, :, :, :-2, 0] + z[:, :, :, 1:-1, 1] + z[:, :, :, 2:, 2]


def conv_of_blocks_input_gradient(
    dy: jax.Array,
    blocks: jax.Array,
    kernel: jax.Array,
    layout: BlockLayout,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Gradient of conv_of_blocks(relu(z), kernel) with respect to z, and its sum over all voxels.

    A program computes 64 pairs of voxels along W, 2·C outputs each, from patches of 4 voxels.

    Args:
      dy: (B,T,H,W,K), the convolution's output's gradient.
      blocks: relu(z), of which the sign is used.
      kernel: (kt,3,3,C,K).

    Returns:
      The gradient in the blocks' shape and dtype, 0 in the margins, and its sum, (C,) float32.
    """
    gradient = functools.partial(
        _conv_of_blocks_input_gradient, kernel=kernel, layout=layout, interpret=interpret
    )
    parts = _in_parts(gradient, math.prod(blocks.shape[1:]), dy, blocks)
    gradients, sums = zip(*parts)
    return (jnp.concatenate(gradients) if len(parts) > 1 else gradients[0]), sum(sums)


def _conv_of_blocks_input_gradient(dy, blocks, kernel, layout, interpret, tile=64):
    kt, _, _, c, _ = kernel.shape
    (pt, ph, pw), (t, h, w), crop = layout.padded, layout.size, layout.crop
    patches = _PairPatches(layout, kt)
    weights = _pair_kernels(kernel).astype(dy.dtype)
    n = dy.shape[0] * pt * ph * (pw // 2)
    programs = -(-n // tile)

    def conv_of_blocks_input_gradient(dy_ref, x_ref, w_ref, dx_ref, sum_ref):
        program = pl.program_id(0)
        p = program * tile + jnp.arange(tile)
        b, i, j, l = _unravel(p, pt, ph, pw // 2)
        l = 2 * l
        inside = (p < n) & (i >= crop[0]) & (i < crop[0] + t) & (j >= crop[1])
        inside &= (j < crop[1] + h) & (l >= crop[2]) & (l < crop[2] + w)
        at = layout.offset(b, i, j, l)[:, None] + jnp.arange(2 * c)[None, :]
        x = triton.load(x_ref.at[at], mask=_each(inside, 2 * c), other=0.0)
        start = patches.start(b, i, j, l)

        def tap(k, total):
            dt, dh = _divide(k, 3)
            return total + _product(patches.load(dy_ref, start, dt, dh, p < n), w_ref[k])

        total = lax.fori_loop(0, 3 * kt, tap, jnp.zeros((tile, 2 * c), jnp.float32))
        total = jnp.where(x > 0, total, 0.0)
        triton.store(dx_ref.at[at], total.astype(dx_ref.dtype), mask=_each(p < n, 2 * c))
        sum_ref[program] = total.sum(0)

    dx, sums = _pallas_call(
        conv_of_blocks_input_gradient,
        grid=(programs,),
        out_shape=[
            jax.ShapeDtypeStruct((blocks.size,), blocks.dtype),
            jax.ShapeDtypeStruct((programs, 2 * c), jnp.float32),
        ],
        name="conv_of_blocks_input_gradient",
        warps=4,
        stages=3,
        interpret=interpret,
    )(patches.pad(dy), blocks.reshape(-1), weights)
    return dx.reshape(blocks.shape), sums.reshape(programs, 2, c).sum((0, 1))


def conv_of_blocks_weight_gradient(
    dy: jax.Array, blocks: jax.Array, kt: int, layout: BlockLayout, interpret: bool = False
) -> jax.Array:
    """Gradient of `conv_of_blocks` with respect to its kernel, float32.

    Arguments as for `conv_of_blocks_input_gradient`. Returns (kt,3,3,C,K).
    """
    gradient = functools.partial(
        _conv_of_blocks_weight_gradient, kt=kt, layout=layout, interpret=interpret
    )
    return sum(_in_parts(gradient, math.prod(blocks.shape[1:]), dy, blocks))


def _conv_of_blocks_weight_gradient(dy, blocks, kt, layout, interpret, tile=32, splits=132):
    (t, h, w), c, crop = layout.size, layout.channels, layout.crop
    patches = _PairPatches(layout, kt)
    n = dy.shape[0] * t * h * (w // 2)
    steps = -(-n // (tile * splits))
    taps = 3 * kt
    columns = _PATCH * _CHANNELS

    def conv_of_blocks_weight_gradient(dy_ref, x_ref, out_ref):
        split = pl.program_id(0)
        channels = jnp.arange(2 * c)[None, :]

        def step(s, sums):
            p = (split * steps + s) * tile + jnp.arange(tile)
            b, i, j, l = _unravel(p, t, h, w // 2)
            i, j, l = crop[0] + i, crop[1] + j, crop[2] + 2 * l
            at = layout.offset(b, i, j, l)[:, None] + channels
            x = triton.load(x_ref.at[at], mask=_each(p < n, 2 * c), other=0.0)
            start = patches.start(b, i, j, l)
            loads = [patches.load(dy_ref, start, *divmod(k, 3), p < n) for k in range(taps)]
            return tuple(total + _product_transposed(x, d) for total, d in zip(sums, loads))

        start = tuple(jnp.zeros((2 * c, columns), jnp.float32) for _ in range(taps))
        for k, total in enumerate(lax.fori_loop(0, steps, step, start)):
            out_ref[split, k] = total

    sums = _pallas_call(
        conv_of_blocks_weight_gradient,
        grid=(splits,),
        out_shape=jax.ShapeDtypeStruct((splits, taps, 2 * c, columns), jnp.float32),
        name="conv_of_blocks_weight_gradient",
        warps=8,
        stages=3,
        interpret=interpret,
    )(patches.pad(dy), blocks.reshape(-1))
    sums = sums.sum(0).reshape(kt, 3, 2, c, _PATCH, _CHANNELS)[..., : dy.shape[-1]]
    flipped = sums[:, :, 0, :, 0:3] + sums[:, :, 1, :, 1:4]  # the pair's two voxels
    return jnp.flip(flipped.transpose(0, 1, 3, 2, 4), (0, 1, 2))


def _pair_kernels(kernel: jax.Array) -> jax.Array:
    """(kt,3,3,C,K) → (3·kt,32,2·C): from patches (4 voxels, 8 channels) of dy to a pair of dx."""
    kt, _, _, c, k = kernel.shape
    flipped = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
    flipped = jnp.pad(flipped, ((0, 0),) * 3 + ((0, _CHANNELS - k), (0, 0)))
    pair = [jnp.pad(flipped, ((0, 0), (0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in range(2)]
    return jnp.stack(pair, 4).reshape(3 * kt, _PATCH * _CHANNELS, 2 * c)


class _PairPatches:
    """The 4 voxels of dy in a line that a pair of voxels along W takes its gradient from."""

    def __init__(self, layout: BlockLayout, kt: int):
        self._layout = layout
        self._margin = (kt // 2, 1, 1)
        t, h, w = layout.padded
        self._frames, self._lines, self._width = t + 2 * (kt // 2), h + 2, w + 4

    def pad(self, dy: jax.Array) -> jax.Array:
        """(B,T,H,W,K) → flat, over the blocks' voxels with a margin around, 8 channels."""
        layout = self._layout
        before = [c + m for c, m in zip(layout.crop, self._margin)]
        whole = (self._frames, self._lines, self._width)
        after = [n - b - s for n, b, s in zip(whole, before, layout.size)]
        pads = ((0, 0), *zip(before, after), (0, _CHANNELS - dy.shape[-1]))
        return jnp.pad(dy, pads).reshape(-1)

    def start(self, b, t, h, w):
        """Element at which the patch for kernel line (0,0) of the pair at (t,h,w) begins."""
        return (((b * self._frames + t) * self._lines + h) * self._width + w) * _CHANNELS

    def load(self, dy_ref, start: jax.Array, dt, dh, mask: jax.Array) -> jax.Array:
        """(len(start),32): the patch for line (dt,dh) of the flipped kernel."""
        line = (dt * self._lines + dh) * self._width * _CHANNELS
        columns = jnp.arange(_PATCH * _CHANNELS)[None, :]
        at = (start + line)[:, None] + columns
        return triton.load(dy_ref.at[at], mask=_each(mask, columns.size), other=0.0)


# ------------------------------------------------------------------------------------------------
# All taps of a convolution side by side


def can_gather(x_shape: Sequence[int]) -> bool:
    """Whether `gather_taps` covers an input."""
    channels = x_shape[-1]
    return available() and 16 <= channels <= 1024 and channels & (channels - 1) == 0


def gather_taps(
    x: jax.Array,
    kernel_size: tuple[int, int, int],
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    interpret: bool = False,
) -> jax.Array:
    """(B,T,H,W,C) → (B,T',H',W',kt·kh·kw·C), all that an output voxel of a convolution sees.

    The taps are in the kernel's order. XLA's concatenation takes four times longer.
    """
    size = [n + sum(p) - k + 1 for n, p, k in zip(x.shape[1:4], padding, kernel_size)]
    elements = math.prod(size) * math.prod(kernel_size) * x.shape[-1]
    gather = functools.partial(
        _gather_taps, kernel_size=kernel_size, padding=padding, size=size, interpret=interpret
    )
    parts = _in_parts(gather, elements, x)
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _gather_taps(x, kernel_size, padding, size, interpret):
    b, t, h, w, c = x.shape
    n = b * math.prod(size)
    tile = max(1, 4096 // c)
    taps = list(itertools.product(*map(range, kernel_size)))
    before = [lo for lo, _ in padding]

    def gather_taps(x_ref, out_ref):
        p = pl.program_id(0) * tile + jnp.arange(tile)
        clip, *start = _unravel(p, *size)
        channels = jnp.arange(c)[None, :]
        for column, tap in enumerate(taps):
            i, j, l = (s + k - lo for s, k, lo in zip(start, tap, before))
            inside = (i >= 0) & (i < t) & (j >= 0) & (j < h) & (l >= 0) & (l < w) & (p < n)
            at = (((clip * t + i) * h + j) * w + l) * c
            taken = triton.load(x_ref.at[at[:, None] + channels], mask=_each(inside, c), other=0.0)
            to = p * (len(taps) * c) + column * c
            triton.store(out_ref.at[to[:, None] + channels], taken, mask=_each(p < n, c))

    gathered = _pallas_call(
        gather_taps,
        grid=(-(-n // tile),),
        out_shape=jax.ShapeDtypeStruct((n * len(taps) * c,), x.dtype),
        name="gather_taps",
        warps=4,
        stages=1,
        interpret=interpret,
    )(x.reshape(-1))
    return gathered.reshape(b, *size, len(taps) * c)
