"""Augmentation of training clips inside the jitted step: geometry, colour, blur, noise, time.

A clip's random numbers are a function of its seed alone, so that they depend neither on the number
of devices nor on how the batch is split. The truth follows: what is moved in the video is moved in
every field, flow and depth are scaled too, and what only changes the picture (colour, blur, noise)
leaves the truth where it is. What cannot follow exactly is refused (`Augmentation.check`).

Feeds cut out larger clips (`Augmentation.source`), of which a window is resampled to the clip that
the network sees: the video by an antialiased triangle filter, two small matrix products, which hold
the blur too; everything else by its nearest voxel, as half a label or a depth between two surfaces
belongs to nothing in the picture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from v2v_jax.datasets.base.video_dataset import FIELDS, VIDEO_LABEL
from v2v_jax.errors import ConfigError
from v2v_jax.input.preprocess import LUMA, Preprocessing

_STREAM = 0xA6  # sets these random numbers apart from others of the same seed
_NUMBERS = 17  # drawn for each clip, beside the noise
_WHITE = 255.0
Clips = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What `config.augmentation` holds: by how much training clips vary; not at all by default.

    "A factor up to 1 + r" is drawn log-uniformly from 1/(1+r) to 1+r. All are drawn once a clip,
    for all of its frames; only noise differs from voxel to voxel.

    Attributes:
      scale: least and most magnification; below 1 more of the frame than a crop is seen. Depth is
        divided by it: what looks larger is nearer (Eigen et al., NIPS 2014, section 3.4).
      aspect: r; width and height are magnified differently, by a factor up to 1 + r.
      hue: degrees of rotation about the grey axis, up to ±.
      saturation: r; the distance from grey, times a factor up to 1 + r.
      gain: r; each of R, G and B, times a factor up to 1 + r of its own (white balance).
      contrast: r; the distance from middle grey, times a factor up to 1 + r.
      brightness: is added, up to ±, 1 being white.
      gamma: r; exponent of the intensity, a factor up to 1 + r.
      blur: largest standard deviation of a Gaussian blur, pixels of the crop; drawn from 0 on.
      noise: largest standard deviation of Gaussian noise, 1 being white; drawn from 0 on.
      reverse: share of the clips that run backwards.
      max_stride: frames from one frame of a clip to the next, drawn from 1 to this.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    gain: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    reverse: float = 0.0
    max_stride: int = 1

    @classmethod
    def from_config(cls, values: Mapping[str, Any]) -> Augmentation:
        """Of `config.augmentation`, checked by itself.

        Raises:
          ConfigError: a key that is not known, or a value out of its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ConfigError(f"augmentation has no {unknown[0]}; known: {', '.join(known)}.")
        found = cls(**{k: tuple(v) if k == "scale" else v for k, v in values.items()})
        found._check_ranges()
        return found

    def _check_ranges(self) -> None:
        scale = self.scale
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] < math.inf:
            raise ConfigError(
                f"augmentation.scale is {scale}; expected the least and the most magnification, "
                "such as (0.9, 1.3)."
            )
        for name in ("aspect", "saturation", "gain", "contrast", "gamma", "blur"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"augmentation.{name} is {value}; it must be 0 (off) or more.")
        for name, most in (("hue", 180), ("brightness", 1), ("noise", 1), ("reverse", 1)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise ConfigError(f"augmentation.{name} is {value}; it must lie in 0..{most}.")
        stride = self.max_stride
        if stride < 1 or stride != int(stride):
            raise ConfigError(f"augmentation.max_stride is {stride}; expected 1 (off), 2, 3, …")

    def check(self, fields: Sequence[str], preprocessing: Preprocessing) -> None:
        """Raises ConfigError if a task's fields cannot follow, or the frames are too small.

        The flow to the next frame is another one, unknown, where that is a frame before or further
        on: reversing would take the flow backwards. The class of a whole clip may depend on the
        direction of time (sitting down, standing up), not on its speed.
        """
        steps = [name for name in fields if name in FIELDS and FIELDS[name].to_next_frame]
        for option, on, bound in (
            ("reverse", self.reverse > 0, [*steps, *(f for f in fields if f == VIDEO_LABEL)]),
            ("max_stride", self.max_stride > 1, steps),
        ):
            if on and bound:
                raise ConfigError(
                    f"augmentation.{option} is {getattr(self, option)}, but the task reads "
                    f"{', '.join(bound)}, which cannot be known of frames in another order or at "
                    "another distance; leave it at its default."
                )
        size, frame = self.source(preprocessing).crop_size, preprocessing.frame_size
        if self.resamples and any(n > m for n, m in zip(size, frame)):
            room = min(m / n for n, m in zip(preprocessing.crop_size, frame))
            least = math.ceil(1000 * math.sqrt(1 + self.aspect) / room) / 1000
            raise ConfigError(
                f"augmentation.scale from {self.scale[0]} on with aspect {self.aspect} needs "
                f"windows of {size[0]}×{size[1]}, larger than the frames of {frame[0]}×{frame[1]}; "
                f"the least scale that fits is {least}."
            )

    @property
    def resamples(self) -> bool:
        """Whether anything is moved within the frame."""
        return self.scale != (1.0, 1.0) or self.aspect > 0

    @property
    def is_off(self) -> bool:
        """Whether clips stay as they are."""
        return self == Augmentation()

    def source(self, preprocessing: Preprocessing) -> Preprocessing:
        """`preprocessing` with the crop and length of the clips that feeds have to deliver."""
        if not self.resamples:
            size = preprocessing.crop_size
        else:
            most = math.sqrt(1 + self.aspect) / self.scale[0]
            size = tuple(max(n, math.ceil(n * most - 1e-6)) for n in preprocessing.crop_size)
        length = (preprocessing.clip_length - 1) * self.max_stride + 1
        return dataclasses.replace(preprocessing, crop_size=size, clip_length=length)


@dataclasses.dataclass(frozen=True)
class Draws:
    """What was drawn for each clip of a batch; arrays (B,…) float32 but where said otherwise.

    Attributes:
      height, width: (B,) of the window in the source, pixels.
      top, left: (B,) its corner, pixels.
      blur: (B,) standard deviation, pixels of the result.
      color: (B,3,3) matrix, and
      offset: (B,) what is added after it, of intensities in 0..255.
      gamma: (B,) exponent.
      noise: (B,) standard deviation, of intensities in 0..255.
      frames: (B,T) int32, which of the source's.
    """

    height: jax.Array
    width: jax.Array
    top: jax.Array
    left: jax.Array
    blur: jax.Array
    color: jax.Array
    offset: jax.Array
    gamma: jax.Array
    noise: jax.Array
    frames: jax.Array


def augment(
    clips: Mapping[str, jax.Array],
    seeds: jax.Array,
    options: Augmentation,
    preprocessing: Preprocessing,
) -> Clips:
    """Training clips as the network is to see them; traced inside the jitted step.

    Args:
      clips: field → (B,T',H',W',…), dtypes as in `FIELDS`, of `options.source(preprocessing)`;
        anything else, such as `mask` (B,), stays as it is.
      seeds: (B,) uint32, one a clip: all that the randomness depends on.
      preprocessing: of the result.

    Returns:
      field → (B,T,H,W,…), the same dtypes; flow and depth float32 where they were scaled.
    """
    if options.is_off:
        return dict(clips)
    drawn = draw(seeds, options, preprocessing)
    result = _in_time(clips, drawn, options)
    if options.resamples:
        result |= _truth_in_window(result, drawn, preprocessing.crop_size)
    video = _filtered(result["video"], drawn, options, preprocessing.crop_size)
    video = _recolored(video, drawn, options)
    if options.noise:
        video += _noise(seeds, video.shape[1:]) * _per_clip(drawn.noise, video)
    if video.dtype != jnp.uint8:
        video = jnp.clip(jnp.round(video), 0, _WHITE).astype(jnp.uint8)
    return result | {"video": video}


def draw(seeds: jax.Array, options: Augmentation, preprocessing: Preprocessing) -> Draws:
    """Draws for every clip; a clip's depend on its seed and the options alone."""
    keys = jax.vmap(_key)(seeds)
    uniform = iter(jax.vmap(lambda key: jax.random.uniform(key, (_NUMBERS,)))(keys).T)
    even = lambda least, most: least + (most - least) * next(uniform)
    factor = lambda r: jnp.exp(even(-1, 1) * math.log1p(r))

    source = options.source(preprocessing)
    scale = jnp.exp(even(*map(math.log, options.scale)))
    aspect = jnp.sqrt(factor(options.aspect))
    h, w = preprocessing.crop_size
    height, width = h / scale * aspect, w / scale / aspect
    color, offset = _color_matrix(
        angle=even(-1, 1) * math.radians(options.hue),
        saturation=factor(options.saturation),
        gains=jnp.stack([factor(options.gain) for _ in range(3)], -1),
        contrast=factor(options.contrast),
        shift=even(-1, 1) * options.brightness * _WHITE,
    )
    stride = 1 + jnp.floor(even(0, 1) * options.max_stride).astype(jnp.int32)
    backwards = even(0, 1) < options.reverse
    t = preprocessing.clip_length
    rest = source.clip_length - 1 - (t - 1) * stride  # frames of the source that are left over
    first = jnp.floor(even(0, 1) * (rest + 1)).astype(jnp.int32)
    frames = jnp.where(backwards[:, None], jnp.arange(t)[::-1], jnp.arange(t))
    return Draws(
        height=height,
        width=width,
        top=even(0, 1) * (source.crop_size[0] - height),
        left=even(0, 1) * (source.crop_size[1] - width),
        blur=even(0, 1) * options.blur,
        color=color,
        offset=offset,
        gamma=factor(options.gamma),
        noise=even(0, 1) * options.noise * _WHITE,
        frames=first[:, None] + stride[:, None] * frames,
    )


def _key(seed: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), _STREAM)


