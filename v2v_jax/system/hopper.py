"""What kernels share that are written for Hopper GPUs alone (H100, H200): JAX's Mosaic GPU.

Triton keeps all sums and all addresses of a program in registers and copies through them. These
kernels let the copy engine move whole boxes between global and shared memory, and the tensor cores
read from there: one warp group (128 threads) copies, the others compute. A kernel is Python that
writes a program when it is called: an ordinary `for` is unrolled, `loop` is one of the program.

JAX calls this interface unstable, so it is used only with the versions that it was tried with;
everywhere else `v2v_jax.models.kernels` has a kernel in Triton for the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from v2v_jax.system import triton

try:
    from jax.experimental.mosaic import gpu as mgpu
    from jax.experimental.mosaic.gpu import utils as _utils
    from jax.interpreters import mlir as _mlir
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import arith, gpu, llvm, nvvm
except ImportError:
    mgpu = None

VERSIONS = ((0, 11),)  # of JAX, that the kernels have run with on a GPU
THREADS = 128  # of a warp group
SWIZZLE = 128  # bytes of a row in shared memory, whose 16-byte pieces change places row by row
_MULTIPROCESSORS = 132
_CAPABILITY = "9.0"  # its instruction for products (wgmma) is on no GPU before or after


def installed() -> bool:
    """Whether this JAX can write such kernels."""
    return mgpu is not None


def available() -> bool:
    """Whether this process computes on a Hopper GPU, with a JAX that was tried."""
    return installed() and triton.available() and _is_tried()


@functools.cache
def _is_tried() -> bool:
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    return capability == _CAPABILITY and jax.__version_info__[:2] in VERSIONS


def multiprocessors() -> int:
    """Of this process's GPU; 132, as H100 and H200 have, where JAX doesn't say (H20: 78)."""
    return getattr(jax.devices()[0], "core_count", None) or _MULTIPROCESSORS


def launch(
    body: Callable,
    *arguments: jax.Array,
    outputs: Sequence[jax.ShapeDtypeStruct],
    programs: int,
    warpgroups: int,
    shared: Sequence[Any],
    name: str,
) -> Sequence[jax.Array]:
    """Runs `body(context, *arguments, *outputs, shared)` as a kernel.

    Args:
      programs: blocks of threads.
      warpgroups: of a block.
      shared: buffers in shared memory, as shapes and dtypes, and barriers.
      name: in profiles.
    """
    inputs = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arguments)
    with _mlir.make_ir_context(), ir.Location.unknown():
        kernel = mgpu.as_gpu_kernel(
            body,
            (programs, 1, 1),
            (warpgroups * THREADS, 1, 1),
            inputs,
            tuple(outputs),
            tuple(shared),
            module_name=name,
            kernel_name=name,
        )
    return kernel(*arguments)


# ---- Inside of a kernel: numbers ----------------------------------------------------------------


class Number:
    """An index that the program computes; // and % are those of numbers without a sign."""

    def __init__(self, value: int | Any):
        self.value = mgpu.c(value, ir.IndexType.get()) if isinstance(value, int) else value

    def __add__(self, other: int | Number) -> Number:
        return self._with(arith.addi, other)

    __radd__ = __add__

    def __sub__(self, other: int | Number) -> Number:
        return self._with(arith.subi, other)

    def __mul__(self, other: int | Number) -> Number:
        return self._with(arith.muli, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: int | Number) -> Number:
        return self._with(arith.divui, other)

    def __mod__(self, other: int | Number) -> Number:
        return self._with(arith.remui, other)

    def __xor__(self, other: int | Number) -> Number:
        return self._with(arith.xori, other)

    def __lt__(self, other: int | Number) -> Any:
        return self._compare("ult", other)

    def __ge__(self, other: int | Number) -> Any:
        return self._compare("uge", other)

    def equals(self, other: int | Number) -> Any:
        """Whether they are the same number."""
        return self._compare("eq", other)

    def within(self, start: int | Number, length: int | Number) -> Any:
        """Whether it is one of `length` numbers from `start` on."""
        return (self - start) < length  # without a sign, what is below start is huge

    def as_type(self, bits: int) -> Any:
        """It as a whole number of so many bits."""
        return arith.index_cast(ir.IntegerType.get_signless(bits), self.value)

    def _with(self, operation: Callable, other: int | Number) -> Number:
        return Number(operation(self.value, number(other).value))

    def _compare(self, how: str, other: int | Number) -> Any:
        predicate = getattr(arith.CmpIPredicate, how)
        return arith.cmpi(predicate, self.value, number(other).value)


