"""What one machine serves, from file to file: flow of many videos (Table 2), and MP4s to look at.

    python -m benchmarks.serving                                  (three minutes on a GPU)
    python -m benchmarks.serving --parts flow_processes mp4_processes --processes 1 2 4 8
    python -m benchmarks.serving --width=0.05 --videos=4 --frames=40 --size=48x64 --threads=2

It makes its own videos. Every part is timed alone, with the threads and processes that it has in
the whole, on the same files, after all is compiled; the better of --repeats passes counts. "host"
is the processor time of this process a frame, "others" that of all that it has started; --profile
says where this process's threads stand meanwhile (`benchmarks.host_time`). The part flow has

    decode      threads decode and scale
    network     frames at hand → 16-bit flow at the video's size, in memory
    write       flow in memory → compressed labels on disk
    whole       decode, network and write at once (experiments.table2)
    before      as it was until 2026-11-27: windows are cut, tiles put together and flow is
                quantised on the host
    Brox        the same files by Brox's method, on the same device

and the part mp4 the overlays of a segmentation by presets of the encoder, one video alone and
several at once. flow_processes and mp4_processes have whole processes share the machine, each with
all parts of the way (`benchmarks.serving_work`): --processes=N of them, and --threads, or --at_once
for MP4s, shared out among them. The first number of processes compiles, the others find that in the
cache.

Prints tables in Markdown; the figures are in --output (JSON) as soon as they are known.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import itertools
import json
import math
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import av
import jax
import numpy as np

from benchmarks import serving_work
from benchmarks.host_time import Sampler, processor_time
from benchmarks.predict import draw_and_encode, made_up_frames, made_up_video, random_network
from benchmarks.serving_work import PRESETS, WHOLE, overlay, write
from experiments import table2
from v2v_jax.inference.network import TrainedNetwork, read_network
from v2v_jax.inference.output_files import Output, predict_to_files
from v2v_jax.inference.predictor import Chunk, Predictor
from v2v_jax.labelling.label_maker import LabelSet
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.label_codes import STEPS, encode_flow
from v2v_jax.media.label_files import LabelWriter
from v2v_jax.media.video import VideoFile, VideoStream
from v2v_jax.media.video_writer import Preset
from v2v_jax.system import compilation_cache
from v2v_jax.system.jobs import Backend, Job, Report, Tick, Work, run_jobs
from v2v_jax.system.worker_processes import WorkerProcesses
from v2v_jax.tasks import Flow
from v2v_jax.zoo import resolve

_DIFFERENT = 4  # videos that are made; the others are copies


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--width", type=float, default=1.0, help="of V2V with random weights (default: 1)")
    add("--zoo", help="a trained network for flow beside it, such as flow")
    add("--videos", type=int, default=96)
    add("--frames", type=int, default=180, help="of a video for flow (default: %(default)s)")
    add("--size", default="240x320", help="HxW")
    add("--threads", type=int, default=os.cpu_count() or 1, help="videos at a time, for flow")
    add("--processes", type=int, nargs="+", default=(1, 2, 4, 8), metavar="N", help="side by side")
    add("--at_once", type=int, default=8, help="videos at a time, for MP4s")
    add("--mp4_frames", type=int, default=600)
    add("--repeats", type=int, default=2)
    add("--parts", nargs="+", choices=tuple(_PARTS), default=("flow", "mp4"))
    add("--profile", action="store_true", help="sample where this process's threads stand")
    add("--folder", default=tempfile.gettempdir(), help="for videos and results")
    add("--disk", help="a folder on a disk, where the whole is timed, too")
    add("--output", type=pathlib.Path, default=pathlib.Path("serving.json"))
    options = parser.parse_args(argv)
    compilation_cache.enable()
    if any(part in _PARTS_OF_PROCESSES for part in options.parts):
        # This one must leave them room on the device.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    about = {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "options": {**vars(options), "output": str(options.output)},
    }
    result = {"about": about, **{part: [] for part in _PARTS}, "errors": []}
    print(f"{about['device']} ({about['processor']}), JAX {about['jax']}, {about['date']}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for part in options.parts:
            measure = _PARTS[part](options, folder)
            print(f"\n{measure.title}\n\n{_HEAD}", flush=True)
            for rows in measure.groups():
                try:
                    for row in rows:
                        result[part].append(row)
                        print(_line(row), flush=True)
                        options.output.write_text(json.dumps(result, indent=1) + "\n")
                except Exception:  # the others are worth having
                    traceback.print_exc()
                    result["errors"].append(traceback.format_exc())
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for line in (*_ratios(result["flow"]), *_ratios_of_processes(result)):
        print(line)
    return int(bool(result["errors"]))


_HEAD = (
    "| | what | processes | frames/s | ms a frame | host, ms a frame | others, ms a frame | |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _line(row: dict) -> str:
    line = (
        f"| {row['network']} | {row['part']} | {row['processes']} | {row['fps']:,.0f} | "
        f"{1e3 / row['fps']:.3f} | {row['host_ms']:.3f} | {row['others_ms']:.3f} | "
        f"{row.get('note', '')} |"
    )
    return f"{line}\n{row['profile']}" if "profile" in row else line


def _ratios(rows: list[dict]) -> Iterator[str]:
    """How the whole compares to its parts and to Brox's method."""
    fps = {(row["network"], row["part"]): row["fps"] for row in rows}
    decode, brox = (fps.get(key, math.nan) for key in (("", "decode"), ("Brox", "whole")))
    for (name, part), whole in fps.items():
        if part == "whole" and name != "Brox":
            slower = min(decode, fps[name, "write"])
            yield (
                f"\n{name}: {whole / brox:.1f} × Brox; {whole / slower:.0%} of the slower of "
                f"decode and write alone, {whole / fps[name, 'network']:.0%} of network alone."
            )


