"""How a training state lies in a checkpoint's folder: the parameters apart from all else.

params/    the field `params`, for prediction, evaluation and fine-tuning, which read it alone
training/  the other fields: the step and the optimiser's state
about/     JSON

Older checkpoints have all fields in state/ and are read as well. A state is a dataclass, as
`experiment.TrainState`, or a mapping, whose fields are any pytrees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from v2v_jax.models.standardization import plain_layers, without_gain
from v2v_jax.system.json_files import parse_object

_PARAMS, _TRAINING, _ABOUT, _TOGETHER = "params", "training", "about", "state"
_TREE = "_METADATA"  # orbax's file of a tree's structure
_HEADERS = (".zarray", "zarr.json")  # of an array in either version of zarr
_SHOWN = 3  # differences named in a message

Shapes = dict[tuple[str, ...], tuple[int, ...]]  # path in a tree → shape of the array there


class OtherStructure(Exception):
    """What is stored has other arrays than are asked for.

    Attributes:
      part: of the state: its "params", or what else belongs to "training".
    """

    def __init__(self, part: str, differences: str):
        super().__init__(differences)
        self.part = part


class Unreadable(Exception):
    """The files are unfinished or damaged; the message says in what, in one line."""


def to_save(state: Any, about: Mapping[str, Any]) -> ocp.args.Composite:
    """What orbax has to write for a state and its JSON-ready record."""
    parts = {part: ocp.args.StandardSave(fields) for part, fields in _parts(state).items()}
    return ocp.args.Composite(**parts, **{_ABOUT: ocp.args.JsonSave(dict(about))})


def check_written(folder: pathlib.Path, state: Any) -> None:
    """Reads what was just written, bytes only, so that nothing is published that lacks a part.

    orbax is not asked: each of its answers about an array leaves some 3 kB in tensorstore for good.

    Args:
      state: what was to be saved; only its structure matters.

    Raises:
      Unreadable: an array is missing, has another shape or cannot be read.
    """
    with _as_unreadable():
        for part, fields in _parts(state).items():
            wanted = {".".join(names): list(shape) for names, shape in _shapes(fields).items()}
            tree = parse_object((folder / part / _TREE).read_bytes())["tree_metadata"]
            if len(tree) < len(wanted):  # it names empty places, too
                raise Unreadable(f"{part}/{_TREE} is of {len(tree)} arrays, not {len(wanted)}")
            found = _read_shapes(folder / part, part)
            missing = sorted(name for name, shape in wanted.items() if found.get(name) != shape)
            if missing:
                raise Unreadable(f"{part} lacks {', '.join(missing[:_SHOWN])}")


def _read_shapes(path: pathlib.Path, part: str) -> dict[str, list[int]]:
    """Reads all that a part's database holds; name of an array → its shape, by its header."""
    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{path.absolute()}/"}).result()
    shapes = {}
    for key in store.list().result():  # one at a time: the memory of one array
        found = store.read(key).result()
        # Of a file that is gone tensorstore says that it is empty, which none is.
        if found.state != "value" or not found.value:
            raise Unreadable(f"{part} lacks {key.decode(errors='replace')}")
        name, _, last = key.decode().rpartition("/")
        if last in _HEADERS:
            shapes[name] = parse_object(found.value)["shape"]
    return shapes


def read_about(folder: pathlib.Path) -> dict[str, Any]:
    """The record that was stored with a state.

    Raises:
      Unreadable: it is unfinished or damaged.
    """
    about = _read(folder / _ABOUT, ocp.JsonCheckpointHandler(), ocp.args.JsonRestore())
    if not isinstance(about, dict):
        raise Unreadable("its record is no JSON object")
    return about


def read_params(folder: pathlib.Path, like: Any = None) -> Any:
    """The parameters alone: neither the optimiser nor its state is needed.

    Args:
      like: a pytree of arrays or jax.ShapeDtypeStruct whose shapes, dtypes and shardings the result
        has; None: NumPy arrays as they are stored, layer → name (kernel, bias, …) → array.

    Raises:
      OtherStructure: not those that `like` has.
      Unreadable: they are unfinished or damaged.
    """
    together = not (folder / _PARAMS).is_dir()
    path = folder / (_TOGETHER if together else _PARAMS)
    if like is None:
        with _as_unreadable():
            tree = {_PARAMS: _stored_tree(path)[_PARAMS]}
        like = jax.tree.map(lambda x: np.zeros((), x.dtype), tree)
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    else:
        like = {_PARAMS: _with_stored_gains(path, abstract(like))}
        _compare(path, like, _PARAMS)
        restore_args = ocp.checkpoint_utils.construct_restore_args(like)
    args = ocp.args.PyTreeRestore(item=like, restore_args=restore_args, partial_restore=together)
    return _read(path, ocp.PyTreeCheckpointHandler(), args)[_PARAMS]


