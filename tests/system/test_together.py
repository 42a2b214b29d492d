"""Processes that compile for different lengths of time run their programs together."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tests.tiny import ROOT
from v2v_jax.system import together

PROGRAM = """
import os, sys, time
import jax, jax.numpy as jnp, numpy as np

index, port, slow, how = *map(int, sys.argv[1:4]), sys.argv[4]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, index)
from v2v_jax.system import sharding, together

mesh = sharding.make_mesh()
data = jax.make_array_from_process_local_data(
    sharding.batch_sharded(mesh), np.full((1, 3), index + 1.0, np.float32))
total = jax.jit(lambda x: x.sum(0), out_shardings=sharding.replicated(mesh))
if how == "together":
    compile = jax.stages.Lowered.compile
    def slow_compile(lowered, *args):
        time.sleep(slow if index == 1 else 0)
        return compile(lowered, *args)
    jax.stages.Lowered.compile = slow_compile
    total = together.compiled_together(total)
else:
    time.sleep(slow if index == 1 else 0)
try:
    for _ in range(2):
        print(total(data).tolist(), flush=True)
except jax.errors.JaxRuntimeError as error:
    print(error, flush=True)
    os._exit(1)  # the end would wait for the other one
"""


def run(seconds, how):
    """(exit status, lines of output) of two processes; one compiles some seconds longer."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(index), str(port), str(seconds), how],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300) for process in processes]
    own = lambda text: [line for line in text.splitlines() if not line.startswith("[Gloo]")]
    lines = [own(out) for out, _ in outputs]
    return [(process.returncode, found) for process, found in zip(processes, lines)]


@pytest.mark.slow
def test_compiling_for_longer_than_gloo_waits():
    assert run(45, "together") == [(0, ["[3.0, 3.0, 3.0]"] * 2)] * 2
    alone = run(45, "alone")  # what it is for
    assert any("initialization failed" in line for _, lines in alone for line in lines)


def test_all_have_compiled_before_any_runs(monkeypatch):
    events = []
    function = jax.jit(lambda tree, x: (tree["a"] + x, events.append("traced"))[0])
    assert together.compiled_together(function) is function  # one process
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(together, "_wait_for_others", lambda name: events.append("waited"))
    call = together.compiled_together(function)
    for count in (3, 3, 4, 3):
        ones = jnp.ones(count)
        assert call({"a": ones}, ones).tolist() == [2] * count
    assert events == ["traced", "waited"] * 2
