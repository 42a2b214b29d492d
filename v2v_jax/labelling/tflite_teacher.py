"""Teachers that are segmentation networks of TensorFlow Lite, such as MediaPipe's of people.

Run by LiteRT (ai-edge-litert) or, where that is not installed, by TensorFlow's own interpreter. The
network takes one RGB picture and gives, at any size, a score of every class, a single score of the
second of two classes, or the classes' numbers.
"""

from __future__ import annotations

import hashlib
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image

from v2v_jax.errors import ConfigError
from v2v_jax.labelling.teachers import TWO_CLASSES, Teacher
from v2v_jax.media.label_codes import encode_probabilities
from v2v_jax.system.paths import local_path

_SUM_OFF = 0.02  # by which probabilities of half or 8-bit networks miss a sum of one


def tflite_teacher(
    path: str,
    label_names: tuple[str, ...] = (),
    input_range: tuple[float, float] = (0.0, 1.0),
) -> Teacher:
    """A teacher for segmentation that runs a network of TensorFlow Lite.

    Args:
      path: the .tflite file.
      label_names: of its classes; none: background and foreground.
      input_range: what black and white are to the network, if it takes floats.

    Raises:
      ConfigError: neither LiteRT nor TensorFlow is installed, or the file is missing, damaged, or a
        network of another kind.
    """
    path = local_path(path)
    names = label_names or TWO_CLASSES
    make_interpreter = _runtime()
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(f"The network {path} cannot be read ({error.strerror}).") from error
    network = _Network(path, content, make_interpreter, input_range)
    _check_classes(path, network.num_classes, names)
    parameters = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "input_range": list(input_range),
    }

    def encoded(frames: np.ndarray, step: float) -> tuple[np.ndarray, bool]:
        del step  # flow's
        return np.stack([network.codes(frame) for frame in frames]), False

    return Teacher(
        f"tflite:{os.path.basename(path)}",
        parameters,
        encoded,
        compiled=False,
        field="labels",
        needs_next=False,
        label_names=tuple(names),
    )


def _runtime() -> Callable[[bytes], Any]:
    """A function from a network's content to its interpreter; ConfigError if there is none."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        return lambda content: Interpreter(model_content=content, num_threads=1)
    except ImportError:
        pass
    try:
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        interpreter = tf.lite.Interpreter
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "Teachers tflite:FILE need LiteRT or TensorFlow; pip install 'v2v_jax[tflite]'."
        ) from error

    def make(content: bytes) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that LiteRT will take its place
            return interpreter(model_content=content, num_threads=1)

    return make


class _Network:
    """A network, with an interpreter for every thread: one cannot serve two at once."""

    def __init__(
        self,
        path: str,
        content: bytes,
        make_interpreter: Callable[[bytes], Any],
        input_range: tuple[float, float],
    ) -> None:
        self._path = path
        self._content = content
        self._make = make_interpreter
        self._range = input_range
        self._threads = threading.local()
        try:
            first = self._make(content)
            (taken,), given = first.get_input_details(), first.get_output_details()[0]
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{path} is not a network of TensorFlow Lite with one input "
                f"({str(error)[:120] or type(error).__name__}); choose another --teacher."
            ) from error
        self._input, self._output = taken, given
        shape, result = (tuple(map(int, part["shape_signature"])) for part in (taken, given))
        channels = result[3] if len(result) == 4 else 0
        if len(shape) != 4 or shape[3] != 3 or len(result) not in (3, 4):
            raise ConfigError(
                f"The network {path} takes {shape} and gives {result}; expected a picture "
                "(1,H,W,3) and classes (1,H,W) or scores (1,H,W,K)."
            )
        self._size = None if -1 in shape[1:3] else shape[1:3]
        numbers = np.issubdtype(given["dtype"], np.integer) and not given["quantization"][0]
        self.num_classes = 0 if numbers else max(channels, 1)  # 0: it gives the classes' numbers

    def codes(self, frame: np.ndarray) -> np.ndarray:
        """(H,W,3) uint8 → (H,W,K) uint8 probabilities, or (H,W) uint8 classes."""
        size = frame.shape[:2]
        values = self._run(frame)
        if not self.num_classes:
            return _resized(values.reshape(values.shape[:2]).astype(np.uint8), size, smooth=False)
        values = _probabilities(values.reshape(*values.shape[:2], -1))
        channels = [_resized(values[..., k], size) for k in range(values.shape[-1])]
        return encode_probabilities(np.stack(channels, -1))

    def _run(self, frame: np.ndarray) -> np.ndarray:
        """The network's output (h,w) or (h,w,K), float32 or integer classes."""
        interpreter = self._interpreter(frame.shape[:2])
        shape = interpreter.get_input_details()[0]["shape"]
        h, w = int(shape[1]), int(shape[2])
        picture = PIL.Image.fromarray(frame).resize((w, h), PIL.Image.Resampling.BILINEAR)
        interpreter.set_tensor(self._input["index"], self._as_input(np.asarray(picture))[None])
        interpreter.invoke()
        output = interpreter.get_tensor(self._output["index"])[0]
        scale, zero = self._output["quantization"]
        return (output.astype(np.float32) - zero) * np.float32(scale) if scale else output

    def _interpreter(self, size: tuple[int, int]) -> Any:
        """This thread's, ready for frames of that size."""
        key = None if self._size else size
        if getattr(self._threads, "key", "none yet") != key:
            interpreter = self._make(self._content)
            if key is not None:
                interpreter.resize_tensor_input(self._input["index"], [1, *size, 3])
            interpreter.allocate_tensors()
            self._threads.interpreter, self._threads.key = interpreter, key
        return self._threads.interpreter

    def _as_input(self, picture: np.ndarray) -> np.ndarray:
        dtype = self._input["dtype"]
        if dtype == np.uint8:  # quantised so that its integers are a picture's
            return picture
        if dtype == np.int8:
            return (picture.astype(np.int16) - 128).astype(np.int8)
        black, white = self._range
        return (picture.astype(np.float32) / 255 * (white - black) + black).astype(dtype)


def _check_classes(path: str, found: int, names: tuple[str, ...]) -> None:
    expected = 2 if found == 1 else found
    if found and len(names) != expected:
        raise ConfigError(
            f"The network {path} has {expected} classes, --label_names {len(names)} "
            f"({', '.join(names)}); name {expected}, separated by commas."
        )


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """(h,w,K) of a network → (h,w,K) probabilities, K = 2 of a single channel.

    What is not between 0 and 1, or does not sum to one, is taken for logits.
    """
    scores = scores.astype(np.float32)
    bounded = scores.min() >= -1e-3 and scores.max() <= 1 + 1e-3
    if scores.shape[-1] == 1:
        second = scores[..., 0] if bounded else 0.5 + 0.5 * np.tanh(scores[..., 0] / 2)
        return np.stack([1 - second, second], -1)
    if bounded and np.abs(scores.sum(-1) - 1).max() <= _SUM_OFF:
        return scores
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _resized(values: np.ndarray, size: tuple[int, int], smooth: bool = True) -> np.ndarray:
    filtering = PIL.Image.Resampling.BILINEAR if smooth else PIL.Image.Resampling.NEAREST
    picture = PIL.Image.fromarray(np.ascontiguousarray(values))
    return np.asarray(picture.resize((size[1], size[0]), filtering))
