"""Tiny weight files of C3D, byte by byte as the programs that wrote the real ones have them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import numpy as np

# Filters at a width of 0.05; fc6 reads 1×2×2 places of conv5b's 26 channels.
CHANNELS = dict(
    conv1a=(3, 3), conv2a=(3, 6), conv3a=(6, 13), conv3b=(13, 13), conv4a=(13, 26), conv4b=(26, 26)
)
CHANNELS |= dict(conv5a=(26, 26), conv5b=(26, 26))
DENSE = dict(fc6=(26 * 4, 205), fc7=(205, 205), fc8=(205, 5))
WIDTH = 0.05
CLIP = (8, 48, 48)


def caffe_arrays(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """layer → weights (O,I,T,H,W) or (N,K), and bias, as Caffe and PyTorch have them."""
    rng = np.random.default_rng(seed)
    result = {}
    for name, (inputs, outputs) in CHANNELS.items():
        weights = rng.standard_normal((outputs, inputs, 3, 3, 3)) / np.sqrt(13.5 * inputs)
        result[name] = weights, 0.1 * rng.standard_normal(outputs)
    for name, (inputs, outputs) in DENSE.items():
        weights = rng.standard_normal((outputs, inputs)) * np.sqrt(2 / inputs)
        result[name] = weights, 0.1 * rng.standard_normal(outputs)
    return {name: tuple(a.astype(np.float32) for a in pair) for name, pair in result.items()}


# ------------------------------------------------------------------------------------------------
# Caffe


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def blob_v10(array: np.ndarray) -> bytes:
    """num, channels, length, height, width, data = 1 … 6; a length of 1 is left out."""
    shape = (1,) * (5 - array.ndim) + array.shape
    sizes = [number(i, n) for i, n in enumerate(shape, 1) if not (i == 3 and n == 1)]
    return b"".join(sizes) + data(6, array.astype("<f4").tobytes())


def blob_v11(array: np.ndarray) -> bytes:
    """data = 5, shape = 7 with dim = 1."""
    dims = data(1, b"".join(map(varint, array.shape)))
    return data(5, array.astype("<f4").tobytes()) + data(7, dims)


def blob_v11_unpacked(array: np.ndarray) -> bytes:
    """The same with every value a field, and old sizes num, channels, height, width."""
    values = array.astype("<f4").tobytes()
    shape = (1,) * (4 - array.ndim) + array.shape
    sizes = b"".join(number(i, n) for i, n in enumerate(shape, 1))
    parts = [b"\x2d" + values[i : i + 4] for i in range(0, len(values), 4)]
    return sizes + b"".join(parts)


def net(arrays, blob, layers_field: int = 2, name_field: int = 4, blobs_field: int = 6) -> bytes:
    """A NetParameter with a data layer, a pooling layer and those with parameters."""
    layers = [data(name_field, b"data"), data(name_field, b"pool1") + number(5, 31)]
    for name, pair in arrays.items():
        caffe_name = f"{name}-1" if name == "fc6" else name  # as in the released files
        layer = data(2, b"below") + data(3, b"above") + number(5, 30)
        if name_field == 1:
            layer = data(3, b"below") + data(4, b"above")
        layer += data(name_field, caffe_name.encode())
        layers.append(layer + b"".join(data(blobs_field, blob(array)) for array in pair))
    return data(1, b"c3d") + b"".join(data(layers_field, layer) for layer in layers)


def net_v0(arrays) -> bytes:
    """Layers inside layers: layer = 1 with name = 1, blobs = 50."""
    layers = []
    for name, pair in arrays.items():
        inner = data(1, name.encode()) + data(2, b"conv")
        layers.append(data(1, inner + b"".join(data(50, blob_v10(array)) for array in pair)))
    return data(1, b"c3d") + b"".join(data(2, layer) for layer in layers)


# ------------------------------------------------------------------------------------------------
# PyTorch


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor_program(key: str, array: np.ndarray, legacy: bool) -> bytes:
    """_rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())."""
    strides = [s // array.itemsize for s in array.strides]
    reference = text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    reference += integer(array.size) + (b"N" if legacy else b"")
    storage = b"(" + reference + b"tQ"
    arguments = storage + integer(0) + numbers(array.shape) + numbers(strides) + b"\x89"
    empty = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + empty + b"tR"


def state_dict_program(arrays: dict[str, np.ndarray], legacy: bool, wrap: str = "") -> bytes:
    items = b"".join(
        text(name) + tensor_program(str(i), array, legacy)
        for i, (name, array) in enumerate(arrays.items())
    )
    program = b"ccollections\nOrderedDict\n)R(" + items + b"u"
    if wrap:
        program = b"}(" + text("meta") + b"}" + text("epoch") + integer(3) + b"s"
        program += text(wrap) + b"ccollections\nOrderedDict\n)R(" + items + b"u" + b"u"
    return b"\x80\x02" + program + b"."


def pytorch_zip(arrays: dict[str, np.ndarray], wrap: str = "", program: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        program = program or state_dict_program(arrays, False, wrap)
        archive.writestr("c3d/data.pkl", program)
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"c3d/data/{i}", array.astype("<f4").tobytes())
        archive.writestr("c3d/version", b"3\n")
    return file.getvalue()


def pytorch_legacy(arrays: dict[str, np.ndarray], program: bytes = b"") -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, system)]
    parts.append(program or state_dict_program(arrays, True))
    parts.append(pickle.dumps([str(i) for i in range(len(arrays))], 2))
    for array in arrays.values():
        parts.append(struct.pack("<q", array.size) + array.astype("<f4").tobytes())
    return b"".join(parts)


FEATURES = dict(zip(CHANNELS, (0, 3, 6, 8, 11, 13, 16, 18)))


def pytorch_names(form: str) -> dict[str, str]:
    """layer → what its parameters' names start with, in c3d.pickle and two other ports."""
    if form == "pickle":
        return {n: n.rstrip("a") if n in ("conv1a", "conv2a") else n for n in (*CHANNELS, *DENSE)}
    if form == "features":
        names = {name: f"features.{index}" for name, index in FEATURES.items()}
        return names | {"fc6": "classifier.0", "fc7": "classifier.3"}
    names = {name: f"backbone.{name}.conv" for name in CHANNELS}
    return names | {"fc6": "backbone.fc6", "fc7": "backbone.fc7", "fc8": "cls_head.fc_cls"}


def named(arrays, form: str) -> dict[str, np.ndarray]:
    result = {}
    for layer, name in pytorch_names(form).items():
        result[f"{name}.weight"], result[f"{name}.bias"] = arrays[layer]
    return result


# ------------------------------------------------------------------------------------------------
# TensorFlow


def to_tensorflow(arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernels (T,H,W,I,O) and (K,N), where K runs over (H,W,C) of pool5."""
    result = {}
    for name, (weights, bias) in arrays.items():
        if weights.ndim == 5:
            weights = np.moveaxis(weights, (0, 1), (4, 3))
        elif name == "fc6":
            places = [weights[:, place::4] for place in range(4)]  # (C,1,2,2): place varies fastest
            weights = np.concatenate(places, axis=1).T
        else:
            weights = weights.T
        result[name] = np.ascontiguousarray(weights), bias
    return result
