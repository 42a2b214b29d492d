"""Optimisers and learning-rate schedules of the two recipes."""

from __future__ import annotations

import jax
import optax
from ml_collections import ConfigDict

from v2v_jax.errors import ConfigError


def learning_rate(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """The schedule that `config.optimizer.schedule` names, as a function of the step.

    * ``cosine``: linear warm-up over `warmup_steps`, then a cosine to 0 at `num_steps`.
    * ``step``: divided by 10 every `decay_every` steps (the paper's).
    """
    options = config.optimizer
    if options.schedule == "cosine":
        warmup = min(options.warmup_steps, max(num_steps - 1, 0))
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else options.learning_rate, options.learning_rate, warmup, num_steps
        )
    if options.schedule == "step":
        if options.decay_every < 1:
            raise ConfigError(
                f"optimizer.decay_every is {options.decay_every}; schedule=step needs at least 1."
            )
        return lambda step: options.learning_rate * 0.1 ** (step // options.decay_every)
    raise ConfigError(f"optimizer.schedule is {options.schedule!r}; known: cosine, step.")


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """What `config.optimizer` names: `adamw` (modern) or `caffe_sgd` (paper).

    `adamw` clips the gradient's global norm at `clip_norm`, unless that is 0.

    Raises:
      ConfigError: unknown optimiser or schedule.
    """
    options = config.optimizer
    schedule = learning_rate(config, num_steps)
    if options.name == "adamw":
        clip_norm = options.clip_norm
        return optax.chain(
            optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
            optax.adamw(schedule, weight_decay=options.weight_decay, mask=_kernels),
        )
    if options.name == "caffe_sgd":
        return caffe_sgd(schedule, options.momentum, options.weight_decay)
    raise ConfigError(f"optimizer.name is {options.name!r}; known: adamw, caffe_sgd.")


def caffe_sgd(
    schedule: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Caffe's SGD: v = m·v + lr·(g + wd·w); w = w - v, with lr ×2 and wd 0 on biases.

    The learning rate is inside the velocity, unlike in optax.sgd, which differs when it changes.
    Source: Caffe's SGDSolver and the release's lr_mult/decay_mult (SPEC section 1).
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_kernels),
        optax.masked(optax.scale(2.0), _biases),
        optax.scale_by_schedule(schedule),
        optax.trace(decay=momentum),
        optax.scale(-1.0),
    )


def _kernels(params):
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _biases(params):
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "bias", params)
