"""Predicts videos with trained weights.

    v2v predict --checkpoint=runs/seg --video=in.mp4 --output=out.mp4
    v2v predict --checkpoint=runs/flow --video=in.mp4 --output=flow/%05d.flo
    v2v predict --checkpoint=runs/seg --video=videos --output=out/{name}.mp4
    v2v predict --checkpoint=runs/seg --video=videos --output=out/{name}.mp4 --processes=4
    v2v predict --checkpoint=flow --video=videos --output=out/{name}.mp4 --color_scale=5

The last one draws all videos on one scale of colours, so that they can be compared: 5 pixels a
frame have full colour. Depth takes two numbers, near and far in metres: --color_scale=1,50.

docs/guides/own_video.md describes every form of output.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import pathlib
import time
from typing import TYPE_CHECKING, get_args

from absl import logging

from v2v_jax.cli.command_line import Parser, path
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.inference import video_folders
from v2v_jax.media.frame_sources import FrameSource, open_source
from v2v_jax.media.video_writer import PRESET, Preset
from v2v_jax.system import jobs, own_modules
from v2v_jax.system.console import FramesBar, console, waiting
from v2v_jax.system.jobs import Job

if TYPE_CHECKING:
    from v2v_jax.inference.output_files import Output
    from v2v_jax.inference.predictor import Predictor

_VIEWS = ("overlay", "plain", "side_by_side")  # of inference.views, which imports JAX
_FULL_FRAME = {"auto": None, "yes": True, "no": False}
_FPS = (0.01, 999.0)  # that an MP4 may have


def add_options(parser: Parser) -> None:
    """See the module."""
    add = parser.add_argument
    add(
        "--checkpoint",
        type=path,
        required=True,
        help="a run's folder, a file of v2v export, or a name that v2v models lists",
    )
    add(
        "--video",
        type=path,
        required=True,
        help="a video, a folder of a video's frames, or of videos",
    )
    add(
        "--output",
        type=path,
        required=True,
        help="NAME.mp4, or a file a frame: FOLDER/%%05d with .png, .npz, .flo or .pfm; for a "
        "folder of videos with {name} in it, which stands for each video's path in the folder",
    )
    add("--view", choices=_VIEWS, default="overlay", help="what an MP4 shows")
    add(
        "--legend",
        choices=("yes", "no"),
        default="yes",
        help="a strip below an MP4's picture that says what the colours mean (default: yes)",
    )
    add(
        "--color_scale",
        metavar="NUMBER[,NUMBER]",
        help="what an MP4's colours stand for, the same for several videos: flow's speed in full "
        "colour (5, px/frame), depth's ends (1,50, metres); default: taken from each video",
    )
    add("--probabilities", action="store_true", help="also write class probabilities (.npz)")
    add(
        "--full_frame",
        nargs="?",
        const="yes",
        choices=tuple(_FULL_FRAME),
        default="auto",
        help="whole frames at once; no: windows of the training clip's size (default: unless they "
        "are very large)",
    )
    add("--scale", choices=("training", "native"), default="training", help="what the network sees")
    add("--overlap", type=float, default=0.25, help="of windows, as a share (default: 0.25)")
    add("--batch_size", type=int, help="windows a call of the network")
    add(
        "--fps",
        type=float,
        help="of an MP4, without sound; default: each frame's own time, 25 for a folder of frames",
    )
    add(
        "--preset",
        choices=get_args(Preset),
        default=PRESET,
        help="of an MP4's encoder: slower ones lose less of the picture (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace an output that exists")
    own_modules.add_argument(parser)
    jobs.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Predicts one video or all of a folder; returns the exit status: 1 if a video failed."""
    from v2v_jax.system import compilation_cache

    if not os.path.exists(options.video):
        raise DataError(f"Video {options.video} does not exist; check --video.")
    if options.fps is not None and not _FPS[0] <= options.fps <= _FPS[1]:
        raise ConfigError(
            f"--fps={options.fps:g}; expected {_FPS[0]:g} to {_FPS[1]:g} frames per second."
        )
    compilation_cache.enable()
    if os.path.isdir(options.video) and video_folders.holds_videos(options.video, options.output):
        return _predict_folder(options)
    return _predict_one(options)


