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

__version__ = "0.1.0"

# What the package itself offers, and the module that is imported when it is asked for.
_LAZY = {"brox_flow": "v2v_jax.brox.brox_flow", "load": "v2v_jax.zoo"}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
