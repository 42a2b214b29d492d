"""TPU chips by their published figures, and meshes over topologies that need not exist."""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import jax
from jax.sharding import Mesh

from v2v_jax.errors import ConfigError
from v2v_jax.system import sharding


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of a chip: bf16 FLOP/s, bytes/s and bytes of its memory."""

    flops: float
    bandwidth: float
    memory: float

    @property
    def clock(self) -> float:
        """Cycles a second, from the peak: four matrix units of 128×128 multiply-adds a cycle."""
        return self.flops / (2 * 4 * 128 * 128)


CHIPS = {"v5e": Chip(flops=197e12, bandwidth=819e9, memory=16e9)}


def topology_mesh(name: str) -> Mesh:
    """A mesh over the chips of a TPU topology, such as `v5e:4x4`, that need not exist.

    Raises:
      ConfigError: the topology is not known, or libtpu is not installed.
    """
    from jax.experimental import topologies

    chip_of(name)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("libtpu is not installed: pip install -c constraints.txt -e '.[tpu]'.")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU host to ask about itself
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU to lock for one process
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    try:
        devices = topologies.get_topology_desc(name, "tpu").devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"libtpu does not know topology {name!r}: {error}") from error
    return sharding.make_mesh(devices)


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as `v5e:4x4`; ConfigError if it is not in `CHIPS`."""
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise ConfigError(f"Topology {topology!r} is of no known chip; known: {', '.join(CHIPS)}.")
    return CHIPS[kind]
