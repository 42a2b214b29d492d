"""Which of a program's ways is traced."""

import jax
import jax.numpy as jnp

from experiments import scaling_step
from v2v_jax.system.platforms import by_platform, traced_for

FACTORS = {"cpu": 2.0, "tpu": 3.0, "default": 5.0}


def test_all_ways_are_traced_unless_the_platform_is_known():
    traced = []

    def way(name, factor):
        def run(x):
            traced.append(name)
            return factor * x

        return run

    def run(*names):
        traced.clear()  # JAX keeps what it has traced of a function: new ones each time
        ways = {name: way(name, factor) for name, factor in FACTORS.items() if name in names}
        return float(jax.jit(lambda x: by_platform(x, **ways))(jnp.ones(())))

    assert run(*FACTORS) == 2 and set(traced) == set(FACTORS)
    with traced_for("cpu"):
        assert run(*FACTORS) == 2 and traced == ["cpu"]
        assert run("tpu", "default") == 5 and traced == ["default"]
    with traced_for("gpu"):  # of which there are several kinds
        assert run("tpu", "default") == 5 and set(traced) == {"tpu", "default"}


def test_a_training_step_on_a_cpu_is_traced_for_it_alone():
    """Also its backward pass, which is traced after the network's call has returned."""
    experiment = scaling_step.make("model=v2v,size=small", 1, 32, jax.devices()[:1])
    with jax.set_mesh(experiment.mesh):
        step = scaling_step.make_step(experiment)
        state, batch = experiment.abstract_state(), scaling_step.abstract_batch(experiment)
        traced = str(step.trace(state, (), batch).jaxpr)
    assert "conv_general_dilated" in traced and "platform_index" not in traced
