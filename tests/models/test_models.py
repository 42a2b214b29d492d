import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import reference
from v2v_jax.models import V2V
from v2v_jax.models.lowering.transposed import conv3d_transpose


def parameters(model, channels=3):
    clip = jnp.zeros((1, 16, 112, 112, channels))
    return jax.eval_shape(model.init, jax.random.key(0), clip)["params"]


def random_variables(model, x):
    """Initial parameters, but with a prediction layer that is not zero and so shows the rest."""
    variables = jax.jit(model.init)(jax.random.key(0), x)
    head = variables["params"]["conv_pre"]
    rng = np.random.default_rng(0)
    head["kernel"] = (0.1 * rng.standard_normal(head["kernel"].shape)).astype(np.float32)
    return variables


@pytest.mark.parametrize(
    "num_outputs,channels,temporal,expected",
    [
        (8, 3, True, 33_715_784),
        (2, 3, True, 33_705_410),
        (3, 1, True, 33_703_683),
        (8, 3, False, 10_847_432),
    ],
)
def test_parameter_counts(num_outputs, channels, temporal, expected):
    tree = parameters(V2V(num_outputs, temporal=temporal), channels)
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == expected
    assert set(tree["conv1a"]) == {"kernel", "bias"}


def test_layers_have_the_releases_names_and_shapes():
    tree = parameters(V2V(8))
    kernels = {name: layer["kernel"].shape for name, layer in tree.items()}
    assert kernels == {
        "conv1a": (3, 3, 3, 3, 64),
        "conv2a": (3, 3, 3, 64, 128),
        "conv3a": (3, 3, 3, 128, 256),
        "conv3b": (3, 3, 3, 256, 256),
        "conv4a": (3, 3, 3, 256, 512),
        "conv4b": (3, 3, 3, 512, 512),
        "conv5a": (3, 3, 3, 512, 512),
        "conv5b": (3, 3, 3, 512, 512),
        "conv4c": (3, 3, 3, 512, 64),
        "conv3c": (3, 3, 3, 256, 64),
        "deconv5": (4, 4, 4, 512, 64),
        "deconv4": (4, 4, 4, 128, 64),
        "deconv3": (4, 8, 8, 128, 64),
        "conv_pre": (3, 3, 3, 64, 8),
    }
    trunk = sum(
        leaf.size for name in tree if name[-1] in "ab" for leaf in jax.tree.leaves(tree[name])
    )
    assert trunk == 27_655_936


@pytest.fixture(scope="module")
def narrow():
    """A network, a clip, initial parameters, and `apply` compiled for them."""
    model = V2V(3, width=0.05)
    x = np.random.default_rng(0).standard_normal((1, 8, 16, 32, 2)).astype(np.float32)
    return jax.jit(model.apply), jax.jit(model.init)(jax.random.key(1), x)["params"], x


