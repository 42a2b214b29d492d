import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.tiny import tiny_config
from v2v_jax.models import MODELS, ConvUp
from v2v_jax.models.upsample import upsample_linear
from v2v_jax.run.experiment import make_experiment
from v2v_jax.training.loop import train_and_evaluate


def interpolate(values, position):
    """Linear interpolation of values at 0, 1, …, n-1, the border values repeated outside."""
    position = min(max(position, 0.0), len(values) - 1.0)
    low = int(np.floor(position))
    high = min(low + 1, len(values) - 1)
    return values[low] + (position - low) * (values[high] - values[low])


def upsample_reference(x, size):
    """One axis after the other, one output line at a time, in float64; voxels' extents align."""
    x = np.asarray(x, np.float64)
    for axis, n in enumerate(size, 1):
        lines = np.moveaxis(x, axis, 0)
        lines = [interpolate(lines, (i + 0.5) * len(lines) / n - 0.5) for i in range(n)]
        x = np.moveaxis(np.stack(lines), 0, axis)
    return x


@pytest.mark.parametrize(
    "stage,channels,expected",
    [
        ("conv3b", 3, 2_936_584),
        ("conv4b", 3, 13_609_736),
        ("conv5b", 3, 27_766_536),
        ("conv5b", 1, 27_766_536 - 2 * 27 * 64),
    ],
)
def test_parameter_counts(stage, channels, expected):
    clip = jnp.zeros((1, 16, 112, 112, channels))
    tree = jax.eval_shape(ConvUp(stage, 8).init, jax.random.key(0), clip)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == expected
    layers = ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]
    assert set(tree) == {*layers[: layers.index(stage) + 1], "conv_pre"}


@settings(max_examples=6, deadline=None)  # a program is compiled for each
@given(
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.sampled_from([np.float32, jnp.bfloat16]),
)
def test_linear_upsampling_equals_reference(size, factors, dtype):
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(dtype)
    larger = tuple(n * f for n, f in zip(size, factors))
    actual = jax.jit(lambda x: upsample_linear(x, larger))(x)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, upsample_reference(x, larger), rtol=1e-5, atol=1e-5)


def test_upsampling_keeps_constants_and_ramps():
    x = np.broadcast_to(np.arange(4.0, dtype=np.float32)[:, None], (1, 2, 2, 4, 1))
    up = np.asarray(upsample_linear(x, (16, 8, 16)))
    line = up[0, 0, 0, :, 0]
    np.testing.assert_allclose(up[0, ..., 0], np.broadcast_to(line, (16, 8, 16)), atol=1e-6)
    np.testing.assert_allclose(line[2:-2], np.arange(2, 14) / 4 + 0.125 - 0.5, atol=1e-6)
    assert np.all(line[:2] == 0) and np.all(line[-2:] == 3)


def test_upsampling_gradient_is_its_transpose():
    """<U x, y> = <x, U' y> with U' by finite differences of a float64 reference."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1, 2, 3, 2, 1)), rng.standard_normal((1, 8, 6, 8, 1))
    loss = lambda x: (upsample_linear(x, (8, 6, 8)) * y).sum()
    gradient = jax.grad(loss)(jnp.float32(x))
    for place in itertools.product(*(range(n) for n in x.shape)):
        step = np.zeros_like(x)
        step[place] = 1.0
        slope = (upsample_reference(x + step, (8, 6, 8)) - upsample_reference(x, (8, 6, 8))) * y
        assert float(gradient[place]) == pytest.approx(slope.sum(), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "stage", ["conv4b", *(pytest.param(s, marks=pytest.mark.slow) for s in ("conv3b", "conv5b"))]
)
def test_network_equals_reference(stage):
    model = ConvUp(stage, 2, width=0.02)
    x = np.random.default_rng(0).standard_normal((1, 8, 16, 32, 2)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(1), x)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape).astype(p.dtype), params)

    def conv(x, name):
        return reference.conv3d(x, params[name]["kernel"], [(1, 1)] * 3) + params[name]["bias"]

    y = x
    pools = {"conv1a": (1, 2, 2), "conv2a": (2, 2, 2), "conv3b": (2, 2, 2), "conv4b": (2, 2, 2)}
    for name in (name for name in params if name != "conv_pre"):
        y = np.maximum(conv(y, name), 0)
        if name in pools and name != stage:
            y = reference.max_pool3d(y, pools[name])
    expected = upsample_reference(conv(y, "conv_pre"), x.shape[1:4])
    actual = np.asarray(jax.jit(model.apply)({"params": params}, x))
    assert actual.shape == (1, 8, 16, 32, 2) and actual.dtype == np.float32
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)


def test_without_time_each_frame_is_seen_alone():
    model = ConvUp("conv3b", 2, width=0.05, temporal=False)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8, 3)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x)["params"]
    params["conv_pre"]["kernel"] += 1.0
    apply = jax.jit(model.apply)
    together = apply({"params": params}, x)
    for t in range(3):
        alone = apply({"params": params}, x[:, t : t + 1])
        np.testing.assert_allclose(together[:, t : t + 1], alone, rtol=1e-4, atol=1e-6)


def test_starts():
    """He's start answers zero, the release's does not; both name the same parameters."""
    x = np.random.default_rng(0).standard_normal((1, 2, 8, 8, 3)).astype(np.float32)
    outputs, trees = {}, {}
    for start in ("he", "release"):
        model = ConvUp("conv3b", 2, width=0.05, initialization=start)
        outputs[start], trees[start] = jax.jit(model.init_with_output)(jax.random.key(0), x)
    assert not np.any(outputs["he"]) and np.all(outputs["release"] != 0)
    assert jax.tree.structure(trees["he"]) == jax.tree.structure(trees["release"])
    assert np.all(np.asarray(trees["release"]["params"]["conv3b"]["bias"]) == 1)


@pytest.mark.parametrize("stage,size", [("conv3b", (3, 8, 8)), ("conv5b", (8, 24, 16))])
def test_wrong_sizes_are_named(stage, size):
    t, h, w = size
    with pytest.raises(ValueError, match=rf"{stage}.*{t},{h},{w}.*multiples of"):
        ConvUp(stage, 2, width=0.05).init(jax.random.key(0), jnp.zeros((1, *size, 3)))


def test_unknown_stage_is_named():
    with pytest.raises(ValueError, match="conv2a.*known: conv3b, conv4b, conv5b"):
        ConvUp("conv2a", 2).init(jax.random.key(0), jnp.zeros((1, 8, 16, 16, 3)))


@pytest.mark.parametrize("task", ["seg", "flow", "color", "depth"])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_made_for_every_task(model, task):
    experiment = make_experiment(tiny_config(task, f"model={model}"), "train")
    clip = jnp.zeros((1, 8, 32, 32, experiment.task.input_channels))
    variables = jax.eval_shape(experiment.model.init, jax.random.key(0), clip)
    output = jax.eval_shape(experiment.model.apply, variables, clip)
    assert output.shape == (1, 8, 32, 32, experiment.task.num_outputs)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["conv3b_up", "conv4b_up", "conv5b_up"])
def test_training_runs(tmp_path, model):
    values = train_and_evaluate(tiny_config("seg", f"model={model}", eval_every=6), tmp_path)
    assert 0 < values["accuracy"] <= 1
