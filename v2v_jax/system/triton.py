"""What all Pallas kernels for NVIDIA GPUs share: where they run, how they are launched and divided.

Kernels are one program for one device. `per_device` runs them on every device's share of a batch,
`in_parts` on so few clips at a time that 32 bits address them. `load` and `store` are Triton's.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

try:  # JAX means to retire this backend: without it every caller has a form that runs anywhere
    from jax.experimental.pallas import triton as _triton
except ImportError:
    _triton = None

MAX_ELEMENTS = 2**31 - 1  # programs address elements with 32 bits
# KB of shared memory a block may take, by compute capability: A100, Orin, H100 and H200 (the ones
# tried), B200, B300. All others from 8.0 on have the least of these.
_SHARED_MEMORY = {"8.0": 163, "8.7": 163, "9.0": 227, "10.0": 227, "10.3": 227}
_LEAST_SHARED_MEMORY = 99

load = getattr(_triton, "load", None)
store = getattr(_triton, "store", None)

_switched_off = contextvars.ContextVar("switched_off", default=False)


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """What is traced inside uses no kernel: for programs that are to run on any GPU."""
    token = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(token)


def installed() -> bool:
    """Whether JAX still has Pallas' Triton backend."""
    return _triton is not None


def available(shared_memory: int = 0) -> bool:
    """Whether this process computes on a GPU that runs the kernels, and they are not switched off.

    It is about this process: a CPU that exports a program for GPUs answers no.

    Args:
      shared_memory: KB a block that the kernel takes.
    """
    return not _switched_off.get() and shared_memory <= _shared_memory()


@functools.cache
def _shared_memory() -> int:
    """KB of shared memory a block of this process's GPU may take; -1 where no kernel can run."""
    if not installed() or jax.default_backend() != "gpu":
        return -1
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    if not capability.replace(".", "", 1).isdigit() or float(capability) < 8:
        return -1  # an AMD GPU calls itself gfx…
    return _SHARED_MEMORY.get(capability, _LEAST_SHARED_MEMORY)


def call(
    body: Callable,
    *,
    grid: Sequence[int],
    out_shape: jax.ShapeDtypeStruct | Sequence[jax.ShapeDtypeStruct],
    warps: int = 4,
    stages: int = 1,
    interpret: bool = False,
    **options,
) -> Callable:
    """`pallas_call` of a kernel, named as its body is.

    Args:
      warps, stages: Triton's, of a program.
      interpret: whether it is computed by JAX operations instead, on any device.
      options: further ones of `pallas_call`.
    """
    return pl.pallas_call(
        body,
        grid=grid,
        out_shape=out_shape,
        name=body.__name__,
        interpret=interpret,
        compiler_params=_triton.CompilerParams(num_warps=warps, num_stages=stages),
        **options,
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


def in_parts(function: Callable, elements: int, *batched: jax.Array):
    """`function` on so few clips at a time that `elements` a clip can be addressed; as a list."""
    b = batched[0].shape[0]
    most = max(1, MAX_ELEMENTS // elements)
    step = -(-b // -(-b // most))  # as few parts as possible, of about the same size
    return [function(*(a[i : i + step] for a in batched)) for i in range(0, b, step)]


# ---- Inside of a kernel -------------------------------------------------------------------------


def divide(x: jax.Array, by: int) -> tuple[jax.Array, jax.Array]:
    """Quotient and remainder of an index."""
    # Not // and %: those also handle negative numbers, which hides from the compiler that
    # neighbouring threads read neighbouring addresses.
    by = jnp.full_like(x, by)
    return lax.div(x, by), lax.rem(x, by)


def unravel(i: jax.Array, *sizes: int) -> list[jax.Array]:
    """Row-major index → coordinates of which all but the first run up to `sizes`."""
    coordinates = []
    for size in reversed(sizes):
        i, rest = divide(i, size)
        coordinates.insert(0, rest)
    return [i, *coordinates]


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b, summed in float32."""
    return lax.dot_general(a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def product_transposed(a: jax.Array, b: jax.Array) -> jax.Array:
    """a.T @ b, summed in float32."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def each(mask: jax.Array, columns: int) -> jax.Array:
    """(N,) → (N,columns): the mask of rows for each of their elements."""
    return jnp.broadcast_to(mask[:, None], (mask.shape[0], columns))
