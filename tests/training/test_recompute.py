import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from v2v_jax.errors import ConfigError
from v2v_jax.models import MODELS
from v2v_jax.training import recompute
from v2v_jax.training.loop import train_and_evaluate


def test_one_part_changes_nothing():
    apply = lambda params, x: x
    assert recompute.in_parts(apply, 1) is apply


@pytest.mark.slow
@pytest.mark.parametrize("parts", [4])
def test_same_outputs_and_gradients(parts):
    model = MODELS["conv3b_up"](num_outputs=2, width=0.05)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 8, 16, 16, 3)), jnp.float32)
    params = jax.jit(model.init)(jax.random.key(0), x)
    params["params"]["conv_pre"]["kernel"] += 0.1  # starts at zero
    apply = lambda params, x: model.apply(params, x)
    in_parts = recompute.in_parts(apply, parts)
    weights = jnp.arange(4.0)[:, None, None, None, None]  # so that the clips' order matters
    loss = lambda function: lambda params, x: (weights * function(params, x) ** 2).sum()
    expected = jax.jit(jax.value_and_grad(loss(apply), argnums=(0, 1)))(params, x)
    found = jax.jit(jax.value_and_grad(loss(in_parts), argnums=(0, 1)))(params, x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.slow
def test_less_than_half_the_memory():
    """What the compiler reserves for the gradient of a mean over 8 clips, in parts of one."""
    model = MODELS["conv3b_up"](num_outputs=2, width=0.1)
    x = jax.ShapeDtypeStruct((8, 8, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)

    def temporary(parts):
        apply = recompute.in_parts(lambda p, x: model.apply(p, x), parts)
        gradient = jax.jit(jax.grad(lambda p, x: (apply(p, x) ** 2).mean()))
        return gradient.lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8) < temporary(1) / 2


def test_parts_that_do_not_divide_the_batch(tmp_path):
    with pytest.raises(ConfigError, match="recompute is 3; it must divide the 4 clips of"):
        train_and_evaluate(tiny_config("seg", recompute=3), tmp_path)
    with pytest.raises(ConfigError, match="recompute is 0; it must be at least 1"):
        train_and_evaluate(tiny_config("seg", recompute=0), tmp_path)
