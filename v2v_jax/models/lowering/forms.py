"""The forms in which a stride-1 3D convolution can be computed, and its weights' gradient.

XLA's own 5-D convolutions are 10 to 70 times slower than needed on CPU and GPU. The forms differ in
where the kernel's taps go:

* ``taps_in_input``: the T-shifted inputs are stacked into the input channels; one 2D convolution.
* ``taps_in_output``: one 2D convolution to kt·out channels, then kt shifted adds. Better where
  there are fewer output than input channels.
* ``per_tap``: one 2D convolution a temporal tap over the frames that it touches, summed.
* ``gathered``: all taps, of T, H and W, are stacked into the input channels; one matrix product.
* ``gathered_by_axis``: the same, stacked an axis after the other: a third of the slices, so fewer
  copies and less for XLA's CPU compiler. On CPUs for small frames.
* ``product``: all taps in the output channels of one matrix product, then shifted adds. On CPUs
  where inputs have very many channels.
* ``rows``: the same; of its weight gradient the output's taps and channels are rows of all voxels,
  and a tap is a shift along a row: copies of long runs. On CPUs where outputs have few channels.
* ``winograd``: far fewer multiplications, see winograd.py. On CPUs for large frames in float32.
* ``winograd_planes``: the same in H and W alone, see winograd_planes.py. On CPUs for transposed
  convolutions to large frames.
* ``native``: XLA's own 5-D convolution, which is what TPUs are quick at.

All compute the same function; choice.py chooses. Arrays are (B,T,H,W,C), kernels (T,H,W,in,out).
Convolution means cross-correlation, as in Caffe.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from v2v_jax.models.lowering import winograd, winograd_planes

Form = Literal[
    "taps_in_input",
    "taps_in_output",
    "per_tap",
    "gathered",
    "gathered_by_axis",
    "product",
    "rows",
    "winograd",
    "winograd_planes",
    "native",
]
FORMS: tuple[Form, ...] = get_args(Form)
_ROW_VOXELS = 4096  # of a chunk of rows
FEW_VOXELS = 8192  # what a CPU's caches hold of a layer, with all the copies of a weight gradient
_NATIVE = ("NTHWC", "THWIO", "NTHWC")
Padding = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def convolve(padding: Padding, form: Form, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """(B,T,H,W,Cin) * (kt,kh,kw,Cin,Cout) → (B,T',H',W',Cout); see convolution.conv3d."""
    kt, kh, kw, cin, cout = kernel.shape
    (before, after), *pad2d = padding
    t_out = x.shape[1] + before + after - kt + 1
    if form == "native":
        return lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=_NATIVE)
    if form in ("gathered", "gathered_by_axis"):
        taps = gather_taps(x, kernel.shape[:3], padding, by_axis=form == "gathered_by_axis")
        return taps @ kernel.reshape(-1, cout)
    if form in ("product", "rows"):
        return _one_product(x, kernel, padding)
    if form == "winograd":
        f32 = jnp.float32  # half precision would lose too much in the transforms
        return winograd.conv3d(x.astype(f32), kernel.astype(f32), padding).astype(x.dtype)
    if form == "winograd_planes":
        f32 = jnp.float32
        return winograd_planes.conv3d(x.astype(f32), kernel.astype(f32), padding).astype(x.dtype)
    if kt == 1 and (before, after) == (0, 0):
        return _conv2d(x, kernel[0], pad2d)
    if form == "taps_in_input":
        stacked = _stack_taps(x, kt, padding[0])
        return _conv2d(
            stacked, kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * cin, cout), pad2d
        )
    if form == "taps_in_output":
        y = _conv2d(x, kernel.transpose(1, 2, 3, 0, 4).reshape(kh, kw, cin, kt * cout), pad2d)
        taps = jnp.split(y, kt, axis=-1)
        return sum(_shift(tap, before - k, t_out) for k, tap in enumerate(taps))
    if form == "per_tap":
        return _sum_per_tap(x, kernel, padding, t_out)
    raise ValueError(f"Unknown form {form!r}; expected one of {', '.join(FORMS)}.")


