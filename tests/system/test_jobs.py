"""Work over many videos: each done exactly once, whatever is killed."""

import collections
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import jax
import pytest

from tests.copying import ROOT, check_outputs, counts, make_copying, make_jobs
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.system import jobs as jobs_module
from v2v_jax.system.jobs import Backend, Job, run_jobs
from v2v_jax.system.whole_files import is_temporary


@pytest.mark.parametrize("threads", [1, 3])
def test_every_job_is_done_once_and_then_skipped(tmp_path, threads):
    jobs = make_jobs(tmp_path)
    run = functools.partial(
        run_jobs, make_work=lambda: make_copying(tmp_path / "log"), backend=Backend(threads=threads)
    )
    report = run(jobs[:4])
    assert sorted(report.done) == ["v0", "v1", "v2", "v3"] and report.status == 0
    assert report.frames == 40
    report = run(jobs)
    assert sorted(report.done) == ["v4", "v5"]
    assert report.skipped == ["v0", "v1", "v2", "v3"] and report.frames == 20
    assert set(counts(tmp_path / "log", "begin").values()) == {1}
    check_outputs(jobs)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_costs_only_its_own_video(tmp_path, threads, capsys):
    jobs = make_jobs(tmp_path)

    def work(job, output, tick):
        pathlib.Path(output).write_text(job.name[1:])
        if job.name == "v1":
            raise DataError("v1 is damaged.")
        if job.name == "v3":
            raise ZeroDivisionError("a bug")
        if job.name == "v4":
            os.unlink(output)

    report = run_jobs(jobs, lambda: work, backend=Backend(threads=threads))
    assert report.status == 1
    failed = dict(report.failed)
    assert failed["v1"] == "v1 is damaged." and failed["v3"] == "ZeroDivisionError: a bug"
    assert "wrote nothing" in failed["v4"]
    check_outputs(jobs, missing=failed)
    report.print()
    printed = capsys.readouterr().out
    assert "3 done" in printed and "3 failed" in printed and "failed: v1: v1 is damaged." in printed


def test_folders_as_outputs(tmp_path):
    jobs = make_jobs(tmp_path, 2, extension="")

    def work(job, output, tick):
        os.makedirs(os.path.join(output, "deep"))
        pathlib.Path(output, "deep", "a").write_text(job.name)

    assert run_jobs(jobs, lambda: work).status == 0
    assert (tmp_path / "out" / "v1" / "deep" / "a").read_text() == "v1"
    # A folder that holds something is never replaced.
    report = run_jobs(jobs, lambda: work, done=lambda job: False)
    assert [name for name, _ in report.failed] == ["v0", "v1"]
    published = []

    def publish(new, path):
        published.append(path)
        shutil.rmtree(path)
        os.replace(new, path)

    assert run_jobs(jobs, lambda: work, done=lambda job: False, publish=publish).status == 0
    assert published == [job.output for job in jobs]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["v0", "v1"]


def test_outputs_that_collide_are_refused(tmp_path):
    jobs = make_jobs(tmp_path, 2)
    with pytest.raises(ConfigError, match="Two videos have the same output .*v1.out"):
        run_jobs([*jobs, Job("again", "x", jobs[1].output)], lambda: None)
    with pytest.raises(ConfigError, match="threads is 0"):
        Backend(threads=0)


def test_a_second_run_on_the_same_folder_is_refused(tmp_path):
    jobs = make_jobs(tmp_path, 2)
    inside, leave = threading.Event(), threading.Event()

    def work(job, output, tick):
        inside.set()
        assert leave.wait(60)
        pathlib.Path(output).write_text(job.name[1:])

    first = threading.Thread(target=run_jobs, args=(jobs, lambda: work), kwargs={"lock": tmp_path})
    first.start()
    try:
        assert inside.wait(60)
        with pytest.raises(DataError, match="Another run is writing to"):
            run_jobs(jobs, lambda: work, lock=tmp_path)
    finally:
        leave.set()
        first.join()
    check_outputs(jobs)


def test_an_output_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be used"):
        run_jobs([], lambda: None, lock=tmp_path / "file" / "out")
    report = run_jobs([Job("a", "a", str(tmp_path / "file" / "a"))], lambda: None)
    assert len(report.failed) == 1 and "file" in report.failed[0][1]


