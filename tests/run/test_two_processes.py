"""Checkpoints of two processes: one writes, both know the same; without any training."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.tiny import ROOT
from v2v_jax.run import manifest
from v2v_jax.system.locks import locked

# Prints a JSON line: the step restored and its value, the best step, or the error.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp

index, port, folder, save = int(sys.argv[1]), *sys.argv[2:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, index)

from v2v_jax.errors import UserError
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.which_checkpoint import find_checkpoint
from v2v_jax.system import sharding

whole = sharding.replicated(sharding.make_mesh())

def state(value):
    params = {"conv": {"kernel": jnp.full((50, 50), value)}}
    return {"step": jnp.int32(value), "params": params, "opt_state": {"mu": jnp.full((50,), value)}}

def value_of(params):
    return float(params["conv"]["kernel"].addressable_data(0)[0, 0])

make = jax.jit(state, out_shardings=whole)
found = {}
try:
    with Checkpoints(folder, {}, headline="x", better="max", writable=True) as checkpoints:
        for step in (1, 2, 3) if save == "save" else ():
            checkpoints.save(make(float(step)), step, {"x": -abs(step - 2)})
            checkpoints.wait()
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
            jax.eval_shape(state, 0.0),
        )
        restored, step = checkpoints.restore_latest(abstract)
        found["restored"] = [step, value_of(restored["params"])]
        try:
            checkpoints.restore(step, {**abstract, "opt_state": {}})
        except UserError as error:
            found["other optimiser"] = type(error).__name__
    best = find_checkpoint(folder)
    found["best"] = [best.step, value_of(best.params(abstract["params"]))]
except UserError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


def run(folder, save: str) -> list[dict]:
    """What each of the two processes found."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(index), str(port), str(folder), save],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.slow
def test_both_see_the_same_and_are_refused_together(tmp_path):
    whole = {"restored": [3, 3.0], "other optimiser": "ConfigError", "best": [2, 2.0]}
    assert run(tmp_path, "save") == [whole, whole]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]

    # A step that cannot be read although its manifest is right: both fall back.
    newest = tmp_path / "checkpoints" / "3"
    (newest / "training" / "manifest.ocdbt").write_bytes(bytes(50))
    manifest.write(newest, "v2v_jax checkpoint of step 3")
    older = whole | {"restored": [2, 2.0]}
    assert run(tmp_path, "resume") == [older, older]

    with locked(tmp_path / ".lock"):  # as a training holds it
        first, second = run(tmp_path, "resume")
    assert "Another training is writing to" in first["error"] and second.keys() == {"error"}
