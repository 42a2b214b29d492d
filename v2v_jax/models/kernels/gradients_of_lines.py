"""All gradients of `conv_of_blocks` for Hopper GPUs in one kernel: conv_pre, backward."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from v2v_jax.models.kernels.block_layout import BlockLayout
from v2v_jax.models.kernels.block_lines import (
    CHANNELS,
    OUTPUTS,
    ROWS,
    Lines,
    can_read_lines,
    pad_outputs,
)
from v2v_jax.system import hopper, triton
from v2v_jax.system import hopper_products as tensor_cores
from v2v_jax.system.hopper import Number, Ring
from v2v_jax.system.hopper_products import Matrix, Sums

_GRADIENT_LINE = 136  # voxels of a line of the output's gradient in shared memory
_BEFORE = 8  # of them before the clip's first one; the copy fills them, and those after it, with 0
_FRAME = _GRADIENT_LINE * OUTPUTS  # numbers
_FRAMES = 4  # of the output's gradient, that two frames of voxels take their gradient from
_SLOTS = {"gradients": 4, "lines": 2}  # measured: more of either is slower
_KERNEL, _COPY = 2, 3  # warp groups, beside 0 and 1 for the two frames of a block
_REGISTERS = {"input": 152, "kernel": 168, "copy": 40}


def can_take_gradients(layout: BlockLayout, kernel_shape: Sequence[int], padding, dtype) -> bool:
    """Whether `gradients_of_lines` covers a convolution of blocks."""
    margin, width = layout.crop[2], layout.size[2]
    return (
        can_read_lines(layout, kernel_shape, padding, dtype)
        and layout.strides[0] == 2
        and width % 16 == 0
        and 1 <= margin < _BEFORE
    )


def gradients_of_lines(
    dy: jax.Array, blocks: jax.Array, kernel: jax.Array, layout: BlockLayout
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of conv_of_blocks(relu(z + bias), kernel) for z, bias and kernel.

    A program walks down the lines of the two frames of blocks, and of as many clips as it takes for
    all to have the same share. Of every line, which is read once, a warp group a frame computes the
    input's gradient from the lines of dy around it, and a third one what the line adds to the
    kernel's gradient. Taps along W are the same numbers in shared memory, begun a voxel later.

    Args:
      dy: (B,T,H,W,K), the convolution's output's gradient.
      blocks: relu(z), (B,T',H',W',…) bfloat16, where `can_take_gradients` holds.
      kernel: (3,3,3,C,K).

    Returns:
      The input's gradient in the blocks' shape and dtype, 0 in the margins; its sum over all
      voxels, (C,) float32; and the kernel's gradient, (3,3,3,C,K) float32.
    """
    gradients = functools.partial(_gradients_of_lines, kernel=kernel, layout=layout)
    parts = triton.in_parts(gradients, math.prod(blocks.shape[1:]), dy, blocks)
    dx, dbias, dkernel = zip(*parts)
    return (jnp.concatenate(dx) if len(dx) > 1 else dx[0]), sum(dbias), sum(dkernel)


