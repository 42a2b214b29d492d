"""The checks of benchmarks/tpu_compile: what a compiled step communicates and needs."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks.tpu_compile import StepProblem, figures, hlo, layer_forms, step, topology
from tests.tiny import ROOT
from v2v_jax.errors import ConfigError

# As libtpu prints it, shortened: one all-reduce merged over three arrays, beside instructions whose
# names and operands only look like collectives.
ONE_ALL_REDUCE = """HloModule jit_step, is_scheduled=true

%region_1.2 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  %b.1 = f32[]{:T(128)} parameter(1)
  ROOT %add.7 = f32[]{:T(128)} add(%a.1, %b.1)
}

ENTRY %main.9 (p0: f32[3,3,3,2,4]) -> f32[3,3,3,2,4] {
  %fusion.1 = f32[3,3,3,2,4]{4,3,2,1,0:T(8,128)S(1)} fusion(%p0), kind=kLoop, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
  %all-reduce.3 = (f32[3,3,3,2,4]{4,3,2,1,0:T(8,128)S(1)}, f32[4]{0:T(128)}, \
/*index=2*/f32[]{:T(128)}) all-reduce(%fusion.1, %b, %c), channel_id=1, \
replica_groups={{0,1,2,3}}, to_apply=%region_1.2
  %get-tuple-element.1 = f32[4]{0:T(128)} get-tuple-element(%all-reduce.3), index=1
  %select-and-scatter.2 = f32[8]{0:T(128)} select-and-scatter(%x, %y, %z)
  ROOT %copy.1 = f32[3,3,3,2,4]{4,3,2,1,0:T(8,128)} copy(%get-tuple-element.0), \
backend_config={"window_config":{"estimated_cycles":"500"}}
}
"""
# What should not be in a step: an asynchronous gather, and a collective inside a fusion.
OTHERS = """HloModule jit_step

%fused_computation (p: bf16[16]) -> bf16[4] {
  ROOT %reduce-scatter.1 = bf16[4]{0} reduce-scatter(%p), dimensions={0}, to_apply=%gone
}