def _ratios_of_processes(result: dict) -> Iterator[str]:
    """How the whole of several processes compares to the parts of as many, and to Brox's method."""
    rows = [*result["flow"], *result["flow_processes"], *result["mp4_processes"]]
    fps = {(row["network"], row["part"], row["processes"]): row["fps"] for row in rows}
    brox = fps.get(("Brox", "whole", 1), math.nan)
    for (name, part, count), whole in fps.items():
        alone = lambda part, name=name, count=count: fps.get((name, part, count), math.nan)
        if name == _FLOW_PROCESSES and part.startswith("whole"):
            slower = min(alone("decode"), alone("write"))
            share = f"{whole / slower:.0%} of the slower of decode and write alone"
            yield f"--processes={count}, {part}: {whole / brox:.1f} × Brox; {share}."
        elif name == _MP4_PROCESSES and part.endswith("whole"):
            slower = min(alone("decode and network"), alone(f"{part[:-5]}draw and encode"))
            share = f"{whole / slower:.0%} of its slower part alone"
            yield f"--processes={count}, {part}: {share}."


def _timed(
    network: str,
    part: str,
    run: Callable[[], int | Report],
    repeats: int,
    note: str = "",
    *,
    processes: int = 1,
    profile: bool = False,
) -> dict:
    """A row; `run` gives how many frames it has done, or a report, which has its own clock."""
    best = None
    for _ in range(repeats):
        begin, processor = time.perf_counter(), processor_time()
        with Sampler() if profile else contextlib.nullcontext() as sampler:
            done = run()
        frames, seconds = done, time.perf_counter() - begin
        if isinstance(done, Report):
            frames, seconds = done.frames, done.seconds
        if best is None or frames / seconds > best["fps"]:
            here, others = (1e3 * took / frames for took in processor_time().since(processor))
            best = {"fps": frames / seconds, "host_ms": here, "others_ms": others, "frames": frames}
            if sampler:
                best |= {"profile": sampler.text(), "samples": sampler.result()}
    return {"network": network, "part": part, "processes": processes, **best, "note": note}


# ------------------------------------------------------------------------------------------------
# Flow


