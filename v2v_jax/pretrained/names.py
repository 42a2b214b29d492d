"""Which layer of this package a name in a weight file means.

Sources: Facebook's prototxt files (conv1a, fc6-1), c3d.pickle (conv1), pytorch-video-recognition
(features.N), mmaction2 (backbone.conv1a.conv), Keras (conv1_W, conv1/kernel:0) and the TensorFlow
port (wc1, bd1).
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from v2v_jax.models.c3d import TRUNK_LAYERS

CLASSIFIER_LAYERS = ("fc6", "fc7", "fc8")
DECODER_LAYERS = ("deconv5", "conv4c", "deconv4", "conv3c", "deconv3", "conv_pre")
LAYERS = (*TRUNK_LAYERS, *CLASSIFIER_LAYERS, *DECODER_LAYERS)

# The layer whose outputs a layer reads, where it is the only one.
READS = dict(zip(TRUNK_LAYERS[1:], TRUNK_LAYERS)) | {"conv4c": "conv4b", "conv3c": "conv3b"}
READS |= {"fc6": "conv5b", "fc7": "fc6", "fc8": "fc7"}

_FEATURES = dict(zip((0, 3, 6, 8, 11, 13, 16, 18), TRUNK_LAYERS))
_CLASSIFIER = {0: "fc6", 3: "fc7", 6: "fc8"}
_ALIASES = {layer: layer for layer in LAYERS} | {
    "conv1": "conv1a",
    "conv2": "conv2a",
    "fc_cls": "fc8",
}
_LEAVES = {
    **dict.fromkeys(("kernel", "weight", "weights", "W", "w"), "kernel"),
    **dict.fromkeys(("bias", "biases", "b"), "bias"),
}
_FULLY_CONNECTED = re.compile(r"(fc[678])(?:[-_]\w+)?")
_TENSORFLOW_PORT = re.compile(r"(?P<leaf>[wb])(?P<layer>c[1-5][ab]?|d[12]|out)|out")


class Place(NamedTuple):
    """Where an array of a file belongs."""

    layer: str
    leaf: Literal["kernel", "bias"]


def place_of(name: str) -> Place | None:
    """The place of the array called `name` in a file; None if this package has no such layer."""
    parts = [part for part in re.split(r"[./]", name.partition(":")[0]) if part]
    if not parts:
        return None
    port = _TENSORFLOW_PORT.fullmatch(parts[-1])
    if port:
        leaf = "bias" if port["leaf"] == "b" else "kernel"
        return Place(_layer_of_port(port["layer"] or "out"), leaf)
    *parents, last = parts
    leaf = _LEAVES.get(last)
    if leaf is None:  # Keras 1: conv1_W
        layer, _, ending = last.rpartition("_")
        leaf, parents = _LEAVES.get(ending), [*parents, layer]
    if leaf is None:
        return None
    for index in reversed(range(len(parents))):
        layer = _layer_of(parents[index], parents[index - 1] if index else "")
        if layer:
            return Place(layer, leaf)
        if parents[index] != "conv":  # mmaction2's; a layer's bn, for one, is another thing
            return None
    return None


def printable(name: str) -> str:
    """A name out of a file as a message may show it: short, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in name[:100])


def reads_channels_first(name: str) -> bool:
    """Whether fc6 of the file that has this array reads pool5 in Caffe's order, though in TF's."""
    return _TENSORFLOW_PORT.fullmatch(re.split(r"[./]", name.partition(":")[0])[-1]) is not None


def _layer_of(part: str, before: str) -> str | None:
    if part.isdecimal():
        table = {"features": _FEATURES, "classifier": _CLASSIFIER}.get(before, {})
        return table.get(int(part)) if len(part) < 4 else None
    match = _FULLY_CONNECTED.fullmatch(part)
    return match[1] if match else _ALIASES.get(part)


def _layer_of_port(layer: str) -> str:
    """wc1 → conv1a, wd1 → fc6, out → fc8."""
    if layer == "out":
        return "fc8"
    if layer.startswith("d"):
        return {"d1": "fc6", "d2": "fc7"}[layer]
    name = "conv" + layer[1:]
    return name if name[-1] in "ab" else name + "a"
