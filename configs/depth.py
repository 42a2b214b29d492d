"""Depth, the paper's fourth application (figure 1): squared error of log depth.

    python train.py --config=configs/depth.py --workdir=runs/depth
    python eval.py --config=configs/depth.py --workdir=runs/depth

The default trains the full V2V on rendered scenes, whose depth is exact: 5,000 steps of 32 clips,
4.1 minutes on half an H200 (two runs share it). The root mean squared error of log depth is then
0.144 on the test split, where the best constant has 0.728 (docs/results/scenes.md).

Depth of more lifelike videos: `:dataset=movi` (docs/reference/datasets.md).
"""

from ml_collections import ConfigDict

from v2v_jax.run import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg)
    config = recipes.make_config("depth", options, num_steps=5000, learning_rate=1e-3)
    if options.demo:
        geometry = dict(batch_size=2, clip_length=8)
        recipes.shrink_to_demo(config, num_steps=1200, learning_rate=1e-3, **geometry)
    return config
