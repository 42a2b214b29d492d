"""Jobs over several processes of this machine: each once, whoever dies, whatever fails."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import pytest
from absl import logging

from tests.copying import ROOT, check_outputs, counts, make_copying, make_jobs
from v2v_jax.errors import ConfigError, DataError, TooManyCorruptError, UserError
from v2v_jax.system.jobs import Backend, run_jobs
from v2v_jax.system.whole_files import is_temporary
from v2v_jax.system.worker_processes import ATTEMPTS, WorkerProcesses, environment_of_workers

TWO = Backend(processes=2)


def copying(tmp_path, **how):
    return functools.partial(make_copying, str(tmp_path / "log"), **how)


def test_every_job_is_done_once_and_then_skipped(tmp_path):
    jobs = make_jobs(tmp_path, 8)
    backend = Backend(processes=2, threads=2)
    report = run_jobs(jobs[:5], copying(tmp_path, seconds=0.05), backend=backend)
    assert sorted(report.done) == ["v0", "v1", "v2", "v3", "v4"] and report.status == 0
    assert report.frames == 50
    report = run_jobs(jobs, copying(tmp_path), backend=backend)
    assert sorted(report.done) == ["v5", "v6", "v7"] and report.frames == 30
    assert report.skipped == ["v0", "v1", "v2", "v3", "v4"]
    assert set(counts(tmp_path / "log", "begin").values()) == {1}
    assert set(counts(tmp_path / "log", "end").values()) == {1}
    check_outputs(jobs)


def make_failing():
    def work(job, output, tick):
        pathlib.Path(output).write_text(job.name[1:])
        tick(1)
        if job.name == "v1":
            raise DataError("v1 is damaged.")
        if job.name == "v3":
            raise ZeroDivisionError("a bug")

    return work


def test_a_failure_costs_only_its_own_video(tmp_path):
    jobs = make_jobs(tmp_path)
    report = run_jobs(jobs, make_failing, backend=TWO)
    failed = dict(report.failed)
    assert failed == {"v1": "v1 is damaged.", "v3": "ZeroDivisionError: a bug"}
    assert report.status == 1 and sorted(report.done) == ["v0", "v2", "v4", "v5"]
    assert report.frames == 6
    check_outputs(jobs, missing=failed)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_that_dies_is_replaced(tmp_path, threads):
    """What it was at is begun again, and its ticks count once."""
    jobs = make_jobs(tmp_path, 8)
    backend = Backend(processes=2, threads=threads)
    work = copying(tmp_path, kill="v3", seconds=0.1)
    report = run_jobs(jobs, work, backend=backend, lock=tmp_path / "out")
    assert sorted(report.done) == [job.name for job in jobs] and report.status == 0
    assert report.frames == 80
    check_outputs(jobs)  # nothing half written is left
    begun = counts(tmp_path / "log", "begin")
    assert begun["v3"] == 2 and begun.keys() == {job.name for job in jobs}
    assert sum(count - 1 for count in begun.values()) <= threads


def make_deadly(log):
    def work(job, output, tick):
        with open(log, "a") as file:
            file.write(f"begin {job.name}\n")
        tick(7)
        if job.name == "v1":
            os._exit(3)
        time.sleep(0.1)
        pathlib.Path(output).write_text(job.name[1:])

    return work


def test_a_job_that_kills_its_workers_is_given_up_and_costs_no_other(tmp_path):
    jobs = make_jobs(tmp_path)
    log = tmp_path / "log"
    report = run_jobs(
        jobs,
        functools.partial(make_deadly, str(log)),
        backend=Backend(processes=2, threads=3),
        lock=tmp_path / "out",
    )
    ((name, sentence),) = report.failed
    assert name == "v1" and "its worker process ended (exit status 3), 3 times" in sentence
    assert "fewer --processes" in sentence
    assert sorted(report.done) == ["v0", "v2", "v3", "v4", "v5"]
    assert report.frames == 5 * 7
    assert counts(log, "begin")["v1"] == ATTEMPTS
    check_outputs(jobs, missing=["v1"])


def make_nothing(kind, *arguments):
    """Raises an error, or kills its process."""
    if kind is os.kill:
        os.kill(os.getpid(), *arguments)
    raise kind(*arguments)


@pytest.mark.parametrize(
    "kind, arguments",
    [(DataError, ["No such weights."]), (TooManyCorruptError, ["Too many.", []])],
)
def test_work_that_cannot_be_built_is_an_error(tmp_path, kind, arguments):
    """Also one that cannot be sent from process to process: its sentence can."""
    with pytest.raises(UserError) as raised:
        make = functools.partial(make_nothing, kind, *arguments)
        run_jobs(make_jobs(tmp_path), make, backend=TWO)
    assert str(raised.value) == arguments[0]


def test_a_bug_in_building_work_is_raised(tmp_path):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        make = functools.partial(make_nothing, ZeroDivisionError, "a bug")
        run_jobs(make_jobs(tmp_path), make, backend=TWO)


def test_a_worker_that_dies_while_it_builds_its_work(tmp_path):
    make = functools.partial(make_nothing, os.kill, signal.SIGKILL)
    with pytest.raises(UserError, match=r"was killed \(SIGKILL\) before it could begin; .*fewer"):
        run_jobs(make_jobs(tmp_path), make, backend=TWO)


def make_noting(folder):
    """Work whose output says which process made it; the building is noted, too."""
    pathlib.Path(folder, f"built-{os.getpid()}").touch()

    def work(job, output, tick):
        pathlib.Path(output).write_text(f"{os.getpid()} {threading.current_thread().name}")
        tick(1)

    return work


def test_started_processes_serve_several_runs(tmp_path):
    jobs = make_jobs(tmp_path, 8)
    (tmp_path / "built").mkdir()
    make_work = functools.partial(make_noting, str(tmp_path / "built"))
    with WorkerProcesses(make_work, processes=2, threads=2) as workers:
        workers.wait()
        built = {path.name.partition("-")[2] for path in (tmp_path / "built").iterdir()}
        assert len(built) == 2 and str(os.getpid()) not in built
        for some in (jobs[:4], jobs[4:]):
            assert len(run_jobs(some, workers).done) == 4
    assert {pathlib.Path(job.output).read_text().split()[0] for job in jobs} <= built
    assert len(list((tmp_path / "built").iterdir())) == 2


def make_warning():
    def work(job, output, tick):
        logging.warning("%s is grey.", job.name)
        pathlib.Path(output).write_text(job.name[1:])

    return work


def test_warnings_are_shown_by_the_process_that_has_the_terminal(tmp_path, caplog):
    jobs = make_jobs(tmp_path, 3)
    run_jobs(jobs, make_warning, backend=TWO)
    assert sorted(caplog.messages) == ["v0 is grey.", "v1 is grey.", "v2 is grey."]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def make_environment():
    return lambda job, output, tick: pathlib.Path(output).write_text(
        " ".join(f"{name}={os.environ.get(name)}" for name in NAMES)
    )


NAMES = "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"
NAMES += ("JAX_COMPILATION_CACHE_DIR",)


@pytest.mark.parametrize("fraction", [None, "0.2"])
def test_memory_of_the_device_and_the_cache_are_shared(tmp_path, monkeypatch, fraction):
    """Not where the user has said how much memory each process takes."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    if fraction:
        monkeypatch.setenv(NAMES[1], fraction)
    jobs = make_jobs(tmp_path, 2)
    run_jobs(jobs, make_environment, backend=TWO)
    cache = jax.config.jax_compilation_cache_dir
    wanted = f"{NAMES[0]}={None if fraction else 'false'} {NAMES[1]}={fraction} {NAMES[2]}={cache}"
    for job in jobs:
        assert pathlib.Path(job.output).read_text() == wanted
    assert NAMES[0] not in os.environ and NAMES[2] not in os.environ
    assert environment_of_workers()[NAMES[2]] == cache