def perturbed(params):
    """Parameters of which none is zero."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape).astype(p.dtype), params)


def test_whole_network_equals_reference(narrow):
    """V2V at a small width against the slow layers, wired by hand from the table."""
    apply, params, x = narrow
    params = perturbed(params)

    def conv(x, name, rectify=True):
        y = reference.conv3d(x, params[name]["kernel"], [(1, 1)] * 3) + params[name]["bias"]
        return np.maximum(y, 0) if rectify else y

    def deconv(x, name, strides, padding):
        y = reference.conv3d_transpose(x, params[name]["kernel"], strides, padding)
        return np.maximum(y + params[name]["bias"], 0)

    pool = reference.max_pool3d
    y = pool(conv(x, "conv1a"), (1, 2, 2))
    y = pool(conv(y, "conv2a"), (2, 2, 2))
    conv3b = conv(conv(y, "conv3a"), "conv3b")
    conv4b = conv(conv(pool(conv3b, (2, 2, 2)), "conv4a"), "conv4b")
    conv5b = conv(conv(pool(conv4b, (2, 2, 2)), "conv5a"), "conv5b")
    up5 = deconv(conv5b, "deconv5", (2, 2, 2), (1, 1, 1))
    y = np.concatenate([up5, conv(conv4b, "conv4c", rectify=False)], -1)
    up4 = deconv(y, "deconv4", (2, 2, 2), (1, 1, 1))
    y = np.concatenate([up4, conv(conv3b, "conv3c", rectify=False)], -1)
    expected = conv(deconv(y, "deconv3", (2, 4, 4), (1, 2, 2)), "conv_pre", rectify=False)

    actual = np.asarray(apply({"params": params}, x))
    assert actual.shape == (1, 8, 16, 32, 3)
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)


def test_2d_network_sees_each_frame_alone():
    model = V2V(2, width=0.05, temporal=False)
    rng = np.random.default_rng(0)
    x, others = rng.standard_normal((2, 1, 5, 16, 16, 3)).astype(np.float32)
    variables = random_variables(model, x)
    apply = jax.jit(model.apply)
    together = apply(variables, x)
    assert together.shape == (1, 5, 16, 16, 2)
    for t in range(5):
        others[:, t] = x[:, t]
        alone = apply(variables, others)
        np.testing.assert_allclose(together[:, t], alone[:, t], rtol=1e-4, atol=1e-7)
        others[:, t] += 1
        assert np.abs(apply(variables, others)[:, t] - together[:, t]).max() > 1e-4


def test_output_depends_on_other_frames(narrow):
    apply, params, x = narrow
    variables = {"params": perturbed(params)}
    changed = x.copy()
    changed[:, 7] += 1
    difference = apply(variables, changed) - apply(variables, x)
    assert np.abs(difference[:, 3]).max() > 0


def test_he_initialization_starts_at_zero_outputs(narrow):
    apply, params, x = narrow
    np.testing.assert_array_equal(apply({"params": params}, x), 0.0)


def test_release_initialization():
    model = V2V(4, width=0.25, initialization="release")
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 16, 16, 3)))["params"]
    for name, layer in params.items():
        assert np.all(np.asarray(layer["bias"]) == (0.0 if name == "conv1a" else 1.0)), name
        assert abs(float(layer["kernel"].std()) - 0.01) < 1e-3, name
        assert abs(float(layer["kernel"].mean())) < 2e-3, name


@pytest.fixture(scope="module")
def wide():
    """Variables of a wider network, a clip, its output in float32 and every layer's."""
    model = V2V(4, width=0.25)
    x = np.random.default_rng(0).standard_normal((1, 8, 32, 32, 3)).astype(np.float32)
    variables = random_variables(model, x)
    y, seen = jax.jit(lambda v, x: model.apply(v, x, capture_intermediates=True))(variables, x)
    return variables, x, y, seen["intermediates"]


def test_activations_keep_their_scale_with_he_initialization(wide):
    for name, layer in wide[-1].items():
        if name not in ("__call__", "conv_pre"):
            output = layer["__call__"][0]
            if name == "deconv3":  # put off to conv_pre
                x, kernel = output.x, output.kernel
                y = conv3d_transpose(x, kernel, output.strides, output.padding)
                output = jax.nn.relu(y)
            assert 0.1 < float(output.std()) < 10, name


def test_bfloat16_output_is_float32_and_close(wide):
    variables, x, exact, _ = wide
    half = jax.jit(V2V(4, width=0.25, dtype=jnp.bfloat16).apply)(variables, x)
    assert half.dtype == jnp.float32
    assert np.linalg.norm(half - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize("size", [(12, 16, 16), (8, 24, 16), (8, 16, 17)])
def test_wrong_sizes_are_named(size):
    with pytest.raises(ValueError, match="multiple of 8"):
        V2V(2, width=0.05).init(jax.random.key(0), jnp.zeros((1, *size, 3)))
