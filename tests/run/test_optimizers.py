"""Schedules by hand, Caffe's SGD against its loop in NumPy, and what decays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from v2v_jax.errors import ConfigError
from v2v_jax.models.transposed_kernels import balanced
from v2v_jax.run.optimizers import (
    caffe_sgd,
    frozen_layers,
    learning_rate,
    make_optimizer,
    names_to_freeze,
    updates_done,
)


def options(**changes):
    values = dict(
        name="adamw",
        learning_rate=0.1,
        schedule="cosine",
        warmup_steps=0,
        decay_every=0,
        weight_decay=0.0,
        momentum=0.9,
        clip_norm=0.0,
    )
    return ConfigDict(values | changes)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    layer = lambda: {"kernel": rng.standard_normal((3, 2)), "bias": rng.standard_normal(2)}
    return jax.tree.map(np.float32, {"conv1a": layer(), "conv_pre": layer()})


def train(optimizer, params, gradients):
    """Parameters after each step."""
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    history = []
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({}, ()),
        ({"clip_norm": 1.0, "trunk_multiplier": 0.1}, ()),
        ({"trunk_multiplier": 0.1}, ("conv1a",)),
        ({"name": "caffe_sgd", "schedule": "step", "decay_every": 3}, ()),
        ({"name": "caffe_sgd", "schedule": "step", "decay_every": 3}, ("conv1a",)),
    ],
)
def test_the_updates_that_the_schedule_goes_by_are_found_in_the_state(changes, frozen):
    optimizer, params = make_optimizer(options(**changes), 9, frozen), parameters()
    state = optimizer.init(params)
    for done in range(4):
        assert int(updates_done(state)) == done
        _, state = optimizer.update(params, state, params)


def test_step_schedule_divides_by_ten():
    rate = learning_rate(options(schedule="step", learning_rate=4e-3, decay_every=30), 100)
    for step, expected in {0: 4e-3, 29: 4e-3, 30: 4e-4, 59: 4e-4, 60: 4e-5, 99: 4e-6}.items():
        assert rate(step) == pytest.approx(expected, rel=1e-6)
        assert jax.jit(rate)(jnp.int32(step)) == pytest.approx(expected, rel=1e-5)


def test_step_schedule_of_the_paper_changes_at_the_right_steps():
    """At full length, where a step divided by the interval in float32 might be rounded up."""
    rate = jax.jit(learning_rate(options(schedule="step", decay_every=200_000), 800_000))
    steps = np.arange(0, 800_000, 200_000)[:, None] + np.array([0, 1, 199_998, 199_999])
    found = np.array([[float(rate(jnp.int32(step))) for step in row] for row in steps])
    expected = 0.1 * 0.1 ** (steps // 200_000)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_cosine_schedule_warms_up_and_ends_at_zero():
    rate = learning_rate(options(warmup_steps=10), 110)
    expected = {0: 0.0, 5: 0.05, 10: 0.1, 35: 0.05 * (1 + np.cos(np.pi / 4)), 60: 0.05, 110: 0.0}
    for step, value in expected.items():
        assert rate(step) == pytest.approx(value, abs=1e-7)


def test_cosine_schedule_without_warm_up_starts_at_the_top():
    rate = learning_rate(options(), 100)
    assert [float(rate(s)) for s in (0, 50, 100)] == pytest.approx([0.1, 0.05, 0.0], abs=1e-7)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_a_run_shorter_than_its_warm_up_still_trains(num_steps):
    rate = learning_rate(options(warmup_steps=300), num_steps)
    rates = [float(rate(step)) for step in range(num_steps)]
    assert all(np.isfinite(rates)) and max(rates) == pytest.approx(0.1)


def caffe_by_hand(params, gradients, rates, momentum, decay):
    """Caffe's SGDSolver: v = m·v + lr·(g + wd·w); w = w - v; biases: lr × 2, no decay."""
    w = jax.tree.map(lambda x: np.asarray(x, np.float64).copy(), params)
    v = jax.tree.map(np.zeros_like, w)
    history = []
    for gradient, rate in zip(gradients, rates, strict=True):
        for layer in w:
            for name, g in gradient[layer].items():
                is_bias = name == "bias"
                g = g.astype(np.float64) + (0.0 if is_bias else decay) * w[layer][name]
                v[layer][name] = momentum * v[layer][name] + (2 if is_bias else 1) * rate * g
                w[layer][name] = w[layer][name] - v[layer][name]
        history.append(jax.tree.map(np.copy, w))
    return history


