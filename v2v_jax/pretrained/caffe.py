"""Caffe's binary models and mean cubes, of Facebook's C3D v1.0 and v1.1.

The two have other field numbers for the same things (caffe.proto of either release): a blob of v1.0
has its width where one of v1.1 has its data, which is how they are told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from v2v_jax.errors import WeightsError
from v2v_jax.pretrained.mapped_file import MappedFile
from v2v_jax.pretrained.protobuf_wire import BYTES, FIXED32, VARINT, Malformed, fields, varints
from v2v_jax.pretrained.weights import Entry, Weights, assemble

_MAX_LAYERS, _MAX_BLOBS, _MAX_AXES, _MAX_PARTS = 4096, 16, 8, 1024
_MAX_BLOB_FIELD = 7  # its highest field number
_NET_LAYERS, _NET_LAYER = 2, 100  # v1.0's and old v1.1's; new v1.1's
# Field numbers of name and blobs in NetParameter.layers and in NetParameter.layer.
_LAYER_FIELDS = {_NET_LAYERS: (4, 6), _NET_LAYER: (1, 7)}
_V0_LAYER, _V0_NAME, _V0_BLOBS = 1, 1, 50  # inside NetParameter.layers, where the name is not


def looks_like_caffe(head: bytes) -> bool:
    """Whether a file may be a NetParameter or a BlobProto: its first field is one of theirs."""
    return head[:1] in (b"\x0a", b"\x12", b"\x08", b"\x3a") or head[:2] in (b"\xa2\x06",)


def is_mean(head: bytes) -> bool:
    """Whether it is a BlobProto (`num` or `shape` comes first), not a NetParameter."""
    return head[:1] in (b"\x08", b"\x3a")


def read_caffe(file: MappedFile) -> Weights:
    """The weights of a binary model.

    Raises:
      WeightsError: it is damaged or no model of C3D.
    """
    entries: dict[str, Entry] = {}
    versions: set[str] = set()
    try:
        for count, layer in enumerate(_layers(file.memory), 1):
            if count > _MAX_LAYERS:
                raise Malformed(f"it has more than {_MAX_LAYERS} layers")
            name, blobs = layer
            for leaf, blob in zip(("weight", "bias"), blobs):
                shape, read, version = _blob(blob)
                versions.add(version)
                entries.setdefault(f"{name}/{leaf}", Entry(shape, read))
    except Malformed as error:
        raise WeightsError(f"{file.path} is not a valid Caffe model: {error}.") from error
    if not entries:
        raise WeightsError(
            f"{file.path} has an unknown format, or is a Caffe model without parameters."
        )
    return assemble(entries, file.path, f"Caffe {max(versions)}", "oithw")


def read_mean(path: str) -> tuple[float, float, float]:
    """The mean of a mean cube (binaryproto) over time and place, a colour each in its order (BGR).

    Raises:
      WeightsError: it is damaged or no mean of three colours.
    """
    file = MappedFile(path)
    try:
        shape, read, _ = _blob(file.memory)
    except Malformed as error:
        raise WeightsError(f"{path} is not a valid mean file of Caffe: {error}.") from error
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) < 3 or shape[0] != 3:
        raise WeightsError(f"{path} has the shape {shape}; expected (3, frames, height, width).")
    mean = read().reshape(3, -1).mean(1, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise WeightsError(f"The mean of {path} is not finite.")
    return tuple(mean.tolist())


def _layers(net: memoryview):
    """(name, its blobs) of every layer of a NetParameter."""
    for field in fields(net):
        if field.number in _LAYER_FIELDS and field.wire_type == BYTES:
            name_field, blobs_field = _LAYER_FIELDS[field.number]
            name, blobs = _name_and_blobs(field.value, name_field, blobs_field)
            old = _first(field.value, _V0_LAYER) if field.number == _NET_LAYERS else None
            if not name and not blobs and old is not None:
                name, blobs = _name_and_blobs(old, _V0_NAME, _V0_BLOBS)
            if blobs:
                yield name, blobs


def _name_and_blobs(
    layer: memoryview, name_field: int, blobs_field: int
) -> tuple[str, list[memoryview]]:
    name, blobs = "", []
    for field in fields(layer):
        if field.wire_type != BYTES:
            continue
        if field.number == name_field:
            name = bytes(field.value[:256]).decode("utf-8", "replace")
        elif field.number == blobs_field:
            blobs.append(field.value)
            if len(blobs) > _MAX_BLOBS:
                raise Malformed(f"the layer {name!r} has more than {_MAX_BLOBS} blobs")
    return name, blobs


def _first(message: memoryview, number: int) -> memoryview | None:
    found = (f.value for f in fields(message) if f.number == number and f.wire_type == BYTES)
    return next(found, None)


def _blob(blob: memoryview) -> tuple[tuple[int, ...], Callable[[], np.ndarray], str]:
    """Shape, a function that reads the values, and the version of its field numbers."""
    sizes: dict[int, int] = {}
    packed: dict[int, list[memoryview]] = {}
    single: dict[int, bytearray] = {}  # values one a field, as protobuf also allows
    for field in fields(blob):
        if field.number > _MAX_BLOB_FIELD:
            continue
        if field.wire_type == VARINT:
            sizes[field.number] = field.value
        elif field.wire_type == BYTES:
            parts = packed.setdefault(field.number, [])
            parts.append(field.value)
            if len(parts) > _MAX_PARTS:
                raise Malformed(f"a blob has more than {_MAX_PARTS} parts")
        elif field.wire_type == FIXED32:
            single.setdefault(field.number, bytearray()).extend(field.value)
    new = 5 in packed or 5 in single
    data_field = 5 if new else 6
    parts = [*packed.get(data_field, ()), *filter(None, [single.get(data_field)])]
    count = sum(len(part) for part in parts) // 4
    shape = _shape_of_blob(sizes, packed, new)
    if any(len(part) % 4 for part in parts) or math.prod(shape) != count or count == 0:
        raise Malformed(f"a blob of the shape {shape} has {count} values")
    read = lambda: np.concatenate([np.frombuffer(part, "<f4") for part in parts]).reshape(shape)
    return shape, read, "v1.1" if new else "v1.0"


def _shape_of_blob(
    sizes: dict[int, int], packed: dict[int, list[memoryview]], new: bool
) -> tuple[int, ...]:
    if new and 7 in packed:  # BlobShape
        dims: list[int] = []
        for field in fields(packed[7][0]):
            if field.number == 1:
                more = varints(field.value) if field.wire_type == BYTES else (field.value,)
                dims.extend(size for size, _ in zip(more, range(_MAX_AXES + 1)))
            if len(dims) > _MAX_AXES:
                raise Malformed(f"a blob has more than {_MAX_AXES} axes")
        return tuple(dims)
    if new:
        return tuple(sizes.get(number, 1) for number in (1, 2, 3, 4))
    # A missing length is 1.
    return tuple(sizes.get(number, 1) for number in (1, 2, 3, 4, 5))
