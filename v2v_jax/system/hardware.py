"""What the machine at hand is, in words: devices, processor, processes."""

from __future__ import annotations

import pathlib
import platform

import jax

from v2v_jax.system import processors


def describe() -> str:
    """The devices of all processes: "2 × NVIDIA H100", "CPU: Intel Xeon …, 16 cores, 4 processes".

    Touches the devices, so that it comes after `jax.distributed.initialize`.
    """
    devices = jax.devices()
    if devices[0].platform == "cpu":
        text = f"CPU: {_processor()}, {processors.count()} cores"
    else:
        text = f"{len(devices)} × {devices[0].device_kind}"
    if jax.process_count() > 1:
        text += f", {jax.process_count()} processes"
    return text


def _processor() -> str:
    """The model's name, where the system tells it, else the architecture."""
    path = pathlib.Path("/proc/cpuinfo")
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        name, colon, value = line.partition(":")
        if colon and name.strip() == "model name":
            return " ".join(value.split())
    return platform.processor() or platform.machine()