KILLED = """
    import functools, sys
    from tests.copying import make_copying
    from v2v_jax.system.jobs import Backend, Job, run_jobs
    folder, threads = sys.argv[1], int(sys.argv[2])
    jobs = [Job(f"v{i}", f"{folder}/in/v{i}", f"{folder}/out/v{i}.out") for i in range(6)]
    work = make_copying(folder + "/log", kill="v3", seconds=0.05)
    sys.exit(run_jobs(jobs, lambda: work, backend=Backend(threads), lock=folder + "/out").status)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_killed_run_is_taken_up_again(tmp_path, threads):
    jobs = make_jobs(tmp_path)
    run = lambda: (
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), threads], cwd=ROOT
        ).returncode
    )
    assert run() == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "out").iterdir() if is_temporary(path.name)]
    assert left, "the killed run left no half output: the test would prove nothing"
    done = counts(tmp_path / "log", "end")
    assert run() == 0
    check_outputs(jobs)
    begun = counts(tmp_path / "log", "begin")
    published = {name for name, count in begun.items() if count == 1}
    assert set(begun) == {job.name for job in jobs} and max(begun.values()) <= 2
    # What had ended before the kill was not begun again, but for at most the last one a thread.
    assert len(set(done) - published) <= int(threads)
    assert counts(tmp_path / "log", "end").keys() == begun.keys()


# ------------------------------------------------------------------------------------------------
# Ray


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one processor each, without dashboard or usage reports."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Its workers import this module and the package by their names.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'v2v_jax[ray]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    cluster.shutdown()


def run_on(cluster, jobs, log, **work):
    backend = Backend(ray=cluster.address, workers=2)
    make_work = functools.partial(make_copying, str(log), **work)
    return run_jobs(jobs, make_work, backend=backend, lock=pathlib.Path(jobs[0].output).parent)


@pytest.mark.slow
def test_ray_with_a_worker_killed(tmp_path, cluster):
    jobs = make_jobs(tmp_path, 8)
    before = signal.getsignal(signal.SIGTERM)
    report = run_on(cluster[0], jobs, tmp_path / "log", kill="v3", seconds=0.2)
    assert signal.getsignal(signal.SIGTERM) is before
    assert sorted(report.done) == [job.name for job in jobs] and report.status == 0
    assert report.frames == 80
    check_outputs(jobs)
    begun = counts(tmp_path / "log", "begin")
    assert begun == collections.Counter({job.name: 1 + (job.name == "v3") for job in jobs})
    assert set(counts(tmp_path / "log", "end").values()) == {1}


def make_telling():
    """Work that writes down where its process keeps compiled programs."""
    return lambda job, output, tick: pathlib.Path(output).write_text(
        str(jax.config.jax_compilation_cache_dir)
    )


@pytest.fixture(params=[True, False], ids=["kept", "not_kept"])
def programs_are_kept(request, tmp_path, monkeypatch):
    """Whether this process keeps compiled programs, and what workers say by default."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path) if request.param else None)
    yield request.param
    jax.config.update("jax_compilation_cache_dir", before)


def check_told(job, tmp_path, kept):
    """In the folder of the worker's own machine, or nowhere."""
    told = pathlib.Path(job.output).read_text()
    assert told.startswith(f"{tmp_path}/cache/v2v_jax/compiled/") if kept else told == "None"


def test_a_worker_of_ray_keeps_programs_if_it_shall(tmp_path, programs_are_kept):
    """Without Ray: what it would start on each machine."""
    (job,) = make_jobs(tmp_path, 1)
    jax.config.update("jax_compilation_cache_dir", None)  # as in a new process
    done, publish = jobs_module.output_is_there, os.replace
    do = functools.partial(jobs_module._do, done=done, clean=False, publish=publish)
    worker = jobs_module._RayWorker(make_telling, do, programs_are_kept)
    assert worker({"index": 0, "name": job.name, "source": job.source, "output": job.output}) == {
        "index": 0,
        "frames": 0,
        "error": "",
    }
    check_told(job, tmp_path, programs_are_kept)


@pytest.mark.slow
def test_workers_of_ray_keep_programs_if_this_process_does(tmp_path, programs_are_kept, cluster):
    jobs = make_jobs(tmp_path, 2)
    run_jobs(jobs, make_telling, backend=Backend(ray=cluster[0].address, workers=2))
    for job in jobs:
        check_told(job, tmp_path, programs_are_kept)
