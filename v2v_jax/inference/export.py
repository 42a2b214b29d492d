"""A trained network as one file that runs without this package's model code.

    v2v export --checkpoint=runs/seg --output=seg.v2v

The file is a ZIP archive, not compressed, that nothing in it can make execute code on the host:

    about.json           format, versions, task, label names, preprocessing, the clip's size
    network.bin          jax.export: StableHLO for CPUs, NVIDIA GPUs and TPUs, any batch size
    weights/LAYER/….npy  the parameters, float32

and its comment is the SHA-256 of all of it (`system.sealed_archive`). The network takes the weights
and clips (B,T,H,W,3) uint8 RGB, of the size that it was trained on, and gives what the task blends
(`Task.blendable`): class probabilities, flow in pixels, RGB or metres; what goes before and after
it is inside.

`v2v_jax.load` adds windows for any size of video; docs/guides/export.md shows how to call it with
nothing but JAX and NumPy.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax

from v2v_jax.errors import CheckpointError, DataError
from v2v_jax.inference.network import TrainedNetwork, from_about, make_apply
from v2v_jax.media.video_writer import cannot_write
from v2v_jax.run.network_archive import WEIGHTS, open_archive, write_archive
from v2v_jax.run.weight_file import StoredWeights, write_weights
from v2v_jax.system.npy import array_of, bytes_of

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")
_PLACES = "jax_traceback_in_locations_limit"
_NETWORK = "network.bin"


def write_export(
    network: TrainedNetwork,
    path: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint's network as one file; it appears whole or not at all.

    Args:
      network: of `trained_network.from_checkpoint`.
      path: the file.
      dtype: "float32", "bfloat16" or "auto": float32 on CPUs and bfloat16 elsewhere, as a Predictor
        of the checkpoint computes. A dtype that the configuration names is kept.
      overwrite: whether an existing file is replaced.

    Raises:
      DataError: the file exists, or cannot be written.
    """
    path = _place(path, overwrite)
    record = {
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "dtype": dtype,
        "clip": network.clip,
        "step": network.step,
        "about": network.about,
    }
    members = {
        _NETWORK: bytes(_export(network, dtype).serialize()),
    }
    for name, array in _named(network.params):
        members[f"{WEIGHTS}{name}.npy"] = bytes_of(np.asarray(array))
    try:
        write_archive(path, FORMAT, record, members)
    except OSError as error:
        raise cannot_write(str(path), error) from error


def write_weights_of(
    network: TrainedNetwork, path: str | os.PathLike[str], *, bits: int, overwrite: bool = False
) -> None:
    """Writes a network's weights alone (`run.weight_file`), for this package.

    Args:
      bits: 8, 16 or 32 a number.
      path, overwrite: as of `write_export`.

    Raises:
      DataError: the file exists, or cannot be written.
      CheckpointError: a weight is not finite.
    """
    path = _place(path, overwrite)
    try:
        write_weights(path, StoredWeights(network.params, network.about, network.step, bits))
    except OSError as error:
        raise cannot_write(str(path), error) from error


