"""This package's own weights: a run's folder, and what `v2v convert` writes.

DIR/weights.npz    layer/kernel, layer/bias: float32, not compressed
DIR/about.json     the input that they expect, where they came from, SHA-256 of weights.npz
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import uuid
import zipfile
from typing import Any

import numpy as np

import v2v_jax
from v2v_jax.errors import CheckpointError, WeightsError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.pretrained import numpy_archive
from v2v_jax.pretrained.mapped_file import MappedFile
from v2v_jax.pretrained.weights import Params, Weights
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.tasks import TASKS

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
    temporary = folder.with_name(f".{folder.name}.part-{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
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
        temporary.rename(folder)
    except OSError as error:
        raise WeightsError(f"Cannot write {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flatten(params: Params) -> dict[str, np.ndarray]:
    return {f"{n}/{leaf}": value for n, layer in params.items() for leaf, value in layer.items()}


def read_folder(folder: str | os.PathLike[str]) -> Weights:
    """Reads what `write_folder` wrote, or the best checkpoint of a run.

    Raises:
      WeightsError: it is neither, or damaged.
    """
    folder = pathlib.Path(folder)
    if (folder / _ABOUT).is_file() and (folder / _WEIGHTS).is_file():
        return _read_converted(folder)
    if (folder / "checkpoints").is_dir():
        return _read_run(folder)
    raise WeightsError(
        f"{folder} holds no weights: it is neither a run's folder, with checkpoints, nor one that "
        "v2v convert has written."
    )


def _read_converted(folder: pathlib.Path) -> Weights:
    path = folder / _WEIGHTS
    try:
        about = json.loads((folder / _ABOUT).read_text())
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
        about, step, params = _best_params(folder)
    except CheckpointError as error:
        raise WeightsError(f"No weights can be read from the run {folder}: {error}") from error
    preprocessing = Preprocessing.from_dict(about["preprocessing"])
    return Weights(params, preprocessing, f"step {step} of a run ({about['task']})", str(folder))


def _best_params(folder: pathlib.Path) -> tuple[dict[str, Any], int, Any]:
    """about, step and parameters of the best checkpoint, of the latest if none was evaluated."""
    with Checkpoints(folder, {}, headline="", better="max") as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise CheckpointError("it has no finished checkpoint.")
        task = TASKS.get(checkpoints.read_about(step).get("task", ""))
    if task is None:
        raise CheckpointError("its task is not known to this version.")
    with Checkpoints(folder, {}, headline=task.headline, better=task.better) as checkpoints:
        best = checkpoints.best_step()
        step = step if best is None else best
        about = checkpoints.read_about(step)
        return about, step, _read_params(checkpoints.directory / str(step))


def _read_params(folder: pathlib.Path) -> Any:
    """The parameters alone, as NumPy arrays: the optimiser's state is twice as large."""
    import jax
    import orbax.checkpoint as ocp

    path = folder / "state"
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree["params"]
            like = {"params": jax.tree.map(lambda x: np.zeros((), x.dtype), tree)}
            restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
            args = ocp.args.PyTreeRestore(
                item=like, restore_args=restore_args, partial_restore=True
            )
            return checkpointer.restore(path, args=args)["params"]
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder} is unfinished or damaged ({error}).") from error
