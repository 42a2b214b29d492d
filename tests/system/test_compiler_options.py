"""What the compiler is told, and that XLA_FLAGS goes first."""

import jax
import numpy as np
import pytest

import v2v_jax
from tests.tiny import SMALLEST, tiny_config
from v2v_jax.run.experiment import make_experiment
from v2v_jax.system import compiler_options
from v2v_jax.training.loop import train_and_evaluate


@pytest.fixture(autouse=True)
def no_flags(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_small_steps_are_compiled_quickly_on_cpus_alone():
    level = "xla_backend_optimization_level"
    small, large = compiler_options.SMALL, compiler_options.SMALL + 1
    assert level in compiler_options.of_training("cpu", small)
    assert level not in compiler_options.of_training("cpu", large)
    assert level in compiler_options.of_inference("cpu")
    for platform in ("gpu", "cuda", "tpu"):
        assert not compiler_options.of_inference(platform)
        assert level not in (compiler_options.of_training(platform, small) or {})


def test_what_xla_flags_say_is_not_said_again(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_dump_to=x")
    assert "xla_backend_optimization_level" not in compiler_options.of_inference("cpu")
    options = {"xla_dump_to": "y", "xla_llvm_disable_expensive_passes": False}
    monkeypatch.setattr(compiler_options, "_CPU_QUICKLY", options)
    assert compiler_options.of_inference("cpu") == {"xla_llvm_disable_expensive_passes": False}


def test_options_that_this_xla_does_not_know_are_left_out(monkeypatch):
    """As xla_cpu_use_fusion_emitters from JAX 0.11 on; a value that cannot be used is an error."""
    known = {"xla_backend_optimization_level": 1, "xla_llvm_disable_expensive_passes": True}
    options = {"xla_cpu_made_up": True, **known, "xla_also_made_up": "x"}
    monkeypatch.setattr(compiler_options, "_CPU_QUICKLY", options)
    monkeypatch.setattr(compiler_options, "_CPU", options)
    assert compiler_options.of_inference("cpu") == known
    assert compiler_options.of_training("cpu", 1) == known
    assert compiler_options.of_training("cpu", compiler_options.SMALL + 1) == known
    with jax.set_mesh(jax.make_mesh((1,), ("batch",))):
        assert compiler_options.of_inference("cpu") == known
    monkeypatch.setattr(compiler_options, "_CPU_QUICKLY", {"xla_backend_optimization_level": "x"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        compiler_options.of_inference("cpu")


def test_no_program_with_options_is_inside_of_another():
    """JAX takes options for the outermost program alone; XLA_FLAGS in other tests hide that."""
    experiment = make_experiment(tiny_config("seg", SMALLEST), "train")
    state = experiment.abstract_state()
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), experiment.init_state())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes


@pytest.mark.slow
def test_programs_are_compiled_as_users_have_them(tmp_path):
    """All that is given options: init, step, evaluation and prediction; none inside another's."""
    config = tiny_config("seg", SMALLEST, num_steps=1, eval_every=1, feed="device")
    values = train_and_evaluate(config, tmp_path)
    assert 0 <= values["accuracy"] <= 1
    predicted = v2v_jax.load(tmp_path)(np.zeros((8, 48, 64, 3), np.uint8))
    assert predicted.shape == (8, 48, 64)
