"""ESPNetv2 for segmentation (Mehta et al., CVPR 2019), for inference: a teacher of objects.

It takes the state dict of EdgeNets' release (github.com/sacmehta/EdgeNets, MIT; 0.8 M parameters,
21 classes of Pascal VOC, 67.0 mIoU by its authors) as the numbers that they are:

    probabilities = jax.jit(functools.partial(espnetv2, read_state(path)))(frames)

Layers carry the names of the state dict. Single frames: it knows nothing of time.
"""

from __future__ import annotations

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
PERSON = VOC.index("person")
# What moves by itself or is ridden: furniture and plants are background in videos.
MOVING = (
    *("aeroplane", "bicycle", "bird", "boat", "bus", "car", "cat", "cow", "dog", "horse"),
    *("motorbike", "person", "sheep", "train"),
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, RGB in [0,1]
_EPSILON = 1e-5
_BRANCHES = 4
# Largest receptive fields of the branches, by the level that a block stands in.
_REACH = {"level2_0": 13, "level3_0": 11, "level3": 9, "level4_0": 9, "level4": 7}
_SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)  # of the pyramid
State = dict[str, np.ndarray]


def read_state(path: str | os.PathLike[str]) -> State:
    """Name → array of a state dict that PyTorch wrote.

    Raises:
      WeightsError: it cannot be read.
    """
    from v2v_jax.pretrained.pytorch import read_state_dict

    return read_state_dict(os.fspath(path))


def espnetv2(state: State, frames: jax.Array) -> jax.Array:
    """Class probabilities of frames.

    Args:
      state: see `read_state`.
      frames: (N,H,W,3) uint8 RGB, H and W multiples of 16; 384 is what it was trained at.

    Returns:
      (N,H,W,K) float32.
    """
    image = (frames.astype(jnp.float32) / 255 - jnp.array(_MEAN)) / jnp.array(_STD)
    net = _Network(state)
    l1 = net.conv(image, "base_net.level1", stride=2)
    l2 = net.down(l1, image, "base_net.level2_0")
    l3 = net.blocks(net.down(l2, image, "base_net.level3_0"), "base_net.level3")
    l4 = net.blocks(net.down(l3, image, "base_net.level4_0"), "base_net.level4")
    x = net.pyramid(l4, "bu_dec_l1")
    for number, level in zip((2, 3, 4), (l3, l2, l1)):
        x = _resized(x, tuple(2 * n for n in x.shape[1:3]))
        x = x + net.merged(level, f"merge_enc_dec_l{number}")
        x = net.act(net.norm(x, f"bu_br_l{number}.0"), f"bu_br_l{number}.1")
        x = net.pyramid(x, f"bu_dec_l{number}")
    return jax.nn.softmax(_resized(x, image.shape[1:3]))


