"""Runs work over many videos, each done exactly once: here, or on many machines through Ray Data.

A `Job` names a source and an output. Its work is written under a hidden temporary name and renamed
when it is complete, so an output that is there is a whole one: a run that was killed is started
again and goes on with what is missing. A job that fails is listed at the end; the others go on.

    report = run_jobs(jobs, make_work, backend=Backend(threads=4))
    report.print()
    sys.exit(report.status)

With `Backend(processes=4)` several processes of this machine share the jobs and its accelerator.
With `Backend(ray="local")`, or the address of a cluster, Ray Data deals the jobs out to worker
processes. All machines must see sources and outputs under the same paths.

Worker processes keep compiled programs if this process does.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.util
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence

from absl import logging

from v2v_jax.errors import ConfigError, DataError, UserError
from v2v_jax.system import causes
from v2v_jax.system.console import JobsBar, console
from v2v_jax.system.locks import InUseError, locked
from v2v_jax.system.whole_files import discard, is_temporary, leftovers, sync, temporary_path
from v2v_jax.system.worker_processes import ATTEMPTS, WorkerProcesses, folder_of_programs

_SHOWN = 20  # failures printed
_LOCK = ".lock"

Tick = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """One video to be done.

    Attributes:
      name: for messages.
      source: the video.
      output: the file or folder that `Work` makes; its folder is created where missing.
    """

    name: str
    source: str
    output: str


# (job, path to write the output to, tick): called by several threads at once if the backend has
# several. `tick(n)` says that n more frames are done.
Work = Callable[[Job, str, Tick], None]
# Builds the work once for every worker process: the place to load weights and compile.
MakeWork = Callable[[], Work]
Done = Callable[[Job], bool]


@dataclasses.dataclass(frozen=True)
class Backend:
    """Where jobs run.

    Attributes:
      threads: jobs at a time in each process, without Ray: one decodes while another computes.
      ray: "" for this process; "local" starts Ray on this machine; else a cluster's address, such
        as "auto" on one of its machines.
      workers: Ray's worker processes.
      gpus: of each worker; a fraction lets several share one.
      processes: without Ray; 1: this one. More share the accelerator and its memory.
    """

    threads: int = 1
    ray: str = ""
    workers: int = 2
    gpus: float = 0.0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1 or self.workers < 1 or not self.gpus >= 0:
            raise ConfigError(
                f"threads is {self.threads}, workers {self.workers} and gpus_per_worker "
                f"{self.gpus}; expected at least 1, 1 and 0."
            )
        if self.processes < 1:
            raise ConfigError(f"processes is {self.processes}; expected at least 1.")
        if self.ray and self.processes > 1:
            raise ConfigError(
                "--processes is for this machine without Ray; with --ray give --workers."
            )


def add_arguments(parser: argparse.ArgumentParser, threads: int = 1) -> None:
    """Adds --threads, --processes, --ray, --workers and --gpus_per_worker to the options."""
    group = parser.add_argument_group("where to run")
    group.add_argument(
        "--threads",
        type=int,
        default=threads,
        help="videos at a time, of each process (default: %(default)s)",
    )
    group.add_argument(
        "--processes",
        type=int,
        default=1,
        help="on this machine, which share its accelerator (default: %(default)s)",
    )
    group.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="run on a Ray cluster: its address, auto, or local for a new one on this machine",
    )
    group.add_argument("--workers", type=int, default=2, help="Ray's worker processes")
    group.add_argument(
        "--gpus_per_worker", type=float, default=0.0, help="may be a fraction; default: none"
    )


def backend_from(arguments: argparse.Namespace) -> Backend:
    """The backend that `add_arguments`' options describe; ConfigError if they make no sense."""
    return Backend(
        arguments.threads,
        arguments.ray,
        arguments.workers,
        gpus=arguments.gpus_per_worker,
        processes=arguments.processes,
    )


@dataclasses.dataclass
class Report:
    """How a run went.

    Attributes:
      done: names of the jobs done in this run.
      skipped: names of those whose output was there.
      failed: (name, one sentence) of those that failed.
      frames: counted by `tick`, of this run.
      seconds: from the first job's start to the last one's end.
    """

    done: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    frames: int = 0
    seconds: float = 0.0

    @property
    def status(self) -> int:
        """Exit status: 1 if a job failed, else 0."""
        return int(bool(self.failed))

    def print(self) -> None:
        """Prints what was done, and every failure in a line of its own."""
        speed = self.frames / max(self.seconds, 1e-9)
        console.print(
            f"{len(self.done)} done ({self.frames} frames in {self.seconds:.1f} s, {speed:.1f} "
            f"frames/s), {len(self.skipped)} were there, {len(self.failed)} failed"
        )
        for name, reason in self.failed[:_SHOWN]:
            console.print(f"failed: {name}: {reason}")
        if len(self.failed) > _SHOWN:
            console.print(f"failed: … {len(self.failed) - _SHOWN} more")


