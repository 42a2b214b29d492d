"""What a weight file holds, brought into this package's layout and checked.

A reader gives named arrays (`Entry`), of which shape and type are known before any data is read;
`assemble` picks C3D's and V2V's layers, compares their shapes with each other, and only then reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import numpy as np

from v2v_jax.errors import WeightsError
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.models.c3d import TRUNK_LAYERS
from v2v_jax.pretrained.names import (
    CLASSIFIER_LAYERS,
    LAYERS,
    READS,
    Place,
    place_of,
    printable,
    reads_channels_first,
)

Params = dict[str, dict[str, np.ndarray]]
Order = Literal["oithw", "thwio"]

MAX_BYTES = 2**30  # of all parameters; C3D with its 487 classes has 0.32e9
# C3D's ports: BGR, 0..255, the means of the release's mean cube (sport1m_train16_128_mean).
C3D_INPUT = Preprocessing(color_order="bgr", mean=(90.3, 97.7, 101.4), std=(1.0, 1.0, 1.0))
# What the PyTorch ports' programs feed them with, by a part of their arrays' names:
# pytorch-video-recognition (BGR), mmaction2 (RGB).
_INPUTS = {
    "features": Preprocessing(color_order="bgr", mean=(90.0, 98.0, 102.0), std=(1.0,) * 3),
    "backbone": Preprocessing(color_order="rgb", mean=(104.0, 117.0, 128.0), std=(1.0,) * 3),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A named array of a file: its shape, and a function that reads it in any float type."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters and what they were made for.

    Attributes:
      params: layer → {"kernel", "bias"}, float32, and "gain" where the kernels of one of our own
        runs are standardised (`models.standardization`); kernels (T,H,W,in,out), of fully connected
        layers (in,out), where fc6's inputs are pool5 in the order (T,H,W,C).
      preprocessing: color_order, mean and std of the input that they expect.
      format: for people, such as "Caffe v1.0".
      path: where they were read.
      left_over: names of arrays that belong to no layer of this package.
    """

    params: Params
    preprocessing: Preprocessing
    format: str
    path: str
    left_over: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """C3D's layers that are not there, the classifier's included."""
        return tuple(n for n in (*TRUNK_LAYERS, *CLASSIFIER_LAYERS) if n not in self.params)


def _input_of(names: Iterable[str]) -> Preprocessing:
    """What the network was trained on whose arrays have these names, in whatever file."""
    parts = {part for name in names for part in name.split(".")}
    return next((input for form, input in _INPUTS.items() if form in parts), C3D_INPUT)


def assemble(entries: Mapping[str, Entry], path: str, format: str, order: Order) -> Weights:
    """Picks, checks and reads the layers that this package knows.

    Args:
      entries: by their names in the file.
      path, format: see `Weights`.
      order: of convolutions' kernels: (O,I,T,H,W) as in Caffe and PyTorch, whose fully connected
        ones are (out,in), or (T,H,W,I,O) as in TensorFlow, (in,out).

    Raises:
      WeightsError: no layer is known, a layer is incomplete or of a wrong shape, or not finite.
    """
    places: dict[Place, str] = {}
    left_over = []
    # An optimiser's copy of a layer has a longer name.
    for name in sorted(entries, key=lambda name: (len(name), name)):
        place = place_of(name)
        if place is None or place in places:
            left_over.append(printable(name))
        else:
            places[place] = name
    layers = [layer for layer in LAYERS if Place(layer, "kernel") in places]
    if not set(layers) & set(TRUNK_LAYERS):
        found = ", ".join(left_over[:5]) or "nothing"
        raise WeightsError(
            f"{path} ({format}) holds no layer of C3D, such as conv1a; it holds {found}."
        )
    left_over += [printable(name) for place, name in places.items() if place.layer not in layers]
    arrays = {place: entries[name] for place, name in places.items() if place.layer in layers}
    where = f"{path} ({format})"
    conv_order = _order_of_convolutions(arrays.values(), order)
    order = _order_of_dense(arrays, places, order)
    shapes = {p: _shape(where, p, entry.shape, order, conv_order) for p, entry in arrays.items()}
    _check_layers(where, layers, shapes)
    total = 4 * sum(math.prod(shape) for shape in shapes.values())
    if total > MAX_BYTES:
        raise WeightsError(
            f"{where} claims parameters of {total} bytes; at most {MAX_BYTES} are read."
        )
    params: Params = {layer: {} for layer in layers}
    for place, entry in arrays.items():
        channels_first = conv_order == "oithw" or reads_channels_first(places[place])
        value = _to_our_layout(place, entry, order, conv_order, shapes)
        if place == Place("fc6", "kernel") and channels_first:
            value = _from_channels_first(place, value, shapes)
        if not np.isfinite(value).all():
            raise WeightsError(f"The {place.leaf} of {place.layer} in {where} is not finite.")
        params[place.layer][place.leaf] = value
    return Weights(params, _input_of(entries), format, path, tuple(sorted(left_over)))


# ------------------------------------------------------------------------------------------------
# Shapes