def test_one_process_is_this_one(tmp_path):
    jobs = make_jobs(tmp_path, 2)
    run_jobs(jobs, functools.partial(make_noting, str(tmp_path)), backend=Backend(processes=1))
    assert {pathlib.Path(job.output).read_text().split()[0] for job in jobs} == {str(os.getpid())}


def test_mistakes():
    with pytest.raises(ConfigError, match="processes is 0"):
        Backend(processes=0)
    with pytest.raises(ConfigError, match="without Ray; with --ray give --workers"):
        Backend(processes=2, ray="local")


INTERRUPTED = """
    import functools, sys
    from tests.copying import make_copying, make_jobs
    from v2v_jax.system.jobs import Backend, run_jobs
    if __name__ == "__main__":
        import pathlib
        folder = pathlib.Path(sys.argv[1])
        work = functools.partial(make_copying, f"{folder}/log", seconds=0.2, ticks=1000)
        backend = Backend(processes=2, threads=2)
        try:
            run_jobs(make_jobs(folder), work, backend=backend, lock=folder / "out")
        except KeyboardInterrupt:
            sys.exit(130)
"""


def interrupted(tmp_path, send):
    """Starts a run, and lets `send` end it while it is at its jobs."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(INTERRUPTED))
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log, until = tmp_path / "log", time.monotonic() + 120
    while not (log.exists() and len(counts(log, "begin")) >= 3):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    send(process.pid)
    _, errors = process.communicate(timeout=60)
    return process, errors


def test_ctrl_c_ends_all_and_leaves_nothing_half_written(tmp_path):
    process, errors = interrupted(tmp_path, lambda pid: os.killpg(pid, signal.SIGINT))
    assert process.returncode == 130 and errors == ""
    assert not list((tmp_path / "out").iterdir())
    assert all_end(process.pid)


def test_workers_end_with_the_one_that_started_them(tmp_path):
    process, _ = interrupted(tmp_path, lambda pid: os.kill(pid, signal.SIGKILL))
    assert all_end(process.pid)
    assert any(is_temporary(path.name) for path in (tmp_path / "out").iterdir())


def all_end(group):
    """Whether all processes of a group end, within half a minute."""
    until = time.monotonic() + 30
    while at_work(group):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def at_work(group):
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):  # it has just ended
            continue
        if int(number) == group and state != "Z":
            return True
    return False
