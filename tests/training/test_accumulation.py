"""The batch in parts: same training, less memory, one all-reduce."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import read_metrics, tiny_config
from v2v_jax.errors import ConfigError
from v2v_jax.models import V2V
from v2v_jax.system import sharding
from v2v_jax.training import accumulation
from v2v_jax.training.loop import train_and_evaluate


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_sums_over_parts(parts):
    rng = np.random.default_rng(0)
    batch = {"x": rng.standard_normal((6, 5)), "weight": rng.standard_normal(6)}
    function = lambda b: {"total": (b["weight"][:, None] * b["x"]).sum(0), "n": jnp.sum(b["x"] > 0)}
    found = jax.jit(accumulation.summed_over_parts(function, parts))(batch)
    np.testing.assert_allclose(found["total"], batch["weight"] @ batch["x"], rtol=1e-5)
    assert found["n"] == (batch["x"] > 0).sum()


@pytest.mark.parametrize(
    ("clips", "platform", "parts"),
    [(32, "gpu", 1), (33, "gpu", 3), (128, "gpu", 4), (1, "gpu", 1), (37, "gpu", 37)]
    + [(128, "cpu", 1), (256, "tpu", 1)],
)
def test_automatic_parts(clips, platform, parts):
    assert accumulation.automatic_parts(clips, platform) == parts


@pytest.mark.slow
def test_less_memory():
    """What the compiler reserves for the gradient over 8 clips in 8 parts: that of one clip."""
    model = V2V(2, width=0.1)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 32, 32, 3)))

    def temporary(parts, clips):
        x = jax.ShapeDtypeStruct((clips, 8, 32, 32, 3), jnp.float32)
        gradient = lambda params: jax.grad(lambda p, x: (model.apply(p, x) ** 2).sum())
        step = lambda p, x: accumulation.summed_over_parts(lambda x: gradient(p)(p, x), parts)(x)
        return jax.jit(step).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8, 8) < 1.5 * temporary(1, 1) < temporary(1, 8) / 2


@pytest.mark.slow
def test_training_with_it_and_with_recomputation(tmp_path, compilation_cache):
    losses = []
    for number, parts in enumerate(({"accumulate": 1}, {"accumulate": 2}, {"recompute": 2})):
        train_and_evaluate(tiny_config("seg", num_steps=3, **parts), tmp_path / str(number))
        losses.append(read_metrics(tmp_path / str(number), "train/loss"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_parts_that_do_not_divide_the_batch(tmp_path):
    with pytest.raises(ConfigError, match="accumulate is 3; it must divide the 4 clips"):
        train_and_evaluate(tiny_config("seg", accumulate=3), tmp_path)
    with pytest.raises(ConfigError, match="accumulate is -1; it must be 0"):
        train_and_evaluate(tiny_config("seg", accumulate=-1), tmp_path)


def test_what_adds_up_over_devices_can_be_chosen():
    mesh = sharding.make_mesh(jax.devices()[:1])
    function = lambda params, store, batch: {"sum": params * batch.sum()}
    x = jnp.arange(4.0)
    own = accumulation.summed_over_devices(function, mesh)
    assert jax.jit(own)(2.0, (), x)["sum"] == 12
    twice = lambda sums: jax.tree.map(lambda s: 2 * jax.lax.psum(s, "data"), sums)
    chosen = accumulation.summed_over_devices(function, mesh, twice)
    assert jax.jit(chosen)(2.0, (), x)["sum"] == 24


@pytest.mark.parametrize("size", [accumulation._SMALL + 1, accumulation._SMALL + 6])
def test_large_gradients_are_rounded_and_added_up_in_float32(size):
    """Exactly: bfloat16 of the float32 sum of bfloat16 numbers; everything else is not rounded."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal((3, *shape)).astype(np.float32)  # of three devices
    large, small, loss, count, correct = draw(size), draw(5, 7), draw(), draw(), draw(4)
    sums = {"large": large, "small": small}, (loss, count), {"correct": correct}
    found = jax.vmap(accumulation.add_up_gradient_in_bfloat16, axis_name="data")(sums)
    half = lambda x: x.astype(jnp.bfloat16).astype(np.float32)
    expected = half(half(large).sum(0))
    for device in range(3):
        np.testing.assert_array_equal(found[0]["large"][device], expected)
        for mine, all_of_them in ((found[0]["small"], small), (found[1][0], loss)):
            np.testing.assert_allclose(mine[device], all_of_them.sum(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[2]["correct"][device], correct.sum(0), rtol=1e-5)
