"""A folder of videos to predict: which files are its videos, and where the output of each goes."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Mapping

from v2v_jax.errors import ConfigError, DataError
from v2v_jax.media.folders import find_videos, list_pictures
from v2v_jax.system.jobs import Job
from v2v_jax.system.messages import some_of

# In an output: the video's path in the folder, without extension where that tells it from others.
NAME = "{name}"


def holds_videos(folder: str | os.PathLike[str], output: str = "") -> bool:
    """Whether a folder holds videos, perhaps in its subfolders, and not the frames of one.

    Args:
      folder: to be predicted.
      output: where to; what an earlier run has written there is none of the folder's videos.

    Raises:
      DataError: it holds neither.
    """
    own = {os.path.realpath(path) for path in (output, partial_path(output)) if path}
    videos = find_videos(os.fspath(folder))
    if any(os.path.realpath(os.path.join(folder, video)) not in own for video in videos):
        return True
    if list_pictures(folder):
        return False
    raise DataError(f"Folder {folder} holds neither videos nor the frames of one.")


def plan_jobs(folder: str, output: str, *, overwrite: bool) -> list[Job]:
    """A job for every video of a folder.

    What earlier runs with this output wrote into the folder is not taken for videos of it: all
    that lies in a folder inside which the outputs go, and every file that is another's output.

    Args:
      folder: the videos, in natural order of their paths.
      output: with {name} in it: `out/{name}.mp4`, or of frames' files `out/{name}/%05d.png`, where
        a job's output is the folder.
      overwrite: whether outputs that exist are to be replaced.

    Raises:
      ConfigError: there is no {name}, or not in the folder of frames' files; an output would
        replace a video of the folder.
    """
    _check_template(folder, output)
    videos = find_videos(folder)
    outputs = os.path.dirname(output.partition(NAME)[0])
    beside = os.path.realpath(outputs) == os.path.realpath(folder)
    if _is_in(outputs, folder) and not beside:
        videos = [video for video in videos if not _is_in(os.path.join(folder, video), outputs)]
    names = dict(zip(videos, map(_stem, videos), strict=True))
    if not beside:  # there an output would be taken for a video of that name
        names = _told_apart(names)
    jobs = [_job(folder, video, name, output) for video, name in names.items()]
    sources = {os.path.realpath(job.source) for job in jobs}
    replaced = {os.path.realpath(path): job for job in jobs for path in _written_by(job)}
    taken = sources & replaced.keys()
    for path in sorted(taken):
        job = replaced[path]
        if overwrite or os.path.realpath(job.source) == path:
            raise ConfigError(
                f"--output={output} would replace {path}, which is among the videos of {folder}; "
                f"choose a folder of its own, as {os.path.join(folder, 'out', NAME)}.mp4."
            )
    return [job for job in jobs if os.path.realpath(job.source) not in taken]


def partial_path(output: str) -> str:
    """Where what there is of a video that broke off goes: out.partial.mp4, a folder out.partial."""
    suffix = os.path.splitext(output)[1] if is_movie(output) else ""
    return f"{output.removesuffix(suffix)}.partial{suffix}"


def _written_by(job: Job) -> tuple[str, str]:
    return job.output, partial_path(job.output)


def _check_template(folder: str, output: str) -> None:
    if NAME not in output:
        raise ConfigError(
            f"--video={folder} is a folder of videos ({some_of(find_videos(folder))}); "
            f"--output needs {NAME} in it, as in out/{NAME}.mp4."
        )
    directory, file = os.path.split(output)
    if not is_movie(output) and NAME not in directory:
        raise ConfigError(
            f"--output={output}: for a file a frame, {NAME} belongs into the folder's name, as in "
            f"out/{NAME}/{file.replace(NAME, '')}."
        )


def is_movie(output: str) -> bool:
    """Whether an output is one file, and not a folder with a file a frame."""
    return output.lower().endswith(".mp4")


def _stem(video: str) -> str:
    return os.path.splitext(video)[0]


def _told_apart(names: Mapping[str, str]) -> dict[str, str]:
    """Video → its name; with its extension where another one (1.mts, 1.mp4) has the same."""
    uses = collections.Counter(names.values())
    return {video: name if uses[name] == 1 else video for video, name in names.items()}


def _job(folder: str, video: str, name: str, output: str) -> Job:
    target = output if is_movie(output) else os.path.dirname(output)
    return Job(name, os.path.join(folder, video), target.replace(NAME, name))


def _is_in(path: str, folder: str) -> bool:
    return pathlib.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