def number(x: int | Number) -> Number:
    """It as a `Number`."""
    return x if isinstance(x, Number) else Number(x)


def where(condition: Any, yes: int | Number, no: int | Number) -> Number:
    """`yes` or `no`."""
    return Number(arith.select(condition, number(yes).value, number(no).value))


def all_of(*conditions: Any) -> Any:
    """Whether all are true."""
    return functools.reduce(arith.andi, conditions)


def program() -> Number:
    """Which block of threads this one is."""
    return Number(gpu.block_id(gpu.Dimension.x))


def thread() -> Number:
    """Which thread of the block."""
    return Number(arith.index_castui(ir.IndexType.get(), mgpu.thread_idx()))


def warpgroup() -> Number:
    """Which warp group of the block."""
    return Number(arith.index_castui(ir.IndexType.get(), mgpu.warpgroup_idx()))


def loop(count: int, carry: Sequence[Any], body: Callable[[Number, Sequence[Any]], Sequence[Any]]):
    """body(i, carry) → carry, for i below `count`; returns the last carry."""
    run = mgpu.fori(Number(count).value, tuple(carry))
    return run(lambda i, carry: tuple(body(Number(i), carry))).results


def one_thread() -> contextlib.AbstractContextManager[None]:
    """What is inside is done by one thread of the warp group, always the same one."""
    return mgpu.single_thread(scope=mgpu.ThreadSubset.WARPGROUP)


def set_registers(count: int, more: bool) -> None:
    """How many registers a thread of this warp group has from here on."""
    action = nvvm.SetMaxRegisterAction
    nvvm.setmaxregister(count, action.increase if more else action.decrease)


