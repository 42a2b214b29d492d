"""Video colouring (paper section 6): grey in, RGB out, L2 loss, average distance error.

    python train.py --config=configs/color.py:dataset=ucf101 \\
        --config.data.root=DIR --workdir=runs/color
    python eval.py --config=configs/color.py:dataset=ucf101 \\
        --config.data.root=DIR --workdir=runs/color

DIR holds UCF-101 and ucfTrainTestlist (docs/reference/datasets.md). Without `dataset=` it colours
rendered scenes, which is a check that it runs: their colours follow from little.

The modern recipe predicts how the colour differs from the grey input; recipe=paper, or
--config.task_options.residual=False, predicts the colour itself, as the paper does. One H200 trains
1,070 clips/s. On the 24 clips of UCF101 that were at hand the network did not beat the grey frame;
docs/results/scenes.md has the figures.
"""

from ml_collections import ConfigDict

from v2v_jax.run import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg)
    config = recipes.make_config("color", options, num_steps=1000, learning_rate=5e-4)
    if options.demo:
        recipes.shrink_to_demo(config, num_steps=300, learning_rate=5e-4)
    return config
