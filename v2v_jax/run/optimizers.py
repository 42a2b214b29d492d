"""Optimisers and learning-rate schedules of the two recipes; what fine-tuning changes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from v2v_jax.errors import ConfigError
from v2v_jax.models.c3d import TRUNK_LAYERS
from v2v_jax.models.transposed_kernels import balanced
from v2v_jax.run.schedule import warmup_steps


def learning_rate(options: ConfigDict, num_steps: int) -> optax.Schedule:
    """The schedule that `config.optimizer.schedule` names, as a function of the step.

    Args:
      options: `config.optimizer`.
      num_steps: of the run.

    * ``cosine``: linear warm-up (`schedule.warmup_steps`), then a cosine to 0 at `num_steps`.
    * ``step``: divided by 10 every `decay_every` steps (the paper's).
    """
    if options.schedule == "cosine":
        warmup = warmup_steps(options, num_steps)
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else options.learning_rate, options.learning_rate, warmup, num_steps
        )
    if options.schedule == "step":
        if options.decay_every < 1:
            raise ConfigError(
                f"optimizer.decay_every is {options.decay_every}; schedule=step needs at least 1."
            )
        return optax.exponential_decay(
            options.learning_rate, options.decay_every, decay_rate=0.1, staircase=True
        )
    raise ConfigError(f"optimizer.schedule is {options.schedule!r}; known: cosine, step.")


def make_optimizer(
    options: ConfigDict, num_steps: int, frozen: Sequence[str] = ()
) -> optax.GradientTransformation:
    """What `config.optimizer` names: `adamw` (modern) or `caffe_sgd` (paper).

    `adamw` clips the gradient's global norm at `clip_norm`, unless that is 0, and with `balanced`
    leaves transposed kernels balanced that start so (`models.transposed_kernels`). The trunk's
    learning rate is multiplied by `trunk_multiplier`. Frozen layers stay as they are to the bit: no
    update, no weight decay, no state, no part in the gradient's norm.

    Args:
      options: `config.optimizer`.
      num_steps: of the run.
      frozen: names as of `names_to_freeze`.

    Raises:
      ConfigError: unknown optimiser or schedule; on `init` with parameters that lack a layer to be
        frozen, or of which none is left to train.
    """
    optimizer = _recipe(options, num_steps)
    if options.get("trunk_multiplier", 1.0) != 1.0:
        # Both recipes' updates are proportional to the learning rate, weight decay included.
        optimizer = optax.chain(
            optimizer, optax.masked(optax.scale(options.trunk_multiplier), _trunk)
        )
    if not frozen:
        return optimizer

    def use(params: Mapping[str, Any]) -> dict[str, str]:
        layers = frozen_layers(frozen, params)
        return {name: "frozen" if name in layers else "trained" for name in params}

    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, use)


def updates_done(opt_state: Any) -> jax.Array:
    """() int32: the updates that a state of `make_optimizer` has made, which a skipped step is not.

    The schedule goes by them.
    """
    return optax.tree.get_all_with_path(opt_state, "count")[0][1]


def names_to_freeze(options: ConfigDict, variant: str) -> tuple[str, ...]:
    """The names in `config.optimizer.freeze`, a list with commas.

    `auto` freezes the trunk of the release's segmentation net (`model.variant=release`), which has
    it so, and nothing else.
    """
    names = options.get("freeze", "")
    if names == "auto":
        return ("trunk",) if variant == "release" else ()
    return tuple(name.strip() for name in names.split(",") if name.strip())


def frozen_layers(names: Sequence[str], params: Mapping[str, Any]) -> frozenset[str]:
    """The layers that are meant by names of `names_to_freeze`; `trunk` is conv1a … conv5b.

    Args:
      params: layer → its parameters.

    Raises:
      ConfigError: there is no such layer, or all are frozen.
    """
    frozen: set[str] = set()
    for name in names:
        if name != "trunk" and name not in params:
            raise ConfigError(
                f"optimizer.freeze names {name!r}; known: trunk, {', '.join(params)}."
            )
        frozen |= set(TRUNK_LAYERS) & set(params) if name == "trunk" else {name}
    if frozen == set(params):
        raise ConfigError("optimizer.freeze names all layers, so none is left to train.")
    return frozenset(frozen)


def _recipe(options: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    schedule = learning_rate(options, num_steps)
    if options.name == "adamw":
        clip_norm = options.clip_norm
        return optax.chain(
            optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
            optax.adamw(schedule, weight_decay=options.weight_decay, mask=_kernels),
            optax.stateless(_balanced) if options.get("balanced", False) else optax.identity(),
        )
    if options.name == "caffe_sgd":
        return caffe_sgd(schedule, options.momentum, options.weight_decay)
    raise ConfigError(f"optimizer.name is {options.name!r}; known: adamw, caffe_sgd.")


def caffe_sgd(
    schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Caffe's SGD: v = m·v + lr·(g + wd·w); w = w - v, with lr ×2 and wd 0 on biases.

    The learning rate is inside the velocity, unlike in optax.sgd, which differs when it changes.
    Source: Caffe's SGDSolver, and the multipliers of C3D-v1.0/examples/v2v in facebook/C3D.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_kernels),
        optax.masked(optax.scale(2.0), _biases),
        optax.scale_by_schedule(schedule),
        optax.trace(decay=momentum),
        optax.scale(-1.0),
    )


def _balanced(updates, params):
    """The part of the updates that keeps the transposed layers' kernels balanced."""
    del params
    result = dict(updates)
    for name, layer in updates.items():
        if name.startswith("deconv") and isinstance(layer, Mapping):  # not a frozen layer
            result[name] = {**layer, "kernel": balanced(layer["kernel"])}
    return result


def _kernels(params):
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _trunk(params):
    return jax.tree.map_with_path(lambda path, _: path[0].key in TRUNK_LAYERS, params)


def _biases(params):
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "bias", params)