def test_caffe_sgd_equals_its_loop_over_a_drop_of_the_rate():
    """After the drop the velocity still holds steps of the old rate, unlike in optax.sgd."""
    params, gradients = parameters(), [parameters(seed) for seed in range(1, 8)]
    config = options(name="caffe_sgd", schedule="step", decay_every=3, weight_decay=0.05)
    found = train(make_optimizer(config, 7), params, gradients)
    rates = [0.1 / 10 ** (step // 3) for step in range(7)]
    expected = caffe_by_hand(params, gradients, rates, 0.9, 0.05)
    for a, b in zip(found, expected, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6), a, b)


def test_only_kernels_decay_in_caffe_sgd():
    params = parameters()
    nothing = jax.tree.map(np.zeros_like, params)
    (after,) = train(caffe_sgd(lambda step: 0.1, 0.9, 0.5), params, [nothing])
    for name, layer in params.items():
        np.testing.assert_allclose(after[name]["kernel"], 0.95 * layer["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(after[name]["bias"], layer["bias"])


def test_only_kernels_decay_in_adamw():
    params = parameters()
    nothing = jax.tree.map(np.zeros_like, params)
    config = options(weight_decay=0.5, clip_norm=1.0)
    (after,) = train(make_optimizer(config, 10), params, [nothing])
    for name, layer in params.items():
        np.testing.assert_allclose(after[name]["kernel"], 0.95 * layer["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(after[name]["bias"], layer["bias"])


def adamw_first_steps(gradients, rate=0.1):
    """Kernel's updates by Adam's formula, without decay."""
    m = v = 0.0
    updates = []
    for step, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        updates.append(-rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8))
    return updates


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 100.0])
def test_adamw_clips_the_global_norm_unless_it_is_zero(clip_norm):
    """Two steps, since Adam's first one does not see the gradient's size."""
    params = parameters()
    gradients = [parameters(1), jax.tree.map(lambda x: 10 * x, parameters(2))]
    norms = [float(optax.tree.norm(gradient)) for gradient in gradients]
    assert norms[0] > 1 and 1 < norms[1] < 100
    config = options(clip_norm=clip_norm, schedule="step", decay_every=10)
    found = train(make_optimizer(config, 10), params, gradients)
    scales = [min(1.0, clip_norm / norm) if clip_norm else 1.0 for norm in norms]
    kernels = [s * g["conv1a"]["kernel"] for s, g in zip(scales, gradients)]
    expected = params["conv1a"]["kernel"] + np.sum(adamw_first_steps(kernels), axis=0)
    np.testing.assert_allclose(found[1]["conv1a"]["kernel"], expected, rtol=1e-4, atol=1e-5)


def test_balanced_kernels_stay_so_and_only_transposed_ones_are_held():
    rng = np.random.default_rng(0)
    layer = lambda: {"kernel": rng.standard_normal((4, 8, 8, 2, 3)), "bias": np.zeros(3)}
    params = jax.tree.map(np.float32, {"deconv3": layer(), "conv1a": layer()})
    params["deconv3"]["kernel"] = np.asarray(balanced(params["deconv3"]["kernel"]))
    gradients = [jax.tree.map(lambda x: np.float32(rng.standard_normal(x.shape)), params)] * 3
    found = {}
    for held in (False, True):
        optimizer = make_optimizer(options(balanced=held, weight_decay=0.1), 10)
        found[held] = train(optimizer, params, gradients)[-1]
        kernel = found[held]["deconv3"]["kernel"]
        off = float(jnp.abs(balanced(kernel) - kernel).max())
        assert off < 1e-5 if held else off > 1e-2
    np.testing.assert_array_equal(found[True]["conv1a"]["kernel"], found[False]["conv1a"]["kernel"])
    # What the optimiser does else is left alone.
    np.testing.assert_allclose(
        found[True]["deconv3"]["kernel"], balanced(found[False]["deconv3"]["kernel"]), atol=1e-5
    )
    frozen = make_optimizer(options(balanced=True), 10, ["deconv3"])
    kept = train(frozen, params, gradients)[-1]
    np.testing.assert_array_equal(kept["deconv3"]["kernel"], params["deconv3"]["kernel"])


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match="optimizer.name is 'sgd'; known: adamw, caffe_sgd"):
        make_optimizer(options(name="sgd"), 10)
    with pytest.raises(ConfigError, match="optimizer.schedule is 'flat'; known: cosine, step"):
        make_optimizer(options(schedule="flat"), 10)


def test_a_step_schedule_without_its_interval_is_an_error():
    """0 would divide by zero, which XLA answers with a rate ten times too large."""
    with pytest.raises(ConfigError, match="decay_every is 0; schedule=step needs at least 1"):
        make_optimizer(options(schedule="step"), 10)


# ------------------------------------------------------------------------------------------------
# Fine-tuning


@pytest.mark.parametrize("recipe", [{}, dict(name="caffe_sgd", schedule="step", decay_every=2)])
def test_the_trunk_has_its_own_rate(recipe):
    changes = dict(weight_decay=0.3, trunk_multiplier=0.1) | recipe
    start, gradients = parameters(), [parameters(seed) for seed in (1, 2, 3)]
    multiplied = train(make_optimizer(options(**changes), 10), start, gradients)[0]
    plain = train(
        make_optimizer(options(**changes | {"trunk_multiplier": 1.0}), 10), start, gradients
    )
    slow = options(**changes | {"trunk_multiplier": 1.0, "learning_rate": 0.01})
    slowly = train(make_optimizer(slow, 10), start, gradients)
    jax.tree.map(np.testing.assert_array_equal, multiplied["conv_pre"], plain[0]["conv_pre"])
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    jax.tree.map(close, multiplied["conv1a"], slowly[0]["conv1a"])


@pytest.mark.parametrize("name", ["adamw", "caffe_sgd"])
def test_frozen_layers_do_not_move_decay_or_have_state(name):
    config = options(name=name, weight_decay=0.3, clip_norm=1.0)
    optimizer = make_optimizer(config, 10, ["trunk"])
    start, gradients = parameters(), [parameters(seed) for seed in (1, 2, 3)]
    last = train(optimizer, start, gradients)[-1]
    jax.tree.map(np.testing.assert_array_equal, last["conv1a"], start["conv1a"])
    assert not np.array_equal(last["conv_pre"]["kernel"], start["conv_pre"]["kernel"])
    state = jax.tree.leaves_with_path(optimizer.init(start))
    assert not any("conv1a" in jax.tree_util.keystr(path) for path, _ in state)
    # The norm that clips is that of the layers that are trained.
    rest = lambda tree: {"conv_pre": tree["conv_pre"]}
    alone = make_optimizer(config, 10)
    expected = train(alone, rest(start), [rest(g) for g in gradients])[-1]
    jax.tree.map(np.testing.assert_array_equal, rest(last), expected)


def test_the_release_variant_freezes_its_trunk_unless_told_otherwise():
    frozen = lambda freeze, variant: frozen_layers(
        names_to_freeze(options(freeze=freeze), variant), parameters()
    )
    assert frozen("auto", "paper") == frozenset()
    assert frozen("auto", "release") == {"conv1a"}
    assert frozen("", "release") == frozenset()
    assert frozen("conv_pre, ", "release") == {"conv_pre"}


@pytest.mark.parametrize(
    "freeze,message",
    [
        ("conv9", "freeze names 'conv9'; known: trunk, conv1a, conv_pre"),
        ("trunk,conv_pre", "names all layers"),
    ],
)
def test_what_cannot_be_frozen_is_named(freeze, message):
    with pytest.raises(ConfigError, match=message):
        names = names_to_freeze(options(freeze=freeze), "paper")
        make_optimizer(options(), 10, names).init(parameters())