def _color_matrix(angle, saturation, gains, contrast, shift) -> tuple[jax.Array, jax.Array]:
    """Hue, saturation, gains, contrast and brightness, in this order, as (B,3,3) and (B,)."""
    one, luma = jnp.eye(3), jnp.broadcast_to(jnp.array(LUMA, jnp.float32), (3, 3))
    axis = jnp.full((3, 3), 1 / 3)
    cross = jnp.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], jnp.float32) / math.sqrt(3)
    cos, sin = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    matrix = axis + cos * (one - axis) + sin * cross  # Rodrigues, about (1,1,1)
    s = saturation[:, None, None]
    product = lambda a, b: jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
    matrix = product(luma + s * (one - luma), matrix)
    matrix = gains[:, :, None] * matrix * contrast[:, None, None]
    return matrix, (1 - contrast) * _WHITE / 2 + shift


def _in_time(clips: Mapping[str, jax.Array], drawn: Draws, options: Augmentation) -> Clips:
    """The frames that were drawn of every field."""
    if options.max_stride == 1 and not options.reverse:
        return dict(clips)
    take = jax.vmap(lambda field, frames: jnp.take(field, frames, axis=0, mode="clip"))
    return {
        name: take(value, drawn.frames) if name in FIELDS else value
        for name, value in clips.items()
    }


