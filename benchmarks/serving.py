"""What one machine serves, from file to file: flow of many videos (Table 2), and MP4s to look at.

    python -m benchmarks.serving                                  (three minutes on a GPU)
    python -m benchmarks.serving --width=0.05 --videos=4 --frames=40 --size=48x64 --threads=2

It makes its own videos. Every part is timed alone, with the threads and processes that it has in
the whole, on the same files, after all is compiled; the better of --repeats passes counts. "host"
is the processor time of this process a frame, without that of the decoding processes. --flow has

    decode      processes decode and scale, this one receives the frames
    network     frames at hand → 16-bit flow at the video's size, in memory
    write       flow in memory → compressed labels on disk
    whole       decode, network and write at once (experiments.table2)
    before      as it was until 2026-11-27: threads decode, windows are cut, tiles put together and
                flow is quantised on the host
    Brox        the same files by Brox's method, on the same device

--mp4 the overlays of a segmentation by presets of the encoder, one video alone and several at once.
Prints tables in Markdown; the figures are in --output (JSON) as soon as they are known.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
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

from benchmarks.predict import draw_and_encode, made_up_frames, made_up_video, random_network
from experiments import table2
from v2v_jax.inference.network import TrainedNetwork, read_network
from v2v_jax.inference.output_files import Output, predict_to_files
from v2v_jax.inference.predictor import Chunk, Predictor
from v2v_jax.labelling.label_maker import LabelSet
from v2v_jax.media.decoding import DecodingPool, VideoFacts
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.label_codes import STEPS, encode_flow
from v2v_jax.media.label_files import LabelWriter
from v2v_jax.media.video import VideoFile, VideoStream
from v2v_jax.media.video_writer import Preset
from v2v_jax.system import compilation_cache
from v2v_jax.system.jobs import Backend, Job, Report, Tick, Work, run_jobs
from v2v_jax.tasks import Flow
from v2v_jax.zoo import resolve

_DIFFERENT = 4  # videos that are made; the others are copies
_PRESETS: tuple[Preset, ...] = ("medium", "veryfast", "ultrafast")


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
    add("--processes", type=int, default=table2.PROCESSES, help="that decode, for flow")
    add("--at_once", type=int, default=8, help="videos at a time, for MP4s")
    add("--mp4_frames", type=int, default=600)
    add("--repeats", type=int, default=2)
    add("--parts", nargs="+", choices=("flow", "mp4"), default=("flow", "mp4"))
    add("--folder", default=tempfile.gettempdir(), help="for videos and results")
    add("--disk", help="a folder on a disk, where the whole is timed, too")
    add("--output", type=pathlib.Path, default=pathlib.Path("serving.json"))
    options = parser.parse_args(argv)
    compilation_cache.enable()
    about = {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "options": {**vars(options), "output": str(options.output)},
    }
    result = {"about": about, "flow": [], "mp4": [], "errors": []}
    print(f"{about['device']} ({about['processor']}), JAX {about['jax']}, {about['date']}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for part in options.parts:
            measure = {"flow": _Flow, "mp4": _Mp4}[part](options, folder)
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
    for line in _ratios(result["flow"]):
        print(line)
    return int(bool(result["errors"]))


_HEAD = "| | what | frames/s | ms a frame | host, ms a frame | |\n|---|---|---|---|---|---|"


def _line(row: dict) -> str:
    return (
        f"| {row['network']} | {row['part']} | {row['fps']:,.0f} | {1e3 / row['fps']:.3f} | "
        f"{row['host_ms']:.3f} | {row.get('note', '')} |"
    )


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


def _timed(
    network: str, part: str, run: Callable[[], int | Report], repeats: int, note: str = ""
) -> dict:
    """A row; `run` gives how many frames it has done, or a report, which has its own clock."""
    best = None
    for _ in range(repeats):
        begin, processor = time.perf_counter(), time.process_time()
        done = run()
        frames, seconds = done, time.perf_counter() - begin
        if isinstance(done, Report):
            frames, seconds = done.frames, done.seconds
        if best is None or frames / seconds > best["fps"]:
            host = 1e3 * (time.process_time() - processor) / frames
            best = {"fps": frames / seconds, "host_ms": host, "frames": frames}
    return {"network": network, "part": part, **best, "note": note}


# ------------------------------------------------------------------------------------------------
# Flow


class _Flow:
    title = "Flow of many videos"

    def __init__(self, options: argparse.Namespace, folder: str):
        self._options = options
        source = os.path.join(folder, "videos")
        os.mkdir(source)
        names = [f"{number}.avi" for number in range(options.videos)]
        size = tuple(map(int, options.size.split("x")))
        for number, name in enumerate(names):
            path = os.path.join(source, name)
            if number < _DIFFERENT:
                _mpeg4(path, options.frames, size, number)
            else:
                shutil.copy(os.path.join(source, names[number % _DIFFERENT]), path)
        self._labels = LabelSet(source, names, os.path.join(folder, "flow"))
        self._facts = VideoFacts(VideoFile(os.path.join(source, names[0])).num_frames, size)

    def groups(self) -> Iterator[Iterator[dict]]:
        options, name = self._options, f"V2V, width {self._options.width:g}"
        random, few = random_network(options.width, Flow()), options.videos // 8 or 1
        yield self._decode(Predictor(random))
        yield self._of_network(f"{name}, windows that overlap", random, {})
        yield self._of_network(f"{name}, whole frames", random, WHOLE)
        yield self._few("Brox", "whole", lambda: table2.brox_work(32), min(4, options.threads), few)
        before = lambda: _Before(Predictor(random, blend="tiles", full_frame=False))
        yield self._few(f"{name}, windows that overlap", "before", before, 4, few)
        if options.zoo:
            zoo = read_network(resolve(options.zoo))
            yield self._of_network(f"zoo's {options.zoo}, windows that overlap", zoo, {})

    def _few(self, name: str, part: str, make: Callable[[], Work], *how: int) -> Iterator[dict]:
        yield self._end_to_end(name, part, make(), *how)

    def _of_network(self, name: str, network: TrainedNetwork, how: dict) -> Iterator[dict]:
        make = lambda: Predictor(network, blend="frames", **how)
        work = table2.NetworkWork(make, self._options.processes)
        codes = self._codes(work)
        yield self._network(name, work, codes)
        yield self._end_to_end(name, "write", functools.partial(_write, codes))
        yield self._end_to_end(name, "whole", work)
        if self._options.disk:
            yield self._end_to_end(name, "whole, to disk", work, folder=self._options.disk)
        work.close()

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
            note = f"{threads} videos at once, {size / self._facts.num_frames / 1e3:.0f} kB a frame"
            return _timed(name, part, run, self._options.repeats, note)

    def _decode(self, predictor: Predictor) -> Iterator[dict]:
        def decode(job: Job) -> int:
            with pool.open(job.source) as video:
                return sum(1 for _ in video.frames(predictor.scaled_size(video.facts.size)))

        with DecodingPool(self._options.processes) as pool:
            run = functools.partial(self._on_threads, decode, self._options.threads)
            note = f"{self._options.processes} processes"
            yield _timed("", "decode", run, self._options.repeats + 1, note)

    def _network(self, name: str, work: table2.NetworkWork, codes: np.ndarray) -> dict:
        frames = self._scaled(work)

        def predict(job: Job) -> int:
            return sum(len(codes) for codes in work.codes(iter(frames), self._facts.size))

        speed = np.linalg.norm(codes.astype(np.float32) * STEPS[0], axis=-1).mean()
        run = functools.partial(self._on_threads, predict, min(4, self._options.threads))
        return _timed(name, "network", run, self._options.repeats, f"{speed:.2f} px on the mean")

    def _on_threads(self, function: Callable[[Job], int], threads: int) -> int:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(function, self._labels.jobs()))

    def _scaled(self, work: table2.NetworkWork) -> list[np.ndarray]:
        with work.decoders.open(self._labels.jobs()[0].source) as video:
            return list(video.frames(work.predictor.scaled_size(video.facts.size)))

    def _codes(self, work: table2.NetworkWork) -> np.ndarray:
        """One video's; compiles."""
        codes = np.concatenate(list(work.codes(iter(self._scaled(work)), self._facts.size)))
        return codes[: self._facts.num_frames - 1]