ENTRY %main (p0: s32[2]) -> s32[8] {
  %all-gather-start.1 = (s32[2]{0}, s32[8]{0}) all-gather-start(%p0), dimensions={0}
  ROOT %all-gather-done.1 = s32[8]{0} all-gather-done(%all-gather-start.1)
}
"""
OUT_OF_MEMORY = (  # both of libtpu
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 20.00G of 15.75G hbm. Exceeded hbm capacity by 4.25G.\n\nTotal hbm usage >= 20.25G:",
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(20.00G) exceeds available HBM (15.75G).",
)


def test_one_merged_all_reduce():
    (found,) = hlo.find_collectives(ONE_ALL_REDUCE)
    assert (found.kind, found.name, found.reduction) == ("all-reduce", "all-reduce.3", "add")
    assert found.arrays == (("f32", 216), ("f32", 4), ("f32", 1))
    assert found.num_bytes == 4 * 221
    assert found.describe() == "all-reduce add of 3 arrays (f32), 884 bytes"
    hlo.check_collectives([found], "a test")


def test_gradients_among_the_arrays():
    (found,) = hlo.find_collectives(ONE_ALL_REDUCE)
    assert hlo.count_gradients(found, [216, 4]) == 2
    assert hlo.count_gradients(found, [216, 4, 4, 7]) == 2  # two parameters are not reduced


def test_asynchronous_and_fused_collectives_are_seen_once():
    scatter, gather = hlo.find_collectives(OTHERS)
    assert (scatter.kind, scatter.arrays) == ("reduce-scatter", (("bf16", 4),))
    assert (gather.kind, gather.arrays, gather.num_bytes) == ("all-gather", (("s32", 8),), 32)


def test_other_collectives_fail_in_one_sentence():
    collectives = hlo.find_collectives(ONE_ALL_REDUCE) + hlo.find_collectives(OTHERS)
    with pytest.raises(StepProblem) as caught:
        hlo.check_collectives(collectives, "v5e:4x4 with 16 clips a chip")
    assert str(caught.value) == (
        "The step for v5e:4x4 with 16 clips a chip should have one all-reduce and no other "
        "collective, but has 3: all-reduce add of 3 arrays (f32), 884 bytes; reduce-scatter ? of "
        "1 array (bf16), 8 bytes; all-gather of 1 array (s32), 32 bytes."
    )


@pytest.mark.parametrize("text, words", [(ONE_ALL_REDUCE, "but has 2"), ("", "no all-reduce")])
def test_two_or_no_all_reduces_fail(text, words):
    with pytest.raises(StepProblem, match=words):
        hlo.check_collectives(2 * hlo.find_collectives(text), "a test")


def test_step_that_does_not_fit_fails_in_one_sentence():
    memory = figures.Memory(
        arguments=10**9, outputs=10**9, donated=9 * 10**8, temporaries=15 * 10**9, code=10**8
    )
    assert memory.peak == 16_200_000_000
    with pytest.raises(StepProblem) as caught:
        figures.check_memory(memory, "v5e:4x4 with 64 clips a chip", topology.CHIPS["v5e"])
    assert str(caught.value) == (
        "The step for v5e:4x4 with 64 clips a chip does not fit a chip's 16 GB: it needs 16.2 GB; "
        "take fewer clips a chip (--clips_per_chip)."
    )


@pytest.mark.parametrize("message", OUT_OF_MEMORY)
def test_compiler_that_runs_out_of_memory_fails_in_the_same_sentence(message):
    assert step.out_of_memory("v5e:4x4", message, topology.CHIPS["v5e"]) == (
        "The step for v5e:4x4 does not fit a chip's 16 GB: it needs 20.00G of 15.75G; "
        "take fewer clips a chip (--clips_per_chip)."
    )


def test_cycles_and_what_has_none():
    assert hlo.estimated_cycles(ONE_ALL_REDUCE) == (
        1500, {"all-reduce": 1, "select-and-scatter": 1},
    )  # fmt: skip


def test_unknown_topology():
    with pytest.raises(ConfigError, match="known: v5e"):
        topology.topology_mesh("v0:1x1")


def test_layers_are_those_of_the_network():
    import jax
    from jax import numpy as jnp

    from v2v_jax.models import V2V

    clip = jnp.zeros((1, 16, 112, 112, 3))
    params = jax.eval_shape(lambda: V2V(8).init(jax.random.key(0), clip))["params"]
    kernels = {name: layer["kernel"].shape for name, layer in params.items()}
    assert kernels.pop("conv5b") == kernels["conv5a"]  # of the same shape: compiled once
    assert {layer.name: layer.kernel_shape for layer in layer_forms.network_layers()} == kernels


# ------------------------------------------------------------------------------------------------
# Real compiled steps, in processes of their own

COMPILE = """
import dataclasses, json, sys
import jax
from benchmarks.tpu_compile import figures, step, topology
from tests.tiny import tiny_config
from v2v_jax.system import sharding

name, feed = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
mesh = topology.topology_mesh(name) if name else sharding.make_mesh()
overrides = dict(dtype="bfloat16" if name else "float32", batch_size=2 * mesh.devices.size)
config = tiny_config("seg", "" if name else "model=conv3b_up", **overrides)  # CPUs: the smallest
lowered = step.abstract_step(config, mesh, feed)
chip = topology.CHIPS["v5e"]
found = figures.analyse(step.compile_for(lowered, "a test", chip), 2, chip)
parameters = [x.size for x in jax.tree.leaves(lowered.in_avals[0][0].params)]
print(json.dumps(found | {"parameters": parameters}))
"""


def compile_step(name: str, feed: str, **environment: str) -> dict:
    """The figures of a tiny step for a topology, or for the devices that there are."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, name, feed],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for values in found["collectives"]:
        values["arrays"] = tuple(map(tuple, values["arrays"]))
    return found


def check_step(found: dict, what: str) -> None:
    """One all-reduce, of every parameter's gradient, the loss, its count and the metrics."""
    collectives = [hlo.Collective(**values) for values in found["collectives"]]
    hlo.check_collectives(collectives, what)
    parameters = found["parameters"]
    assert hlo.count_gradients(collectives[0], parameters) == len(parameters)
    assert len(collectives[0].arrays) == len(parameters) + 3


@pytest.mark.parametrize("feed", ["tf_data", pytest.param("device", marks=pytest.mark.slow)])
def test_a_step_over_eight_devices_has_one_all_reduce(feed):
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    found = compile_step("", feed, XLA_FLAGS=flags)
    check_step(found, "eight CPU devices")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, which holds the TPU compiler, is not installed (pip install -e '.[tpu]')",
)
def test_a_tpu_step_has_one_all_reduce():
    found = compile_step("v5e:2x2", "tf_data")
    check_step(found, "v5e:2x2")
    assert found["seconds_by_compiler"] > 0
