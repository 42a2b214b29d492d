"""The base of the Pallas kernels: where they run, and how a batch is divided."""

import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from tests.tiny import ROOT
from v2v_jax.brox import kernels
from v2v_jax.models.kernels import coverage
from v2v_jax.system import triton


def test_per_device_shares_the_batch_and_adds_sums():
    """In a process of its own, with four devices; all figures are small integers."""
    done = subprocess.run(
        [sys.executable, "-c", PER_DEVICE], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


PER_DEVICE = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding
from v2v_jax.system.triton import per_device

mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
x = jax.device_put(jnp.arange(8.0)[:, None], NamedSharding(mesh, jax.P("data")))
scale = lambda x, factor: (x * factor + len(x), (x * factor).sum(0))
run = jax.jit(lambda x: per_device(scale, x, whole=(jnp.float32(3),), summed=(False, True)))
total = jax.jit(lambda x: per_device(lambda x: x.sum(0), x, summed=True))
with jax.set_mesh(mesh):
    shared, tripled = run(x)
    assert shared.sharding.spec == jax.P("data"), shared.sharding
    assert "all-gather" not in run.lower(x).compile().as_text()
    np.testing.assert_array_equal(shared, np.arange(8)[:, None] * 3 + 2)
    np.testing.assert_array_equal(tripled, [84])
    np.testing.assert_array_equal(total(x), [28])
    odd = per_device(scale, jnp.ones((3, 1)), whole=(jnp.float32(3),))  # cannot be divided
    np.testing.assert_array_equal(odd[0], np.full((3, 1), 6))
alone = per_device(scale, jnp.ones((8, 1)), whole=(jnp.float32(3),))  # no mesh
np.testing.assert_array_equal(alone[0], np.full((8, 1), 11))
"""


@pytest.mark.parametrize(
    "backend,capability,network,brox",
    [
        ("gpu", "9.0", True, True),
        ("gpu", "8.9", False, True),  # too little shared memory for the network's kernels
        ("gpu", "7.5", False, False),
        ("gpu", "gfx942", False, False),
        ("cpu", "", False, False),
    ],
)
def test_kernels_are_for_gpus_that_they_fit(monkeypatch, backend, capability, network, brox):
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(triton, "_shared_memory", triton._shared_memory.__wrapped__)
    monkeypatch.setattr(triton, "installed", lambda: True)
    assert coverage.available() is network
    assert kernels.available() is brox
    with triton.switched_off():
        assert not coverage.available() and not kernels.available()
    monkeypatch.setattr(triton, "installed", lambda: False)
    assert not coverage.available() and not kernels.available()


def test_in_parts_keeps_every_clip_in_order(monkeypatch):
    monkeypatch.setattr(triton, "MAX_ELEMENTS", 10)
    x, y = np.arange(5), np.arange(5, 10)
    parts = triton.in_parts(lambda x, y: x + y, 4, x, y)
    assert [len(part) for part in parts] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts), x + y)
