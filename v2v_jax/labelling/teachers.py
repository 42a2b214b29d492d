"""Teachers: methods that say what is in a video, to make labels with.

A teacher is any function of one frame (H,W,3) uint8 RGB, of two consecutive ones, or of a clip
(T,H,W,3). For each frame, or for the first of two, it returns, of the frames' size,

    labels   (H,W) integer, classes, 255 where it does not know; or (H,W,K) float, the
             probabilities of K classes, NaN where it does not know; or (H,W) float, the
             probability of the second of two classes
    flow     (H,W,2) float to the next frame, (u right, v down) in pixels, NaN where it does not
             know; of a clip's last frame it is not looked at
    depth    (H,W) float, metres, infinite where there is none, NaN where it does not know

and of a clip the same with a T in front. Your own:

    v2v label --task=TASK --teacher=my_module:my_function …

What it sees is its attribute `sees` ("frame", "pair", "clip") or, where it has none, follows from
its arguments: one is a frame, two are a pair. Its attribute `label_names` names the classes. A clip
has --batch_size frames, a video's last one what is left.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from v2v_jax.errors import ConfigError, DataError
from v2v_jax.media.label_codes import (
    NO_CLASS,
    encode_depth,
    encode_flow,
    encode_probabilities,
)

# The parameters of the paper's labels.
_BROX = dict(alpha=0.197, gamma=50.0, scale=0.8, inner=10, outer=77, solver=10, warps=1)
Sees = Literal["frame", "pair", "clip"]
SEES: tuple[Sees, ...] = ("frame", "pair", "clip")
FIELDS = ("flow", "labels", "depth")  # that a teacher can make
_ROUNDING = 1e-3  # by which probabilities may miss the range from 0 to 1
TWO_CLASSES = ("background", "foreground")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A method, ready to be called by several threads at once.

    Attributes:
      name: as in `--teacher`.
      parameters: what its labels depend on, JSON-ready; stored with the labels.
      encoded: (frames, step) → (codes, too_large), perhaps still being computed. Of (N,H,W,3) uint8
        consecutive frames the labels as `label_codes` has them, (N,H,W,…), or of the N-1 pairs
        where it `needs_next`; step and too_large are `encode_flow`'s.
      compiled: whether a new shape of frames is compiled anew, so that batches are to be padded.
      min_size: pixels a side that frames need.
      field: what it makes, of `FIELDS`.
      needs_next: whether what it says of a frame takes the next one too.
      label_names: of the classes, index = label; empty unless these are what it makes.
    """

    name: str
    parameters: Mapping[str, Any]
    encoded: Callable[[np.ndarray, float], tuple[Any, Any]]
    compiled: bool
    min_size: int = 1
    field: str = "flow"
    needs_next: bool = True
    label_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TeacherOptions:
    """How a teacher is to be called; what is None or empty follows from the teacher.

    Attributes:
      field: what is to be made: "flow", "labels" or "depth".
      sees: what a function is called with.
      label_names: of the classes, for labels.
      input_range: what black and white are to a network of `tflite:FILE` that takes floats.
    """

    field: str = "flow"
    sees: Sees | None = None
    label_names: tuple[str, ...] = ()
    input_range: tuple[float, float] = (0.0, 1.0)


def make_teacher(name: str, options: TeacherOptions = TeacherOptions()) -> Teacher:
    """The teacher of that name, `tflite:FILE` or `module:function`.

    Raises:
      ConfigError: it is not known, cannot be imported or read, makes another field, or needs
        something that is not installed.
    """
    if options.field not in FIELDS:
        raise ConfigError(f"A teacher makes {', '.join(FIELDS)}, not {options.field!r}.")
    scheme, _, rest = name.partition(":")
    if name in TEACHERS or (scheme == "tflite" and rest):
        made = "flow" if name in TEACHERS else "labels"
        if options.field != made:
            raise ConfigError(
                f"Teacher {name} makes {made}, not {options.field}; choose another --task."
            )
        if name in TEACHERS:
            return TEACHERS[name]()
        from v2v_jax.labelling.tflite_teacher import tflite_teacher

        return tflite_teacher(rest, options.label_names, options.input_range)
    if rest:
        return of_function(name, _import_function(name), options=options)
    raise ConfigError(
        f"Unknown teacher {name!r}; known: {', '.join(TEACHERS)}, tflite:FILE for a network of "
        "TensorFlow Lite, or module:function for a function of one frame (H,W,3) uint8, of two, "
        "or of a clip (T,H,W,3)."
    )