def _gradients_of_lines(dy, blocks, kernel, layout):
    b, k, w = blocks.shape[0], kernel.shape[-1], layout.size[2]
    programs = hopper.multiprocessors()  # one each: they take most of its shared memory
    lines = Lines(layout, b)
    dy = pad_outputs(dy.astype(blocks.dtype)).reshape(*dy.shape[:3], w // 8, 8 * OUTPUTS)
    weights = _pairs_of_taps(pad_outputs(kernel)).astype(blocks.dtype)
    shape = jax.ShapeDtypeStruct
    rings = {
        "gradients": Ring.barriers(_SLOTS["gradients"], 3),
        "lines": Ring.barriers(2 * _SLOTS["lines"], 2),
    }
    dx, sums, taps = hopper.launch(
        functools.partial(_program, lines=lines, programs=programs),
        dy,
        blocks.reshape(lines.shape),
        weights,
        outputs=[
            shape(lines.shape, blocks.dtype),
            shape((programs, 2, hopper.THREADS, CHANNELS // 4), jnp.float32),
            shape((programs, 9, hopper.THREADS, 3 * OUTPUTS // 2), jnp.float32),
        ],
        programs=programs,
        warpgroups=4,
        shared=[
            shape((2 * _SLOTS["lines"], ROWS, CHANNELS), blocks.dtype),
            shape((2, ROWS, CHANNELS), blocks.dtype),
            shape((_SLOTS["gradients"] * _FRAMES, _GRADIENT_LINE // 8, 8 * OUTPUTS), blocks.dtype),
            shape(weights.shape, blocks.dtype),
            *rings["gradients"],
            *rings["lines"],
            Ring.barriers(1, 1)[0],
        ],
        name="gradients_of_lines",
    )
    return dx.reshape(blocks.shape), _by_channel(sums), _by_tap(taps)[..., :k]


# The 27 taps as products of 16 numbers, two taps of eight outputs each. A: taps 2 and 1 along W of
# each line of the kernel, whose voxels of dy follow each other; B and C: what is left of two lines.
_PAIRS_A = [((dt, dh, 2), (dt, dh, 1)) for dt in range(3) for dh in range(3)]
_PAIRS_B = [((1, dh, 0), (0, dh, 0)) for dh in range(3)]
_PAIRS_C = [((2, dh, 0), None) for dh in range(3)]


def _pairs_of_taps(kernel: jax.Array) -> jax.Array:
    """(3,3,3,C,8) → (15,2,C,8)."""
    nothing = jnp.zeros_like(kernel[0, 0, 0])
    tap = lambda at: nothing if at is None else kernel[at]
    return jnp.stack([jnp.stack([*map(tap, p)]) for p in _PAIRS_A + _PAIRS_B + _PAIRS_C])


def _by_channel(sums: jax.Array) -> jax.Array:
    """(programs,2,128,16), what every thread has added up → (C,)."""
    sums = sums.reshape(-1, 4, CHANNELS // 8, 2).sum(0)  # of a thread: eights of columns, two each
    return sums.transpose(1, 0, 2).reshape(CHANNELS)


def _by_tap(taps: jax.Array) -> jax.Array:
    """(programs,9,128,12), what every thread has added up → (3,3,3,C,8)."""
    # Threads are warps, eight rows, four pairs of columns; theirs are taps along W from the last
    # to the first, two rows, two columns.
    taps = taps.sum(0).reshape(3, 3, 4, 8, 4, 3, 2, 2)
    taps = taps.transpose(0, 1, 5, 2, 6, 3, 4, 7).reshape(3, 3, 3, CHANNELS, OUTPUTS)
    return jnp.flip(taps, 2)


def _program(context, dy, x, weights, dx, sums, taps, shared, *, lines, programs):
    buffers, ready, gradients, kernel, full_dy, empty_dy, full_x, empty_x, kernel_there = shared
    per = -(-lines.clips * lines.layout.blocks[0] * _steps_of_column(lines) // programs)
    program = hopper.program()
    job = _Job(
        lines=lines,
        first=program * per,
        steps=per + 2,
        gradients=gradients,
        gradients_ring=Ring(full_dy, empty_dy, _SLOTS["gradients"]),
        buffers=buffers,
        buffers_ring=Ring(full_x, empty_x, 2 * _SLOTS["lines"]),
        thread=hopper.thread() % hopper.THREADS,
    )
    warpgroup = hopper.warpgroup()
    with hopper.when(warpgroup.equals(_COPY)):
        hopper.set_registers(_REGISTERS["copy"], more=False)
        with hopper.one_thread():
            hopper.copy_in(context, weights, kernel, kernel_there)
            job.copy_all(context, dy, x)
    with hopper.when(warpgroup < _KERNEL):
        hopper.set_registers(_REGISTERS["input"], more=True)
        hopper.wait(kernel_there)
        ready = hopper.part(ready, warpgroup)
        total = job.input_gradient(context, warpgroup, kernel, ready, dx)
        job.keep(total, hopper.part(sums, program, warpgroup))
    with hopper.when(warpgroup.equals(_KERNEL)):
        hopper.set_registers(_REGISTERS["kernel"], more=True)
        for n, total in enumerate(job.kernel_gradient()):
            job.keep(total, hopper.part(taps, program, n))


def _steps_of_column(lines: Lines) -> int:
    """Steps for the blocks of a clip at the same time: all lines, after two that begin with dy."""
    return lines.layout.padded[1] + 2


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a program computes: a share of the steps of all columns of blocks of all clips.

    In step i of a column the line i - 2 of both frames gets its gradient, from the lines of dy
    that came in this step and the two before. A program begins two steps before its share, and its
    dy two steps before that; what is not its own it reads as zeros and does not write.

    Attributes:
      first, steps: the share's first step, and how many are done.
      gradients, gradients_ring: lines of dy, each of four frames.
      buffers, buffers_ring: lines of voxels, the two frames of a step one after the other.
      thread: of the warp group.
    """

    lines: Lines
    first: Number
    steps: int
    gradients: Any
    gradients_ring: Ring
    buffers: Any
    buffers_ring: Ring
    thread: Number

    def copy_all(self, context, dy, x) -> None:
        """Copies the lines of all steps."""
        for n in range(2):
            self._copy_gradients(context, dy, Number(n))

        def copy(s, _):
            self._copy_gradients(context, dy, s + 2)
            for g in range(2):
                self._copy_line(context, x, s, g)
            return ()

        hopper.loop(self.steps, (), copy)

    def _copy_gradients(self, context, dy, n: Number) -> None:
        """Copies the n-th line of dy, of the four frames around a block's two."""
        (ct, ch, _), ring = self.lines.layout.crop, self.gradients_ring
        _, clip, block, i = self._place(n, 4)
        ring.wait_free(n)
        every = slice(None)
        first_frame = hopper.box(block * 2 - (ct + 1), _FRAMES)
        groups = hopper.box(-_BEFORE // 8, _GRADIENT_LINE // 8)
        to = hopper.part(self.gradients, (ring.slot(n) * _FRAMES, _FRAMES))
        at = (clip.value, first_frame, (i - (1 + ch)).value, groups, every)
        hopper.copy_in(context, dy, to, ring.filled(n), at)

    def _copy_line(self, context, x, s: Number, g: int) -> None:
        """Copies the line of voxels of step s and frame g of the block."""
        (t, h, _), (ct, ch, _) = self.lines.layout.size, self.lines.layout.crop
        ring, n = self.buffers_ring, s * 2 + g
        valid, clip, block, i = self._place(s, 2)
        frame, line = block * 2 + g, i - 2
        own = hopper.all_of(valid, s >= 2, i >= 2, frame.within(ct, t), line.within(ch, h))
        ring.wait_free(n)
        rows = hopper.part(self.buffers, ring.slot(n), (0, self.lines.voxels), slice(None))
        at = self.lines.slice(own, clip, frame, line)
        hopper.copy_in(
            context, x, self.lines.buffer(rows), ring.filled(n), at, swizzle=hopper.SWIZZLE
        )

    def input_gradient(self, context, g: Number, kernel, ready, dx) -> list:
        """Writes the gradients of frame g of all steps' blocks; a thread's sums by columns."""
        self._wait_for_begin()
        pairs = Matrix.plain(kernel, CHANNELS * 2 * OUTPUTS, 128)

        def step(s, totals):
            self.gradients_ring.wait_filled(s + 2)
            halves = self._input_products(s, g, pairs)
            line = s * 2 + g
            self.buffers_ring.wait_filled(line)
            buffer = hopper.part(self.buffers, self.buffers_ring.slot(line))
            with hopper.one_thread():
                hopper.wait_copied_out()
            hopper.wait_for_warpgroup()
            totals = self._mask(halves, buffer, ready, list(totals))
            hopper.show_to_copies()
            hopper.wait_for_warpgroup()
            with hopper.one_thread():
                self.buffers_ring.release(line)
                self.gradients_ring.release(s)
                self._copy_out(context, s, g, ready, dx)
            return totals

        totals = hopper.loop(self.steps, Sums.zero(CHANNELS // 2).values, step)
        with hopper.one_thread():
            hopper.wait_copied_out(everything=True)
        return totals

    def _input_products(self, s: Number, g: Number, pairs: Matrix) -> list[Sums]:
        """(128,C): the gradient of a line of voxels, 64 rows each."""
        halves = [Sums(CHANNELS) for _ in range(ROWS // 64)]
        beside, between = 2 * OUTPUTS, 2 * _FRAME  # bytes: of two voxels, of two frames
        for dh in range(3):
            lines = [self._gradients(s, dh, g + frame) for frame in range(3)]
            for dt in range(3):
                self._add(halves, lines[2 - dt], 0, beside, pairs, 3 * dt + dh)
            self._add(halves, lines[1], 2, between, pairs, 9 + dh)
            self._add(halves, lines[0], 2, between, pairs, 12 + dh)
        tensor_cores.finish()
        return halves

    def _add(self, halves, line, voxel: int, stride: int, pairs: Matrix, pair: int) -> None:
        start = _BEFORE - self.lines.layout.crop[2] - 1 + voxel
        a = Matrix.plain(line, stride, 128).moved(start * OUTPUTS)
        for half, products in enumerate(halves):
            products.add(a.moved(half * 64 * OUTPUTS), pairs.moved(pair * 2 * CHANNELS * OUTPUTS))

    def _mask(self, halves, buffer, ready, totals: list) -> list:
        """Zeros where ReLU or the margin has them; rounds to `ready`, adds to a thread's sums."""
        margin, width = self.lines.layout.crop[2], self.lines.layout.size[2]
        for half, products in enumerate(halves):
            for i, row in enumerate(tensor_cores.rows_of(self.thread)):
                row = row + half * 64
                inside = row.within(margin, width)
                for eight in range(CHANNELS // 8):
                    at = tensor_cores.columns_of_swizzled_row(row, eight, self.thread)
                    pair = products.values[4 * eight + 2 * i : 4 * eight + 2 * i + 2]
                    for p, x in enumerate(tensor_cores.load_bfloat16_pair(buffer, at)):
                        keep = hopper.all_of(inside, tensor_cores.is_positive(x))
                        pair[p] = tensor_cores.keep_where(keep, pair[p])
                        column = 2 * eight + p
                        totals[column] = tensor_cores.add(totals[column], pair[p])
                    tensor_cores.store_bfloat16_pair(*pair, ready, at)
        return totals

    def _copy_out(self, context, s: Number, g: Number, ready, dx) -> None:
        valid, clip, block, i = self._place(s, 2)
        own = hopper.all_of(valid, s >= 2, i >= 2)
        with hopper.when(own):
            rows = hopper.part(ready, (0, self.lines.voxels), slice(None))
            at = self.lines.slice(own, clip, block * 2 + g, i - 2)
            hopper.copy_out(context, self.lines.buffer(rows), dx, at, hopper.SWIZZLE)

    def kernel_gradient(self) -> list[list]:
        """A thread's sums for each of the nine lines of the kernel."""
        self._wait_for_begin()

        def step(s, values):
            sums = [Sums(3 * OUTPUTS, v) for v in values]
            self.gradients_ring.wait_filled(s + 2)
            tensor_cores.begin()
            for g in range(2):
                self.buffers_ring.wait_filled(s * 2 + g)
                buffer = hopper.part(self.buffers, self.buffers_ring.slot(s * 2 + g))
                x = Matrix.swizzled(buffer, transposed=True)
                self._kernel_products(s, g, x, sums)
            tensor_cores.finish()
            hopper.wait_for_warpgroup()
            with hopper.one_thread():
                for g in range(2):
                    self.buffers_ring.release(s * 2 + g)
                self.gradients_ring.release(s)
            return [total.values for total in sums]

        zero = Sums.zero(3 * OUTPUTS).values
        return hopper.loop(self.steps, [list(zero) for _ in range(9)], step)

    def _kernel_products(self, s: Number, g: int, x: Matrix, sums: list[Sums]) -> None:
        """Adds, for every line of the kernel, the line's voxels times those of dy that they met."""
        margin, width = self.lines.layout.crop[2], self.lines.layout.size[2]
        start = _BEFORE - margin - 1
        for dh in range(3):
            for dt in range(3):
                line = self._gradients(s, dh, Number(g + 2 - dt))
                dy = Matrix.plain(line, 128, 2 * OUTPUTS, transposed=True)
                for row in range(margin, margin + width, 16):
                    voxels = dy.moved((start + row) * OUTPUTS)
                    sums[3 * dt + dh].add(x.moved(row * CHANNELS), voxels)

    def keep(self, values: Sequence[Any], ref) -> None:
        """Writes a thread's sums."""
        hopper.store_values(values, ref, self.thread * len(values))

    def _wait_for_begin(self) -> None:
        for n in range(2):
            self.gradients_ring.wait_filled(Number(n))

    def _gradients(self, s: Number, dh: int, frame: Number) -> Any:
        """The line of dy in shared memory for the kernel's tap dh."""
        slot = self.gradients_ring.slot(s + (2 - dh))
        return hopper.part(self.gradients, slot * _FRAMES + frame)

    def _place(self, s: Number, before: int) -> tuple[Any, Number, Number, Number]:
        """(whether there is such a step, its clip, block and step of the column), of a program's s.

        Args:
          before: how many steps before its share the program begins with these.
        """
        column, blocks = _steps_of_column(self.lines), self.lines.layout.blocks[0]
        step = self.first + s + (column - before)  # a column more, so that it is never below 0
        number = step // column - 1
        valid = number.within(0, self.lines.clips * blocks)
        clip = hopper.where(valid, number // blocks, self.lines.clips)  # nowhere
        return valid, clip, number % blocks, step % column
