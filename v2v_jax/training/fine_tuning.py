"""A run's start from pretrained weights: `--config.init_from=PATH`, or a name in the zoo."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from v2v_jax import zoo
from v2v_jax.errors import WeightsError
from v2v_jax.models.c3d import INPUT_LAYER
from v2v_jax.models.standardization import GAIN, fold, plain_layers
from v2v_jax.pretrained import Weights, read_weights
from v2v_jax.pretrained.input_folding import fold_input
from v2v_jax.run.experiment import Experiment, TrainState
from v2v_jax.system import sharding
from v2v_jax.system.console import console, print_table


def initialize(experiment: Experiment, state: TrainState) -> TrainState:
    """The state at step 0 with every layer that fits from `config.init_from`; prints a table.

    Other layers keep their random start. Colour order and scale of the input that the weights
    expect are folded into conv1a, so that the configuration's input may differ in both.

    Every filled layer computes what it did in the source. Standardised kernels stay so where the
    network's are, and are folded where they are not. Plain kernels stay plain, to the bit, also in
    a network of standardised ones: no standardised kernel has their mean.

    Raises:
      WeightsError: the weights cannot be read, or no layer fits.
      ConfigError: the weights expect another mean; says what to set.
    """
    weights = read_weights(zoo.resolve(experiment.config.init_from))
    found = dict(weights.params)
    params, rows = {}, []
    for name, layer in state.params.items():
        stored = found.pop(name, None)
        fits = stored is not None and _shapes(stored) == _shapes(layer)
        if fits and GAIN not in layer:
            stored = fold({name: stored})[name]
        if fits and name == INPUT_LAYER and experiment.task.input_channels == 3:
            stored = _for_input(stored, weights, experiment)
        params[name] = _like(stored, layer) if fits else layer
        rows.append((name, _shape(stored), _shape(layer), _outcome(stored, layer, fits)))
    if all(params[name] is layer for name, layer in state.params.items()):
        raise _nothing_fits(weights, rows)
    rows += [(name, _shape(layer), "", "left over") for name, layer in found.items()]
    if jax.process_index() == 0:
        _print(weights, rows)
    return with_params(experiment, state, params)


def with_params(experiment: Experiment, state: TrainState, params: Any) -> TrainState:
    """The state at step 0 with other parameters, of which some layers may be plain."""
    if plain_layers(params) != plain_layers(state.params):
        everywhere = sharding.replicated(experiment.mesh)
        new = jax.jit(experiment.optimizer.init, out_shardings=everywhere)
        state = state.replace(opt_state=new(params))
    return state.replace(params=params)


def _for_input(layer: Any, weights: Weights, experiment: Experiment) -> Any:
    """conv1a for the configuration's input; plain if that is another one, as scale is folded in."""
    same = all(
        getattr(weights.preprocessing, key) == getattr(experiment.preprocessing, key)
        for key in ("color_order", "mean", "std")
    )
    if same:
        return layer
    plain = jax.tree.map(np.asarray, fold({INPUT_LAYER: layer})[INPUT_LAYER])
    return fold_input(plain, weights.preprocessing, experiment.preprocessing)


def _outcome(stored: Any, layer: Any, fits: bool) -> str:
    if fits:
        return "filled, stays plain" if GAIN in layer and GAIN not in stored else "filled"
    return "random (not in the file)" if stored is None else "random (shapes differ)"


def _like(values: dict[str, np.ndarray], layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {
        leaf: jax.device_put(np.asarray(value, layer[leaf].dtype), layer[leaf].sharding)
        for leaf, value in values.items()
    }


def _shapes(layer: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {leaf: tuple(value.shape) for leaf, value in layer.items() if leaf != GAIN}


def _shape(layer: dict[str, Any] | None) -> str:
    return "" if layer is None else "×".join(map(str, layer["kernel"].shape))


def _nothing_fits(weights: Weights, rows: list[tuple[str, ...]]) -> WeightsError:
    different = [row for row in rows if row[1]]
    if not different:
        reason = f"they have {', '.join(weights.params)}, the network has {rows[0][0]} and so on"
    else:
        name, stored, wanted, _ = different[0]
        reason = f"the kernel of {name} is {stored} there and {wanted} in the network"
    return WeightsError(
        f"No layer of the weights {weights.path} ({weights.format}) fits: {reason}; choose other "
        "weights, or the model and width that they belong to."
    )


def _print(weights: Weights, rows: list[tuple[str, ...]]) -> None:
    print_table(
        f"Start from {weights.path} ({weights.format})",
        ("layer", "kernel in the file", "in the network", "outcome"),
        rows,
    )
    if weights.left_over:
        shown = ", ".join(weights.left_over[:8])
        more = len(weights.left_over) - 8
        console.print(
            f"Belongs to no layer of the network: {shown}{f' and {more} more' if more > 0 else ''}"
        )
