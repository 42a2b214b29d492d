"""Clips a second that the feeds deliver, beside what PyAV alone decodes and resizes.

    python -m benchmarks.input                          # videos rendered for it, in a minute or two
    python -m benchmarks.input --ucf101=DIR             # or --videos=DIR: real ones
    python -m benchmarks.input --processes=16           # and by processes, which share no lock
    python -m benchmarks.input --step [--arg=demo]      # what feed=device adds to a training step

All rows but the last read the same random clips (16 frames, resized to 128x171). "PyAV alone" opens
the file, seeks to the keyframe, decodes and resizes, in a pool of threads or processes; its frames
are first compared with the reader's. The feeds' rows are all that it takes to have the cropped
batches as JAX arrays, read by as many threads as the feed takes, or by --processes. "Filling" reads
whole videos, as feed=device and the building of a cache do; four times as many frames, counted as
clips of 16, and the start of its processes counts. Rows take turns within a round; ratios are
medians over the rounds, so that another program on the same machine slows all of them. --need adds
what that is of the clips/s that an accelerator trains.

--step trains the configuration seg.py (with --arg) on rendered scenes, with feed=device and with
one batch that stays on the accelerator, in turns.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
import jax
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from configs import seg
from v2v_jax.datasets import Scenes, VideoDataset
from v2v_jax.datasets.base.held_back import Subset
from v2v_jax.datasets.base.reading import read_videos
from v2v_jax.datasets.cache.packed import PackedVideos
from v2v_jax.datasets.readers.ucf101 import Ucf101
from v2v_jax.datasets.readers.video_folder import VideoFolder
from v2v_jax.input.base_feed import Feed
from v2v_jax.input.clips import Clips, ClipSampler
from v2v_jax.input.feeds import make_feed
from v2v_jax.input.preprocess import Preprocessing
from v2v_jax.media.video import write_video
from v2v_jax.run.experiment import make_experiment
from v2v_jax.system import sharding
from v2v_jax.training.setup import make_sampler
from v2v_jax.training.step import make_train_step

RULES = Preprocessing()
FIELDS = ("video",)
CACHE_FACTOR = 20  # how many more clips are taken from the cache, which would be over too soon
FILL_FACTOR = 4  # the same of filling
ALONE, ALONE_2 = "PyAV alone, threads", "PyAV alone, processes"
STREAMED, STREAMED_2 = "feed=tf_data, threads", "feed=tf_data, processes"
CACHED = "feed=tf_data, cache"
FILLED, FILLED_2 = "filling, threads", "filling, processes"
# What a row is compared with.
BESIDE = {row: ALONE for row in (ALONE, ALONE_2, STREAMED, CACHED)}
BESIDE |= {STREAMED_2: ALONE_2, FILLED: FILLED, FILLED_2: FILLED}


# ------------------------------------------------------------------------------------------------
# PyAV alone


class BareVideo:
    """A video read by PyAV with nothing around it."""

    def __init__(self, path: str):
        """Notes the frames' times."""
        self.path = path
        self.seeks = True
        with av.open(path) as container:
            packets = container.demux(container.streams.video[0])
            self._times = sorted(p.pts for p in packets if p.size and p.pts is not None)

    def read(self, start: int) -> np.ndarray:
        """A clip (T,H,W,3) uint8 RGB from frame `start`."""
        h, w = RULES.frame_size
        clip = np.empty((RULES.clip_length, h, w, 3), np.uint8)
        reformatter = VideoReformatter()
        count = 0
        with av.open(self.path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            if self.seeks:
                container.seek(self._times[start], stream=stream, backward=True)
            for number, frame in enumerate(container.decode(stream)):
                if frame.pts < self._times[start] if self.seeks else number < start:
                    continue
                resized = reformatter.reformat(
                    frame, w, h, "gbrp", interpolation=Interpolation.BICUBIC, threads=1
                )
                clip[count] = resized.to_ndarray()
                count += 1
                if count == RULES.clip_length:
                    break
        return clip


def bare_videos(dataset: VideoDataset, folder: str) -> list[BareVideo]:
    """A dataset's videos for PyAV alone, which must give the reader's frames.

    Where the times of an AVI file are no good, frames are counted from the beginning, as the reader
    does.
    """
    videos = []
    for index, info in enumerate(dataset.videos):
        video = BareVideo(os.path.join(folder, info.name))
        start = (info.num_frames - RULES.clip_length) // 2
        expected = dataset.read(index, start, start + RULES.clip_length)["video"]
        for video.seeks in (True, False):
            if np.array_equal(video.read(start), expected):
                break
        else:
            raise SystemExit(f"PyAV alone gives other frames of {video.path}; leave that file out.")
        videos.append(video)
    return videos


def bare_speed(videos: list[BareVideo], plans: list[Clips], threads: int) -> float:
    """Clips/s of PyAV alone."""
    video = np.concatenate([plan.video for plan in plans])
    starts = np.concatenate([plan.start for plan in plans]).tolist()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        begin = time.perf_counter()
        for _ in pool.map(lambda i, start: videos[i].read(start), video, starts):
            pass
        return len(starts) / (time.perf_counter() - begin)


_of_process: list[BareVideo] = []  # in a process of the pool


def bare_processes(videos: list[BareVideo], count: int) -> concurrent.futures.Executor:
    """A pool of `count` processes that have begun."""
    pool = concurrent.futures.ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(videos,),
    )
    list(pool.map(time.sleep, [0.1] * count))
    return pool