def of_function(
    name: str,
    function: Callable[..., Any],
    parameters: Mapping[str, Any] | None = None,
    options: TeacherOptions = TeacherOptions(),
) -> Teacher:
    """A teacher that calls a function for one frame, pair or clip after the other.

    Raises:
      ConfigError: what it sees cannot be told from it, or is too little for the task.
    """
    sees = options.sees or getattr(function, "sees", None) or _sees_by_arguments(name, function)
    if sees not in SEES:
        raise ConfigError(f"Teacher {name} sees {sees!r}; expected one of {', '.join(SEES)}.")
    if sees == "frame" and options.field == "flow":
        raise ConfigError(
            f"Teacher {name} sees one frame, flow needs two: give it two arguments, or "
            "--sees=clip; or choose another --task."
        )
    names: tuple[str, ...] = ()
    if options.field == "labels":
        names = options.label_names or tuple(getattr(function, "label_names", TWO_CLASSES))
    encode = _encoder(name, options.field, names)

    def encoded(frames: np.ndarray, step: float) -> tuple[np.ndarray, Any]:
        size = frames.shape[1:3]
        if sees == "clip":
            values = np.asarray(function(frames))
            if len(values) != len(frames):
                raise DataError(
                    f"Teacher {name} returned {values.dtype} {values.shape} for a clip of "
                    f"{len(frames)} frames; expected as many."
                )
            results = list(values[: len(frames) - (options.field == "flow")])
        elif sees == "pair":
            results = [np.asarray(function(*pair)) for pair in zip(frames[:-1], frames[1:])]
        else:
            results = [np.asarray(function(frame)) for frame in frames]
        return encode(results, size, step)

    needs_next = sees == "pair" or options.field == "flow"
    return Teacher(
        name,
        parameters or {},
        encoded,
        compiled=False,
        field=options.field,
        needs_next=needs_next,
        label_names=names,
    )


def _encoder(
    name: str, field: str, label_names: Sequence[str]
) -> Callable[[Sequence[np.ndarray], tuple[int, int], float], tuple[np.ndarray, Any]]:
    """(results, (H,W), step) → (codes, too_large) of what a teacher of a field returned."""

    def wrong(value: np.ndarray, expected: str) -> DataError:
        return DataError(
            f"Teacher {name} returned {value.dtype} {value.shape} for {field}; expected {expected}."
        )

    def encode(
        results: Sequence[np.ndarray], size: tuple[int, int], step: float
    ) -> tuple[np.ndarray, Any]:
        first = results[0]
        real = np.issubdtype(first.dtype, np.floating)
        if any(r.shape != first.shape or r.dtype != first.dtype for r in results):
            raise DataError(f"Teacher {name} returned arrays of different shapes or dtypes.")
        if field == "flow":
            if first.shape != (*size, 2) or not real:
                raise wrong(first, f"float {(*size, 2)}")
            return encode_flow(np.stack(results), step)
        if field == "depth":
            if first.shape != size or not real:
                raise wrong(first, f"float {size}")
            return encode_depth(np.stack(results)), False
        return _encode_classes(name, results, size, label_names), False

    return encode


def _encode_classes(
    name: str, results: Sequence[np.ndarray], size: tuple[int, int], label_names: Sequence[str]
) -> np.ndarray:
    """(N,H,W) uint8 classes or (N,H,W,K) uint8 probabilities."""
    values, count = np.stack(results), len(label_names)
    if values.shape[1:] == size and values.dtype.kind in "bui":
        known = values[values != NO_CLASS]
        if known.size and not 0 <= known.min() <= known.max() < count:
            raise DataError(
                f"Teacher {name} returned class {known.max()}; there are {count} "
                f"({', '.join(label_names)}): name all with --label_names, or use 255 for what "
                "is not known."
            )
        return values.astype(np.uint8)
    if values.shape[1:] == size and values.dtype.kind == "f" and count == 2:
        values = np.stack([1 - values, values], -1)
    if values.shape[1:] != (*size, count) or values.dtype.kind != "f":
        raise DataError(
            f"Teacher {name} returned {values.dtype} {values.shape[1:]} for labels; expected "
            f"integer {size}, or float {(*size, count)}: the probabilities of "
            f"{', '.join(label_names)}. Name the classes with --label_names."
        )
    if (np.abs(np.nan_to_num(values, nan=0.5) - 0.5) > 0.5 + _ROUNDING).any():
        raise DataError(
            f"Teacher {name} returned {values.dtype} {values.shape[1:]} with values from "
            f"{np.nanmin(values):.3g} to {np.nanmax(values):.3g}; probabilities are from 0 to 1."
        )
    return encode_probabilities(values)


