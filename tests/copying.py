"""Jobs that copy small files and write down when: for the tests of what runs jobs."""

from __future__ import annotations

import collections
import os
import pathlib
import signal
import time

from v2v_jax.system.jobs import Job

ROOT = pathlib.Path(__file__).resolve().parents[1]


def make_jobs(folder, count=6, extension=".out"):
    (folder / "in").mkdir()
    jobs = []
    for i in range(count):
        source = folder / "in" / f"v{i}"
        source.write_text(str(i))
        jobs.append(Job(f"v{i}", str(source), str(folder / f"out/v{i}{extension}")))
    return jobs


def make_copying(log, kill="", seconds=0.0, ticks=1):
    """Work that copies its source and writes down when; the first time at `kill` it dies.

    It sleeps `seconds` before each of `ticks`, the last of which says that 10 frames are done.
    """

    def note(text):
        with open(log, "a") as file:
            file.write(f"{text}\n")

    def work(job, output, tick):
        note(f"begin {job.name}")
        pathlib.Path(output).write_text("half")
        if job.name == kill and not os.path.exists(f"{log}.killed"):
            pathlib.Path(f"{log}.killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(ticks - 1):
            time.sleep(seconds)
            tick(0)
        time.sleep(seconds)
        pathlib.Path(output).write_text(pathlib.Path(job.source).read_text())
        tick(10)
        note(f"end {job.name}")

    return work


def counts(log, word):
    lines = [line.split() for line in pathlib.Path(log).read_text().splitlines()]
    return collections.Counter(name for kind, name in lines if kind == word)


def check_outputs(jobs, missing=()):
    """Every output is whole, and nothing else is in the folder."""
    folder = pathlib.Path(jobs[0].output).parent
    wanted = {pathlib.Path(j.output).name: j.name[1:] for j in jobs if j.name not in missing}
    assert {path.name: path.read_text() for path in folder.iterdir()} == wanted
