"""The input that weights expect, folded into conv1a: colour order, scale, and the mean."""

from __future__ import annotations

import numpy as np

from v2v_jax.errors import ConfigError
from v2v_jax.input.preprocess import Preprocessing

_TOLERANCE = 1e-3  # grey levels


def fold_input(
    layer: dict[str, np.ndarray],
    source: Preprocessing,
    target: Preprocessing,
    *,
    fold_mean: bool = False,
) -> dict[str, np.ndarray]:
    """conv1a for another input: the same outputs from `target` as it had from `source`.

    Colour order and scale are exact, as conv1a is linear. A mean is not: conv1a pads the normalised
    clip with zeros, so with the mean's colour, and another mean is another padding. `fold_mean`
    moves the difference into the bias, which is right everywhere but for the clip's outermost
    voxels (first and last frame, outer rows and columns).

    Args:
      layer: kernel (3,3,3,3,out) and bias (out,).
      source, target: of which color_order, mean and std count.

    Raises:
      ConfigError: the means differ, without fold_mean; says what to set.
    """
    kernel, bias = layer["kernel"].astype(np.float64), layer["bias"].astype(np.float64)
    mean, std = np.array(source.mean), np.array(source.std)
    if source.color_order != target.color_order:
        kernel, mean, std = kernel[..., ::-1, :], mean[::-1], std[::-1]
    offset = np.array(target.mean) - mean
    # v = std'·x' + mean' is the colour, so x = (std'/std)·x' + (mean' - mean)/std.
    kernel = kernel * (np.array(target.std) / std)[:, None]
    if np.abs(offset).max() > _TOLERANCE:
        if not fold_mean:
            wanted = ",".join(f"{value:.6g}" for value in mean)
            raise ConfigError(
                f"The weights expect the mean ({wanted}) to be subtracted from "
                f"{target.color_order.upper()}, the configuration has {tuple(target.mean)}; set "
                f"--config.preprocessing.mean='({wanted})'."
            )
        bias = bias + np.einsum("thwio,i->o", kernel, offset / np.array(target.std))
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