def _load(options: argparse.Namespace) -> Predictor:
    from v2v_jax import zoo

    own_modules.import_all(options.modules)
    try:
        return zoo.load(
            options.checkpoint,
            full_frame=_FULL_FRAME[options.full_frame],
            scale=options.scale,
            overlap=options.overlap,
            batch_size=options.batch_size,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


# ------------------------------------------------------------------------------------------------
# One video


def _predict_one(options: argparse.Namespace) -> int:
    from v2v_jax.inference.output_files import parse_output

    start = time.perf_counter()
    with waiting("Loading the weights"):
        predictor = _load(options)
    output = parse_output(options.output, predictor.network.task, options.probabilities)
    _check_place(options, output)
    source = open_source(options.video)
    writing = _writing(options, source, options.video, output, _color_scale(options, predictor))
    loaded = time.perf_counter()
    speed = _Speed()
    frames = _predict_with_bar(predictor, source, output, speed, writing)
    end = time.perf_counter()
    line = f"{output.path}: {frames} frames in {end - loaded:.1f} s: "
    line += f"{frames / (end - loaded):.1f} frames/s with I/O"
    if frames > speed.first_frames:
        after = (frames - speed.first_frames) / (end - speed.first_time)
        line += f"; {after:.1f} frames/s after the first result"
    console.print(f"{line} (loading the weights took {loaded - start:.1f} s)")
    return 0


def _check_place(options: argparse.Namespace, output: Output) -> None:
    """DataError where the output must not go: it is there, its folder is not, it is the input."""
    for place in (output.path, output.partial):
        if os.path.exists(place) and os.path.samefile(place, options.video):
            raise DataError(
                f"--output={options.output} would replace {options.video}, which is read; choose "
                "another --output."
            )
    if os.path.exists(output.path) and not options.overwrite:
        raise DataError(f"{output.path} exists; choose another --output, or add --overwrite.")
    folder = output.path.absolute().parent
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is no folder; choose another --output.")
    if not folder.is_dir():
        raise DataError(f"Folder {output.path.parent} does not exist; make it, or choose another.")


@dataclasses.dataclass
class _Speed:
    """How many frames the first result had, and when it came."""

    first_frames: int = 0
    first_time: float = 0.0


def _predict_with_bar(
    predictor: Predictor, source: FrameSource, output: Output, speed: _Speed, writing: dict
) -> int:
    from v2v_jax.inference.output_files import predict_to_files
    from v2v_jax.system import compilation_cache

    before = compilation_cache.preparing("network")
    with FramesBar(os.path.basename(source.name), source.num_frames, before) as bar:

        def tick(count: int) -> None:
            if not speed.first_frames:
                speed.first_frames, speed.first_time = count, time.perf_counter()
            bar.tick(count)

        return predict_to_files(predictor, source, output, tick=tick, **writing)


def _color_scale(options: argparse.Namespace, predictor: Predictor) -> tuple[float, ...] | None:
    from v2v_jax.inference.views import parse_color_scale

    text = options.color_scale
    return None if text is None else parse_color_scale(text, predictor.network.task)


def _writing(
    options: argparse.Namespace,
    source: FrameSource,
    video: str,
    output: Output,
    color_scale: tuple[float, ...] | None,
) -> dict[str, object]:
    """Options of `predict_to_files`."""
    if options.fps is not None and output.pattern is None and os.path.isfile(video):
        logging.warning(
            "--fps=%g replaces the frame times of %s and leaves its sound out; without --fps both "
            "are kept.",
            *(options.fps, video),
        )
    return dict(
        view=options.view,
        legend=options.legend == "yes",
        color_scale=color_scale,
        fps=options.fps,
        sound_of=video if os.path.isfile(video) else None,
        probabilities=options.probabilities,
        preset=options.preset,
    )


# ------------------------------------------------------------------------------------------------
# A folder of videos


def _predict_folder(options: argparse.Namespace) -> int:
    from v2v_jax.inference import output_files

    todo = video_folders.plan_jobs(options.video, options.output, overwrite=options.overwrite)
    how: dict[str, object] = {}
    if not video_folders.is_movie(options.output):
        pattern = os.path.basename(options.output)
        how["publish"] = functools.partial(output_files.publish_frames, pattern)
        how["done"] = functools.partial(_frames_are_there, pattern)
    if options.overwrite:
        how["done"] = _never
    report = jobs.run_jobs(
        todo, functools.partial(_Work, options), backend=jobs.backend_from(options), **how
    )
    report.print()
    return report.status


def _never(job: Job) -> bool:
    return False


def _frames_are_there(pattern: str, job: Job) -> bool:
    from v2v_jax.inference import output_files

    return output_files.frames_are_there(pattern, job.output)


class _Work:
    """Predicts one video after the other with the same weights; built once a worker process."""

    def __init__(self, options: argparse.Namespace):
        from v2v_jax.inference import output_files

        self._options = options
        self._predictor = _load(options)
        self._predict = output_files.predict_to_files
        self._color_scale = _color_scale(options, self._predictor)
        # Read once, before a name with a % stands in it.
        self._output = output_files.parse_output(
            options.output, self._predictor.network.task, options.probabilities
        )

    def __call__(self, job: Job, path: str, tick: jobs.Tick) -> None:
        output = dataclasses.replace(self._output, path=pathlib.Path(job.output))
        source = open_source(job.source)
        writing = _writing(self._options, source, job.source, output, self._color_scale)
        self._predict(self._predictor, source, output, write_to=path, tick=tick, **writing)