def bare_speed_of_processes(pool: concurrent.futures.Executor, plans: list[Clips]) -> float:
    """Clips/s of PyAV alone in `bare_processes`; frames stay in the process that read them."""
    video = np.concatenate([plan.video for plan in plans]).tolist()
    starts = np.concatenate([plan.start for plan in plans]).tolist()
    begin = time.perf_counter()
    for _ in pool.map(_read_in_process, video, starts, chunksize=2):
        pass
    return len(starts) / (time.perf_counter() - begin)


def _begin_process(videos: list[BareVideo]) -> None:
    _of_process.extend(videos)


def _read_in_process(video: int, start: int) -> None:
    _of_process[video].read(start)


# ------------------------------------------------------------------------------------------------
# Feeds


def feed_speed(feed: Feed, sampler: ClipSampler, steps: int, first: int) -> float:
    """Clips/s of a feed that is running: the clock starts and stops with its buffers full."""
    done = False
    numbers = itertools.takewhile(lambda _: not done, itertools.count(first))
    batches = feed.batches(sampler.plan(number) for number in numbers)
    for _ in range(4):
        jax.block_until_ready(next(batches))
    begin = time.perf_counter()
    clips = 0
    for _ in range(steps):
        clips += len(jax.block_until_ready(next(batches))["mask"])
    speed = clips / (time.perf_counter() - begin)
    done = True  # and let it read what it has begun before the next row's clock starts
    for _ in batches:
        pass
    return speed


def filling_speed(dataset: VideoDataset, processes: int, clips: int, first: int) -> float:
    """Clips/s of whole videos from the `first` on, in a circle, until they make up `clips`."""
    some, missing = [], clips * RULES.clip_length
    while missing > 0:
        some.append((first + len(some)) % len(dataset.videos))
        missing -= dataset.videos[some[-1]].num_frames
    dataset.processes = processes
    begin = time.perf_counter()
    videos = read_videos(Subset(dataset, some, "train"), FIELDS)
    frames = sum(len(video["video"]) for _, video in videos)
    return frames / RULES.clip_length / (time.perf_counter() - begin)


def device_costs(dataset: VideoDataset, sampler: ClipSampler, steps: int) -> dict[str, float]:
    """Seconds a step: the host's part of feed=device, and cutting the clips on the accelerator."""
    feed = make_feed("device", dataset, FIELDS, RULES, sharding.make_mesh())
    prepare = jax.jit(feed.prepare)
    batches = feed.batches(sampler.plan(step) for step in itertools.count())
    jax.block_until_ready(prepare(feed.store, next(batches)))
    host, cut = [], []
    for _ in range(steps):
        begin = time.perf_counter()
        batch = jax.block_until_ready(next(batches))
        middle = time.perf_counter()
        jax.block_until_ready(prepare(feed.store, batch))
        host.append(middle - begin)
        cut.append(time.perf_counter() - middle)
    return {
        "feed=device, plan to device arrays": statistics.median(host),
        "feed=device, cutting the clips": statistics.median(cut),
    }


def mirror_cost(dataset: VideoDataset, sampler: ClipSampler, steps: int) -> dict[str, float]:
    """Seconds a step that feed=tf_data leaves to the accelerator."""
    feed = make_feed("tf_data", dataset, FIELDS, RULES, sharding.make_mesh())
    batch = jax.block_until_ready(next(feed.batches([sampler.plan(0)])))
    prepare = jax.jit(feed.prepare)
    times = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        jax.block_until_ready(prepare((), batch))
        times.append(time.perf_counter() - begin)
    return {"feed=tf_data, mirroring": statistics.median(times[1:])}