def _centres(start: jax.Array, length: jax.Array, count: int) -> jax.Array:
    """(B,count): where the pixels of the result lie in the source, 0 being its first's centre."""
    places = (jnp.arange(count) + 0.5) / count
    return start[:, None] + length[:, None] * places - 0.5


def _nearest(places: jax.Array, count: int) -> jax.Array:
    return jnp.clip(jnp.round(places), 0, count - 1).astype(jnp.int32)


def _truth_in_window(clips: Clips, drawn: Draws, size: tuple[int, int]) -> Clips:
    """Every field but the video at the window's voxels, flow and depth at the new scale."""
    result = {}
    rows = _centres(drawn.top, drawn.height, size[0])
    columns = _centres(drawn.left, drawn.width, size[1])
    y, x = size[0] / drawn.height, size[1] / drawn.width  # magnification
    pick = jax.vmap(lambda field, i, j: field[:, i[:, None], j[None, :]])
    for name, value in clips.items():
        if name not in FIELDS or name == "video":
            continue
        value = pick(value, *(_nearest(at, n) for at, n in zip((rows, columns), value.shape[2:])))
        if name == "flow":
            value = value.astype(jnp.float32) * jnp.stack([x, y], -1)[:, None, None, None, :]
        elif name == "depth":
            value = value.astype(jnp.float32) / _per_clip(jnp.sqrt(x * y), value)
        result[name] = value
    return result


