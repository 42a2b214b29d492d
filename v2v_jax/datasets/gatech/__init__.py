"""GATECH, geometric context from video: the paper's data for segmentation (section 4)."""

from v2v_jax.datasets.gatech.dataset import Gatech

__all__ = ["Gatech"]
