"""The weights that ship with the package, by name.

    predictor = v2v_jax.load("NAME")        # or v2v predict --checkpoint=NAME
    v2v models                              # lists them

index.json describes each: what it is for, how good and how large it is, its SHA-256, its licence
and its card. The files, exported networks, lie beside it.
"""

from v2v_jax.zoo.index import ShippedWeights, find, read_index
from v2v_jax.zoo.loading import load, resolve

__all__ = ["ShippedWeights", "find", "load", "read_index", "resolve"]
