"""The paper's Table 2: how fast are V2V-Flow and Brox's method, reading and writing included?

    python -m experiments.table2 --workdir=runs/flow --videos=data/ucf101/UCF-101 \\
        --output=runs/table2

Both decode every video of a folder, find the flow at the video's own size and write it as flow
labels (docs/guides/teacher_labels.md) on the machine at hand; every pass starts with an empty
folder. A pass over the first video of every size of frame goes before and is not counted: it
compiles. For V2V several processes share the device, each with threads that do all of a video's
way: by default one process for two processors. Prints the table, writes OUTPUT/table2.json and
OUTPUT/table2.md, and removes the flow again unless --keep.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import v2v_jax
from v2v_jax.errors import DataError, UserError
from v2v_jax.inference.predictor import Predictor
from v2v_jax.labelling.label_maker import LabelSet, LabelWork
from v2v_jax.media.folders import find_videos
from v2v_jax.media.label_codes import STEPS, encode_flow
from v2v_jax.media.label_files import LabelInfo, LabelWriter, files_sha256
from v2v_jax.media.video import VideoFile
from v2v_jax.system import compilation_cache
from v2v_jax.system.jobs import Backend, Job, Report, Tick, Work, run_jobs
from v2v_jax.system.whole_files import write_text
from v2v_jax.system.worker_processes import WorkerProcesses
from v2v_jax.tasks import Task

# Frames/s on UCF101's test split 1, one Tesla K40, reading and writing included.
PAPER = {"Brox": 1.3, "V2V": 91.6}
# Of each process: while one's video is compressed, another's is decoded.
THREADS = 2
TOO_LARGE = 32767  # stands for all vectors of 511.98 px and more


class NetworkWork:
    """`video_jobs.Work` that writes the flow that a network predicts; for several threads.

    A thread decodes and scales its video, the frames go to the device as the network sees them, and
    come back as the integers that are stored. Of several processes that share a device, each makes
    one of these.

    Attributes:
      predictor: of the network.
    """

    def __init__(self, make_predictor: Callable[[], Predictor]) -> None:
        """DataError where the network is not for flow."""
        self.predictor = make_predictor()
        if self.predictor.task != "flow":
            raise DataError(f"The network is for {self.predictor.task}, not for flow.")
        self._finish = functools.partial(flow_codes, self.predictor.network.task)

    def __call__(self, job: Job, output: str, tick: Tick) -> None:
        """Writes the flow of all frames but the last, which leads nowhere."""
        video = VideoFile(job.source)
        left = video.num_frames - 1
        writer = LabelWriter(output, info(job.source, video.num_frames, video.size))
        for codes in self.codes(self.frames(video), video.size):
            tick(len(codes))
            codes = codes[:left]
            if codes.size and max(codes.max(), -int(codes.min())) >= TOO_LARGE:
                raise DataError(f"The network's flow of {job.source} is over 511 px.")
            writer.append(codes)
            left -= len(codes)
        writer.finish()

    def frames(self, video: VideoFile) -> Iterator[np.ndarray]:
        """(h,w,3) uint8 RGB of all frames, scaled for the network; decodes as they are drawn."""
        return video.stream(self.predictor.scaled_size(video.size))

    def codes(self, frames: Iterator[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
        """(n,H,W,2) int16 of frames that are scaled for the network, of a video of (H,W) = size."""
        return self.predictor.scaled_chunks(frames, size, self._finish)


def flow_codes(task: Task, values: jax.Array, video: None, scale: jax.Array) -> jax.Array:
    """A `Finish`: (T,H,W,2) int16 as labels are stored; ±`TOO_LARGE` for what does not fit."""
    flow = task.finish(values, video, scale)
    limit = TOO_LARGE * STEPS[0]
    return encode_flow(jnp.clip(flow, -limit, limit), STEPS[0], jnp)[0]


def info(path: str, num_frames: int, size: tuple[int, int]) -> LabelInfo:
    """What the labels of a video of (H,W) = size say of themselves."""
    return LabelInfo(
        teacher="network",
        parameters={},
        video_bytes=os.path.getsize(path),
        video_sha256=files_sha256([path]),
        num_frames=num_frames,
        video_size=size,
        size=size,
    )


def brox_work(batch_size: int) -> Work:
    """Brox's method with the parameters of the paper's labels."""
    return LabelWork(LabelSet("", (), "", "brox", batch_size=batch_size))


class Method(NamedTuple):
    """How one method's row is made.

    Attributes:
      make_work: builds its work, once a process.
      threads: videos at a time, of each process.
      paper: which of the paper's rows it is.
      processes: how many share the device; 1: this one.
    """

    make_work: Callable[[], Work]
    threads: int
    paper: str
    processes: int = 1


def methods(args: argparse.Namespace) -> dict[str, Method]:
    """name → how its row is made."""
    load = functools.partial(v2v_jax.load, args.workdir)
    whole = functools.partial(load, full_frame=True, overlap=0.0)
    load, whole = (functools.partial(NetworkWork, make) for make in (load, whole))
    threads = max(1, args.threads // args.processes)
    return {
        # The device limits it; what more videos would add is memory.
        "Brox": Method(functools.partial(brox_work, args.batch_size), min(4, args.threads), "Brox"),
        "V2V, whole frames": Method(whole, threads, "V2V", args.processes),
        "V2V, windows that overlap": Method(load, threads, "V2V", args.processes),
    }


def default_processes(threads: int) -> int:
    """How many processes share so many threads: each gets two, or one process all of fewer."""
    return max(1, threads // THREADS)


def measure(method: Method, labels: LabelSet, first: list[str], repeats: int) -> list[Report]:
    """A report a pass, after one over the videos `first`, which compiles.

    With several processes another pass goes before, in which each of them finds what is compiled.

    Raises:
      DataError: a video failed.
    """
    names = list(labels.names)
    before = [first]
    if method.processes > 1:
        before.append(names[: 2 * method.processes * method.threads])
    with _started(method) as work:
        reports = [
            run_pass(work, dataclasses.replace(labels, names=some), method.threads)
            for some in [*before, *[names] * repeats]
        ]
    return reports[len(before) :]


@contextlib.contextmanager
def _started(method: Method) -> Iterator[Work | WorkerProcesses]:
    """The work of this process, or processes that have built theirs."""
    if method.processes > 1:
        with WorkerProcesses(method.make_work, method.processes, method.threads) as workers:
            workers.wait()
            yield workers
        return
    yield method.make_work()


def run_pass(work: Work | WorkerProcesses, labels: LabelSet, threads: int) -> Report:
    """Makes all labels anew, by `threads` of this process or by others; DataError if one failed."""
    shutil.rmtree(labels.output, ignore_errors=True)
    report = run_jobs(
        labels.jobs(),
        work if isinstance(work, WorkerProcesses) else lambda: work,
        backend=Backend(threads=threads),
        lock=labels.output,
    )
    if report.status:
        raise DataError(f"Video {report.failed[0][0]} failed: {report.failed[0][1]}")
    return report


def first_of_every_size(folder: str, names: list[str]) -> list[str]:
    """The first video of every size of frame."""
    first: dict[tuple[int, ...], str] = {}
    for name in names:
        size = next(VideoFile(os.path.join(folder, name)).stream()).shape
        first.setdefault(size, name)
    return list(first.values())


def table(rows: dict[str, dict], args: argparse.Namespace, about: dict) -> str:
    """Markdown: ours beside the paper's."""
    brox = rows["Brox"]["fps"]
    lines = [
        f"Frames per second with reading and writing, {about['videos']} videos of "
        f"{os.path.basename(os.path.normpath(args.videos))}, {about['device']}, "
        f"{about['cpus']} processors, {about['date']}; the better of {args.repeats} passes:",
        "",
        "| method | processes | threads of each | fps | × Brox | paper, Tesla K40 | × Brox |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        paper = PAPER[row["paper"]]
        lines.append(
            f"| {name} | {row['processes']} | {row['threads']} | {row['fps']:.1f} | "
            f"{row['fps'] / brox:.1f} | {paper} | {paper / PAPER['Brox']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Returns 1 after an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="of a run of configs/flow.py")
    parser.add_argument("--videos", required=True, help="a folder of videos, with its subfolders")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--batch_size", type=int, default=32, help="Brox's frame pairs at a time")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        help="videos at a time, of all processes together (default: one a processor)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="that share the device, for V2V (default: so many that each has two threads)",
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None, help="only so many videos")
    parser.add_argument("--keep", action="store_true", help="keep the flow that is written")
    args = parser.parse_args(argv)
    compilation_cache.enable()
    if args.processes is None:
        args.processes = default_processes(args.threads)
    if args.processes > 1:  # this one must leave them room on the device
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        return _run(args)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    Backend(threads=args.threads, processes=args.processes)  # refuses what makes no sense
    names = find_videos(args.videos)[: args.limit]
    if not names:
        raise DataError(f"Video folder {args.videos} holds no videos.")
    args.processes = min(args.processes, len(names))
    first = first_of_every_size(args.videos, names)
    about = {
        "command": "python -m experiments.table2",
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "jax": jax.__version__,
        "videos": len(names),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, method in methods(args).items():
        folder = args.output / name.split(",")[-1].strip().replace(" ", "_")
        labels = LabelSet(args.videos, names, str(folder))
        reports = measure(method, labels, first, args.repeats)
        speeds = [report.frames / report.seconds for report in reports]
        rows[name] = {
            "paper": method.paper,
            "processes": method.processes,
            "threads": method.threads,
            "fps": max(speeds),
            "all_fps": speeds,
            "frames": reports[0].frames,
        }
        print(f"{name}: {', '.join(f'{speed:.1f}' for speed in speeds)} frames/s", flush=True)
        if not args.keep:
            shutil.rmtree(folder)
    text = table(rows, args, about)
    print(text)
    write_text(args.output / "table2.json", json.dumps({**about, "rows": rows}, indent=1) + "\n")
    write_text(args.output / "table2.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