class _Network:
    """The layers of a state dict."""

    def __init__(self, state: State):
        self._state = state

    def norm(self, x: jax.Array, name: str) -> jax.Array:
        """Batch normalisation with the running moments."""
        get = lambda leaf: self._state[f"{name}.{leaf}"]
        scale = get("weight") / np.sqrt(get("running_var") + _EPSILON)
        return x * scale + (get("bias") - get("running_mean") * scale)

    def act(self, x: jax.Array, name: str) -> jax.Array:
        """PReLU."""
        return jnp.where(x >= 0, x, self._state[f"{name}.weight"] * x)

    def plain(self, x: jax.Array, name: str, stride: int = 1, dilation: int = 1) -> jax.Array:
        """Convolution alone; its groups follow from the shapes."""
        kernel = np.transpose(self._state[f"{name}.weight"], (2, 3, 1, 0))
        if x.shape[-1] == kernel.shape[2]:
            pad = kernel.shape[0] // 2 * dilation
            y = lax.conv_general_dilated(
                x,
                kernel,
                (stride, stride),
                [(pad, pad)] * 2,
                rhs_dilation=(dilation, dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        else:
            y = _grouped(x, kernel, stride, dilation)
        return y + self._state[f"{name}.bias"] if f"{name}.bias" in self._state else y

    def conv(self, x: jax.Array, name: str, stride: int = 1) -> jax.Array:
        """Convolution, normalisation and, where it has one, activation, of the encoder."""
        x = self.norm(self.plain(x, f"{name}.conv", stride), f"{name}.bn")
        return self.act(x, f"{name}.act") if f"{name}.act.weight" in self._state else x

    def cbr(self, x: jax.Array, name: str) -> jax.Array:
        """The same, as the decoder calls it."""
        return self.act(self.norm(self.plain(x, f"{name}.0"), f"{name}.1"), f"{name}.2")

    def eesp(self, x: jax.Array, name: str, reach: int, stride: int = 1) -> jax.Array:
        """Reduce, split into dilated branches, add up, merge; without the last activation."""
        small = self.conv(x, f"{name}.proj_1x1")
        sizes = sorted(s if s <= reach else 3 for s in (3 + 2 * i for i in range(_BRANCHES)))
        outputs: list[jax.Array] = []
        for branch, size in enumerate(sizes):
            y = self.plain(small, f"{name}.spp_dw.{branch}.conv", stride, (size - 1) // 2)
            outputs.append(y + outputs[-1] if outputs else y)
        y = self.norm(jnp.concatenate(outputs, -1), f"{name}.br_after_cat.bn")
        return self.conv(self.act(y, f"{name}.br_after_cat.act"), f"{name}.conv_1x1_exp")

    def down(self, x: jax.Array, image: jax.Array, name: str) -> jax.Array:
        """Half the size: mean, a block of stride 2, and the image itself."""
        mean = _mean_pool(x)
        block = self.eesp(x, f"{name}.eesp", _REACH[name.partition(".")[2]], stride=2)
        while image.shape[1] != mean.shape[1]:
            image = _mean_pool(image)
        direct = self.conv(self.conv(image, f"{name}.inp_reinf.0"), f"{name}.inp_reinf.1")
        return self.act(jnp.concatenate([mean, block], -1) + direct, f"{name}.act")

    def blocks(self, x: jax.Array, name: str) -> jax.Array:
        """The residual blocks of a level."""
        number = 0
        while f"{name}.{number}.module_act.weight" in self._state:
            block = f"{name}.{number}"
            y = self.eesp(x, block, _REACH[name.partition(".")[2]])
            x, number = self.act(x + y, f"{block}.module_act"), number + 1
        return x

    def pyramid(self, x: jax.Array, name: str) -> jax.Array:
        """Efficient pyramid pooling."""
        x = self.cbr(x, f"{name}.projection_layer.cbr")
        size, parts = x.shape[1:3], []
        for number, scale in enumerate(_SCALES):
            other = tuple(max(5, math.ceil(n * scale)) for n in size)
            y = _pooled(x, other) if scale < 1 else _resized(x, other) if scale > 1 else x
            y = self.plain(y, f"{name}.stages.{number}")
            parts.append(_resized(y, size) if scale < 1 else _pooled(y, size) if scale > 1 else y)
        merge = f"{name}.merge_layer"
        y = self.norm(jnp.concatenate(parts, -1), f"{merge}.0.br.0")
        y = self.act(y, f"{merge}.0.br.1")
        shuffled = y.reshape(*y.shape[:3], len(_SCALES), -1).swapaxes(-1, -2).reshape(y.shape)
        y = self.plain(self.cbr(shuffled, f"{merge}.2.cbr"), f"{merge}.3")
        if f"{name}.br.br.0.weight" not in self._state:
            return y
        return self.act(self.norm(y, f"{name}.br.br.0"), f"{name}.br.br.1")

    def merged(self, x: jax.Array, name: str) -> jax.Array:
        """The encoder's features, weighted by what the whole frame holds."""
        mean = x.mean((1, 2), keepdims=True)
        weights = jax.nn.sigmoid(self.plain(mean, f"{name}.wt_layer.1"))
        return self.cbr(x, f"{name}.expansion_layer.cbr") * weights


def _grouped(x: jax.Array, kernel: np.ndarray, stride: int, dilation: int) -> jax.Array:
    """Convolution of groups of channels as sums over taps: XLA's own takes a CPU ten times longer.

    Args:
      x: (N,H,W,C).
      kernel: (h,w,C/groups,K).
    """
    n, h, w, c = x.shape
    size, inputs = kernel.shape[0], kernel.shape[2]
    groups, pad = c // inputs, size // 2 * dilation
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = 0.0
    for i, j in np.ndindex(size, size):
        rows = slice(i * dilation, i * dilation + h, stride)
        columns = slice(j * dilation, j * dilation + w, stride)
        tap, weights = padded[:, rows, columns], kernel[i, j]  # (C/groups,K)
        if inputs == 1 and kernel.shape[3] == c:
            total += tap * weights[0]
            continue
        weights = weights.reshape(inputs, groups, -1)
        split = tap.reshape(*tap.shape[:3], groups, inputs)
        if inputs < 16:
            y = sum(split[..., k, None] * weights[k] for k in range(inputs))
        else:
            y = jnp.einsum("nhwgi,igo->nhwgo", split, weights)
        total += y.reshape(*tap.shape[:3], -1)
    return total


def _mean_pool(x: jax.Array) -> jax.Array:
    """Mean over 3×3 at every second place; zeros beyond the border count."""
    window, pads = (1, 3, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, 0.0, lax.add, window, (1, 2, 2, 1), pads) / 9


def _along(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """(N,H,W,C) with the matrices (h,H) and (w,W) applied."""
    precise = lax.Precision.HIGHEST
    x = jnp.einsum("ij,njwc->niwc", rows, x, precision=precise)
    return jnp.einsum("ij,nhjc->nhic", columns, x, precision=precise)


def _resized(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Bilinear, first and last pixel on first and last."""

    def matrix(count: int, source: int) -> np.ndarray:
        place = np.linspace(0, source - 1, count)
        return np.maximum(1 - np.abs(place[:, None] - np.arange(source)), 0).astype(np.float32)

    return _along(x, *map(matrix, size, x.shape[1:3]))


def _pooled(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Means of as equal parts as can be (adaptive pooling)."""

    def matrix(count: int, source: int) -> np.ndarray:
        first = np.arange(count) * source // count
        last = -(-(np.arange(1, count + 1) * source) // count)
        place = np.arange(source)
        inside = (place >= first[:, None]) & (place < last[:, None])
        return (inside / inside.sum(1, keepdims=True)).astype(np.float32)

    return _along(x, *map(matrix, size, x.shape[1:3]))
