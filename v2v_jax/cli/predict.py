"""Predicts videos with trained weights: what `predict.py` does.

python predict.py --checkpoint=runs/seg --video=in.mp4 --output=out.mp4
python predict.py --checkpoint=runs/flow --video=in.mp4 --output=flow/%05d.flo
python predict.py --checkpoint=runs/seg --video=videos --output=out/{name}.mp4
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import sys
import time
from collections.abc import Sequence

import rich.progress

import v2v_jax
from v2v_jax.cli import command_line
from v2v_jax.errors import ConfigError, DataError, UserError
from v2v_jax.inference import output_files
from v2v_jax.inference.output_files import parse_output, predict_to_files
from v2v_jax.inference.predictor import Predictor
from v2v_jax.media.folders import find_videos, list_pictures
from v2v_jax.media.frame_sources import open_source
from v2v_jax.system import compilation_cache, jobs, own_modules
from v2v_jax.system.console import console
from v2v_jax.system.jobs import Job

_NAME = "{name}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(argv)
    command_line.quieten()
    compilation_cache.enable()
    try:
        if not os.path.exists(options.video):
            raise DataError(f"Video {options.video} does not exist; check --video.")
        if options.fps is not None and not 0 < options.fps < 1000:
            raise ConfigError(f"--fps={options.fps}; expected a number between 0 and 1000.")
        if os.path.isdir(options.video) and (videos := _find_videos(pathlib.Path(options.video))):
            return _predict_collection(options, videos)
        return _predict_one(options)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return command_line.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python predict.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="a run's folder, or a file of v2v_jax.inference.export")
    add("--video", required=True, help="a video, a folder of a video's frames, or of videos")
    add(
        "--output",
        required=True,
        help="NAME.mp4, or a file a frame: FOLDER/%%05d with .png, .npz, .flo or .pfm; for a "
        "folder of videos with {name} in it, which stands for each one's path in there",
    )
    add("--view", choices=output_files.VIEWS, default="overlay", help="what an MP4 shows")
    add("--probabilities", action="store_true", help="also write class probabilities (.npz)")
    add("--full_frame", action="store_true", help="whole frames instead of windows in H and W")
    add("--scale", choices=("training", "native"), default="training", help="what the network sees")
    add("--overlap", type=float, default=0.25, help="of windows, as a share (default: 0.25)")
    add("--batch_size", type=int, help="windows a call of the network")
    add("--fps", type=float, help="of an MP4; default: the video's, 25 for a folder of frames")
    add("--overwrite", action="store_true", help="replace an output that exists")
    own_modules.add_argument(parser)
    jobs.add_arguments(parser)
    return parser


def _load(options: argparse.Namespace) -> Predictor:
    own_modules.import_all(options.modules)
    try:
        return v2v_jax.load(
            options.checkpoint,
            full_frame=options.full_frame,
            scale=options.scale,
            overlap=options.overlap,
            batch_size=options.batch_size,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _predict_one(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    predictor = _load(options)
    output = parse_output(options.output, predictor.network.task, options.probabilities)
    if output.path.exists() and not options.overwrite:
        raise DataError(f"{output.path} exists; choose another --output, or add --overwrite.")
    if not output.path.absolute().parent.is_dir():
        raise DataError(f"Folder {output.path.parent} does not exist; make it, or choose another.")
    source = open_source(options.video)
    loaded = time.perf_counter()
    first = None
    with rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.TextColumn("{task.completed} frames, {task.speed} fps"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(os.path.basename(options.video), total=source.num_frames)

        def tick(count: int) -> None:
            nonlocal first
            if first is None:
                first = (count, time.perf_counter())
            progress.advance(task, count)

        frames = predict_to_files(
            predictor, source, output, tick=tick, **_writing(options, options.video)
        )
    end = time.perf_counter()
    line = f"{output.path}: {frames} frames in {end - loaded:.1f} s: "
    line += f"{frames / (end - loaded):.1f} fps with I/O"
    count, at = first
    if frames > count:
        line += f"; {(frames - count) / (end - at):.1f} fps after the first result"
    console.print(f"{line} (loading the weights took {loaded - start:.1f} s)")
    return 0


def _writing(options: argparse.Namespace, video: str) -> dict[str, object]:
    """Options of `predict_to_files`."""
    return dict(
        view=options.view,
        fps=options.fps,
        sound_of=video if os.path.isfile(video) else None,
        probabilities=options.probabilities,
    )


def _predict_collection(options: argparse.Namespace, videos: list[pathlib.Path]) -> int:
    if _NAME not in options.output:
        raise ConfigError(
            f"--video={options.video} is a folder of videos; --output needs {_NAME} in it, as in "
            f"out/{_NAME}.mp4."
        )
    jobs = []
    for video in videos:
        name = str(video.relative_to(options.video).with_suffix(""))
        target = options.output.replace(_NAME, name)
        path = target if target.lower().endswith(".mp4") else os.path.dirname(target)
        jobs.append(Job(name, str(video), path))
    report = jobs.run_jobs(
        jobs,
        functools.partial(_Work, options),
        backend=jobs.backend_from(options),
        replace=options.overwrite,
        **(dict(done=_never) if options.overwrite else {}),
    )
    report.print()
    return report.status


def _never(job: Job) -> bool:
    return False


class _Work:
    """Predicts one video after the other with the same weights; built once a worker process."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        compilation_cache.enable()
        self._predictor = _load(options)
        self._parse(options.output)  # now, not later

    def __call__(self, job: Job, path: str, tick: jobs.Tick) -> None:
        options = self._options
        target = options.output.replace(_NAME, job.name)
        predict_to_files(
            self._predictor,
            open_source(job.source),
            self._parse(target),
            write_to=path,
            tick=tick,
            **_writing(options, job.source),
        )

    def _parse(self, output: str) -> output_files.Output:
        return parse_output(output, self._predictor.network.task, self._options.probabilities)


def _find_videos(folder: pathlib.Path) -> list[pathlib.Path]:
    """The videos in a folder and its subfolders; none if it is a folder of frames."""
    videos = [folder / name for name in find_videos(folder)]
    if not videos and not list_pictures(folder):
        raise DataError(f"Folder {folder} holds neither videos nor the frames of one.")
    return videos
