"""Depth, the paper's fourth application (figure 1): Huber loss on log depth.

    python train.py --config=configs/depth.py --workdir=runs/depth
    python eval.py --config=configs/depth.py --workdir=runs/depth

The default trains the full V2V on rendered scenes, whose depth is exact: 2,000 steps of 32 clips,
1.6 minutes on one H200 (1,100 clips/s), root mean squared error of log depth 0.20 on unseen scenes,
where the best constant has 0.73 (docs/results.md).

Depth of more lifelike videos: `:dataset=movi` (docs/data.md).
"""

from ml_collections import ConfigDict

from v2v_jax.run import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg)
    config = recipes.make_config("depth", options, num_steps=2000, learning_rate=1e-3)
    if options.demo:
        recipes.shrink_to_demo(config, num_steps=300, learning_rate=1e-3)
    return config