def _shape(
    where: str, place: Place, shape: tuple[int, ...], order: Order, conv_order: Order
) -> tuple[int, ...]:
    """The shape in this package's layout, where the number of axes is right."""
    axes = {"bias": 1}.get(place.leaf, 2 if place.layer in CLASSIFIER_LAYERS else 5)
    squeezed = _squeeze(shape, axes)
    if len(squeezed) != axes or 0 in squeezed:
        raise WeightsError(
            f"The {place.leaf} of {place.layer} in {where} has the shape {shape}; it must have "
            f"{axes} axes."
        )
    if axes == 1:
        return squeezed
    if axes == 2:
        return squeezed[::-1] if order == "oithw" else squeezed
    if conv_order == "oithw":
        a, b, *size = squeezed
        return (*size, a, b) if place.layer.startswith("deconv") else (*size, b, a)
    return squeezed if not place.layer.startswith("deconv") else (*squeezed[:3], *squeezed[:2:-1])


def _squeeze(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Without the leading ones that Caffe's blobs have."""
    while len(shape) > axes and shape[0] == 1:
        shape = shape[1:]
    return shape


def _order_of_convolutions(entries: Iterable[Entry], order: Order) -> Order:
    """TensorFlow's ports may have kept (O,I,T,H,W), and the clip with it: kernels' sizes say so."""
    kept = lambda shape: len(shape) == 5 and shape[:3] != (3, 3, 3) and shape[2:] == (3, 3, 3)
    return "oithw" if any(kept(tuple(entry.shape)) for entry in entries) else order


def _order_of_dense(
    arrays: Mapping[Place, Entry], names: Mapping[Place, str], order: Order
) -> Order:
    """Whether fully connected kernels of an archive of either kind are (out,in), as PyTorch's are.

    The first one with two different sides says so, beside its bias; else the arrays' names do.
    """
    if order == "oithw":
        return order
    kernels = [place for place in arrays if place.leaf == "kernel"]
    for place in kernels:
        if place.layer not in CLASSIFIER_LAYERS:
            continue
        sides = arrays[place].shape
        bias = arrays.get(Place(place.layer, "bias"))
        if len(sides) == 2 and sides[0] != sides[1] and bias is not None:
            if bias.shape == sides[:1]:
                return "oithw"
            if bias.shape == sides[1:]:
                return order
    return "oithw" if any(names[place].endswith(".weight") for place in kernels) else order


def _check_layers(where: str, layers: list[str], shapes: Mapping[Place, tuple[int, ...]]) -> None:
    for layer in layers:
        kernel = shapes[Place(layer, "kernel")]
        bias = shapes.get(Place(layer, "bias"))
        if bias != kernel[-1:]:
            raise WeightsError(
                f"The bias of {layer} in {where} has the shape {bias}; beside the kernel {kernel} "
                f"it must be {kernel[-1:]}."
            )
        if layer.startswith("conv") and kernel[:3] != (3, 3, 3):
            expected = (3, 3, 3, *kernel[3:])
            raise WeightsError(
                f"The kernel of {layer} in {where} has the shape {kernel} (T,H,W,in,out); it must "
                f"be {expected}."
            )
        before = shapes.get(Place(READS.get(layer, ""), "kernel"))
        if before is None:
            continue
        inputs = kernel[-2]
        # pool5 of a clip whose sides the file does not tell: any number of places, see _pool5.
        fits = inputs % before[-1] == 0 if layer == "fc6" else inputs == before[-1]
        if not fits:
            expected = (*kernel[:-2], before[-1], kernel[-1])
            many = " times the number of places of pool5" if layer == "fc6" else ""
            raise WeightsError(
                f"The kernel of {layer} in {where} has the shape {kernel}; after {READS[layer]}, "
                f"whose kernel is {before}, it must be {expected}{many}."
            )


# ------------------------------------------------------------------------------------------------
# Values


def _to_our_layout(
    place: Place,
    entry: Entry,
    order: Order,
    conv_order: Order,
    shapes: Mapping[Place, tuple[int, ...]],
) -> np.ndarray:
    shape = shapes[place]
    value = np.asarray(entry.read()).astype(np.float32)
    if place.leaf == "bias":
        return value.reshape(shape)
    if len(shape) == 2:
        value = value.reshape(shape[::-1]).T if order == "oithw" else value.reshape(shape)
        return np.ascontiguousarray(value)
    value = value.reshape(entry.shape[-5:])
    if conv_order == "oithw":
        value = value.transpose(2, 3, 4, 0, 1)
        swap = not place.layer.startswith("deconv")
    else:
        swap = place.layer.startswith("deconv")
    return np.ascontiguousarray(value.swapaxes(3, 4) if swap else value)


def _from_channels_first(
    place: Place, kernel: np.ndarray, shapes: Mapping[Place, tuple[int, ...]]
) -> np.ndarray:
    """fc6's kernel (in,out): inputs (C,T,H,W) → (T,H,W,C), with the T = 1 and H = W of pool5."""
    before = shapes.get(Place("conv5b", "kernel"))
    if before is None:
        raise WeightsError("fc6 without conv5b cannot be read: its inputs' order is not known.")
    channels = before[-1]
    places = len(kernel) // channels
    side = math.isqrt(places)
    if side * side != places:
        raise WeightsError(
            f"The kernel of {place.layer} has the shape {kernel.shape}: {places} places of "
            f"conv5b's {channels} channels; pool5 is a square of them."
        )
    return kernel.reshape(channels, places, -1).swapaxes(0, 1).reshape(kernel.shape)
