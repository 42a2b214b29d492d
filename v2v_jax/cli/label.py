"""Labels videos with the optical flow that a teacher finds between their frames.

    v2v label --videos=DIR --output=LABELS
    v2v label --dataset=ucf101 --root=data/ucf101 --output=LABELS
    v2v label --videos=DIR --output=LABELS --check

A run that was killed goes on when it is started again. `--check` reads labels and videos and names
every label that is missing, damaged, too many or of another video. Train on them with
`--config=flow:dataset=ucf101 --config.data.flow_labels=LABELS`; docs/flow.md says more.
"""

from __future__ import annotations

import argparse
import os

from v2v_jax.cli.command_line import Parser, path
from v2v_jax.datasets.readers.ucf101 import VIDEOS as UCF101_VIDEOS
from v2v_jax.errors import DataError
from v2v_jax.labelling.teachers import TEACHERS
from v2v_jax.media.folders import find_videos
from v2v_jax.system import jobs
from v2v_jax.system.console import console

# The folder of a dataset's videos, in its root: names of labels are relative to it.
_VIDEOS_OF = {"ucf101": UCF101_VIDEOS, "folder": ""}


def add_options(parser: Parser) -> None:
    """See the module."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--videos", type=path, metavar="DIR", help="a folder of videos, with its subfolders"
    )
    source.add_argument("--dataset", choices=sorted(_VIDEOS_OF), help="a dataset, at --root")
    parser.add_argument(
        "--root", type=path, default="data/ucf101", metavar="DIR", help="as config.data.root"
    )
    parser.add_argument(
        "--output", type=path, required=True, metavar="DIR", help="the folder of the labels"
    )
    parser.add_argument(
        "--teacher",
        default="brox",
        help=f"{', '.join(TEACHERS)}, or module:function (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="to compute at (default: each video's own)"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="frame pairs at a time")
    parser.add_argument("--check", action="store_true", help="compare the labels with the videos")
    jobs.add_arguments(parser, threads=min(4, os.cpu_count() or 1))


def run(options: argparse.Namespace) -> int:
    """Labels or checks; returns the exit status: 1 if a video failed or a problem was found."""
    from v2v_jax.labelling.label_maker import LabelSet, check_labels, label_videos, stored_size
    from v2v_jax.system import compilation_cache

    folder = options.videos
    if options.dataset:
        folder = os.path.join(options.root, _VIDEOS_OF[options.dataset])
    labels = LabelSet(
        folder, _find(folder), options.output, options.teacher, options.size, options.batch_size
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
    size, pairs = stored_size(labels)
    if pairs:
        console.print(
            f"{labels.output}: {size / 1e6:.1f} MB, {pairs} pairs, {size / pairs / 1e3:.1f} KB each"
        )
    return report.status


def _find(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        raise DataError(f"Video folder {folder} does not exist; give a folder of video files.")
    names = find_videos(folder)
    if not names:
        raise DataError(f"Video folder {folder} holds no videos.")
    return names


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HxW, such as 128x171")
    return int(height), int(width)
