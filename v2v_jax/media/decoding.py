"""Decoding and scaling in processes of their own.

Threads decode at once, but what Python does between the frames they do one after the other: beyond
some thousand frames a second they wait for each other. A process sends frames through a pipe, many
at a time.

    with DecodingProcess() as decoder:
        video = decoder.open("in.avi")
        for frame in decoder.frames((128, 171)):
            ...
"""

from __future__ import annotations

import json
import os
import pathlib
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

import v2v_jax
from v2v_jax.errors import CorruptVideoError, DataError, UserError

_BLOCK = 32  # frames that are sent at a time
_PIPE_BYTES = 2**20  # what Linux lets anyone ask for
_COUNT = struct.Struct("<i")  # before a block: its frames; 0: the end, -1: an error's sentence
_ERRORS = {kind.__name__: kind for kind in (CorruptVideoError, DataError)}


class VideoFacts(NamedTuple):
    """What is known of a video without its frames: their number, and their (H,W)."""

    num_frames: int
    size: tuple[int, int]


class DecodingProcess:
    """Decodes one video after the other in a process of its own; for one thread at a time.

    Frames are those of `VideoFile.stream`, scaled as `FrameResizer` does.
    """

    def __init__(self) -> None:
        """Starts the process, which ends with this one."""
        self._process = _started()
        self._pending = False  # whether frames are still to come

    def open(self, path: str | os.PathLike[str]) -> VideoFacts:
        """Opens a video and decodes its first frame.

        Raises:
          DataError, CorruptVideoError: as `VideoFile`.
        """
        self._drain()
        self._ask({"open": os.path.abspath(path)})
        answer = self._answer()
        return VideoFacts(answer["num_frames"], tuple(answer["size"]))

    def frames(self, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """All frames of the video that was opened, (h,w,3) uint8 RGB of `size`.

        Raises:
          CorruptVideoError: a frame cannot be decoded; after those before it.
        """
        self._ask({"size": size})
        self._pending = True
        while count := self._count():
            block = np.empty((count, *size, 3), np.uint8)
            self._fill(block)
            yield from block
        self._pending = False

    def close(self) -> None:
        """Ends the process, whatever it is at."""
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> DecodingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drain(self) -> None:
        """A reader that stopped midway left frames in the pipe: the process is started anew."""
        if self._pending:
            self.close()
            self._process, self._pending = _started(), False

    def _ask(self, question: dict[str, Any]) -> None:
        self._process.stdin.write(json.dumps(question).encode() + b"\n")

    def _count(self) -> int:
        count = np.empty(_COUNT.size, np.uint8)
        self._fill(count)
        (number,) = _COUNT.unpack(count)
        if number < 0:
            self._pending = False
            self._answer()  # raises
        return number

    def _answer(self) -> dict[str, Any]:
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise _ERRORS.get(answer["kind"], DataError)(answer["error"])
        return answer

    def _fill(self, array: np.ndarray) -> None:
        view = memoryview(array).cast("B")
        while view:
            read = self._process.stdout.readinto(view)
            if not read:
                raise DataError("A decoding process ended before its video; start again.")
            view = view[read:]


def _started() -> subprocess.Popen[bytes]:
    root = str(pathlib.Path(v2v_jax.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "v2v_jax.media.decoding"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": path},
    )
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return process


# ------------------------------------------------------------------------------------------------
# The process


def _serve(questions: BinaryIO, answers: BinaryIO) -> None:
    from v2v_jax.media.video import VideoFile

    video = None
    for line in questions:
        question = json.loads(line)
        if "open" in question:
            try:
                video = VideoFile(question["open"])
                answer = {"num_frames": video.num_frames, "size": video.size}
            except UserError as error:
                answer = _sentence(error)
            _send(answers, json.dumps(answer).encode() + b"\n")
        else:
            try:
                _send_frames(answers, video, tuple(question["size"]))
                _send(answers, _COUNT.pack(0))
            except UserError as error:
                _send(answers, _COUNT.pack(-1) + json.dumps(_sentence(error)).encode() + b"\n")


def _send_frames(answers: BinaryIO, video: Any, size: tuple[int, int]) -> None:
    from v2v_jax.media.frame_sources import FrameResizer

    resize = FrameResizer(size)
    block, count = np.empty((_BLOCK, *size, 3), np.uint8), 0
    try:
        for frame in video.stream():
            block[count] = resize(frame)
            count += 1
            if count == _BLOCK:
                _send_block(answers, block)
                count = 0
    finally:  # also those before a frame that cannot be decoded
        if count:
            _send_block(answers, block[:count])


def _send_block(answers: BinaryIO, block: np.ndarray) -> None:
    _send(answers, _COUNT.pack(len(block)))
    _send(answers, block)


def _send(answers: BinaryIO, data: Any) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[answers.write(view) :]


def _sentence(error: UserError) -> dict[str, str]:
    return {"error": str(error), "kind": type(error).__name__}


def main() -> None:
    """Answers on the standard output until the standard input ends."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not come between the frames
    try:
        _serve(sys.stdin.buffer, answers)
    except (BrokenPipeError, KeyboardInterrupt):  # nobody reads any more
        os._exit(0)


if __name__ == "__main__":
    main()