def _sees_by_arguments(name: str, function: Callable[..., Any]) -> Sees:
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"Teacher {name} does not tell what it takes; add --sees=frame, pair or clip."
        ) from error
    places = [
        a
        for a in arguments
        if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD) and a.default is a.empty
    ]
    if len(places) not in (1, 2):
        raise ConfigError(
            f"Teacher {name} takes {len(places)} arguments; expected one frame or two, or an "
            "attribute `sees`, or --sees=frame, pair or clip."
        )
    return "frame" if len(places) == 1 else "pair"


def _import_function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"Teacher {name} cannot be imported ({error}); run from the folder that holds the "
            "module, or set PYTHONPATH."
        ) from error


# ------------------------------------------------------------------------------------------------


def _brox(name: str, parameters: Mapping[str, Any]) -> Teacher:
    """Brox's method (`v2v_jax.brox.brox_flow`), in batches on whatever device JAX has."""
    import jax
    import jax.numpy as jnp

    from v2v_jax.brox import brox_flow, kernels

    def encoded(frames: np.ndarray, step: float) -> tuple[jax.Array, jax.Array]:
        gray = brox_flow.grey_of_rgb(frames)
        return encode_flow(brox_flow.brox_flow(gray[:-1], gray[1:], **parameters), step, jnp)

    whole = jax.jit(encoded)

    def in_parts(frames: np.ndarray, step: float) -> tuple[jax.Array, jax.Array]:
        most = kernels.most_pairs(frames.shape[1:3])
        parts = range(0, len(frames) - 1, most)
        codes, too_large = zip(*(whole(frames[k : k + most + 1], step) for k in parts))
        return (
            (codes[0], too_large[0])
            if len(codes) == 1
            else (
                jnp.concatenate(codes),
                jnp.stack(too_large).any(),
            )
        )

    def call(frames: np.ndarray, step: float) -> tuple[jax.Array, jax.Array]:
        # On a CPU brox_flow itself compiles for one pair, whose fields then stay in its cache.
        # Asked only now: who has processes do the work does not take the device for itself.
        return (encoded if jax.default_backend() == "cpu" else in_parts)(frames, step)

    return Teacher(
        name, parameters, _compile_once(call), compiled=True, min_size=brox_flow.MIN_SIZE
    )


def _compile_once(call: Callable[[np.ndarray, float], Any]) -> Callable[[np.ndarray, float], Any]:
    """Lets one thread compile for a shape while the others wait: JAX would compile in each."""
    compiled: set[tuple[int, ...]] = set()
    lock = threading.Lock()

    def locked(frames: np.ndarray, step: float) -> Any:
        if frames.shape not in compiled:
            with lock:
                if frames.shape not in compiled:
                    result = call(frames, step)
                    compiled.add(frames.shape)
                    return result
        return call(frames, step)

    return locked


def _brox_default() -> Teacher:
    """Brox's method with the parameters of the paper's labels."""
    return _brox("brox", _BROX)


def _brox_accurate() -> Teacher:
    """Brox's method with the parameters that find the flow better."""
    from v2v_jax.brox.brox_flow import ACCURATE

    return _brox("brox_accurate", _BROX | ACCURATE)


def _dis() -> Teacher:
    """Dense inverse search (Kroeger et al., 2016), OpenCV's, its preset for medium quality."""
    if importlib.util.find_spec("cv2") is None:
        raise ConfigError("Teacher dis needs OpenCV; pip install opencv-python-headless.")
    import cv2

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        # One for every call: it keeps its work in itself, and several threads call.
        method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        gray = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
        return method.calc(*gray, None)

    return of_function("dis", flow, {"preset": "medium", "opencv": cv2.__version__})


TEACHERS: dict[str, Callable[[], Teacher]] = {
    "brox": _brox_default,
    "brox_accurate": _brox_accurate,
    "dis": _dis,
}
