"""Teachers: methods that find the flow between two frames, to make labels with.

A teacher is any function of two frames (H,W,3) uint8 RGB that returns the flow from the first to
the second, (H,W,2) float, (u right, v down) in pixels, NaN where it does not know. Your own:

    v2v label --teacher=my_module:my_function …
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from v2v_jax.errors import ConfigError, DataError

# The parameters of the paper's labels.
_BROX = dict(alpha=0.197, gamma=50.0, scale=0.8, inner=10, outer=77, solver=10, warps=1)
TwoFrames = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A method, ready to be called by several threads at once.

    Attributes:
      name: as in `--teacher`.
      parameters: what its flow depends on, JSON-ready; stored with the labels.
      encoded: (frames, step) → (codes, too_large): of (B+1,H,W,3) uint8 consecutive frames the flow
        of the B pairs as `flow_label_files.encode_flow` returns it, perhaps still being computed.
      compiled: whether a new shape of frames is compiled anew, so that batches are to be padded.
      min_size: pixels a side that frames need.
    """

    name: str
    parameters: Mapping[str, Any]
    encoded: Callable[[np.ndarray, float], tuple[Any, Any]]
    compiled: bool
    min_size: int = 1


def make_teacher(name: str) -> Teacher:
    """The teacher of that name, or `module:function`.

    Raises:
      ConfigError: it is not known, cannot be imported, or needs something that is not installed.
    """
    if name in TEACHERS:
        return TEACHERS[name]()
    if ":" in name:
        return of_function(name, _import_function(name))
    raise ConfigError(
        f"Unknown teacher {name!r}; known: {', '.join(TEACHERS)}, or module:function for a "
        "function of two frames (H,W,3) uint8 that returns the flow (H,W,2)."
    )


def of_function(
    name: str, function: TwoFrames, parameters: Mapping[str, Any] | None = None
) -> Teacher:
    """A teacher that calls a function of two frames for one pair after the other."""
    from v2v_jax.media.flow_label_files import encode_flow

    def encoded(frames: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
        size = frames.shape[1:3]
        flows = []
        for first, second in zip(frames[:-1], frames[1:]):
            flow = np.asarray(function(first, second))
            if flow.shape != (*size, 2) or not np.issubdtype(flow.dtype, np.floating):
                raise DataError(
                    f"Teacher {name} returned {flow.dtype} {flow.shape} for frames of {size}; "
                    f"expected float {(*size, 2)}."
                )
            flows.append(flow)
        return encode_flow(np.stack(flows), step)

    return Teacher(name, parameters or {}, encoded, compiled=False)


def _import_function(name: str) -> TwoFrames:
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
    from v2v_jax.media.flow_label_files import encode_flow

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

    # On a CPU brox_flow itself compiles for one pair, whose fields then stay in its cache.
    call = encoded if jax.default_backend() == "cpu" else in_parts
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