def read_state(folder: pathlib.Path, like: Any) -> Any:
    """The whole state, with the type, shapes, dtypes and shardings of `like`.

    Raises:
      OtherStructure: it is of another network (part "params") or optimiser ("training").
      Unreadable: it is unfinished or damaged.
    """
    together = (folder / _TOGETHER).is_dir()
    like = _with_stored_gains(folder / (_TOGETHER if together else _PARAMS), abstract(like))
    parts = _parts(like)
    for part, wanted in parts.items():
        _compare(folder / (_TOGETHER if together else part), wanted, part)
    if together:
        return _read_item(folder / _TOGETHER, like)
    fields = {}
    for part, wanted in parts.items():
        fields |= _read_item(folder / part, wanted)
    return type(like)(fields) if isinstance(like, Mapping) else dataclasses.replace(like, **fields)


def _parts(state: Any) -> dict[str, dict[str, Any]]:
    """Name of an item → the fields that are in it; without those that would be empty."""
    if isinstance(state, Mapping):
        rest = dict(state)
    else:
        rest = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    params = {name: rest.pop(name) for name in (_PARAMS,) if name in rest}
    return {part: fields for part, fields in ((_PARAMS, params), (_TRAINING, rest)) if fields}


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a pytree of arrays."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


def _read_item(path: pathlib.Path, like: Any) -> Any:
    return _read(path, ocp.StandardCheckpointHandler(), ocp.args.StandardRestore(like))


def _read(path: pathlib.Path, handler: ocp.CheckpointHandler, args: Any) -> Any:
    with _as_unreadable(), ocp.Checkpointer(handler) as checkpointer:
        return checkpointer.restore(path, args=args)


@contextlib.contextmanager
def _as_unreadable():
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        lines = str(error).strip().splitlines() or [""]
        raise Unreadable(f"{type(error).__name__}: {lines[0][:200]}") from error


# ------------------------------------------------------------------------------------------------
# Structures


def _stored_tree(path: pathlib.Path) -> Any:
    return ocp.PyTreeCheckpointHandler().metadata(path).tree


def _with_stored_gains(path: pathlib.Path, like: Any) -> Any:
    """`like` without the gains of layers that were stored plain: those that fine-tuning filled."""
    if not path.is_dir():  # a state without parameters
        return like
    with _as_unreadable():
        stored = _stored_tree(path).get(_PARAMS)
    if not isinstance(stored, Mapping):  # one array, or nothing
        return like
    layers = {name: layer for name, layer in stored.items() if isinstance(layer, Mapping)}
    return without_gain(like, plain_layers(layers))


def _compare(path: pathlib.Path, like: Mapping[str, Any], part: str) -> None:
    """Raises OtherStructure unless the arrays stored there, in the fields of `part`, are like's."""
    with _as_unreadable():
        stored = _shapes(_stored_tree(path))
    is_params = part == _PARAMS
    found = {names: shape for names, shape in stored.items() if (names[0] == _PARAMS) == is_params}
    wanted = _shapes(like)
    differences = [
        f"{'.'.join(names)} is {_shown(found, names)} there and {_shown(wanted, names)} here"
        for names in sorted(found.keys() | wanted.keys())
        if found.get(names) != wanted.get(names)
    ]
    if differences:
        more = len(differences) - _SHOWN
        text = "; ".join(differences[:_SHOWN])
        raise OtherStructure(part, f"{text}; {more} more" if more > 0 else text)


def _shapes(tree: Any) -> Shapes:
    return {
        tuple(str(_name(key)) for key in path): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _name(key: Any) -> Any:
    """A step of a path, named as orbax does whatever holds it: mapping, sequence, (named) tuple."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return key


def _shown(shapes: Shapes, names: tuple[str, ...]) -> str:
    shape = shapes.get(names)
    return "missing" if shape is None else f"({','.join(map(str, shape))})"
