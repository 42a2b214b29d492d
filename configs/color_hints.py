"""Colouring with sparse hints: the colour of a few voxels is given beside the grey clip.

    python train.py --config=configs/color_hints.py --workdir=runs/color_hints
    python eval.py --config=configs/color_hints.py --workdir=runs/color_hints
    python -m experiments.hints --workdir=runs/color_hints --output=docs/images/color_hints.png

Beyond the paper: its colouring (configs/color.py) has to guess what grey does not tell. Here each
clip comes with 0 to `--config.task_options.hints=64` hints (few as often as many), squares of 3×3
voxels in one of its 16 frames, which the network has to carry along in space and time. Its input is
grey, the hints' mask and colour, and both spread over their surroundings: nine channels. All else
is as in configs/color.py; the options after the colon are the same. On the CPU:
configs/color_hints.py:demo.
"""

from ml_collections import ConfigDict

from v2v_jax.run import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg)
    config = recipes.make_config("color", options, num_steps=2000, learning_rate=5e-4)
    config.task_options.hints = 64
    if options.demo:
        recipes.shrink_to_demo(config, num_steps=300, learning_rate=5e-4)
    return config
