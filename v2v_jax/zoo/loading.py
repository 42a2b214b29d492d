"""`v2v_jax.load`: a predictor from a path or from the name of shipped weights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from v2v_jax.errors import CheckpointError
from v2v_jax.zoo import index

if TYPE_CHECKING:
    from v2v_jax.inference.predictor import Predictor


def load(path: str | os.PathLike[str], **options: Any) -> Predictor:
    """A predictor from a run's folder, its checkpoints, an exported file, or a name in the zoo.

    It needs neither the dataset nor the configuration: both are stored with the weights.

    Args:
      path: what `v2v train --workdir` or `v2v export --output` names; or, where no such file or
        folder exists, a name that `v2v models` lists.
      options: see `v2v_jax.inference.predictor.Predictor`.

    Raises:
      CheckpointError: there is nothing of that kind, it is damaged, or another version wrote it.
    """
    from v2v_jax.inference import predictor

    if not os.path.lexists(path):
        known = [entry.name for entry in index.read_index()]
        if os.fspath(path) not in known:
            names = f"known names: {', '.join(known)}" if known else "no weights ship with this one"
            raise CheckpointError(
                f"No checkpoint in {path}: expected a run's folder (the --workdir of v2v train), "
                "its checkpoints folder, a file that v2v export wrote, or a name that v2v models "
                f"lists ({names})."
            )
        path = index.find(os.fspath(path))
    return predictor.load(path, **options)
