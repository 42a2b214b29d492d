"""The Linen layers: what they add to the operations, and their initialisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2v_jax.models.layers import Conv3D, ConvTranspose3D


def test_even_kernels_are_an_error():
    with pytest.raises(ValueError, match="must be odd"):
        Conv3D(4, (2, 3, 3)).init(jax.random.key(0), jnp.zeros((1, 3, 3, 3, 1)))


def test_conv3d_layer_adds_its_bias():
    layer = Conv3D(2, bias_init=jax.nn.initializers.constant(3.0))
    x = jnp.zeros((1, 2, 3, 3, 1))
    y = layer.apply(layer.init(jax.random.key(0), x), x)
    np.testing.assert_array_equal(y, 3 * np.ones((1, 2, 3, 3, 2)))


def test_fan_in_of_a_transposed_convolution_keeps_the_variance():
    """With He's fan-in an upsampled unit-variance ReLU input keeps its second moment, here ×2/2."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 4, 8, 8, 64), np.float32)
    x = np.maximum(x, 0) * np.sqrt(2)  # second moment 1
    layer = ConvTranspose3D(64, (4, 4, 4), (2, 2, 2), (1, 1, 1))
    y = layer.apply(layer.init(jax.random.key(0), x), x)
    inside = np.asarray(y)[:, 2:-2, 2:-2, 2:-2]
    assert 1.6 < (inside**2).mean() < 2.4
