"""What XLA's compiler is told for the platform of a program; what XLA_FLAGS says goes first."""

from __future__ import annotations

import functools
import os

import jax

Options = dict[str, str | int | bool]
# On CPUs: the older emitter of fused loops, whose code takes a third less time to compile. Steps
# take some 7 % longer (docs/records/performance.md).
_CPU: Options = {"xla_cpu_use_fusion_emitters": False}
# And fewer of LLVM's passes: loops over few numbers, beside products and convolutions that a
# library computes, lose nothing by it.
_CPU_QUICKLY: Options = _CPU | {"xla_backend_optimization_level": 1}
# The older emitter for a whole process, for tests: JAX 0.11 has no option of a program for it, and
# its steps take a sixth longer there (docs/records/performance.md).
OLDER_EMITTER = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters=true"
# One all-reduce for the whole gradient, 135 MB; by default XLA stops at some 128.
_TPU: Options = {"xla_jf_crs_combiner_threshold_in_bytes": str(2**30)}

# Parameters of a network up to which its training step is compiled quickly. The update of more is
# a loop that pays for the time that compiling it well takes.
SMALL = 4_000_000


def of_inference(platform: str) -> Options | None:
    """For programs without an update: the forward direction, and what happens once."""
    return _on_cpu(_CPU_QUICKLY) if platform == "cpu" else None


def of_training(platform: str, parameters: int) -> Options | None:
    """For a training step of a network with so many parameters.

    On two CPU cores the step of `configs/seg.py:demo` is compiled in 7 s with these, in 11 s at
    LLVM's usual level, and takes 0.15 s with both (docs/records/performance.md).
    """
    if platform == "tpu":
        return _unless_said(_TPU)  # libtpu knows it; there may be no TPU here to ask
    if platform != "cpu":
        return None
    return _on_cpu(_CPU_QUICKLY if parameters <= SMALL else _CPU)


def _on_cpu(options: Options) -> Options:
    """Those that are not in XLA_FLAGS, without what this version of XLA does not know."""
    said = _unless_said(options)
    return {name: value for name, value in said.items() if _is_known_on_cpu(name, value)}


def _unless_said(options: Options) -> Options:
    said = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in said}


@functools.cache
def _is_known_on_cpu(name: str, value: str | int | bool) -> bool:
    """Whether XLA takes an option: it lists none, so the smallest program is compiled with it."""
    constant = jax.jit(lambda: 0, compiler_options={name: value})
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            constant.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True
