"""Standardised kernels against float64 NumPy: values, gradients, and the plain network they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2v_jax.models import C3D, V2V, ConvUp
from v2v_jax.models.standardization import (
    GAIN,
    fold,
    plain_layers,
    standardize,
    without_gain,
)

CASES = {
    "before a ReLU": ((3, 3, 3, 5, 4), True, (1, 1, 1)),
    "no ReLU": ((1, 3, 3, 6, 3), False, (1, 1, 1)),
    "transposed": ((4, 8, 8, 2, 3), True, (2, 4, 4)),
    "fully connected": ((24, 7), True, (1, 1, 1)),
}


def reference(kernel, gain, relu, strides):
    """W' = g·√c·(W − mean) / √(max(fan-in·var, 1e-4)) in float64 (Brock et al. 2021)."""
    kernel, gain = np.asarray(kernel, np.float64), np.asarray(gain, np.float64)
    axes = tuple(range(kernel.ndim - 1))
    fan_in = np.prod(kernel.shape[:-1]) / np.prod(strides)
    spread = np.maximum(fan_in * kernel.var(axes), 1e-4)
    return gain * np.sqrt(2.0 if relu else 1.0) * (kernel - kernel.mean(axes)) / np.sqrt(spread)


@pytest.mark.parametrize("shape, relu, strides", CASES.values(), ids=CASES)
@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (0.1, 30.0), (1e-4, 1e-4)])
def test_values_are_the_formulas(shape, relu, strides, scale, offset):
    rng = np.random.default_rng(0)
    kernel = (scale * rng.standard_normal(shape) + offset).astype(np.float32)
    gain = rng.uniform(0.5, 2, shape[-1]).astype(np.float32)
    expected = reference(kernel, gain, relu, strides)
    found = standardize(jnp.asarray(kernel), jnp.asarray(gain), relu=relu, strides=strides)
    assert found.dtype == jnp.float32
    # A mean of 300 standard deviations leaves float32 that much fewer digits of the kernel.
    tolerance = 1e-5 + 3e-7 * abs(offset) / scale
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * expected.std())


@pytest.mark.parametrize("shape, relu, strides", CASES.values(), ids=CASES)
@pytest.mark.parametrize("scale", [1.0, 1e-4])  # the second has too little variance to divide by
def test_gradients_are_those_of_finite_differences(shape, relu, strides, scale):
    rng = np.random.default_rng(1)
    kernel = (scale * rng.standard_normal(shape)).astype(np.float32)
    gain = rng.uniform(0.5, 2, shape[-1]).astype(np.float32)
    weight = rng.standard_normal(shape)  # of the outputs in what is differentiated

    def total(kernel, gain):
        return (weight * reference(kernel, gain, relu, strides)).sum()

    def of_ours(kernel, gain):
        return (weight * standardize(kernel, gain, relu=relu, strides=strides)).sum()

    found = jax.grad(of_ours, argnums=(0, 1))(jnp.asarray(kernel), jnp.asarray(gain))
    for argument, values in enumerate((kernel.astype(np.float64), gain.astype(np.float64))):
        step = 1e-6 * max(scale, 1e-3) if argument == 0 else 1e-6
        places = [tuple(rng.integers(0, n) for n in values.shape) for _ in range(6)]
        for place in places:
            arguments = [kernel.astype(np.float64), gain.astype(np.float64)]
            both = []
            for sign in (1, -1):
                arguments[argument] = values.copy()
                arguments[argument][place] += sign * step
                both.append(total(*arguments))
            expected = (both[0] - both[1]) / (2 * step)
            largest = float(jnp.abs(found[argument]).max())
            assert abs(float(found[argument][place]) - expected) < 2e-4 * largest + 1e-6, place


def test_scale_and_mean_of_a_kernel_do_not_matter():
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 4, 5))
    same = standardize(3.0 * kernel + 0.5, jnp.ones(5))
    np.testing.assert_allclose(same, standardize(kernel, jnp.ones(5)), rtol=1e-4, atol=1e-5)


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("v2v_2d", "conv4b_up")]


@pytest.fixture(scope="module", params=["v2v", "c3d", *_SLOW])
def network(request):
    """A standardised network, its parameters, all random, and a clip."""
    options = dict(width=0.04, standardized=True)
    models = {
        "v2v": lambda: V2V(3, **options),
        "v2v_2d": lambda: V2V(3, temporal=False, **options),
        "conv4b_up": lambda: ConvUp("conv4b", 3, **options),
        "c3d": lambda: C3D(3, **options),
    }
    model = models[request.param]()
    clip = jax.random.normal(jax.random.key(0), (1, 8, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip)["params"]
    rng = np.random.default_rng(2)
    draw = lambda x: (0.3 * rng.standard_normal(x.shape) + 0.1).astype(np.float32)
    return model, jax.tree.map(draw, shapes), clip


def test_all_layers_but_the_last_have_a_gain(network):
    _, params, _ = network
    assert plain_layers(params) == (["fc8"] if "fc8" in params else ["conv_pre"])


def test_the_folded_network_is_plain_and_gives_the_same(network):
    model, params, clip = network
    folded = fold(params)
    assert all(set(layer) == {"kernel", "bias"} for layer in folded.values())
    plain = type(model)(
        **{
            f: getattr(model, f)
            for f in model.__dataclass_fields__
            if f not in ("standardized", "parent", "name")
        }
    )
    outputs = model.apply({"params": params}, clip)
    np.testing.assert_array_equal(plain.apply({"params": folded}, clip), outputs)
    # Parameters decide, not the module's field.
    np.testing.assert_array_equal(plain.apply({"params": params}, clip), outputs)
    np.testing.assert_array_equal(model.apply({"params": folded}, clip), outputs)


def test_folding_knows_every_layers_relu_and_stride(network):
    _, params, _ = network
    for name, layer in fold(params).items():
        if GAIN not in params[name]:
            np.testing.assert_array_equal(layer["kernel"], params[name]["kernel"])
            continue
        strides = {"deconv3": (2, 4, 4), "deconv4": (2, 2, 2), "deconv5": (2, 2, 2)}.get(name)
        strides = strides or (1, 1, 1)
        if layer["kernel"].ndim == 5 and layer["kernel"].shape[0] == 1:
            strides = (1, *strides[1:])
        expected = reference(
            params[name]["kernel"], params[name][GAIN], name not in ("conv3c", "conv4c"), strides
        )
        np.testing.assert_allclose(layer["kernel"], expected, rtol=2e-5, atol=2e-6)


def test_folded_v2v_has_the_papers_parameters():
    clip = jnp.zeros((1, 16, 112, 112, 3))
    shapes = jax.eval_shape(V2V(8, standardized=True).init, jax.random.key(0), clip)["params"]
    folded = jax.eval_shape(fold, shapes)
    assert sum(leaf.size for leaf in jax.tree.leaves(folded)) == 33_715_784
    gains = sum(layer[GAIN].size for layer in shapes.values() if GAIN in layer)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 33_715_784 + gains


def test_gains_are_taken_out_of_whatever_holds_them():
    layer = {"kernel": 1, "bias": 2, GAIN: 3}
    tree = {"params": {"a": layer, "b": layer}, "state": [({"a": layer}, None), 7]}
    left = without_gain(tree, ["a"])
    plain = {"kernel": 1, "bias": 2}
    assert left == {"params": {"a": plain, "b": layer}, "state": [({"a": plain}, None), 7]}
