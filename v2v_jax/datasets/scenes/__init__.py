"""The embedded default dataset: layered street scenes, rendered with NumPy alone.

`Scenes` gives video, labels, flow, its validity and depth, all exact. `scenes_dataset_builder`
holds the same as a tensorflow-datasets builder; it alone imports TensorFlow.
"""

from v2v_jax.datasets.scenes.dataset import LABEL_NAMES, SENSOR_NOISE, Scenes
from v2v_jax.datasets.scenes.render import SceneRenderer

__all__ = ["LABEL_NAMES", "SENSOR_NOISE", "SceneRenderer", "Scenes"]