def _flow_videos(options: argparse.Namespace, folder: str) -> tuple[LabelSet, VideoFile]:
    """Makes the videos, if another part has not; with the first, which all are like."""
    source = os.path.join(folder, "videos")
    names = [f"{number}.avi" for number in range(options.videos)]
    size = tuple(map(int, options.size.split("x")))
    if not os.path.exists(source):
        os.mkdir(source)
        for number, name in enumerate(names):
            path = os.path.join(source, name)
            if number < _DIFFERENT:
                _mpeg4(path, options.frames, size, number)
            else:
                shutil.copy(os.path.join(source, names[number % _DIFFERENT]), path)
    labels = LabelSet(source, names, os.path.join(folder, "flow"))
    return labels, VideoFile(os.path.join(source, names[0]))


class _Flow:
    title = "Flow of many videos"

    def __init__(self, options: argparse.Namespace, folder: str):
        self._options = options
        self._labels, self._video = _flow_videos(options, folder)

    def groups(self) -> Iterator[Iterator[dict]]:
        options, name = self._options, f"V2V, width {self._options.width:g}"
        random, few = random_network(options.width, Flow()), self._count_of_few
        yield self._decode(table2.NetworkWork(lambda: Predictor(random)))
        yield self._of_network(f"{name}, windows that overlap", random, {})
        yield self._of_network(f"{name}, whole frames", random, WHOLE)
        yield self.brox()
        before = lambda: _Before(Predictor(random, blend="tiles", full_frame=False))
        yield self._few(f"{name}, windows that overlap", "before", before, 4, few)
        if options.zoo:
            zoo = read_network(resolve(options.zoo))
            yield self._of_network(f"zoo's {options.zoo}, windows that overlap", zoo, {})

    @property
    def _count_of_few(self) -> int:
        return self._options.videos // 8 or 1

    def brox(self) -> Iterator[dict]:
        """The row of Brox's method."""
        threads = min(4, self._options.threads)
        return self._few("Brox", "whole", lambda: table2.brox_work(32), threads, self._count_of_few)

    def _few(self, name: str, part: str, make: Callable[[], Work], *how: int) -> Iterator[dict]:
        yield self._end_to_end(name, part, make(), *how)

    def _of_network(self, name: str, network: TrainedNetwork, how: dict) -> Iterator[dict]:
        work = table2.NetworkWork(lambda: Predictor(network, blend="frames", **how))
        codes = self._codes(work)
        yield self._network(name, work, codes)
        yield self._end_to_end(name, "write", functools.partial(write, codes))
        yield self._end_to_end(name, "whole", work)
        if self._options.disk:
            yield self._end_to_end(name, "whole, to disk", work, folder=self._options.disk)

    def _end_to_end(
        self, name: str, part: str, work: Work, threads: int = 0, few: int = 0, folder: str = ""
    ) -> dict:
        """By the jobs of Table 2, which sync and rename what was written."""
        threads = threads or self._options.threads
        labels = self._labels
        with tempfile.TemporaryDirectory(dir=folder or os.path.dirname(labels.output)) as out:
            names = labels.names[: few or None]
            labels = dataclasses.replace(labels, names=names, output=os.path.join(out, "flow"))
            one = dataclasses.replace(labels, names=names[:1])
            table2.run_pass(work, one, 1)  # compiles
            size = sum(p.stat().st_size for p in pathlib.Path(out).rglob("*") if p.is_file())
            run = lambda: table2.run_pass(work, labels, threads)
            note = f"{threads} videos at once, {size / self._video.num_frames / 1e3:.0f} kB a frame"
            profile = self._options.profile
            return _timed(name, part, run, self._options.repeats, note, profile=profile)

    def _decode(self, work: table2.NetworkWork) -> Iterator[dict]:
        def decode(job: Job) -> int:
            return sum(1 for _ in work.frames(VideoFile(job.source)))

        threads, profile = self._options.threads, self._options.profile
        run = functools.partial(self._on_threads, decode, threads)
        note = f"{threads} videos at once"
        yield _timed("", "decode", run, self._options.repeats, note, profile=profile)

    def _network(self, name: str, work: table2.NetworkWork, codes: np.ndarray) -> dict:
        frames = list(work.frames(self._video))

        def predict(job: Job) -> int:
            return sum(len(codes) for codes in work.codes(iter(frames), self._video.size))

        speed = np.linalg.norm(codes.astype(np.float32) * STEPS[0], axis=-1).mean()
        run = functools.partial(self._on_threads, predict, min(4, self._options.threads))
        return _timed(name, "network", run, self._options.repeats, f"{speed:.2f} px on the mean")

    def _on_threads(self, function: Callable[[Job], int], threads: int) -> int:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(function, self._labels.jobs()))

    def _codes(self, work: table2.NetworkWork) -> np.ndarray:
        """One video's; compiles."""
        codes = np.concatenate(list(work.codes(work.frames(self._video), self._video.size)))
        return codes[: self._video.num_frames - 1]


