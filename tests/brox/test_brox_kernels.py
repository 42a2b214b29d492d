"""The GPU kernels of Brox's method, interpreted, against the form for every device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cuda import lowered_for_cuda
from v2v_jax.brox import brox_flow, kernels, level
from v2v_jax.system import triton

pytestmark = pytest.mark.skipif(not triton.installed(), reason="JAX without Pallas' Triton")


def problem(pairs, size, canvas, seed=0):
    """Random terms and flow on a canvas, zero outside of the level's size."""
    rng = np.random.default_rng(seed)
    inside = np.zeros(canvas, bool)
    inside[: size[0], : size[1]] = True
    terms = rng.standard_normal((8, pairs, *canvas)) * 0.1
    flow = rng.standard_normal((2, pairs, *canvas))
    return [jnp.asarray(np.where(inside, x, 0), jnp.float32) for x in (terms, flow)] + [
        jnp.array(size, jnp.int32)
    ]


def test_colours():
    x = np.arange(2 * 5 * 6).reshape(2, 5, 6)
    colours = kernels.split_colours(jnp.asarray(x))
    i, j = np.mgrid[:5, :6]
    for colour in (0, 1):
        chosen = x[:, (i + j) % 2 == colour].reshape(2, 5, 3)
        np.testing.assert_array_equal(colours[:, colour], chosen)
    np.testing.assert_array_equal(kernels.join_colours(colours), x)


@pytest.mark.parametrize("size", [(21, 25), (13, 16)])
def test_equal_the_form(size):
    arguments = problem(2, size, (22, 26))
    options = {"alpha": jnp.float32(0.2), "gamma": jnp.float32(5), "inner": 2, "solver": 4}
    expected = jax.jit(functools.partial(level.minimise, **options))(*arguments)
    minimise = functools.partial(kernels.minimise, interpret=True)
    result = jax.jit(functools.partial(minimise, **options))(*arguments)
    moved = np.abs(expected - arguments[1]).max()
    assert moved > 0.5, moved
    np.testing.assert_allclose(result, expected, atol=2e-3 * moved)


@pytest.mark.slow
def test_whole_flow():
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.uniform(size=(2, 2, 17, 23)), jnp.float32)
    settings = {"scale": 0.8, "outer": 77, "max_padding": 5.0, "warped_levels": 77}
    settings |= {"inner": 2, "solver": 2, "warps": 1}
    minimise_kernels = functools.partial(kernels.minimise, interpret=True)
    a, b = (
        brox_flow._flow_of_known_counts(
            frames, jnp.float32(0.2), jnp.float32(50), minimise=minimise, **settings
        )
        for minimise in (minimise_kernels, level.minimise)
    )
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_lower_for_gpus():
    """Pallas takes the kernels as they are: whether a GPU can run them shows only there."""
    arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in problem(2, (22, 26), (22, 26))]
    options = {"alpha": jnp.float32(0.2), "gamma": jnp.float32(5), "inner": 2, "solver": 4}
    function = functools.partial(kernels.minimise, **options)
    lowered = lowered_for_cuda(jax.jit(function), *arguments)
    assert all(name in lowered for name in ("linear_system", "half_sweep_0", "half_sweep_1"))
