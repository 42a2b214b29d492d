"""The network of a configuration; prediction needs it without what training needs."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from v2v_jax.models import CLASSIFIERS, MODELS


def make_model(options: ConfigDict, dtype: str, num_outputs: int) -> nn.Module:
    """The network of `config.model` and `config.dtype`, for K = num_outputs."""
    more = {} if variant(options) == "paper" else {"variant": options.variant}
    if "dropout" in options:
        more["dropout"] = options.dropout
    if options.get("standardized", False):  # configurations before it lack it
        more["standardized"] = True
    return (MODELS | CLASSIFIERS)[options.name](
        num_outputs=num_outputs,
        width=options.width,
        dtype=_dtype(dtype),
        initialization=options.initialization,
        **more,
    )


def variant(options: ConfigDict) -> str:
    """The network's variant; configurations before there were some lack it."""
    return options.get("variant", "paper")


def _dtype(name: str) -> jnp.dtype:
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)
