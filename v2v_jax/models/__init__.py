"""The networks: Linen modules of (B,T,H,W,C) that return (B,T,H,W,K) float32, C3D (B,K)."""

import functools
from collections.abc import Callable

import flax.linen as nn

from v2v_jax.models.c3d import C3D
from v2v_jax.models.upsample import ConvUp
from v2v_jax.models.v2v import V2V

__all__ = ["CLASSIFIERS", "MODELS", "C3D", "V2V", "ConvUp"]

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "c3d": lambda num_outputs, **options: C3D(num_outputs, **options),  # for whole clips
}
# `config.model.name` → what makes it of (num_outputs, width, dtype, initialization): V2V and the
# paper's baselines (section 4).
MODELS: dict[str, Callable[..., nn.Module]] = {
    "v2v": V2V,
    "v2v_2d": functools.partial(V2V, temporal=False),
    "conv3b_up": functools.partial(ConvUp, "conv3b"),
    "conv4b_up": functools.partial(ConvUp, "conv4b"),
    "conv5b_up": functools.partial(ConvUp, "conv5b"),
}
