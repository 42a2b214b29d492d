"""The device mesh, and the one place where host arrays become global arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from v2v_jax.errors import ConfigError


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices of all processes (or those given) with the one axis `data`.

    Each process's devices are neighbours on it, so that its rows of a batch are too.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters, optimiser state, the device feed's store."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis B is split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def local_rows(batch_size: int, mesh: Mesh) -> tuple[int, int]:
    """First and last (exclusive) row of the global batch that this process feeds.

    Raises:
      ConfigError: the batch cannot be divided evenly among the devices.
    """
    devices = mesh.devices.size
    if batch_size % devices:
        raise ConfigError(
            f"batch_size {batch_size} cannot be divided among {devices} devices; "
            f"choose a multiple of {devices}."
        )
    share = batch_size // devices
    owners = np.array([device.process_index for device in mesh.devices.flat])
    own = np.flatnonzero(owners == jax.process_index())
    return share * int(own[0]), share * int(own[-1] + 1)


def to_global(local: Any, mesh: Mesh) -> Any:
    """A pytree of this process's rows (NumPy) → global arrays sharded over `data`."""
    sharding = batch_sharded(mesh)
    make = lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x))
    return jax.tree.map(make, local)


def to_every_device(tree: Any, mesh: Mesh) -> Any:
    """A pytree that is the same on every process → global arrays held whole by every device."""
    sharding = replicated(mesh)
    make = lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x), np.shape(x))
    return jax.tree.map(make, tree)
