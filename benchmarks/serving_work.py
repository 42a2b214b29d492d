"""What `benchmarks.serving` has several processes do: parts of the way alone, and the whole.

Every process loads its networks once and then does jobs of any kind: a job's name begins with it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.predict import draw_and_encode, random_network
from experiments import table2
from v2v_jax.inference.output_files import Output, predict_to_files
from v2v_jax.inference.predictor import Predictor
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.label_files import LabelWriter
from v2v_jax.media.video import VideoFile
from v2v_jax.media.video_writer import Preset
from v2v_jax.system.jobs import Job, Tick
from v2v_jax.tasks import Flow

WHOLE = dict(full_frame=True, overlap=0.0)
PRESETS: tuple[Preset, ...] = ("medium", "veryfast", "ultrafast")
# The kinds of jobs, in the order in which they are timed.
FLOW = ("decode", "network", "write", "whole")
MP4 = (
    "decode and network",
    *(f"{preset}: {part}" for preset in PRESETS[1:] for part in ("draw and encode", "whole")),
)


def job(kind: str, source: str, output: str) -> Job:
    """A job of `ServingWork`."""
    return Job(f"{kind}|{os.path.basename(output)}", source, output)


@dataclasses.dataclass(frozen=True)
class ServingWork:
    """Builds the work of a process; pickled.

    Attributes:
      width: of V2V with random weights.
      flow: a video for flow, "" where there is no such job.
      mp4: a video for MP4s, "" where there is no such job.
    """

    width: float
    flow: str
    mp4: str

    def __call__(self) -> Serving:
        return Serving(self)


class Serving:
    """The work of one process, with all compiled."""

    def __init__(self, how: ServingWork) -> None:
        self._kinds: dict[str, Callable[[Job, str, Tick], None]] = {}
        if how.flow:
            self._kinds |= self._of_flow(how)
        if how.mp4:
            self._kinds |= self._of_mp4(how)

    def __call__(self, job: Job, output: str, tick: Tick) -> None:
        self._kinds[job.name.partition("|")[0]](job, output, tick)

    def _of_flow(self, how: ServingWork) -> dict[str, Callable[[Job, str, Tick], None]]:
        predictor = Predictor(random_network(how.width, Flow()), blend="frames", **WHOLE)
        work, video = table2.NetworkWork(lambda: predictor), VideoFile(how.flow)
        frames = list(work.frames(video))
        codes = np.concatenate(list(work.codes(iter(frames), video.size)))[: video.num_frames - 1]
        with tempfile.TemporaryDirectory() as folder:  # compiles
            work(Job("", how.flow, ""), os.path.join(folder, "flow"), lambda count: None)

        def decode(job: Job) -> int:
            return sum(1 for _ in work.frames(VideoFile(job.source)))

        def network(job: Job) -> int:
            return sum(len(codes) for codes in work.codes(iter(frames), video.size))

        return {
            "decode": _unwritten(decode),
            "network": _unwritten(network),
            "write": functools.partial(write, codes),
            "whole": work,
        }

    def _of_mp4(self, how: ServingWork) -> dict[str, Callable[[Job, str, Tick], None]]:
        predictor = Predictor(random_network(how.width), blend="frames")
        chunks = list(predictor.chunks(how.mp4))  # compiles, too
        predict = lambda job: sum(len(frames) for frames, _ in predictor.chunks(job.source))
        kinds: dict[str, Any] = {"decode and network": _unwritten(predict)}
        for preset in PRESETS:
            kinds[f"{preset}: draw and encode"] = functools.partial(
                _encode, predictor, chunks, preset
            )
            kinds[f"{preset}: whole"] = functools.partial(overlay, predictor, preset)
        return kinds


def _unwritten(count: Callable[[Job], int]) -> Callable[[Job, str, Tick], None]:
    """Work that writes an empty file."""

    def work(job: Job, output: str, tick: Tick) -> None:
        tick(count(job))
        pathlib.Path(output).touch()

    return work


def write(codes: np.ndarray, job: Job, output: str, tick: Tick) -> None:
    """Writes flow that is at hand, (T-1,H,W,2) int16, as Table 2 does."""
    writer = LabelWriter(output, table2.info(job.source, len(codes) + 1, codes.shape[1:3]))
    writer.append(codes)
    writer.finish()
    tick(len(codes) + 1)


def _encode(
    predictor: Predictor, chunks: list, preset: Preset, job: Job, output: str, tick: Tick
) -> None:
    draw_and_encode(predictor, chunks, output, preset)
    tick(sum(len(frames) for frames, _ in chunks))


def overlay(predictor: Predictor, preset: Preset, job: Job, output: str, tick: Tick) -> None:
    """From video to MP4, as `v2v predict` does."""
    target = Output(pathlib.Path(job.output))
    source = open_source(job.source)
    predict_to_files(predictor, source, target, write_to=output, preset=preset, tick=tick)