def weight_gradient(padding: Padding, form: Form, x: jax.Array, dy: jax.Array) -> jax.Array:
    """(kt,kh,kw,Cin,Cout) from the input x (B,T,H,W,Cin) and the output's gradient dy."""
    k = kernel_size(padding, x, dy)
    if form in ("per_tap", "product"):
        return _weight_gradient_by_products(padding, k, x, dy)
    if form == "rows":
        return _weight_gradient_by_rows(padding, k, x, dy)
    if form == "winograd":
        f32 = jnp.float32
        dkernel = winograd.weight_gradient(x.astype(f32), dy.astype(f32), k, padding)
        return dkernel.astype(x.dtype)
    if form in ("gathered", "gathered_by_axis"):
        taps = gather_taps(x, k, padding, by_axis=form == "gathered_by_axis")
        return weight_gradient_of_taps(taps, dy, k)
    kernel = jax.ShapeDtypeStruct((*k, x.shape[-1], dy.shape[-1]), x.dtype)
    transpose = jax.linear_transpose(lambda kernel: convolve(padding, form, x, kernel), kernel)
    return transpose(dy)[0]


def kernel_size(padding: Padding, x: jax.Array, y: jax.Array) -> tuple[int, int, int]:
    """(kt,kh,kw) of the convolution by which x (B,T,H,W,Cin) becomes y (B,T',H',W',Cout)."""
    return tuple(n + sum(p) - m + 1 for n, m, p in zip(x.shape[1:4], y.shape[1:4], padding))


def _sum_per_tap(x: jax.Array, kernel: jax.Array, padding: Padding, t_out: int) -> jax.Array:
    (before, _), *pad2d = padding
    total = None
    for k in range(kernel.shape[0]):
        start, stop = max(k - before, 0), min(t_out + k - before, x.shape[1])  # frames it touches
        if stop <= start:
            continue
        y = _shift(_conv2d(x[:, start:stop], kernel[k], pad2d), start + before - k, t_out)
        total = y if total is None else total + y
    if total is None:  # every tap reads padding only
        h_out, w_out = (
            n + sum(p) - k + 1 for n, p, k in zip(x.shape[2:4], pad2d, kernel.shape[1:3])
        )
        total = jnp.zeros((x.shape[0], t_out, h_out, w_out, kernel.shape[-1]), x.dtype)
    return total


