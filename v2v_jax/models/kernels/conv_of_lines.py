"""`conv_of_blocks` for Hopper GPUs: conv_pre, forward."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from v2v_jax.models.kernels.block_layout import BlockLayout
from v2v_jax.models.kernels.block_lines import CHANNELS, OUTPUTS, ROWS, Lines, pad_outputs
from v2v_jax.system import hopper, triton
from v2v_jax.system import hopper_products as tensor_cores
from v2v_jax.system.hopper import Number, Ring
from v2v_jax.system.hopper_products import Matrix, Sums

_FRAMES = 2  # of output that a warp group computes
_GROUPS = 2  # warp groups that compute
_COLUMNS = 9 * OUTPUTS  # of a product: lines of the kernel, taps along W, outputs
_SLOTS = 9  # lines of input in shared memory; measured: 6 to 8 are up to a tenth slower
_REGISTERS = {"copy": 40, "compute": 232}


def conv_of_lines(blocks: jax.Array, kernel: jax.Array, layout: BlockLayout) -> jax.Array:
    """conv3d with zero padding "same" over the voxels of blocks, float32.

    A program holds four frames of output and walks down their lines. A line of input, which is
    copied once for all that it touches, is multiplied for each output frame by the kernel's taps
    along H and W side by side; the sums over H are kept in registers from line to line, those over
    W are added up through shared memory.

    Args:
      blocks: (B,T',H',W',…), bfloat16, where `can_read_lines` holds.
      kernel: (3,3,3,C,K), K at most 8.

    Returns:
      (B,T,H,W,K) float32.
    """
    convolve = functools.partial(_conv_of_lines, kernel=kernel, layout=layout)
    parts = triton.in_parts(convolve, math.prod(blocks.shape[1:]), blocks)
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


def _conv_of_lines(blocks, kernel, layout):
    (t, h, w), b, k = layout.size, blocks.shape[0], kernel.shape[-1]
    lines = Lines(layout, b)
    groups = -(-t // (_FRAMES * _GROUPS))
    chunks = _chunks(h, b * groups)
    rows = -(-lines.voxels // 8) * 8
    # (taps along T, columns, C): a column's 64 numbers are a row in shared memory.
    weights = pad_outputs(kernel).transpose(0, 1, 2, 4, 3).reshape(3 * _COLUMNS, CHANNELS)
    body = functools.partial(_program, lines=lines, outputs=k, chunks=chunks, groups=groups)
    full, empty = Ring.barriers(_SLOTS, _GROUPS)
    (y,) = hopper.launch(
        body,
        blocks.reshape(lines.shape),
        weights.astype(blocks.dtype),
        outputs=[jax.ShapeDtypeStruct((b, t, h, w * k), jnp.float32)],
        programs=b * groups * chunks,
        warpgroups=_GROUPS + 1,
        shared=[
            # A product reads 128 rows also of the last line, whatever is there.
            jax.ShapeDtypeStruct((_SLOTS * rows + ROWS - rows, CHANNELS), blocks.dtype),
            jax.ShapeDtypeStruct(weights.shape, blocks.dtype),
            jax.ShapeDtypeStruct((_GROUPS, _FRAMES, 3 * ROWS * OUTPUTS), jnp.float32),
            full,
            empty,
            *Ring.barriers(1, 1)[:1],
        ],
        name="conv_of_lines",
    )
    return y.reshape(b, t, h, w, k)


def _chunks(h: int, programs: int) -> int:
    """Into how many parts H is divided, so that few clips keep a GPU busy, too."""
    divisors = [n for n in range(1, h + 1) if h % n == 0 and h // n >= 4]
    busy = hopper.multiprocessors() - 4  # 128 of 132 are close enough
    enough = [n for n in divisors if n * programs >= busy]
    return min(enough, default=max(divisors, default=1))


def _program(context, x, weights, y, shared, *, lines, outputs, chunks, groups):
    buffer, kernel, taps, full, empty, kernel_there = shared
    layout = lines.layout
    index = hopper.program()
    job = _Job(
        lines=lines,
        clip=index // (chunks * groups),
        frame=index // chunks % groups * (_FRAMES * _GROUPS),
        line=index % chunks * (layout.size[1] // chunks),
        steps=layout.size[1] // chunks + 2,
        rows=-(-lines.voxels // 8) * 8,
        ring=Ring(full, empty, _SLOTS),
        buffer=buffer,
        kernel=kernel,
    )
    warpgroup = hopper.warpgroup()
    with hopper.when(warpgroup.equals(_GROUPS)):
        hopper.set_registers(_REGISTERS["copy"], more=False)
        with hopper.one_thread():
            hopper.copy_in(context, weights, kernel, kernel_there, swizzle=hopper.SWIZZLE)
            job.copy_lines(context, x)
    with hopper.when(warpgroup < _GROUPS):
        hopper.set_registers(_REGISTERS["compute"], more=True)
        hopper.wait(kernel_there)
        write = functools.partial(_write_line, job, y, outputs=outputs)
        job.compute(warpgroup, hopper.part(taps, warpgroup), write)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What a program computes: frames and lines of a clip's output.

    Step i reads line `line` - 1 + i of all frames from `frame` - 1 on, and then `line` - 2 + i of
    the output is complete.

    Attributes:
      clip, frame, line: the first ones of the output.
      steps: lines of input.
      rows: of a slot of `buffer`, a line's voxels with what makes them a multiple of eight.
      ring, buffer: of the lines of input.
      kernel: (3·72,C) in shared memory.
    """

    lines: Lines
    clip: Number
    frame: Number
    line: Number
    steps: int
    rows: int
    ring: Ring
    buffer: Any
    kernel: Any

    read = _FRAMES * _GROUPS + 2  # frames of input

    def copy_lines(self, context, x) -> None:
        """Copies all lines of input, zeros for those outside of the clip."""
        (t, h, _), (ct, ch, _) = self.lines.layout.size, self.lines.layout.crop

        def copy(n, _):
            frame, line = self.frame + n % self.read, self.line + n // self.read  # counted from -1
            inside = hopper.all_of(frame.within(1, t), line.within(1, h))
            self.ring.wait_free(n)
            rows = hopper.part(self.buffer, (self.ring.slot(n) * self.rows, self.lines.voxels))
            hopper.copy_in(
                context,
                x,
                self.lines.buffer(rows),
                self.ring.filled(n),
                self.lines.slice(inside, self.clip, frame + ct - 1, line + ch - 1),
                swizzle=hopper.SWIZZLE,
            )
            return ()

        hopper.loop(self.steps * self.read, (), copy)

    def compute(self, warpgroup: Number, taps: Any, write) -> None:
        """The lines of a warp group's two frames, each given to `write` with its frame's number."""
        first = warpgroup * _FRAMES
        kernel = Matrix.swizzled(self.kernel)
        halves, width = ROWS // 64, _COLUMNS // 6  # what a thread has of a line's output
        thread = hopper.thread() % hopper.THREADS

        def step(i, sums):
            sums = list(sums)
            for j in range(_FRAMES):
                for frame in range(3) if j == 0 else [j + 2]:
                    self.ring.wait_filled(i * self.read + first + frame)
                products = self._products(i, first + j, kernel)
                if j == _FRAMES - 1:
                    self._release(i)
                for half in range(halves):
                    # By lines of the kernel: of the next line of output, this one, the one before.
                    new, same, last = (
                        products[half].values[n * width : (n + 1) * width] for n in range(3)
                    )
                    at = (j * halves + half) * 2
                    done = list(map(tensor_cores.add, sums[at], last))
                    sums[at], sums[at + 1] = list(map(tensor_cores.add, sums[at + 1], same)), new
                    _store_taps(hopper.part(taps, j), done, thread, half)
                hopper.wait_for_warpgroup()
                with hopper.when(i >= 2):
                    write(hopper.part(taps, j), first + j, i, thread)
            return sums

        zero = Sums.zero(_COLUMNS // 3).values
        hopper.loop(self.steps, [zero] * (2 * _FRAMES * halves), step)

    def _products(self, i: Number, frame: Number, kernel: Matrix) -> list[Sums]:
        """Of the lines of three frames, from `frame` - 1 on: (128,72), 64 rows each."""
        products = [Sums(_COLUMNS) for _ in range(ROWS // 64)]
        for tap in range(3):
            slot = self.ring.slot(i * self.read + frame + tap)
            line = Matrix.swizzled(hopper.part(self.buffer, (slot * self.rows, ROWS)))
            for half, product in enumerate(products):
                for c in range(0, CHANNELS, 16):
                    columns = kernel.moved(tap * _COLUMNS * CHANNELS + c)
                    product.add(line.moved(half * 64 * CHANNELS + c), columns)
        tensor_cores.finish()
        return products

    def _release(self, i: Number) -> None:
        """Frees a step's lines; waits also for those that only the other warp group reads."""
        for frame in range(self.read):
            self.ring.wait_filled(i * self.read + frame)
        hopper.wait_for_warpgroup()
        with hopper.one_thread():
            for frame in range(self.read):
                self.ring.release(i * self.read + frame)


def _store_taps(taps, values, thread: Number, half: int) -> None:
    """A thread's sums of 64 rows → (3,128,8), by taps along W."""
    column = tensor_cores.column_of(thread)
    for tap in range(3):
        for i, row in enumerate(tensor_cores.rows_of(thread)):
            pair = values[4 * tap + 2 * i : 4 * tap + 2 * i + 2]
            at = ((row + half * 64 + tap * ROWS) * OUTPUTS) + column
            tensor_cores.store_pair(pair, taps, at)


def _write_line(job: _Job, y, taps, frame: Number, i: Number, voxel: Number, *, outputs) -> None:
    """Adds up the taps along W of a voxel a thread and writes it."""
    layout = job.lines.layout
    w, margin = layout.size[2], layout.crop[2]
    inside = {0: voxel >= 1, 1: None, 2: voxel < w - 1}  # what lies beyond the clip's sides is 0
    with hopper.when(hopper.all_of(voxel < w, (job.frame + frame) < layout.size[0])):
        halves = []
        for half in range(0, OUTPUTS, 4):
            total = None
            for tap, condition in inside.items():
                row = voxel + margin - 1 + tap + tap * ROWS
                part = hopper.load4(taps, row * OUTPUTS + half)
                part = part if condition is None else tensor_cores.keep_where(condition, part)
                total = part if total is None else tensor_cores.add(total, part)
            halves.append(total)
        line = hopper.part(y, job.clip, job.frame + frame, job.line + i - 2)
        hopper.store_first(halves, outputs, line, voxel * outputs)