def output_is_there(job: Job) -> bool:
    """Whether the job's output exists, which it does only when it is complete."""
    return os.path.exists(job.output)


def run_jobs(
    jobs: Sequence[Job],
    make_work: MakeWork | WorkerProcesses,
    *,
    backend: Backend | None = None,
    done: Done = output_is_there,
    lock: str | os.PathLike[str] | None = None,
    publish: Callable[[str, str], None] = os.replace,
    description: str = "videos",
) -> Report:
    """Does all jobs that are not done yet.

    Args:
      jobs: with different outputs.
      make_work: builds the work, once a worker process, for which it is pickled. Or processes that
        have built it and go on after this run; `backend` does not matter then.
      done: tells whether a job's output is there; asked before and, by the worker, at its start.
      lock: a folder of outputs that belongs to this run alone: a second run on it is an error, and
        what killed runs left there is removed.
      publish: gives what a job has written (first argument) its name (second). By default a file
        is replaced, and a folder that holds something never is. Pickled, as `done` is.
      description: for the progress bar.

    Returns:
      What was done. Any exception of `make_work`, and KeyboardInterrupt, pass.

    Raises:
      ConfigError: two jobs have the same output, or Ray is asked for and not installed.
      DataError: another run is writing to `lock`.
      UserError: a process died while it built its work.
    """
    backend = backend or Backend()
    outputs = [os.path.abspath(job.output) for job in jobs]
    if len(set(outputs)) < len(outputs):
        twice = next(path for path in outputs if outputs.count(path) > 1)
        raise ConfigError(f"Two videos have the same output {twice}; give them different names.")
    report = Report()
    with contextlib.ExitStack() as held, JobsBar(description, len(jobs)) as bar:
        alone = _lock(lock, held)
        folders = {os.path.dirname(path) for path in outputs} if alone else set()
        _remove_temporaries(folders)
        waiting = []
        for job in jobs:
            (report.skipped if done(job) else waiting).append(job)
        report.skipped = [job.name for job in report.skipped]
        bar.start(len(report.skipped))
        start = time.perf_counter()
        do = functools.partial(_do, done=done, clean=alone, publish=publish)
        held.callback(_remove_temporaries, folders)  # of workers that died
        for job, error in _results(waiting, make_work, do, backend, bar, held):
            if error is None:
                report.done.append(job.name)
            else:
                report.failed.append((job.name, error))
            bar.finish_one(bool(error))
        report.seconds = time.perf_counter() - start
        report.frames = bar.frames
    return report


# ------------------------------------------------------------------------------------------------
# One job


