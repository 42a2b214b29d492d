"""This package's own weights: a run's folder, and what `v2v convert` writes.

DIR/weights.npz    layer/kernel, layer/bias, …: float32, not compressed
DIR/about.json     the input that they expect, where they came from, SHA-256 of weights.npz
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import zipfile

import numpy as np

import v2v_jax
from v2v_jax.errors import CheckpointError, WeightsError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.pretrained import numpy_archive
from v2v_jax.pretrained.mapped_file import MappedFile
from v2v_jax.pretrained.weights import Params, Weights
from v2v_jax.run.which_checkpoint import find_checkpoint
from v2v_jax.system.json_files import parse_object
from v2v_jax.system.whole_files import whole_file

_WEIGHTS, _ABOUT = "weights.npz", "about.json"
_INPUT = ("color_order", "mean", "std")  # what of the preprocessing belongs to the weights


def write_folder(weights: Weights, folder: str | os.PathLike[str]) -> None:
    """Writes weights to a new folder, which appears when it is complete.

    Raises:
      WeightsError: the folder exists or cannot be written.
    """
    folder = pathlib.Path(folder)
    if folder.exists():
        raise WeightsError(f"{folder} exists; choose another --output.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(folder) as temporary:
            temporary.mkdir()
            np.savez(temporary / _WEIGHTS, **_flatten(weights.params))
            about = {
                "version": v2v_jax.__version__,
                "source": os.path.basename(weights.path),
                "source_format": weights.format,
                "preprocessing": {key: getattr(weights.preprocessing, key) for key in _INPUT},
                "layers": {n: list(layer["kernel"].shape) for n, layer in weights.params.items()},
                "sha256": _sum(temporary / _WEIGHTS),
            }
            (temporary / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise WeightsError(f"Cannot write {folder}: {error.strerror or error}.") from error


def _flatten(params: Params) -> dict[str, np.ndarray]:
    return {f"{n}/{leaf}": value for n, layer in params.items() for leaf, value in layer.items()}


def read_folder(folder: str | os.PathLike[str]) -> Weights:
    """Reads what `write_folder` wrote, or a checkpoint: of a run the best, see `find_checkpoint`.

    Raises:
      WeightsError: it is neither, or damaged.
    """
    folder = pathlib.Path(folder)
    if (folder / _ABOUT).is_file() and (folder / _WEIGHTS).is_file():
        return _read_converted(folder)
    return _read_run(folder)


def _read_converted(folder: pathlib.Path) -> Weights:
    path = folder / _WEIGHTS
    try:
        about = parse_object((folder / _ABOUT).read_text())
        stored = about["preprocessing"]
        preprocessing = Preprocessing.from_dict({key: stored[key] for key in _INPUT})
        expected, source = about["sha256"], about["source_format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{folder / _ABOUT} is damaged; convert the file again.") from error
    if _sum(path) != expected:
        raise WeightsError(f"{path} is damaged: its SHA-256 sum is wrong; convert the file again.")
    file = MappedFile(str(path))
    params: dict[str, dict[str, np.ndarray]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name, entry in numpy_archive.entries(file, archive).items():
                layer, _, leaf = name.partition("/")
                params.setdefault(layer, {})[leaf] = entry.read()
    except numpy_archive.DAMAGED as error:
        raise WeightsError(f"{path} is damaged: {error}; convert the file again.") from error
    return Weights(params, preprocessing, f"converted from {source}", str(folder))


def _sum(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------------
# Runs


def _read_run(folder: pathlib.Path) -> Weights:
    try:
        found = find_checkpoint(folder, also="a folder that v2v convert has written")
        params = found.params()
        task = found.about["task"]
        preprocessing = Preprocessing.from_dict(found.about["preprocessing"])
    except CheckpointError as error:
        raise WeightsError(f"{folder} holds no usable weights. {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{folder} holds no usable weights: another version wrote it ({error})."
        ) from error
    return Weights(params, preprocessing, f"step {found.step} of a run ({task})", str(folder))
