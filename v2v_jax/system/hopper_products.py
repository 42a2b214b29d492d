"""Products on Hopper's tensor cores (wgmma), and what a thread does with its share of the sums.

Inside of a kernel, see `v2v_jax.system.hopper`. A warp group multiplies matrices of bfloat16 that
lie in shared memory, and has the float32 sums in its registers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from v2v_jax.system import hopper
from v2v_jax.system.hopper import Number

try:
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import arith, llvm, nvvm
except ImportError:  # `hopper.installed` says so
    pass


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A matrix of bfloat16 in shared memory, as the tensor cores read it: by pieces of 8×8 numbers.

    Attributes:
      descriptor: where it begins, and its strides.
      transposed: whether its rows (of the first factor) or columns (of the second) lie side by
        side, and not the numbers along which a product sums.
    """

    descriptor: Any
    transposed: bool

    @staticmethod
    def plain(ref: Any, summed: int, other: int, transposed: bool = False) -> Matrix:
        """One that begins where a buffer does; a piece is 128 bytes side by side.

        Args:
          summed: bytes from a piece to the next one along the axis that a product sums over.
          other: bytes to the next one along the other axis. Pieces may overlap.
        """
        return Matrix(_descriptor(ref, summed, other, 0), transposed)

    @staticmethod
    def swizzled(ref: Any, transposed: bool = False) -> Matrix:
        """One whose rows of 64 numbers were copied with `SWIZZLE`, one after the other."""
        return Matrix(_descriptor(ref, 0, 8 * hopper.SWIZZLE, 1), transposed)

    def moved(self, elements: int | Number) -> Matrix:
        """One that begins so many elements further on, a multiple of eight."""
        sixteen_bytes = (hopper.number(elements) // 8).as_type(64)
        return Matrix(arith.addi(self.descriptor, sixteen_bytes), self.transposed)


def _descriptor(ref: Any, leading: int, stride: int, swizzle: int) -> Any:
    """PTX's descriptor of a matrix in shared memory (wgmma)."""
    i64 = ir.IntegerType.get_signless(64)
    pointer = llvm.ptrtoint(i64, hopper.pointer(ref))
    number = lambda n: arith.constant(i64, n)
    start = llvm.lshr(llvm.and_(pointer, number(0x3FFFF)), number(4))
    high = arith.shli(number(stride >> 4 | swizzle << 30), number(32))
    return llvm.or_(start, llvm.or_(high, number(leading >> 4 << 16)))


class Sums:
    """A warp group's (64, columns) float32 sums of products, columns/2 of them a thread.

    Attributes:
      columns: a multiple of 8, at most 256.
      values: the thread's sums: of eight columns after eight columns, in them of two rows, in them
        of two columns (see `rows_of`, `column_of`). None before the first product.
    """

    def __init__(self, columns: int, values: Sequence[Any] | None = None):
        self.columns = columns
        self.values = None if values is None else list(values)

    @staticmethod
    def zero(columns: int) -> Sums:
        """Sums of nothing; `begin` goes between these and the first product."""
        return Sums(columns, [hopper.float32(0.0)] * (columns // 2))

    def add(self, a: Matrix, b: Matrix) -> None:
        """Adds a·b of (64,16) and (16,columns), later: `finish` waits for it."""
        f32, count = ir.F32Type.get(), self.columns // 2
        adds = int(self.values is not None)
        sums = ", ".join(f"${n}" for n in range(count))
        text = (
            f"{{ .reg .pred p; setp.ne.b32 p, {adds}, 0; "
            f"wgmma.mma_async.sync.aligned.m64n{self.columns}k16.f32.bf16.bf16 {{{sums}}}, "
            f"${2 * count}, ${2 * count + 1}, p, 1, 1, {int(a.transposed)}, {int(b.transposed)}; }}"
        )
        result = llvm.inline_asm(
            llvm.StructType.get_literal([f32] * count),
            [*(self.values or [llvm.mlir_undef(f32)] * count), a.descriptor, b.descriptor],
            text,
            ",".join([*["=f"] * count, *map(str, range(count)), "l", "l"]),
            has_side_effects=True,
        )
        self.values = [llvm.extractvalue(f32, result, [n]) for n in range(count)]


def rows_of(thread: Number) -> tuple[Number, Number]:
    """The two rows of `Sums` that a thread of the warp group has."""
    warp, lane = thread // 32, thread % 32
    row = warp * 16 + lane // 4
    return row, row + 8


def column_of(thread: Number) -> Number:
    """The first of the two columns, of every eight, that a thread of the warp group has."""
    return thread % 4 * 2


def columns_of_swizzled_row(row: Number, eight: int, thread: Number) -> Number:
    """Where `column_of` of the eight-th eight columns lies in a buffer of swizzled rows of 64."""
    return row * 64 + ((row % 8) ^ eight) * 8 + column_of(thread)


def add(a: Any, b: Any) -> Any:
    """Sum of two float32."""
    return arith.addf(a, b)


def keep_where(condition: Any, value: Any) -> Any:
    """A float32, or four, or 0."""
    type_ = value.type
    if isinstance(type_, ir.VectorType):
        f32 = ir.FloatAttr.get(type_.element_type, 0.0)
        zero = arith.constant(type_, ir.DenseElementsAttr.get_splat(type_, f32))
    else:
        zero = hopper.float32(0.0)
    return arith.select(condition, value, zero)


def load_bfloat16_pair(ref: Any, element: Number) -> tuple[Any, Any]:
    """Two bfloat16 side by side, as float32."""
    i32, f32 = ir.IntegerType.get_signless(32), ir.F32Type.get()
    both = llvm.LoadOp(i32, hopper.address(ref, element, ir.BF16Type.get()), alignment=4).result
    low = arith.shli(both, arith.constant(i32, 16))
    high = arith.andi(both, arith.constant(i32, -65536))
    return arith.bitcast(f32, low), arith.bitcast(f32, high)


def store_bfloat16_pair(low: Any, high: Any, ref: Any, element: Number) -> None:
    """Rounds two float32 and stores them side by side."""
    i32 = ir.IntegerType.get_signless(32)
    text = "cvt.rn.bf16x2.f32 $0, $1, $2;"
    both = llvm.inline_asm(i32, [high, low], text, "=r,f,f", has_side_effects=False)
    llvm.StoreOp(both, hopper.address(ref, element, ir.BF16Type.get()), alignment=4)


def store_pair(values: Sequence[Any], ref: Any, element: Number) -> None:
    """Two float32 that begin at an element whose place is a multiple of 8 bytes."""
    f32, i32 = ir.F32Type.get(), ir.IntegerType.get_signless(32)
    pair = llvm.mlir_undef(ir.VectorType.get((2,), f32))
    for n, value in enumerate(values):
        pair = llvm.insertelement(pair, value, arith.constant(i32, n))
    llvm.StoreOp(pair, hopper.address(ref, element, f32), alignment=8)


def is_positive(value: Any) -> Any:
    """Whether a float32 is above 0."""
    return arith.cmpf(arith.CmpFPredicate.OGT, value, hopper.float32(0.0))


def begin() -> None:
    """Before the first product that adds to sums which the program itself has set."""
    nvvm.wgmma_fence_aligned()


def finish() -> None:
    """Waits for all products of this warp group."""
    nvvm.wgmma_commit_group_sync_aligned()
    nvvm.wgmma_wait_group_sync_aligned(0)