def measure(dataset: VideoDataset, folder: str, cache: str, args: argparse.Namespace) -> dict:
    """All rows: clips/s of every round, and seconds a step."""
    lengths = [video.num_frames for video in dataset.videos]
    sampler = ClipSampler(lengths, RULES, batch_size=args.batch, stride=1, seed=0)
    bare = bare_videos(dataset, folder)
    packed = PackedVideos(dataset, cache, "train")
    steps = max(1, args.clips // args.batch)
    plans = lambda first: [sampler.plan(first + i) for i in range(steps)]
    rows: dict[str, Callable[[int], float]] = {
        ALONE: lambda k: bare_speed(bare, plans(k), args.threads)
    }
    pool: contextlib.AbstractContextManager = contextlib.nullcontext()
    if args.processes:
        pool = executor = bare_processes(bare, args.processes)
        rows[ALONE_2] = lambda k: bare_speed_of_processes(executor, plans(k))
    costs, skipped = device_costs(packed, sampler, 20), {}
    if importlib.util.find_spec("tensorflow"):
        for name, data, processes, factor in (
            (STREAMED, dataset, 1, 1),
            (STREAMED_2, dataset, args.processes, 1),
            (CACHED, packed, 1, CACHE_FACTOR),
        ):
            if processes:
                dataset.processes = processes
                feed = make_feed("tf_data", data, FIELDS, RULES, sharding.make_mesh())
                rows[name] = functools.partial(feed_speed, feed, sampler, factor * steps)
        costs |= mirror_cost(packed, sampler, 20)
    else:
        skipped = dict.fromkeys((STREAMED, STREAMED_2, CACHED), "TensorFlow is not installed")
    for name, processes in ((FILLED, 1), (FILLED_2, args.processes)):
        if processes:
            clips = FILL_FACTOR * args.clips
            rows[name] = functools.partial(filling_speed, dataset, processes, clips)
    speeds: dict[str, list[float]] = {name: [] for name in rows}
    with pool:
        for number in range(args.rounds):
            for name, speed in rows.items():
                clips_per_second = speed(1000 * number)
                speeds[name].append(clips_per_second)
                # What a time limit ends has said something.
                print(f"round {number + 1}, {name}: {clips_per_second:,.0f} clips/s", flush=True)
    return {"clips_per_second": speeds, "seconds_per_step": costs, "skipped": skipped}


# ------------------------------------------------------------------------------------------------
# The training step


@dataclasses.dataclass(frozen=True)
class ConstantFeed:
    """Gives the same batch, already on the accelerator, every time."""

    batch: Any
    store: Any = ()
    skipped: tuple = ()

    def batches(self, plans) -> Iterator[Any]:
        """Yields the batch for every plan."""
        return (self.batch for _ in plans)

    def prepare(self, store: Any, batch: Any) -> Any:
        """The batch is ready as it is."""
        return batch


def step_seconds(
    arg: str, videos: int, batch_size: int, steps: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds a training step with feed=device and with one constant batch, of every round."""
    config = seg.get_config(arg)
    config.data.num_train_videos = videos
    config.batch_size = batch_size or config.batch_size
    experiment = make_experiment(config, "train")
    sampler, mesh = make_sampler(experiment), experiment.mesh
    feed = make_feed(
        "device", experiment.dataset, experiment.task.fields, experiment.preprocessing, mesh
    )
    prepare = jax.jit(feed.prepare, out_shardings=sharding.batch_sharded(mesh))
    constant = prepare(feed.store, next(iter(feed.batches([sampler.plan(0)]))))
    feeds: dict[str, Feed] = {"feed=device": feed, "constant batch": ConstantFeed(constant)}
    programs = {name: make_train_step(experiment, feed) for name, feed in feeds.items()}
    state = experiment.init_state()
    times: dict[str, list[float]] = {name: [] for name in feeds}
    for number in range(-1, rounds):  # the first round compiles
        for name, one in feeds.items():
            plans = (sampler.plan(step) for step in range(steps))
            begin = time.perf_counter()
            late = None
            for batch in one.batches(plans):
                state, metrics = programs[name](state, one.store, batch)
                if late is not None:
                    float(late["loss"])  # as training does: one step late
                late = metrics
            jax.block_until_ready(state)
            if number >= 0:
                times[name].append((time.perf_counter() - begin) / steps)
    return times


# ------------------------------------------------------------------------------------------------
# Input and output


def render_videos(folder: str, number: int = 6) -> None:
    """Writes rendered scenes as H.264 files of 240x320 in `folder`/train and `folder`/test."""
    scenes = Scenes("train", num_videos=number, num_frames=64, frame_size=(240, 320))
    for split in ("train", "test"):
        os.mkdir(os.path.join(folder, split))
    for video, frames in read_videos(scenes, ("video",)):
        split = "train" if video else "test"
        write_video(os.path.join(folder, split, f"scene{video}.mp4"), frames["video"])


@contextlib.contextmanager
def opened(args: argparse.Namespace) -> Iterator[tuple[VideoDataset, str, str]]:
    """(dataset, folder of its files, what it is)."""
    if args.ucf101:
        dataset = Ucf101(args.ucf101, "train", allow_missing=True)
        yield dataset, os.path.join(args.ucf101, "UCF-101"), "UCF101"
        return
    with tempfile.TemporaryDirectory() as rendered:
        if not args.videos:
            render_videos(rendered)
        folder = args.videos or rendered
        dataset = VideoFolder(folder, "train")
        if os.path.isdir(os.path.join(folder, "train")):
            folder = os.path.join(folder, "train")
        yield dataset, folder, "a folder of videos" if args.videos else "rendered videos"


def feed_table(result: dict, batch: int, need: float = 0.0) -> str:
    """The Markdown table of `measure`'s result; need: clips/s that an accelerator trains."""
    speeds = result["clips_per_second"]
    heads = ["", "clips/s", "times", "of", f"ms a step of {batch}"]
    heads += [f"of the {need:.0f} that are needed"] if need else []
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    last = " |" if need else ""
    for name, values in speeds.items():
        beside = BESIDE[name]
        ratio = statistics.median(a / b for a, b in zip(values, speeds[beside]))
        speed = statistics.median(values)
        figures = f"{speed:.0f} | {ratio:.2f} | {beside} | {1e3 * batch / speed:.1f}"
        share = f" {speed / need:.2f} |" if need else ""
        lines.append(f"| {name} | {figures} |{share}")
    for name, seconds in result["seconds_per_step"].items():
        lines.append(f"| {name} | | | | {1e3 * seconds:.2f} |{last}")
    for name, reason in result["skipped"].items():
        lines.append(f"| {name} | skipped: {reason} | | | |{last}")
    return "\n".join(lines)


def step_table(times: dict[str, list[float]]) -> str:
    """The Markdown table of `step_seconds`' result."""
    lines = ["| training step with | ms | more than with the constant batch |", "|---|---|---|"]
    for name, values in times.items():
        more = statistics.median(a / b - 1 for a, b in zip(values, times["constant batch"]))
        lines.append(f"| {name} | {1e3 * statistics.median(values):.2f} | {100 * more:+.1f} % |")
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ucf101", help="folder with UCF-101 and ucfTrainTestlist")
    parser.add_argument("--videos", help="folder of video files")
    parser.add_argument("--clips", type=int, default=256, help="clips a row and round")
    parser.add_argument("--batch", type=int, help="clips a step (32; --step: as configured)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyAV alone")
    parser.add_argument("--processes", type=int, default=0, help="of rows by processes; 0: none")
    parser.add_argument("--need", type=float, default=0.0, help="clips/s that are to be trained")
    parser.add_argument("--json", type=pathlib.Path, help="file to write all figures to")
    parser.add_argument("--step", action="store_true", help="measure the training step instead")
    parser.add_argument("--arg", help="for --step: of configs/seg.py; on a CPU 'demo'")
    parser.add_argument("--scenes", type=int, default=64, help="for --step: rendered videos")
    parser.add_argument("--steps", type=int, default=20, help="for --step: steps a round")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Prints a table and writes the figures of every round."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"} | os.environ
    args = parse(argv)
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"
    if args.step:
        on_cpu = jax.default_backend() == "cpu"
        arg = ("demo" if on_cpu else "") if args.arg is None else args.arg
        times = step_seconds(arg, args.scenes, args.batch, args.steps, args.rounds)
        result = {"config": f"configs/seg.py:{arg}", "seconds_per_step": times}
        table = step_table(times)
    else:
        args.batch = args.batch or 32
        with opened(args) as (dataset, folder, name), tempfile.TemporaryDirectory() as cache:
            result = {"data": name, **measure(dataset, folder, cache, args)}
        table = feed_table(result, args.batch, args.need)
    result |= {"device": device, "date": time.strftime("%Y-%m-%d"), "rounds": args.rounds}
    print(f"{result.get('data') or result['config']}; {device}; {result['date']}\n\n{table}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