# ---- Inside of a kernel: shared memory ----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ring:
    """Buffers that one warp group fills and others empty, one after the other and round again.

    Attributes:
      full, empty: barriers, one a buffer; `full` is arrived at by the copy that fills it, `empty`
        once by every warp group that has read it.
      slots: buffers.
    """

    full: Any
    empty: Any
    slots: int

    @staticmethod
    def barriers(slots: int, readers: int) -> tuple[Any, Any]:
        """What `launch` needs in shared memory for `full` and `empty`."""
        return mgpu.TMABarrier(slots), mgpu.Barrier(readers, slots)

    def slot(self, n: Number) -> Number:
        """The buffer of the n-th filling."""
        return n % self.slots

    def filled(self, n: Number) -> Any:
        """The barrier of the n-th filling, for the copy."""
        return self.full[self.slot(n).value]

    def wait_filled(self, n: Number) -> None:
        """Waits until the n-th filling is there."""
        self.filled(n).wait_parity(self._parity(n))

    def wait_free(self, n: Number) -> None:
        """Waits until the buffer of the n-th filling has been read by all, the time before."""
        flipped = arith.xori(self._parity(n), mgpu.c(1, ir.IntegerType.get_signless(1)))
        self.empty[self.slot(n).value].wait_parity(flipped)

    def release(self, n: Number) -> None:
        """Says that this warp group has read the n-th filling; of one thread."""
        self.empty[self.slot(n).value].arrive()

    def _parity(self, n: Number) -> Any:
        return arith.trunci(ir.IntegerType.get_signless(1), (n // self.slots).as_type(32))


def wait(barrier: Any) -> None:
    """Waits for a barrier that is used once."""
    barrier.wait_parity(mgpu.c(0, ir.IntegerType.get_signless(1)))


def part(ref: Any, *index: Any) -> Any:
    """ref[index], of numbers and of pairs (start, length)."""
    as_index = lambda i: i.value if isinstance(i, Number) else i
    slices = [mgpu.ds(as_index(i[0]), i[1]) if isinstance(i, tuple) else as_index(i) for i in index]
    return mgpu.memref_slice(ref, tuple(slices))


def reshaped(ref: Any, shape: tuple[int, ...]) -> Any:
    """The same buffer in another shape."""
    return mgpu.memref_reshape(ref, shape)


def address(ref: Any, element: int | Number, dtype: Any) -> Any:
    """Pointer to an element of a buffer, counted from its first one."""
    return _utils.getelementptr(pointer(ref), [number(element).as_type(64)], dtype)


def pointer(ref: Any) -> Any:
    """Pointer to where a buffer begins."""
    return _utils.memref_ptr(ref)


def float32(value: float) -> Any:
    """A constant."""
    return mgpu.c(value, ir.F32Type.get())


def load4(ref: Any, element: Number) -> Any:
    """Four float32 that begin at an element whose place is a multiple of 16 bytes."""
    f32 = ir.F32Type.get()
    return llvm.LoadOp(
        ir.VectorType.get((4,), f32), address(ref, element, f32), alignment=16
    ).result


def store_first(fours: Sequence[Any], count: int, ref: Any, element: Number) -> None:
    """Stores the first `count` of what `load4` has loaded, side by side."""
    f32, i32 = ir.F32Type.get(), ir.IntegerType.get_signless(32)
    if count == 4 * len(fours):
        for n, four in enumerate(fours):
            llvm.StoreOp(four, address(ref, element + 4 * n, f32), alignment=16)
        return
    for n in range(count):
        value = llvm.extractelement(fours[n // 4], arith.constant(i32, n % 4))
        llvm.StoreOp(value, address(ref, element + n, f32), alignment=4)


def store_values(values: Sequence[Any], ref: Any, element: Number) -> None:
    """Stores float32 side by side."""
    f32 = ir.F32Type.get()
    for n, value in enumerate(values):
        llvm.StoreOp(value, address(ref, element + n, f32), alignment=4)


def copy_in(
    context: Any, source: Any, to: Any, barrier: Any, at: tuple = (), swizzle: int = 0
) -> None:
    """Begins to copy a box of global memory to shared memory; of one thread.

    Args:
      barrier: that the copy arrives at.
      at: the box's place, as `part` with pairs replaced by Mosaic's slices; zeros lie outside.
    """
    context.async_copy(
        src_ref=source,
        dst_ref=to,
        gmem_slice=at,
        barrier=barrier,
        swizzle=swizzle or None,
        predicate=None,
    )


def copy_out(context: Any, source: Any, to: Any, at: tuple, swizzle: int) -> None:
    """Begins to copy shared memory to a box of global memory; of one thread."""
    context.async_copy(src_ref=source, dst_ref=to, gmem_slice=at, swizzle=swizzle, predicate=None)


def wait_copied_out(everything: bool = False) -> None:
    """Waits until what this thread copies out has been read, or until it is written, too."""
    nvvm.cp_async_bulk_wait_group(0, read=not everything)


def show_to_copies() -> None:
    """What this warp group stored in shared memory is what later copies and products read."""
    mgpu.commit_shared()


def box(start: int | Number, length: int) -> Any:
    """A slice of a box's place."""
    return mgpu.ds(number(start).value, length)


def wait_for_warpgroup() -> None:
    """Waits for all threads of this warp group."""
    mgpu.warpgroup_barrier()


def when(condition: Any) -> contextlib.AbstractContextManager[None]:
    """What is inside is done where it is true."""
    return mgpu.when(condition)