def _one_product(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Every voxel's contribution to all of its neighbours by one product, then shifted adds."""
    *k, cin, cout = kernel.shape
    size = [n + lo + hi - m + 1 for n, m, (lo, hi) in zip(x.shape[1:4], k, padding)]
    taps = jnp.dot(x.reshape(-1, cin), kernel.transpose(3, 0, 1, 2, 4).reshape(cin, -1))
    taps = taps.reshape(*x.shape[:4], math.prod(k), cout)
    total = jnp.zeros((x.shape[0], *size, cout), x.dtype)
    for index, tap in enumerate(itertools.product(*map(range, k))):
        place = [  # output voxel n gets tap t of input voxel n + t - lo
            (lo - t, n - m - lo + t, 0)
            for t, n, m, (lo, _) in zip(tap, size, x.shape[1:4], padding)
        ]
        y = taps[..., index, :].astype(x.dtype)
        total += lax.pad(y, jnp.zeros((), x.dtype), [(0, 0, 0), *place, (0, 0, 0)])
    return total


def _weight_gradient_by_products(padding, k, x, dy):
    """One product a few frames, of x and dy with the kernel's taps stacked into their channels.

    XLA's own CPU weight gradient takes ten times longer. Each axis's taps go to x or to dy, such
    that the least is copied; a few frames at a time, so that the copies stay in the cache. Sums are
    float32 in any case.
    """
    b, cin, cout = x.shape[0], x.shape[-1], dy.shape[-1]
    on_x = _axes_to_stack_on_x(k, cin, cout)
    k_x = [m if on else 1 for m, on in zip(k, on_x)]
    k_dy = [1 if on else m for m, on in zip(k, on_x)]
    size = [dy.shape[i + 1] if on else x.shape[i + 1] for i, on in enumerate(on_x)]
    frames = min(size[0], max(1, FEW_VOXELS // (b * size[1] * size[2])))
    chunks = -(-size[0] // frames)
    more = [chunks * frames - size[0], 0, 0]  # zeros that fill the last chunk
    pads = [p if on else (0, 0) for p, on in zip(padding, on_x)]
    x = _pad_or_crop(x, [(lo, hi + n) for (lo, hi), n in zip(pads, more)])
    pads = [(m - 1 - lo, m - 1 - hi) for m, (lo, hi) in zip(k, padding)]  # dy's windows run back
    pads = [(0, 0) if on else p for p, on in zip(pads, on_x)]
    dy = _pad_or_crop(dy, [(lo, hi + n) for (lo, hi), n in zip(pads, more)])
    size[0] = frames

    def add(total, start):
        at = lax.dynamic_slice_in_dim(x, start, frames + k_x[0] - 1, axis=1)
        of = lax.dynamic_slice_in_dim(dy, start, frames + k_dy[0] - 1, axis=1)
        at, of = _windows_by_axis(at, k_x, size), _windows_by_axis(of, k_dy, size)
        contract = (((0,), (0,)), ((), ()))
        return total + lax.dot_general(at, of, contract, preferred_element_type=jnp.float32), None

    total = jnp.zeros((math.prod(k_x) * cin, math.prod(k_dy) * cout), jnp.float32)
    total, _ = lax.scan(add, total, frames * jnp.arange(chunks))
    total = jnp.flip(total.reshape(*k_x, cin, *k_dy, cout), [4 + i for i in range(3)])
    return total.transpose(0, 4, 1, 5, 2, 6, 3, 7).reshape(*k, cin, cout).astype(x.dtype)


def _weight_gradient_by_rows(padding, k, x, dy):
    """The shifted rows of dy's channels times x: x[q + shift] · dy[q], summed over q.

    Both lie at one pitch, with zeros where a shift leads beyond an edge. Sums are float32.
    """
    cin, (_, *size, cout) = x.shape[-1], dy.shape
    pitch, shifts = _pitch(k, size)
    x = _at_pitch(x, pitch, [lo for lo, _ in padding]).reshape(-1, cin)
    rows = _at_pitch(dy, pitch, (0, 0, 0)).reshape(-1, cout).T
    lines = x.shape[0] // pitch[2]
    most = max(1, _ROW_VOXELS // pitch[2])  # lines of a chunk; without a rest, if possible
    chunk = next((n for n in range(most, most // 2, -1) if lines % n == 0), most) * pitch[2]
    rest = -x.shape[0] % chunk
    x = jnp.pad(x, ((0, rest), (0, 0)))
    rows = jnp.pad(rows, ((0, 0), (shifts[-1], rest)))

    def add(total, start):
        places = [start + shifts[-1] - shift for shift in shifts]
        taps = jnp.concatenate([lax.dynamic_slice_in_dim(rows, at, chunk, 1) for at in places])
        of = lax.dynamic_slice_in_dim(x, start, chunk)
        return total + jnp.dot(taps, of, preferred_element_type=jnp.float32), None

    total = jnp.zeros((len(shifts) * cout, cin), jnp.float32)
    total, _ = lax.scan(add, total, chunk * jnp.arange(len(x) // chunk))
    return total.reshape(*k, cout, cin).swapaxes(3, 4).astype(x.dtype)


def _pitch(k: Sequence[int], size: Sequence[int]) -> tuple[list[int], list[int]]:
    """T, H and W of a padded input, and how far into it each tap lies if it is one long row."""
    _, h, w = pitch = [n + m - 1 for n, m in zip(size, k)]
    return pitch, [(i * h + j) * w + l for i, j, l in itertools.product(*map(range, k))]


def _at_pitch(x: jax.Array, pitch: Sequence[int], before: Sequence[int]) -> jax.Array:
    """Zeros around T, H and W."""
    return _pad_or_crop(x, [(lo, n - lo - m) for lo, n, m in zip(before, pitch, x.shape[1:4])])


def _pad_or_crop(x: jax.Array, pads: Sequence[tuple[int, int]]) -> jax.Array:
    """Zeros before and after T, H and W; negative numbers cut."""
    pads = [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _axes_to_stack_on_x(k: Sequence[int], cin: int, cout: int) -> tuple[bool, ...]:
    def copied(on_x: tuple[bool, ...]) -> int:
        taps = math.prod(m for m, on in zip(k, on_x) if on)
        return taps * cin + math.prod(k) // taps * cout

    return min(itertools.product((False, True), repeat=3), key=copied)


def _windows(x: jax.Array, k: Sequence[int], size: Sequence[int]) -> jax.Array:
    """(B,T,H,W,C) → (voxels, taps·C): the windows of `size` that start at each tap."""
    t, h, w = size
    windows = [
        x[:, i : i + t, j : j + h, l : l + w] for i, j, l in itertools.product(*map(range, k))
    ]
    return jnp.concatenate(windows, axis=-1).reshape(-1, len(windows) * x.shape[-1])


def _windows_by_axis(x: jax.Array, k: Sequence[int], size: Sequence[int]) -> jax.Array:
    """`_windows`, stacked along W first, then H, then T."""
    for axis in (3, 2, 1):
        length, taps = size[axis - 1], range(k[axis - 1])
        windows = [lax.slice_in_dim(x, tap, tap + length, axis=axis) for tap in taps]
        x = jnp.concatenate(windows, axis=-1)
    return x.reshape(-1, x.shape[-1])


def gather_taps(
    x: jax.Array, kernel_size: Sequence[int], padding: Padding, *, by_axis: bool = False
) -> jax.Array:
    """(B,T,H,W,C) → (B,T',H',W',kt·kh·kw·C): all that an output voxel sees, in kernel order."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    size = [n - m + 1 for n, m in zip(padded.shape[1:4], kernel_size)]
    windows = _windows_by_axis if by_axis else _windows
    return windows(padded, kernel_size, size).reshape(x.shape[0], *size, -1)


def weight_gradient_of_taps(
    taps: jax.Array, dy: jax.Array, kernel_size: Sequence[int]
) -> jax.Array:
    """(kt,kh,kw,Cin,Cout) from the gathered taps of the input and the output's gradient."""
    taps, dy = taps.reshape(-1, taps.shape[-1]), dy.reshape(-1, dy.shape[-1])
    products = lax.dot_general(taps, dy, (((0,), (0,)), ((), ())))
    return products.reshape(*kernel_size, -1, dy.shape[-1])


def _conv2d(x: jax.Array, kernel: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
    """(B,T,H,W,Cin) * (kh,kw,Cin,Cout): a 2D convolution of every frame."""
    b, t = x.shape[:2]
    y = lax.conv_general_dilated(
        x.reshape(b * t, *x.shape[2:]),
        kernel,
        window_strides=(1, 1),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(b, t, *y.shape[1:])


def _stack_taps(x: jax.Array, kt: int, padding: tuple[int, int]) -> jax.Array:
    """(B,T,H,W,C) → (B,T',H,W,kt·C): frame t beside t+1 … t+kt-1, after padding T."""
    padded = jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
    t_out = padded.shape[1] - kt + 1
    return jnp.concatenate([padded[:, k : k + t_out] for k in range(kt)], axis=-1)


def _shift(x: jax.Array, offset: int, length: int) -> jax.Array:
    """Places x's frames at `offset` in `length` frames; zeros elsewhere, what sticks out is cut."""
    pad = (offset, length - offset - x.shape[1], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), pad, (0, 0, 0), (0, 0, 0), (0, 0, 0)])


# ------------------------------------------------------------------------------------------------
# Transposed convolution as a convolution to blocks


def block_kernel(kernel: jax.Array, strides: Sequence[int], taps: Sequence[int]) -> jax.Array:
    """(kt,kh,kw,Cin,Cout) → (taps…,Cin,st·sh·sw·Cout): the kernel that computes whole blocks."""
    (mt, mh, mw), (st, sh, sw) = taps, strides
    kt, kh, kw, cin, cout = kernel.shape
    kernel = jnp.pad(
        kernel, ((0, mt * st - kt), (0, mh * sh - kh), (0, mw * sw - kw), (0, 0), (0, 0))
    )
    kernel = kernel.reshape(mt, st, mh, sh, mw, sw, cin, cout)
    kernel = jnp.flip(kernel, (0, 2, 4)).transpose(0, 2, 4, 6, 1, 3, 5, 7)
    return kernel.reshape(mt, mh, mw, cin, math.prod(strides) * cout)


def depth_to_space(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """(B,T,H,W,st·sh·sw·C) → (B,T·st,H·sh,W·sw,C)."""
    b, t, h, w, _ = x.shape
    st, sh, sw = strides
    x = x.reshape(b, t, h, w, st, sh, sw, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, t * st, h * sh, w * sw, -1)


def space_to_depth(x: jax.Array, strides: Sequence[int]) -> jax.Array:
    """(B,T·st,H·sh,W·sw,C) → (B,T,H,W,st·sh·sw·C), the reverse of `depth_to_space`."""
    b, t, h, w, c = x.shape
    st, sh, sw = strides
    x = x.reshape(b, t // st, st, h // sh, sh, w // sw, sw, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, t // st, h // sh, w // sw, -1)


# ------------------------------------------------------------------------------------------------
# XLA's own operations, for TPUs


def transpose_native(
    strides: tuple[int, ...], padding: tuple[int, ...], x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """`transposed.conv3d_transpose` as the gradient of a strided convolution: no depth-to-space."""
    return _transpose_native(strides, padding, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _transpose_native(strides, padding, x, kernel):
    size = [
        (n - 1) * s + k - 2 * p
        for n, s, k, p in zip(x.shape[1:4], strides, kernel.shape[:3], padding)
    ]
    y = jax.ShapeDtypeStruct((x.shape[0], *size, kernel.shape[4]), x.dtype)
    return jax.linear_transpose(lambda y: _strided(strides, padding, y, kernel), y)(x)[0]


def _transpose_native_backward(strides, padding, residuals, dy):
    # Written out: JAX's own gradient of the convolution above would reverse dy in memory.
    x, kernel = residuals
    of_kernel = functools.partial(_strided, strides, padding, dy)
    return _strided(strides, padding, dy, kernel), jax.linear_transpose(of_kernel, kernel)(x)[0]


_transpose_native.defvjp(
    lambda strides, padding, *operands: (_transpose_native(strides, padding, *operands), operands),
    _transpose_native_backward,
)


def _strided(strides, padding, y, kernel):
    """The convolution (B,T',H',W',out) → (B,T,H,W,in) whose transpose is wanted."""
    pad = [(p, p) for p in padding]
    numbers = ("NTHWC", "THWOI", "NTHWC")  # kernel (T,H,W,in,out) reads `out`
    return lax.conv_general_dilated(y, kernel, strides, pad, dimension_numbers=numbers)


def max_pool_native(window: Sequence[int], x: jax.Array) -> jax.Array:
    """`pooling.max_pool3d`, ties included, by reduce-window and select-and-scatter."""
    window = (1, *window, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
