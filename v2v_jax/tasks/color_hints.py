"""Sparse colour hints: at a few voxels of a clip the network is told the colour.

Beyond the paper, which proposes colouring from grey alone (section 6). The sampling follows
interactive colouring of pictures (Zhang et al., "Real-Time User-Guided Image Colorization with
Learned Deep Priors", 2017): few hints are as common in training as many.

A hint is a few voxels of 200,000. From its bare place and colour a network learns nothing for a
long time: with those channels alone 64 hints changed the error by 0.1 % after 700 steps of 32
clips. So each voxel is also told the hints' colour around it (`spread`), and how near they are;
what is left to learn is where that colour ends.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from v2v_jax.input.preprocess import to_gray

REACH = 1  # a hint is a square of 2·REACH+1 voxels in one frame
CHANNELS = 8  # the mask and R, G, B minus grey where it is set; the same spread
# Gaussians' weights and standard deviations in T, H and W, voxels. The narrow ones decide wherever
# a hint is near, so that many hints are not averaged; the wide one is for places far from all.
SPREAD = (
    (1.0, (3.0, 4.0, 4.0)),
    (1e-2, (6.0, 12.0, 12.0)),
    (1e-4, (12.0, 36.0, 36.0)),
)
_NONE = 1e-6  # of a hint's weight: farther away there is none


def hint_mask(video: jax.Array, *, most: int, fewest: int = 0) -> jax.Array:
    """Where hints are given: squares of 3×3 voxels, each in one frame of the clip.

    A function of each clip's own voxels and of nothing else: training draws other hints for every
    crop, evaluation and any number of devices always the same ones. The number of hints is
    log-uniform from `fewest` to `most`; places are uniform over the clip.

    Args:
      video: (B,T,H,W,3) uint8 RGB.
      most, fewest: hints a clip, 0 <= fewest <= most.

    Returns:
      (B,T,H,W) bool. Squares overlap and are cut at the border.
    """
    return jax.vmap(lambda clip: _mask_of_clip(clip, most, fewest))(video)


def hint_channels(video: jax.Array, mask: jax.Array) -> jax.Array:
    """The network's input channels for hints.

    Args:
      video: (B,T,H,W,3) uint8 RGB, of which only the voxels of the mask are looked at.
      mask: (B,T,H,W) bool.

    Returns:
      (B,T,H,W,8) float32: 1 where there is a hint, and there twice R, G, B minus grey (-2..2, as
      normalised input has values of this size), 0 elsewhere; then what `spread` makes of them.
    """
    color = 2.0 * (video.astype(jnp.float32) / 255.0 - to_gray(video))
    mask = mask[..., None].astype(jnp.float32)
    hints = jnp.concatenate([mask, color * mask], axis=-1)
    return jnp.concatenate([hints, spread(hints)], axis=-1)


def spread(hints: jax.Array) -> jax.Array:
    """The hints around each voxel: normalised convolution (Knutsson and Westin, 1993).

    Args:
      hints: (B,T,H,W,1+C) float32, a mask of 0 and 1 and values, 0 where the mask is.

    Returns:
      (B,T,H,W,1+C) float32: s/(s+1), s being the sum of the weights of all hints, about 1 for one
      at the voxel itself; and the values' mean by these weights, towards 0 where no hint is near.
    """
    total = sum(scale * _blurred(hints, deviations) for scale, deviations in SPREAD)
    near = total[..., :1]
    return jnp.concatenate([near / (near + 1.0), total[..., 1:] / (near + _NONE)], axis=-1)


def _blurred(x: jax.Array, deviations: tuple[float, float, float]) -> jax.Array:
    """(B,T,H,W,C) convolved with a Gaussian whose peak is 1, over whole axes: matrix products."""
    for axis, deviation in enumerate(deviations, 1):
        place = jnp.arange(x.shape[axis])
        weights = jnp.exp(-0.5 * jnp.square((place[:, None] - place) / deviation))
        x = jnp.tensordot(x, weights, (axis, 0), precision=lax.Precision.HIGHEST)
        x = jnp.moveaxis(x, -1, axis)
    return x


def clip_hash(video: jax.Array) -> jax.Array:
    """A number of a clip's voxels, the same on every device: (T,H,W,3) uint8 → () uint32.

    A sum modulo 2³² of the voxels times pseudo-random odd weights, exact in any order.
    """
    place = lax.iota(jnp.uint32, video.size)
    weight = place * jnp.uint32(2654435761)
    weight = (weight ^ (weight >> 15)) * jnp.uint32(2246822519)
    weight = (weight ^ (weight >> 13)) | jnp.uint32(1)
    return (weight * (video.reshape(-1).astype(jnp.uint32) + 1)).sum(dtype=jnp.uint32)


def _mask_of_clip(clip: jax.Array, most: int, fewest: int) -> jax.Array:
    t, h, w, _ = clip.shape
    number, place = jax.random.split(jax.random.key(clip_hash(clip)))
    count = fewest - 1 + jnp.floor((most - fewest + 2.0) ** jax.random.uniform(number))
    places = jax.random.randint(place, (most,), 0, t * h * w)
    given = jnp.arange(most) < count
    # Setting to 1 in any order gives the same, so that repeated places do no harm.
    points = jnp.zeros(t * h * w, jnp.int8).at[places].max(given.astype(jnp.int8))
    square = (1, 2 * REACH + 1, 2 * REACH + 1)
    return lax.reduce_window(
        points.reshape(t, h, w), jnp.int8(0), lax.max, square, (1, 1, 1), "SAME"
    ).astype(bool)
