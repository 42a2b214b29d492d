"""V2V: one 3D convolution + deconvolution network for every voxel of a video, in JAX.

An implementation of Tran et al., *Deep End2End Voxel2Voxel Prediction* (2016).

Conventions, which hold everywhere in the package:

* **Axes** are `B,T,H,W,C`: batch, time, height, width, channels. A single clip is `T,H,W,C`.
* **Colour** is RGB uint8 in 0..255 at the edges of the program (files, datasets, pictures) and
  float32 inside; the network's input normalisation travels with its weights.
* **Labels** are uint8 class indices from 0; 255 means "ignore this voxel".
* **Optical flow** is forward flow in pixels per frame, channels `(u, v)`: u to the right, v down.
  Flow at frame t leads to frame t+1. Resizing a frame scales its vectors; mirroring negates u.
* **Depth** is the distance along the optical axis in metres; infinite where there is none (sky).
* **Parameters** are float32, computation is bfloat16 on accelerators and float32 on the CPU, losses
  and metrics are float32.

Importing this package imports neither TensorFlow nor OpenCV, and JAX only when it is needed.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors, which do not run `__getattr__`
    from v2v_jax.brox.brox_flow import brox_flow
    from v2v_jax.datasets import register_dataset
    from v2v_jax.datasets.base.video_dataset import VideoDataset
    from v2v_jax.inference.predictor import Predictor
    from v2v_jax.media.flow_files import read_flow, write_flow
    from v2v_jax.media.video import read_video, write_video
    from v2v_jax.models import C3D, V2V, ConvUp
    from v2v_jax.pretrained import load_c3d
    from v2v_jax.run.recipe_files import read_config
    from v2v_jax.tasks import Task, register_task
    from v2v_jax.training.callbacks import Callback
    from v2v_jax.training.loop import train_and_evaluate as train
    from v2v_jax.zoo import load

# What the package itself offers: name → the module that is imported when it is asked for, and the
# name that it has there if that is another one.
_LAZY = {
    "C3D": "v2v_jax.models",
    "Callback": "v2v_jax.training.callbacks",
    "ConvUp": "v2v_jax.models",
    "Predictor": "v2v_jax.inference.predictor",
    "Task": "v2v_jax.tasks",
    "V2V": "v2v_jax.models",
    "VideoDataset": "v2v_jax.datasets.base.video_dataset",
    "brox_flow": "v2v_jax.brox.brox_flow",
    "load": "v2v_jax.zoo",
    "load_c3d": "v2v_jax.pretrained",
    "read_config": "v2v_jax.run.recipe_files",
    "read_flow": "v2v_jax.media.flow_files",
    "read_video": "v2v_jax.media.video",
    "register_dataset": "v2v_jax.datasets",
    "register_task": "v2v_jax.tasks",
    "train": "v2v_jax.training.loop:train_and_evaluate",
    "write_flow": "v2v_jax.media.flow_files",
    "write_video": "v2v_jax.media.video",
}

__all__ = [
    "C3D",
    "V2V",
    "Callback",
    "ConvUp",
    "Predictor",
    "Task",
    "VideoDataset",
    "brox_flow",
    "load",
    "load_c3d",
    "read_config",
    "read_flow",
    "read_video",
    "register_dataset",
    "register_task",
    "train",
    "write_flow",
    "write_video",
]


if not TYPE_CHECKING:  # with it a type checker would believe in every name

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, other = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), other or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