def _do(
    job: Job,
    work: Work,
    tick: Tick,
    *,
    done: Done,
    clean: bool,
    publish: Callable[[str, str], None],
) -> str | None:
    """Does one job unless it is done; returns what went wrong, in one sentence.

    Args:
      clean: remove what earlier attempts at this job left; no other run is at work on it.
    """
    if done(job):  # its worker was killed after it had finished, before it could say so
        return None
    temporary = os.fspath(temporary_path(job.output))
    try:
        os.makedirs(os.path.dirname(job.output) or ".", exist_ok=True)
        for left in leftovers(job.output) if clean else ():
            discard(left)
        work(job, temporary, tick)
        if not os.path.exists(temporary):
            raise RuntimeError(f"the work wrote nothing to {temporary}")
        sync(temporary)
        publish(temporary, job.output)
    except UserError as error:
        return str(error)
    except OSError as error:
        where = os.fsdecode(error.filename2 or error.filename or job.output)
        if is_temporary(os.path.basename(where)):
            where = job.output
        remedy = causes.for_reading(error) if where == job.source else causes.for_writing(error)
        return f"{where} cannot be used ({causes.reason(error)}); {remedy or 'check it'}."
    except Exception as error:  # a bug must not cost the other videos
        logging.error("%s failed:\n%s", job.name, traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    finally:
        discard(temporary)
    return None


def _remove_temporaries(folders: Iterable[str]) -> None:
    """Removes what was left half written in these folders, in which nobody is at work."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for name in filter(is_temporary, os.listdir(folder)):
                discard(os.path.join(folder, name))


def _lock(folder: str | os.PathLike[str] | None, held: contextlib.ExitStack) -> bool:
    """Keeps other runs off a folder until `held` ends; whether that worked: see `locked`."""
    if folder is None:
        return False
    try:
        os.makedirs(folder, exist_ok=True)
        return held.enter_context(locked(os.path.join(folder, _LOCK)))
    except InUseError as error:
        raise DataError(
            f"Another run is writing to {os.fspath(folder)}; wait for it, or choose another output."
        ) from error
    except OSError as error:
        raise DataError(
            f"Output folder {os.fspath(folder)} cannot be used ({causes.reason(error)}); "
            f"{causes.for_writing(error)}."
        ) from error


# ------------------------------------------------------------------------------------------------
# Backends: each yields (job, error or None) as the jobs end

_Do = Callable[[Job, Work, Tick], "str | None"]
_Results = Iterator[tuple[Job, "str | None"]]


def _results(
    jobs: Sequence[Job],
    make_work: MakeWork | WorkerProcesses,
    do: _Do,
    backend: Backend,
    bar: JobsBar,
    held: contextlib.ExitStack,
) -> _Results:
    """By the backend that is asked for; `held` ends processes that it starts."""
    if not jobs:
        return iter(())
    if isinstance(make_work, WorkerProcesses):
        return _run_processes(jobs, make_work, do, bar)
    if backend.ray:
        return _run_ray(jobs, make_work, do, backend, bar)
    if backend.processes == 1:
        return _run_threads(jobs, make_work, do, backend, bar)
    count = min(backend.processes, len(jobs))
    workers = held.enter_context(WorkerProcesses(make_work, count, backend.threads))
    return _run_processes(jobs, workers, do, bar)


def _run_processes(
    jobs: Sequence[Job], workers: WorkerProcesses, do: _Do, bar: JobsBar
) -> _Results:
    for number, error in workers.run(jobs, do, bar.tick):
        yield jobs[number], error


def _run_threads(
    jobs: Sequence[Job], make_work: MakeWork, do: _Do, backend: Backend, bar: JobsBar
) -> _Results:
    work = make_work()
    if backend.threads == 1:  # in the main thread: Ctrl-C ends it at once
        for job in jobs:
            yield job, do(job, work, bar.tick)
        return
    with concurrent.futures.ThreadPoolExecutor(backend.threads, "video") as pool:
        futures = {pool.submit(do, job, work, bar.tick): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            bar.interrupted = True
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _RayWorker:
    """An actor of Ray Data: does the jobs that it is given, one at a time."""

    def __init__(self, make_work: MakeWork, do: _Do, keeps_programs: bool) -> None:
        if keeps_programs:
            # Where this machine keeps them, which need not be where the one that deals out does.
            from v2v_jax.system import compilation_cache

            compilation_cache.enable()
        self._work = make_work()
        self._do = do

    def __call__(self, row: dict) -> dict:
        counted: list[int] = []
        job = Job(row["name"], row["source"], row["output"])
        error = self._do(job, self._work, counted.append)
        return {"index": row["index"], "frames": sum(counted), "error": error or ""}


def _run_ray(
    jobs: Sequence[Job], make_work: MakeWork, do: _Do, backend: Backend, bar: JobsBar
) -> _Results:
    rows = [{"index": i, **dataclasses.asdict(job)} for i, job in enumerate(jobs)]
    workers = min(backend.workers, len(rows))
    ended = set()
    with _ray(backend) as ray:
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _RayWorker,
            fn_constructor_args=(make_work, do, folder_of_programs() is not None),
            # A job at a time on a worker: those that wait die with it, and would count as begun.
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=workers,
                initial_size=workers,
                max_tasks_in_flight_per_actor=1,
            ),
            num_gpus=backend.gpus or None,
            max_restarts=-1,
            max_task_retries=ATTEMPTS - 1,
        )
        for row in results.iter_rows():
            bar.tick(row["frames"])
            ended.add(row["index"])
            yield jobs[row["index"]], row["error"] or None
    for index in sorted(set(range(len(jobs))) - ended):
        yield jobs[index], f"its worker died, {ATTEMPTS} times; see Ray's log"


@contextlib.contextmanager
def _ray(backend: Backend) -> Iterator:
    """Ray, connected: without dashboard, usage reports, and progress bars of its own."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed; pip install 'v2v_jax[ray]', or leave --ray out.")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    import ray.data

    mine = not ray.is_initialized()
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own there, and leaves it
    if mine:
        local = backend.ray == "local"
        options = dict(include_dashboard=False, num_cpus=backend.workers) if local else {}
        try:
            ray.init(backend.ray, log_to_driver=False, logging_level="warning", **options)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"Ray at {backend.ray!r} cannot be reached ({error}).") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # a job whose workers die must not end the others
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
