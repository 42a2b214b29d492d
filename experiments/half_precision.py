"""Weights as training keeps them, in half precision in one file, with what is needed to go on.

A file of `v2v export --bits=16` is for use: what standardises the kernels is folded away there. The
one here is NumPy's .npz: "layer/leaf" → float16 and `about`, the record that is stored with every
checkpoint, as the bytes of JSON.

    python -m experiments.half_precision FILE.npz RUN

makes a run's folder of it, for `init_from`, `v2v predict --checkpoint` and `v2v eval`.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

import numpy as np

from v2v_jax.inference import network
from v2v_jax.inference.predictor import Predictor
from v2v_jax.models.standardization import fold


def trained(about: dict[str, Any], params: Any, dtype: str = "auto") -> network.TrainedNetwork:
    """What a `Predictor` runs, of parameters as training keeps them."""
    fields = network.from_about(about, "these weights")
    return network.TrainedNetwork(
        apply=network.make_apply(about, dtype), params=fold(params), **fields
    )


def write(path: pathlib.Path, about: dict[str, Any], params: Any) -> None:
    """Writes the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{layer}/{leaf}": np.asarray(value, np.float16)
        for layer, leaves in params.items()
        for leaf, value in leaves.items()
    }
    record = np.frombuffer(json.dumps(about).encode(), np.uint8)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, about=record, **arrays)
    part.rename(path)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """(about, layer → leaf → float32) of such a file."""
    params: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as stored:
        about = json.loads(stored["about"].tobytes())
        for name in stored.files:
            layer, slash, leaf = name.partition("/")
            if slash:
                params.setdefault(layer, {})[leaf] = stored[name].astype(np.float32)
    return about, params


def load(path: str | os.PathLike[str], **options: Any) -> Predictor:
    """A predictor; options as of `v2v_jax.load`."""
    return Predictor(trained(*read(path)), **options)


def as_run(path: str | os.PathLike[str], workdir: pathlib.Path) -> None:
    """Writes a run's folder, with one checkpoint and no state of an optimiser."""
    import jax.numpy as jnp

    from experiments.trained_runs import save_run
    from v2v_jax.run.experiment import TrainState
    from v2v_jax.tasks import task_class

    about, params = read(path)
    state = TrainState(jnp.int32(1), params, ())
    save_run(about, state, {task_class(about["task"]).headline: 0.0}, workdir)


if __name__ == "__main__":
    as_run(sys.argv[1], pathlib.Path(sys.argv[2]))
