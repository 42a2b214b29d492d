"""Decoding and scaling in processes of their own.

Threads decode at once, but what Python does between the frames they do one after the other: beyond
some thousand frames a second they wait for each other. A process sends frames through a pipe, many
at a time.

    with DecodingPool(4) as pool:
        with pool.open("in.avi") as video:
            for frame in video.frames((128, 171)):
                ...
"""

from __future__ import annotations

import json
import os
import pathlib
import queue
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

import v2v_jax
from v2v_jax.errors import CorruptVideoError, DataError, UserError

_BLOCK = 32  # frames that are sent at a time
_PIPE_BYTES = 2**20  # what Linux lets anyone ask for
_COUNT = struct.Struct("<i")  # before a block: its frames; 0: the end, -1: an error's sentence
_ERRORS = {kind.__name__: kind for kind in (CorruptVideoError, DataError)}


class DecodingPool:
    """A number of decoding processes, lent to threads one video at a time; started when needed."""

    def __init__(self, processes: int) -> None:
        """processes: how many; 0: who draws a video's frames decodes them."""
        self._here = processes == 0
        self._places: queue.LifoQueue[DecodingProcess | None] = queue.LifoQueue()
        for _ in range(processes):
            self._places.put(None)
        self._started: list[DecodingProcess] = []

    def open(self, path: str | os.PathLike[str]) -> DecodedVideo:
        """Waits for a process and opens a video.

        Raises:
          DataError, CorruptVideoError: as `VideoFile`.
        """
        if self._here:
            decoder = DecodingHere()
            return DecodedVideo(decoder, decoder.open(path), lambda decoder: None)
        process = self._places.get()
        try:
            if process is None:
                process = DecodingProcess()
                self._started.append(process)
            facts = process.open(path)
        except BaseException:
            self._places.put(process)
            raise
        return DecodedVideo(process, facts, self._places.put)

    def close(self) -> None:
        """Ends the processes."""
        for process in self._started:
            process.close()

    def __enter__(self) -> DecodingPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DecodedVideo:
    """A video of a pool, whose process, if it has any, is free once the last frame is read.

    Attributes:
      facts: its number of frames and their size.
    """

    def __init__(
        self,
        process: DecodingProcess | DecodingHere,
        facts: VideoFacts,
        give_back: Callable[[Any], None],
    ) -> None:
        self.facts = facts
        self._process: DecodingProcess | DecodingHere | None = process
        self._give_back = give_back

    def frames(self, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """See `DecodingProcess.frames`; once."""
        if self._process is None:
            raise ValueError("The frames of this video were read.")
        yield from self._process.frames(size)
        self.close()

    def close(self) -> None:
        """Gives the process back, whatever is left to read."""
        process, self._process = self._process, None
        if process is not None:
            self._give_back(process)

    def __enter__(self) -> DecodedVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VideoFacts(NamedTuple):
    """What is known of a video without its frames: their number, and their (H,W)."""

    num_frames: int
    size: tuple[int, int]


class DecodingHere:
    """Decodes in the thread that draws the frames, as `DecodingProcess` does elsewhere."""

    def open(self, path: str | os.PathLike[str]) -> VideoFacts:
        """See `DecodingProcess.open`."""
        from v2v_jax.media.video import VideoFile

        self._video = VideoFile(path)
        return VideoFacts(self._video.num_frames, self._video.size)

    def frames(self, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """See `DecodingProcess.frames`."""
        from v2v_jax.media.frame_sources import FrameResizer

        return map(FrameResizer(size), self._video.stream())


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
        if self._pending or self._process.poll() is not None:
            # A reader that stopped midway left frames in the pipe; or something has ended it.
            self.close()
            self._process, self._pending = _started(), False
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

    def _ask(self, question: dict[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        except BrokenPipeError as error:
            raise self._ended() from error

    def _count(self) -> int:
        count = np.empty(_COUNT.size, np.uint8)
        self._fill(count)
        (number,) = _COUNT.unpack(count)
        if number < 0:
            self._pending = False
            self._answer()  # raises
        return number

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise _ERRORS.get(answer["kind"], DataError)(answer["error"])
        return answer

    def _fill(self, array: np.ndarray) -> None:
        view = memoryview(array).cast("B")
        while view:
            read = self._process.stdout.readinto(view)
            if not read:
                raise self._ended()
            view = view[read:]

    def _ended(self) -> DataError:
        self._pending = True  # so that the next video gets another process
        return DataError("A decoding process ended before its video did; start again.")


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