def _place(path: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """Where a file is to be; DataError if it cannot be there."""
    path = pathlib.Path(path)
    if path.exists() and not overwrite:
        raise DataError(f"{path} exists; choose another --output, or add --overwrite.")
    if not path.absolute().parent.is_dir():
        raise DataError(f"Cannot write {path}: its folder does not exist.")
    return path


def _export(network: TrainedNetwork, dtype: str) -> jax.export.Exported:
    from v2v_jax.system import triton

    def apply(params: Any, video: jax.Array) -> jax.Array:
        if dtype != "auto":
            return make_apply(network.about, dtype)(params, video)
        # The same choice as a Predictor's, made where the file is used.
        return lax.platform_dependent(
            params,
            video,
            cpu=make_apply(network.about, "float32"),
            default=make_apply(network.about, "bfloat16"),
        )

    (batch,) = jax.export.symbolic_shape("b")
    clip = jax.ShapeDtypeStruct((batch, *network.clip, 3), jnp.uint8)
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), network.params)
    with triton.switched_off(), _without_places():
        return jax.export.export(jax.jit(apply), platforms=PLATFORMS)(weights, clip)


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Lets programs not name the lines of code that made them: paths of this machine, and callers.

    With them the same network would give another file wherever the call came from.
    """
    before = getattr(jax.config, _PLACES)
    jax.config.update(_PLACES, 0)
    try:
        yield
    finally:
        jax.config.update(_PLACES, before)


def read_export(path: str | os.PathLike[str]) -> TrainedNetwork:
    """Reads a file of `write_export`; imports none of the package's models.

    Raises:
      CheckpointError: it is no such file, its content is not what was written, or a version of this
        package or of JAX wrote it that the present one does not read.
    """
    members, record = open_archive(path, "an exported network", FORMAT)
    fields = from_about(record["about"], path)
    try:
        exported = jax.export.deserialize(bytearray(members[_NETWORK]))
        params = _nested(members)
    except Exception as error:  # of any kind: another version's bytes are not what is looked for
        raise CheckpointError(
            f"{path} was written by JAX {record.get('jax')} and JAX {jax.__version__} cannot read "
            f"it ({type(error).__name__}: {str(error)[:200]}); export the checkpoint again."
        ) from error
    _check_fits(path, exported, params, fields)
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in exported.platforms:
        raise CheckpointError(
            f"{path} is for {', '.join(exported.platforms)}; this machine computes on {platform}."
        )
    return TrainedNetwork(
        apply=exported.call, params=params, any_size=False, step=record.get("step"), **fields
    )


def _check_fits(
    path: object, exported: jax.export.Exported, params: Any, fields: Mapping[str, Any]
) -> None:
    """CheckpointError unless the program takes these weights and the record's clips."""
    network = TrainedNetwork(apply=exported.call, params=params, **fields)
    clip = jax.ShapeDtypeStruct((1, *network.clip, 3), np.uint8)
    wanted, form = jax.tree.flatten(((params, clip), {}))
    found = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in exported.in_avals]
    if form != exported.in_tree or len(found) != len(wanted):
        raise _unfit(path, "its network takes other weights than it holds")
    paths, _ = jax.tree.flatten_with_path(params)
    for (keys, value), there in zip(paths, found):
        name = jax.tree_util.keystr(keys, simple=True, separator="/")[:100]
        if (there.shape, there.dtype) != (value.shape, value.dtype):
            raise _unfit(path, f"its network takes {name} as {there.shape}, not {value.shape}")
        if not np.isfinite(value).all():
            raise _unfit(path, f"{name} is not finite")
    (*_, there), answers = found, [aval.shape[1:] for aval in exported.out_avals]
    if (there.shape[1:], there.dtype) != (clip.shape[1:], clip.dtype):  # batches are of any size
        raise _unfit(path, f"its network takes clips of {there.shape[1:]}, not {clip.shape[1:]}")
    if answers != [(*network.clip, network.task.num_values)]:
        needed = f"the task {network.task.name} needs {network.task.num_values} values a voxel"
        raise _unfit(path, f"its network answers with {answers}, {needed}")


def _unfit(path: object, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} does not fit together: {reason[:300]}; export it again.")


def _named(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(layer/kernel, array), … of nested dictionaries."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _named(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _nested(members: Mapping[str, bytes]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, data in members.items():
        if name.startswith(WEIGHTS):
            *layers, last = name.removeprefix(WEIGHTS).removesuffix(".npy").split("/")
            place = params
            for layer in layers:
                place = place.setdefault(layer, {})
            place[last] = array_of(data)
    return params


def write_saved_model(network: TrainedNetwork, folder: str | os.PathLike[str]) -> None:
    """Writes a TensorFlow SavedModel, for those who serve with TensorFlow; needs it installed.

    Its signature `serving_default` takes `video` (B,T,H,W,3) uint8, clips of the trained size, and
    gives `values`, what `TrainedNetwork.apply` gives, in float32.

    Raises:
      DataError: the folder exists, or TensorFlow or jax2tf is not at hand.
    """
    folder = pathlib.Path(folder)
    if folder.exists():
        raise DataError(f"{folder} exists; choose another --saved_model.")
    try:
        import tensorflow as tf
        from jax.experimental import jax2tf
    except ImportError as error:
        raise DataError(
            f"A SavedModel needs TensorFlow and jax2tf ({error}); pip install 'v2v_jax[train]'."
        ) from error
    from v2v_jax.system import triton

    with triton.switched_off():
        convert = jax2tf.convert(
            make_apply(network.about, "float32"),
            polymorphic_shapes=[None, "b, ..."],
            with_gradient=False,
            native_serialization_platforms=PLATFORMS,
        )
        module = tf.Module()
        module.params = jax.tree.map(lambda x: tf.Variable(np.asarray(x)), network.params)
        video = tf.TensorSpec((None, *network.clip, 3), tf.uint8, "video")
        module.predict = tf.function(
            lambda video: {"values": convert(module.params, video)},
            autograph=False,
            input_signature=[video],
        )
        tf.saved_model.save(module, str(folder), {"serving_default": module.predict})