class _Before:
    """Table 2's work as it was: the host cuts windows, puts tiles together and quantises."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor

    def __call__(self, job: Job, output: str, tick: Tick) -> None:
        video = VideoFile(job.source)
        writer, left = None, video.num_frames - 1
        for frames, flow in self._predictor.chunks(job.source):
            if writer is None:
                about = table2.info(job.source, video.num_frames, frames.shape[1:3])
                writer = LabelWriter(output, about)
            codes, _ = encode_flow(np.asarray(flow)[:left], STEPS[0])
            writer.append(codes)
            left -= len(codes)
            tick(len(frames))
        writer.finish()


def _mpeg4(path: str, count: int, size: tuple[int, int], seed: int) -> None:
    """A video as UCF101 has them: MPEG-4 in AVI."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = size
        stream.bit_rate, stream.pix_fmt = 1_000_000, "yuv420p"
        for frame in made_up_frames(count, *size, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


# ------------------------------------------------------------------------------------------------
# MP4


class _Mp4:
    title = "Overlays as MP4"

    def __init__(self, options: argparse.Namespace, folder: str):
        self._options, self._folder = options, folder
        self._out = os.path.join(folder, "out.mp4")
        self._video = _mp4_video(options, folder)
        self._predictor = Predictor(random_network(options.width), blend="frames")

    def groups(self) -> Iterator[Iterator[dict]]:
        yield self._rows()

    def _rows(self) -> Iterator[dict]:
        repeats, name = self._options.repeats, f"V2V, width {self._options.width:g}"
        chunks = list(self._predictor.chunks(self._video))  # compiles, too
        yield _timed(name, "decode", self._decode, repeats)
        yield _timed(name, "decode and network", self._predict, repeats)
        for preset in PRESETS:
            alone = functools.partial(self._encode, chunks, preset)
            row = _timed(name, f"{preset}: draw and encode", alone, repeats)
            size = os.path.getsize(self._out) / row["frames"]
            yield {**row, "note": f"{size / 1e3:.1f} kB a frame"}
            one, several = (functools.partial(f, preset) for f in (self._one, self._several))
            profile = self._options.profile
            yield _timed(name, f"{preset}: whole, one video", one, repeats, profile=profile)
            what = f"{preset}: whole, {self._options.at_once} videos"
            yield _timed(name, what, several, 1, profile=profile)

    def _decode(self) -> int:
        return sum(1 for _ in VideoStream(self._video))

    def _predict(self) -> int:
        return sum(len(frames) for frames, _ in self._predictor.chunks(self._video))

    def _encode(self, chunks: list[Chunk], preset: Preset) -> int:
        draw_and_encode(self._predictor, chunks, self._out, preset)
        return sum(len(frames) for frames, _ in chunks)

    def _one(self, preset: Preset) -> int:
        output = Output(pathlib.Path(self._out))
        return predict_to_files(self._predictor, open_source(self._video), output, preset=preset)

    def _several(self, preset: Preset) -> Report:
        work = functools.partial(overlay, self._predictor, preset)
        count = self._options.at_once
        with tempfile.TemporaryDirectory(dir=self._folder) as out:
            jobs = [Job(str(n), self._video, os.path.join(out, f"{n}.mp4")) for n in range(count)]
            return _checked(run_jobs(jobs, lambda: work, backend=Backend(threads=count)))


def _mp4_video(options: argparse.Namespace, folder: str) -> str:
    path = os.path.join(folder, "in.mp4")
    return path if os.path.exists(path) else made_up_video(folder, options.mp4_frames, options.size)


def _checked(report: Report) -> Report:
    if report.failed:
        raise RuntimeError(report.failed[0])
    return report


# ------------------------------------------------------------------------------------------------
# Several processes

_FLOW_PROCESSES = "V2V, whole frames, processes"
_MP4_PROCESSES = "overlays, processes"


class _Processes:
    """Rows of one part of the work for each number of processes."""

    title: str
    name: str
    kinds: tuple[str, ...]

    def __init__(self, options: argparse.Namespace, folder: str):
        self._options, self._folder = options, folder

    def groups(self) -> Iterator[Iterator[dict]]:
        for count in self._options.processes:
            yield self._rows(count)

    def _rows(self, count: int) -> Iterator[dict]:
        options = self._options
        threads = self._threads(count)
        begin = time.perf_counter()
        with WorkerProcesses(self._work(count), count, threads) as workers:
            workers.wait()
            self._pass(workers, self.kinds[0], self._folder, one=True)  # one goes first alone
            note = f"threads of each: {threads}; started in {time.perf_counter() - begin:.0f} s"
            how = dict(processes=count, profile=options.profile)
            for kind in self.kinds:
                run = functools.partial(self._pass, workers, kind, self._folder)
                yield _timed(self.name, kind, run, options.repeats, note, **how)
                if options.disk and kind.startswith("whole"):
                    run = functools.partial(self._pass, workers, kind, options.disk)
                    yield _timed(self.name, f"{kind}, to disk", run, options.repeats, note, **how)

    def _pass(self, workers: WorkerProcesses, kind: str, folder: str, one: bool = False) -> Report:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            names = (os.path.join(out, f"{number}.mp4") for number in itertools.count())
            jobs = [serving_work.job(kind, *both) for both in zip(self._sources(), names)]
            return _checked(run_jobs(jobs[:1] if one else jobs, workers, lock=out))

    def _threads(self, count: int) -> int:
        raise NotImplementedError

    def _work(self, count: int) -> serving_work.ServingWork:
        raise NotImplementedError

    def _sources(self) -> list[str]:
        raise NotImplementedError


class _FlowProcesses(_Processes):
    title = "Flow of many videos, by several processes"
    name, kinds = _FLOW_PROCESSES, serving_work.FLOW

    def groups(self) -> Iterator[Iterator[dict]]:
        yield from super().groups()
        if "flow" not in self._options.parts:
            yield _Flow(self._options, self._folder).brox()

    def _threads(self, count: int) -> int:
        return max(2, round(self._options.threads / count))

    def _work(self, count: int) -> serving_work.ServingWork:
        return serving_work.ServingWork(self._options.width, self._sources()[0], "")

    def _sources(self) -> list[str]:
        labels, _ = _flow_videos(self._options, self._folder)
        return [job.source for job in labels.jobs()]


class _Mp4Processes(_Processes):
    title = "Overlays as MP4, by several processes"
    name, kinds = _MP4_PROCESSES, serving_work.MP4

    def _threads(self, count: int) -> int:
        return max(1, math.ceil(self._options.at_once / count))

    def _work(self, count: int) -> serving_work.ServingWork:
        return serving_work.ServingWork(self._options.width, "", self._sources()[0])

    def _sources(self) -> list[str]:
        return [_mp4_video(self._options, self._folder)] * self._options.at_once


_PARTS_OF_PROCESSES = {"flow_processes": _FlowProcesses, "mp4_processes": _Mp4Processes}
_PARTS = {"flow": _Flow, "mp4": _Mp4, **_PARTS_OF_PROCESSES}


if __name__ == "__main__":
    sys.exit(main())
