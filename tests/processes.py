"""Starting train.py and eval.py as one or several processes of this machine."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import Any

from ml_collections import ConfigDict

from tests.tiny import ROOT, SMALLEST, tiny_config

ARGUMENT = SMALLEST  # these tests compile it once for each number of devices

# Trains as train.py does, and notes in a file what this process reads of the training videos.
_NOTING = """
import sys
from v2v_jax.cli import commands
from v2v_jax.datasets.scenes import Scenes

read, notes = Scenes.read, open(sys.argv.pop(1), "a", buffering=1)

def noting(self, video, start, stop, fields=("video",)):
    if self.split == "train":
        notes.write(f"{video} {start} {stop}\\n")
    return read(self, video, start, stop, fields)

Scenes.read = noting
if __name__ == "__main__":
    commands.run("train", "python train.py")
"""


def small_config(**overrides: Any) -> ConfigDict:
    """What `start` runs with `tiny_arguments(**overrides)`."""
    return tiny_config("seg", ARGUMENT, **overrides)


def start(
    workdir: pathlib.Path,
    *arguments: str,
    program: str = "train.py",
    devices: int = 1,
    notes: pathlib.Path | None = None,
) -> subprocess.Popen:
    """Starts a program on `small_config` with `devices` CPU devices; its output is piped."""
    command = [program] if notes is None else ["-c", _NOTING, str(notes)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *command, f"--config=configs/seg.py:{ARGUMENT}", f"--workdir={workdir}",
         *arguments],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def start_two(
    workdir: pathlib.Path, *arguments: str, notes: pathlib.Path | None = None, **kwargs
) -> list[subprocess.Popen]:
    """Starts two processes of four devices each, connected by --coordinator."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        start(
            workdir, f"--coordinator=localhost:{port}", "--num_processes=2",
            f"--process_id={index}", *arguments, devices=4,
            notes=None if notes is None else notes / str(index), **kwargs,
        )
        for index in range(2)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen], seconds: float = 900) -> list[tuple[int, str, str]]:
    """(exit status, standard output, standard error) of each; kills those that take longer."""
    deadline, results = time.monotonic() + seconds, []
    try:
        for process in processes:
            out, err = process.communicate(timeout=max(deadline - time.monotonic(), 1))
            results.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return results


def wait_for_step(workdir: pathlib.Path, step: int, processes, seconds: float = 900) -> None:
    """Waits until metrics.jsonl has a line of that step."""
    deadline, path = time.monotonic() + seconds, workdir / "metrics.jsonl"
    while not (path.exists() and f'{{"step": {step},' in path.read_text()):
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the step did not come"
        time.sleep(0.02)