def _filtered(
    video: jax.Array, drawn: Draws, options: Augmentation, size: tuple[int, int]
) -> jax.Array:
    """The video in the window, blurred; float32, or as it is where nothing is to be done."""
    if not options.resamples and not options.blur:
        return video
    windows = ((drawn.top, drawn.height), (drawn.left, drawn.width))
    rows, columns = (
        _weights(start, length, count, source, drawn.blur if options.blur else None)
        for (start, length), count, source in zip(windows, size, video.shape[2:4])
    )
    apply = lambda equation, weights, x: jnp.einsum(
        equation, weights, x, precision=lax.Precision.HIGHEST
    )
    video = apply("bij,btjwc->btiwc", rows, video.astype(jnp.float32))
    return apply("bij,bthjc->bthic", columns, video)


def _weights(
    start: jax.Array, length: jax.Array, count: int, source: int, blur: jax.Array | None
) -> jax.Array:
    """(B,count,source): what each pixel of the source adds to each of the result, along an axis."""
    distance = _centres(start, length, count)[:, :, None] - jnp.arange(source)
    reach = jnp.maximum(length / count, 1.0)[:, None, None]
    weights = jnp.maximum(1 - jnp.abs(distance) / reach, 0)
    weights /= weights.sum(-1, keepdims=True)
    if blur is None:
        return weights
    squares = (jnp.arange(count)[:, None] - jnp.arange(count)) ** 2
    deviation = jnp.maximum(blur, 1e-2)[:, None, None]  # so small, it is the identity
    gaussian = jnp.exp(-squares / (2 * deviation**2))
    gaussian /= gaussian.sum(-1, keepdims=True)
    return jnp.matmul(gaussian, weights, precision=lax.Precision.HIGHEST)


def _per_clip(values: jax.Array, like: jax.Array) -> jax.Array:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _recolored(video: jax.Array, drawn: Draws, options: Augmentation) -> jax.Array:
    """Colour, contrast, brightness and gamma; float32 unless nothing is to be done."""
    if any((options.hue, options.saturation, options.gain, options.contrast, options.brightness)):
        # Three multiplications each, not a product of 3×3 matrices, so that they fuse.
        red, green, blue = (video[..., c, None].astype(jnp.float32) for c in range(3))
        matrix = [drawn.color[:, None, None, None, :, c] for c in range(3)]
        video = red * matrix[0] + green * matrix[1] + blue * matrix[2]
        video += _per_clip(drawn.offset, video)
    if options.gamma:
        share = jnp.clip(video.astype(jnp.float32) / _WHITE, 0, 1)
        video = _WHITE * share ** _per_clip(drawn.gamma, video)
    return video


def _noise(seeds: jax.Array, shape: Sequence[int]) -> jax.Array:
    """(B,*shape) float32, standard normal, each clip's from its own seed."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(_key(seed), 1))(seeds)
    # Drawn flat: with four axes XLA's CPU code takes three times longer, compiling it seven times.
    flat = jax.vmap(lambda key: jax.random.normal(key, (math.prod(shape),)))(keys)
    return flat.reshape(-1, *shape)


# What leaves videos plausible: docs/reference/recipes.md recommends it.
STANDARD: dict[str, Any] = {
    "scale": (0.95, 1.25),
    "aspect": 0.1,
    "hue": 10.0,
    "saturation": 0.3,
    "gain": 0.1,
    "contrast": 0.25,
    "brightness": 0.1,
    "gamma": 0.25,
    "blur": 0.7,
    "noise": 0.02,
}
