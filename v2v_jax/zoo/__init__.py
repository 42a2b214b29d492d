"""The weights that ship with the package, by name.

    predictor = v2v_jax.load("NAME")        # or v2v predict --checkpoint=NAME
    v2v models                              # lists them

index.json describes each: what it is for, how good and how large it is, its SHA-256, its licence
and its card. The files, weights of `v2v export --bits`, and the cards' texts lie beside it.
"""

from v2v_jax.zoo.cards import card
from v2v_jax.zoo.index import ShippedWeights, entry_of, find, read_index
from v2v_jax.zoo.loading import load, resolve

__all__ = ["ShippedWeights", "card", "entry_of", "find", "load", "read_index", "resolve"]
