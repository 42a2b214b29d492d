"""TODO depth"""

from ml_collections import ConfigDict

from v2v_jax import recipes


def get_config(arg: str = "") -> ConfigDict:
    """See the module's docstring; `arg` is what follows the colon of --config."""
    options = recipes.parse_arg(arg)
    config = recipes.make_config(
        "depth", options, num_steps=2000, learning_rate=1e-3
    )
    if options.demo:
        recipes.shrink_to_demo(config, num_steps=300)
    return config