WHOLE = dict(full_frame=True, overlap=0.0)


def _write(codes: np.ndarray, job: Job, output: str, tick: Tick) -> None:
    video = VideoFacts(len(codes) + 1, codes.shape[1:3])
    writer = LabelWriter(output, table2.info(job.source, video))
    writer.append(codes)
    writer.finish()
    tick(len(codes) + 1)


class _Before:
    """Table 2's work as it was: the host cuts windows, puts tiles together and quantises."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor

    def __call__(self, job: Job, output: str, tick: Tick) -> None:
        video = VideoFile(job.source)
        writer, left = None, video.num_frames - 1
        for frames, flow in self._predictor.chunks(job.source):
            if writer is None:
                facts = VideoFacts(video.num_frames, frames.shape[1:3])
                writer = LabelWriter(output, table2.info(job.source, facts))
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
        self._video = made_up_video(folder, options.mp4_frames, options.size)
        self._predictor = Predictor(random_network(options.width), blend="frames")

    def groups(self) -> Iterator[Iterator[dict]]:
        yield self._rows()

    def _rows(self) -> Iterator[dict]:
        repeats, name = self._options.repeats, f"V2V, width {self._options.width:g}"
        chunks = list(self._predictor.chunks(self._video))  # compiles, too
        yield _timed(name, "decode", self._decode, repeats)
        yield _timed(name, "decode and network", self._predict, repeats)
        for preset in _PRESETS:
            alone = functools.partial(self._encode, chunks, preset)
            row = _timed(name, f"{preset}: draw and encode", alone, repeats)
            size = os.path.getsize(self._out) / row["frames"]
            yield {**row, "note": f"{size / 1e3:.1f} kB a frame"}
            one, several = (functools.partial(f, preset) for f in (self._one, self._several))
            yield _timed(name, f"{preset}: whole, one video", one, repeats)
            yield _timed(name, f"{preset}: whole, {self._options.at_once} videos", several, 1)

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
        def work(job: Job, path: str, tick: Tick) -> None:
            output = Output(pathlib.Path(job.output))
            source = open_source(job.source)
            predict_to_files(
                self._predictor, source, output, write_to=path, preset=preset, tick=tick
            )

        count = self._options.at_once
        outputs = [os.path.join(self._folder, f"out{number}.mp4") for number in range(count)]
        jobs = [Job(str(n), self._video, path) for n, path in enumerate(outputs)]
        report = run_jobs(jobs, lambda: work, backend=Backend(threads=count))
        for path in outputs:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        if report.failed:
            raise RuntimeError(report.failed[0])
        return report


if __name__ == "__main__":
    sys.exit(main())
