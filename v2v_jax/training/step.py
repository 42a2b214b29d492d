"""The training step: one jitted, donated function that computes gradient, update and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from v2v_jax.input.augmentation import augment
from v2v_jax.input.base_feed import Feed
from v2v_jax.run.experiment import Experiment, TrainState
from v2v_jax.run.optimizers import learning_rate, updates_done
from v2v_jax.run.sessions import count_parameters
from v2v_jax.system import compiler_options, sharding
from v2v_jax.system.platforms import traced_for
from v2v_jax.system.together import compiled_together
from v2v_jax.tasks import losses
from v2v_jax.training import accumulation, recompute

Metrics = dict[str, Any]
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(
    experiment: Experiment, feed: Feed, add_up: Callable[[Any], Any] | None = None
) -> TrainStep:
    """The step (state, feed.store, batch, seed=0) → (state, metrics); donates the state.

    All that is random in it is a function of (seed, state.step, row of the batch).

    Metrics: `loss`, `learning_rate` and the global norms of gradient, update and parameters,
    float32 scalars, beside the task's sums. With `config.skip_nonfinite` a step whose loss,
    gradient or update is not finite changes neither parameters nor optimiser state, and its metric
    `skipped` is 1, not 0.

    Args:
      add_up: how (gradient, (loss's sum, its count), the task's sums) of the devices are added up;
        None: as `config.all_reduce` says.
    """
    config, task, optimizer = experiment.config, experiment.task, experiment.optimizer
    mesh, recomputed = experiment.mesh, config.recompute
    # One device has nothing to send; configurations before the field lack it.
    sent_as = config.get("all_reduce", "float32") if mesh.size > 1 else "float32"
    add_up = add_up or accumulation.ADD_UP[sent_as]
    platform = mesh.devices.flat[0].platform
    parts = accumulation.parts_of_batch(config.batch_size, mesh, config.accumulate, recomputed)
    apply = recompute.in_parts(_network(experiment), recomputed)
    augmentation = experiment.augmentation
    rate = learning_rate(config.optimizer, config.num_steps)
    is_random = "dropout" in config.model or not augmentation.is_off

    def sums_of_clips(params: Any, store: Any, batch: Any):
        """Of some clips: the gradient of the loss's sum, that sum, its count, and the task's sums.

        Dividing by the count of the whole batch before the gradient would need it from all devices
        first, so a second all-reduce. All is float32, because XLA combines all-reduces of one type
        only; counts beyond 2^24 are then rounded, which a training metric may.
        """
        seeds = batch.get("clip_seed")  # (B,) uint32
        fields = feed.prepare(store, batch)  # (B,T,H,W,…), cut out and mirrored
        fields = augment(fields, seeds, augmentation, experiment.preprocessing)
        inputs = task.inputs(fields, experiment.preprocessing)

        def total_loss(params):
            outputs = task.complete(apply(params, (inputs, seeds)), fields)
            total, count = task.loss(outputs, fields)
            return total, (count, outputs)

        (total, (count, outputs)), gradient = jax.value_and_grad(total_loss, has_aux=True)(params)
        return gradient, (total, count), _over_clips(task.training_sums(outputs, fields))

    sums_of_batch = accumulation.summed_over_devices(
        accumulation.summed_over_parts(sums_of_clips, parts), mesh, add_up
    )

    @traced_for(platform)
    def step(state: TrainState, store: Any, batch: Any, seed: jax.Array | int = 0):
        if is_random:
            batch = batch | {"clip_seed": clip_seeds(seed, state.step, len(batch["mask"]))}
        gradient, (total, count), sums = sums_of_batch(state.params, store, batch)  # one all-reduce
        gradient = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": losses.mean((total, count)),
            "gradient_norm": optax.tree.norm(gradient),
            "update_norm": optax.tree.norm(updates),
            "learning_rate": rate(updates_done(state.opt_state)),
            "sums": sums,
        }
        if config.skip_nonfinite:
            good, metrics = _finite(metrics)
            params = _keep_unless(good, params, state.params)
            opt_state = _keep_unless(good, opt_state, state.opt_state)
        metrics["parameter_norm"] = optax.tree.norm(params)
        return TrainState(state.step + 1, params, opt_state), metrics

    jitted = jax.jit(
        step,
        donate_argnums=0,
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler_options.of_training(
            platform, count_parameters(experiment.abstract_params())
        ),
    )
    return compiled_together(jitted)


def clip_seeds(seed: jax.Array | int, step: jax.Array | int, count: int) -> jax.Array:
    """(count,) uint32: a seed for each clip of a step's batch, a function of (seed, step).

    One a clip, so that it is split with the batch over devices and parts.
    """
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.random.bits(key, (count,))


def _network(experiment: Experiment) -> Callable[[Any, Any], jax.Array]:
    """(params, (inputs, seeds)) → the network's own outputs; frozen layers have no gradient."""

    def apply(params: Any, x: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        inputs, seeds = x
        variables = {"params": experiment.stop_frozen(params)}
        if "dropout" not in experiment.config.model:
            return experiment.model.apply(variables, inputs)
        rngs = {"dropout": jax.random.key(seeds[0])}
        return experiment.model.apply(variables, inputs, train=True, rngs=rngs)

    return apply


def _over_clips(sums: Metrics) -> Metrics:
    """A task's sums, of which those with a value a clip, (B,), are added up; float32."""
    add = lambda value: (value.sum() if value.ndim == 1 else value).astype(jnp.float32)
    return {name: add(value) for name, value in sums.items()}


def _finite(metrics: Metrics) -> tuple[jax.Array, Metrics]:
    """Whether a step may be used, and its metrics with `skipped`."""
    names = ("loss", "gradient_norm", "update_norm")
    good = jnp.isfinite(jnp.stack([metrics[name] for name in names])).all()
    return good, metrics | {"skipped": 1.0 - good}


def _keep_unless(good: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)
