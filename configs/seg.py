"""TODO segmentation"""

from ml_collections import ConfigDict

from v2v_jax import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg)
    config = recipes.make_config(
        "segmentation", options, num_steps=3000, learning_rate=2e-3
    )
    if options.demo:
        recipes.shrink_to_demo(config, num_steps=300)
    return config
