"""The packages that are installed; all else about the project stands in setup.cfg.

The recipes lie at the top, in configs/, and are installed as v2v_jax/configs.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["v2v_jax", "v2v_jax.*"]), "v2v_jax.configs"],
    package_dir={"v2v_jax.configs": "configs"},
)
