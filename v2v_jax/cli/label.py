"""Labels videos with what a teacher finds in them: optical flow, classes or depth.

    v2v label --videos=DIR --output=LABELS
    v2v label --videos=DIR --output=LABELS --processes=4
    v2v label --dataset=ucf101 --root=data/ucf101 --output=LABELS
    v2v label --videos=DIR --output=LABELS --task=segmentation --teacher=tflite:people.tflite
    v2v label --videos=DIR --output=LABELS --task=depth --teacher=my_module:my_function
    v2v label --videos=DIR --output=LABELS --check

A run that was killed goes on when it is started again. `--check` reads labels and videos and names
every label that is missing, damaged, too many or of another video. Train on them with
`--config=flow:dataset=ucf101 --config.data.teacher_labels=LABELS`. docs/guides/teacher_labels.md
says more.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from v2v_jax.cli.command_line import Parser, path
from v2v_jax.errors import ConfigError, DataError
from v2v_jax.labelling.teachers import SEES, TEACHERS, TeacherOptions
from v2v_jax.media.folders import find_videos
from v2v_jax.system import jobs, processors
from v2v_jax.system.console import console

_DATASETS = ("davis", "folder", "frames", "ucf101")


def add_options(parser: Parser) -> None:
    """See the module."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--videos",
        type=path,
        metavar="DIR",
        help="a folder of videos with its subfolders, or of folders of pictures",
    )
    source.add_argument("--dataset", choices=_DATASETS, help="a dataset, at --root")
    parser.add_argument(
        "--root", type=path, default="data/ucf101", metavar="DIR", help="as config.data.root"
    )
    parser.add_argument(
        "--output", type=path, required=True, metavar="DIR", help="the folder of the labels"
    )
    parser.add_argument("--task", default="flow", help="what learns from it (default: %(default)s)")
    parser.add_argument(
        "--teacher",
        default="brox",
        help=f"{', '.join(TEACHERS)}, tflite:FILE or module:function (default: %(default)s)",
    )
    parser.add_argument(
        "--sees", choices=SEES, help="what a function is called with (default: by its arguments)"
    )
    parser.add_argument(
        "--label_names",
        type=_names,
        default=(),
        metavar="A,B,…",
        help="of the classes, from 0 (default: background,foreground)",
    )
    parser.add_argument(
        "--input_range",
        type=_range,
        default=(0.0, 1.0),
        metavar="BLACK,WHITE",
        help="what these are to a network tflite:FILE (default: 0,1)",
    )
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="to compute at (default: each video's own)"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="frames or pairs at a time")
    parser.add_argument("--check", action="store_true", help="compare the labels with the videos")
    jobs.add_arguments(parser, threads=min(4, processors.count()))


def run(options: argparse.Namespace) -> int:
    """Labels or checks; returns the exit status: 1 if a video failed or a problem was found."""
    from v2v_jax.labelling.label_maker import LabelSet, check_labels, label_videos, stored_size
    from v2v_jax.system import compilation_cache

    folder, names, pictures = _find(options)
    field = _field(options.task)
    labels = LabelSet(
        folder,
        names,
        options.output,
        options.teacher,
        options.size,
        options.batch_size,
        TeacherOptions(field, options.sees, options.label_names, options.input_range),
        pictures,
    )
    if options.check:
        problems = check_labels(labels, options.threads)
        for problem in problems:
            console.print(problem)
        console.print(f"{len(labels.names)} videos, {len(problems)} problems")
        return int(bool(problems))
    compilation_cache.enable()
    report = label_videos(labels, jobs.backend_from(options))
    report.print()
    size, count = stored_size(labels)
    if count:
        what = "pairs" if field == "flow" else "frames"
        each = f"{size / count / 1e3:.1f} KB each"
        console.print(f"{labels.output}: {size / 1e6:.1f} MB, {count} {what}, {each}")
    return report.status


def _field(task: str) -> str:
    """Which field of a dataset a teacher is to make for a task."""
    from v2v_jax.tasks import TASKS, task_class

    if not (field := task_class(task).label_field):
        others = ", ".join(name for name, kind in TASKS.items() if kind.label_field)
        raise ConfigError(f"The task {task} needs no labels of a teacher; those that do: {others}.")
    return field


def _find(
    options: argparse.Namespace,
) -> tuple[str, Sequence[str], Mapping[str, Sequence[str]]]:
    """The folder of the videos, their names in it, and of those that are pictures the files."""
    from v2v_jax.datasets.readers import davis, frame_folder, ucf101
    from v2v_jax.media.picture_sequence import find_sequences

    folder = options.videos or options.root
    if options.dataset == "ucf101":
        folder = os.path.join(folder, ucf101.VIDEOS)
    elif options.dataset == "davis":
        folder = davis.frame_folder(folder)
    if not os.path.isdir(folder):
        what = "is no folder" if os.path.exists(folder) else "does not exist"
        raise DataError(f"Video folder {folder} {what}; give a folder of video files.")
    if options.dataset == "frames":
        pictures = frame_folder.frame_files(folder)
    else:
        names = find_videos(folder)
        if names:
            return folder, names, {}
        pictures = find_sequences(folder)
    if not pictures:
        raise DataError(f"Video folder {folder} holds no videos.")
    return folder, list(pictures), pictures


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: expected two names or more, with commas")
    return names


def _range(text: str) -> tuple[float, float]:
    try:
        black, white = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers, such as -1,1") from None
    return black, white


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; expected HxW, such as 128x171")
    return int(height), int(width)
