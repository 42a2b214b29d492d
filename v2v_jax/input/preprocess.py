"""From stored frames to the network's input: crop, mirror, grey, normalise.

`gather_clips` crops inside the jitted step (feed=device); feed=tf_data crops on the host, while it
copies. Mirroring (`mirror_clips`) and normalisation run in the jitted step for both: the host would
take longer to turn a clip round than to copy it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

_MAX_SIDE = 1 << 16
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of R, G, B


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What the network's input is made of; stored with its weights.

    Attributes:
      frame_size: (H, W) that frames are resized to (paper: 128, 171).
      crop_size: (H, W) of the clip that the network sees (paper: 112, 112).
      clip_length: T, frames (paper: 16).
      color_order: of the input channels; "bgr" for Caffe's C3D weights.
      mean: subtracted, in 0..255, in the order of the input channels.
      std: divided by; 1 for Caffe's C3D weights.
    """

    frame_size: tuple[int, int] = (128, 171)
    crop_size: tuple[int, int] = (112, 112)
    clip_length: int = 16
    color_order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (101.4, 97.7, 90.3)
    std: tuple[float, float, float] = (60.0, 60.0, 60.0)

    def normalize(self, video: jax.Array) -> jax.Array:
        """(…,3) uint8 RGB → (…,3) float32, in `color_order`, minus mean, divided by std."""
        x = video.astype(jnp.float32)
        if self.color_order == "bgr":
            x = x[..., ::-1]
        return (x - jnp.array(self.mean, jnp.float32)) / jnp.array(self.std, jnp.float32)

    def normalize_gray(self, gray: jax.Array) -> jax.Array:
        """(…,1) float32 grey in [0,1] → (…,1) float32 with the mean colour's grey and mean std."""
        mean = self.mean if self.color_order == "rgb" else self.mean[::-1]
        level = sum(weight * value for weight, value in zip(LUMA, mean))
        return (gray * 255.0 - level) / (sum(self.std) / 3)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `Preprocessing(**d)` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`; lists become tuples.

        Raises:
          ValueError, TypeError: a value that no preprocessing has, such as a std of 0.
        """
        found = cls(
            **{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
        )
        found.check()
        return found

    def check(self) -> None:
        """Raises ValueError for a value that no preprocessing has."""
        sides = (*self.frame_size, *self.crop_size, self.clip_length)
        if len(sides) != 5 or not all(isinstance(n, int) and 0 < n < _MAX_SIDE for n in sides):
            raise ValueError(
                f"frame_size {self.frame_size}, crop_size {self.crop_size}, clip_length "
                f"{self.clip_length} are not sizes"
            )
        if self.color_order not in ("rgb", "bgr"):
            raise ValueError(f"color_order is {self.color_order!r}; known: rgb, bgr")
        if len(self.mean) != 3 or not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"mean is {self.mean}; expected three numbers")
        if len(self.std) != 3 or not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std is {self.std}; expected three numbers above 0")


def to_gray(video: jax.Array) -> jax.Array:
    """(…,3) uint8 RGB → (…,1) float32 luma in [0,1] (ITU-R BT.601)."""
    x = video.astype(jnp.float32) / 255.0
    return (x * jnp.array(LUMA, jnp.float32)).sum(-1, keepdims=True)


def mirror_clips(clips: Mapping[str, jax.Array], mirror: jax.Array) -> dict[str, jax.Array]:
    """Mirrors some clips of a batch left to right; u then changes its sign.

    Args:
      clips: field → (B,T,H,W,…).
      mirror: (B,) bool, which clips.

    Returns:
      field → (B,T,H,W,…), the same dtypes.
    """
    result = {}
    for name, value in clips.items():
        mirrored = value[:, :, :, ::-1]
        if name == "flow":
            mirrored = mirrored * jnp.array([-1, 1], value.dtype)
        where = mirror.reshape(-1, *([1] * (value.ndim - 1)))
        result[name] = jnp.where(where, mirrored, value)
    return result


def gather_clips(
    store: Mapping[str, jax.Array], clips: Mapping[str, jax.Array], preprocessing: Preprocessing
) -> dict[str, jax.Array]:
    """Cuts clips out of whole videos in accelerator memory; traced inside the jitted step.

    Args:
      store: field → (N,H,W,…), the frames of all videos one after the other.
      clips: `frame` (B,) int32 (first frame in the store), `top`, `left` (B,) int32, `mirror` (B,)
        bool.

    Returns:
      field → (B,T,H',W',…).
    """
    size = (preprocessing.clip_length, *preprocessing.crop_size)

    def cut(field: jax.Array, frame: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        channels = field.shape[3:]
        start = (frame, top, left, *(jnp.zeros_like(frame) for _ in channels))
        return lax.dynamic_slice(field, start, size + channels)

    place = (clips["frame"], clips["top"], clips["left"])
    cropped = {name: jax.vmap(cut, (None, 0, 0, 0))(field, *place) for name, field in store.items()}
    return mirror_clips(cropped, clips["mirror"])
