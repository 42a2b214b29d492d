"""Any video in, a value for every voxel out: `v2v_jax.load(path)` gives a `Predictor`.

    predictor = v2v_jax.load("runs/demo")
    labels = predictor(video)                   # (T,H,W), aligned with the video
    for labels in predictor.stream("in.mp4"):   # (H,W), frame by frame, however long the video

Frames are scaled so that their shorter side is that of the training frames (the ratio of the sides
stays, to some percent), covered by as few windows as may be, and the answers blended and scaled
back.
Reading, the network and what the caller does with the results overlap.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from v2v_jax.errors import UserError
from v2v_jax.inference import blending, tiles, whole_frames
from v2v_jax.inference.blending import Blender, Finish
from v2v_jax.inference.network import TrainedNetwork
from v2v_jax.inference.plans import Frame, Plan
from v2v_jax.inference.tiles import TilesResult
from v2v_jax.inference.whole_frames import FramePrograms, FramesResult
from v2v_jax.inference.windows import (
    TimeWindow,
    nearest_multiple,
    plan_axis,
    time_windows,
    window_sides,
)
from v2v_jax.media.frame_sources import FrameResizer, FrameSource, Video, open_source
from v2v_jax.system import compiler_options
from v2v_jax.system.background import in_background
from v2v_jax.system.platforms import traced_for

_LONGEST = 4  # times the training frames' longer side that a video may have after enlarging
_OVERLAP = 0.25  # share of a window that the next one covers too
# Times the training clip's voxels that a window may have: what bounds the memory. It leaves room
# for whole frames of all usual shapes at the training scale.
_LARGEST_WINDOW = 4
_FRAMES_AHEAD = 16  # that are read before they are needed
# Windows a call of the network where the caller does not say. Accelerators are quickest with many;
# a CPU gains nothing, and would compute those that only fill up the last call.
_BATCH_SIZE = {"cpu": 1}
_BATCH_SIZE_ELSEWHERE = 32


class Chunk(NamedTuple):
    """Consecutive frames and what was predicted for them.

    Attributes:
      frames: (n,H,W,3) uint8 RGB, the input.
      values: (n,H,W) or (n,H,W,K); see `Predictor`.
    """

    frames: np.ndarray
    values: np.ndarray


class Predictor:
    """Predicts a value for every voxel of videos of any length and size.

    A video is a path (a video file, a folder of pictures), an array (T,H,W,3) uint8 RGB, or an
    iterable of (H,W,3) frames. What comes back for it is for the task to say (`Task.finish`), such
    as (T,H,W) uint8 labels or (T,H,W,2) float32 flow in pixels of the video: see
    docs/guides/own_video.md.

    Attributes:
      network: the trained network; `network.task` is its task, `network.about` the record stored
        with the weights.
      task: its task's name.
      label_names: the classes, index = label; empty for other tasks.
    """

    def __init__(
        self,
        network: TrainedNetwork,
        *,
        full_frame: bool | None = None,
        scale: Literal["training", "native"] = "training",
        overlap: float = _OVERLAP,
        batch_size: int | None = None,
        blend: Literal["tiles", "frames"] | None = None,
    ):
        """Puts the weights on the first device; nothing is compiled yet.

        Args:
          network: of `network.read_network`.
          full_frame, scale, overlap, batch_size: see `v2v_jax.load`.
          blend: "tiles": in many small calls, which serve any size of video (`blending`);
            "frames": on the device, in few calls, which are compiled for every size, where they
            fit (`whole_frames`). The answers are the same to rounding. None: "frames" on CPUs
            where one window, not of the training clip's size but made for the frame, covers it, as
            it does in all usual videos; else "tiles": no accelerator has measured the second yet,
            so it has to be asked for.

        Raises:
          ValueError: an option's value is unknown, or full_frame for a network with a fixed size.
        """
        if blend not in (None, "tiles", "frames"):
            raise ValueError(f"blend is {blend!r}; expected 'tiles', 'frames' or None.")
        if scale not in ("training", "native"):
            raise ValueError(f"scale is {scale!r}; expected 'training' or 'native'.")
        if full_frame and not network.any_size:
            raise ValueError("full_frame needs a checkpoint's network; an export has one size.")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap is {overlap}; expected 0 <= overlap < 1.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        self.network = network
        self.task, self.label_names = network.task.name, network.task.label_names
        self._full_frame, self._scale, self._overlap = full_frame, scale, overlap
        default = _BATCH_SIZE.get(jax.default_backend(), _BATCH_SIZE_ELSEWHERE)
        self._batch_size = batch_size or default
        self._params = blending.on_device(network.params)
        options = compiler_options.of_inference(jax.default_backend())
        self._forward = jax.jit(network.apply, compiler_options=options)
        self._compiled: set[tuple[int, ...]] = set()
        self._compiling = threading.Lock()
        self._blenders: dict[tuple[int, int, int], Blender] = {}
        self._frame_programs: dict[tuple[int, int, int], FramePrograms] = {}
        self._blend = blend

    def __repr__(self) -> str:
        """Task, data, size and step in a line, with the options that are not the defaults."""
        network, about = self.network, self.network.about
        data = about.get("config", {}).get("data", {}).get("name")
        model = about.get("model", {})
        parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(network.params))
        clip, frame = (
            "×".join(map(str, sides)) for sides in (network.clip, network.preprocessing.frame_size)
        )
        parts = [
            f"{self.task} of {len(self.label_names)} classes" if self.label_names else self.task,
            data and f"trained on {data}",
            model and f"{model.get('name')} of width {model.get('width')}",
            parameters and f"{parameters / 1e6:.3g} M parameters",
            f"clips of {clip} from frames of {frame}",
            network.step is not None and f"step {network.step}",
            self._scale != "training" and f"scale={self._scale!r}",
            self._overlap != _OVERLAP and f"overlap={self._overlap}",
            self._full_frame is not None and f"full_frame={self._full_frame}",
        ]
        return f"<Predictor: {', '.join(part for part in parts if part)}>"

    def __call__(self, video: Video) -> np.ndarray:
        """The predictions of a whole video, in memory; see the class.

        Raises:
          DataError: the video cannot be read, has no frames, or is no video; of an array that is
            none, says what makes a video of it.
        """
        return np.concatenate([values for _, values in self.chunks(video)])

    def probabilities(self, video: Video) -> np.ndarray:
        """(T,H,W,K) float32 class probabilities.

        Raises:
          ValueError: a task that has none.
          DataError: see `__call__`.
        """
        chunks = self.chunks(video, probabilities=True)
        return np.concatenate([values for _, values in chunks])

    def stream(self, video: Video, *, probabilities: bool = False) -> Iterator[np.ndarray]:
        """Yields each frame's prediction in order, as soon as no later window changes it.

        Memory does not depend on the length of the video. Reading and the network work ahead of
        the caller in threads of their own.

        Raises:
          ValueError, DataError: see `chunks`.
        """
        for _, values in self.chunks(video, probabilities=probabilities):
            yield from values

    def chunks(self, video: Video | FrameSource, *, probabilities: bool = False) -> Iterator[Chunk]:
        """Like `stream`, several frames at a time together with the video's own.

        Args:
          video: see the class; or a `FrameSource`.
          probabilities: give (n,H,W,K) float32 class probabilities instead of labels.

        Raises:
          ValueError: probabilities of a task that has none.
          DataError: the video cannot be read; the predictions of the frames before come first.
        """
        task = self.network.task
        if not probabilities:
            return self._chunks(open_source(video), task.finish, task.finish_reads_video)
        if not task.has_probabilities:
            raise ValueError(f"The task {task.name} has no probabilities of classes.")
        return self._chunks(open_source(video), blending.unchanged, reads_video=False)

    def _chunks(self, source: FrameSource, finish: Finish, reads_video: bool) -> Iterator[Chunk]:
        ending = _Ending(source.frames)
        frames = in_background(ending, _FRAMES_AHEAD)
        first = next(frames, None)
        if first is None:
            frames.close()
            raise ending.error
        plan = self._plan(first.shape[:2], finish, reads_video)
        resized = in_background(_with_scaled(first, frames, plan.size), _FRAMES_AHEAD)
        windows = time_windows(resized, self.network.clip[0], self._overlap)
        results = self._results(windows, plan)
        try:
            for result in results:
                yield Chunk(np.stack([frame.whole for frame in result.frames]), result.fetch())
        finally:
            results.close()
            resized.close()
            frames.close()
        if ending.error is not None:
            raise ending.error

    def scaled_chunks(
        self, frames: Iterator[np.ndarray], size: tuple[int, int], finish: Finish | None = None
    ) -> Iterator[Any]:
        """Results for frames that are scaled already, as `VideoFile.stream` does it.

        Args:
          frames: (h,w,3) uint8 RGB of `scaled_size(size)`.
          size: (H,W) of the video.
          finish: what becomes of blended values, in place of `Task.finish`; may give a pytree of
            arrays (T,…).

        Yields:
          As `finish` gives them, (n,H,W,…): of consecutive frames.

        Raises:
          ValueError: of a task whose results take the whole frames.
        """
        task = self.network.task
        if finish is None and task.finish_reads_video:
            raise ValueError(f"Results of the task {task.name} take the whole frames.")
        plan = self._plan(size, finish or task.finish, reads_video=False)
        items = (Frame(frame, frame) for frame in frames)
        results = self._results(time_windows(items, self.network.clip[0], self._overlap), plan)
        try:
            for result in results:
                yield result.fetch()
        finally:
            results.close()

    def scaled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H,W) of the frames that the network sees, for a video of (H,W) = size."""
        if self._scale == "native":
            return size
        trained = self.network.preprocessing.frame_size
        # Long strips are not blown up: their pixels would be many times those of any other video.
        factor = min(min(trained) / min(size), max(1.0, _LONGEST * max(trained) / max(size)))
        h, w = (max(1, round(side * factor)) for side in size)
        if self._full_frame is None and self.network.any_size:
            # Scaled by some percent a frame needs no padding, which made flow worse.
            _, *multiples = self.network.multiple
            h, w = (nearest_multiple(n, m) for n, m in zip((h, w), multiples))
        return h, w

    def _plan(self, size: tuple[int, int], finish: Finish, reads_video: bool) -> Plan:
        """The windows for frames of that size."""
        inner = self.scaled_size(size)
        time, *clip = self.network.clip
        window = self._window(inner)
        share = math.prod(clip) / math.prod(window)
        batch_size = max(1, min(self._batch_size, round(self._batch_size * share)))
        rows, columns = (
            plan_axis(side, target, length, self._overlap)
            for side, target, length in zip(inner, size, window)
        )
        scale = np.array([size[1] / inner[1], size[0] / inner[0]], np.float32)
        return Plan(inner, (time, *window), batch_size, rows, columns, finish, reads_video, scale)

    def _window(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H,W) of the windows for frames of that size, as the network sees them."""
        _, *clip = self.network.clip
        if self._full_frame is False or not self.network.any_size:
            return clip[0], clip[1]
        _, *multiples = self.network.multiple
        if self._full_frame:
            h, w = (-(-side // multiple) * multiple for side, multiple in zip(size, multiples))
            return h, w
        most = _LARGEST_WINDOW * math.prod(clip)
        return window_sides(size, tuple(clip), tuple(multiples), self._overlap, most)

    def _results(
        self, windows: Iterator[TimeWindow], plan: Plan
    ) -> Iterator[FramesResult] | Iterator[TilesResult]:
        """What the device has been given to compute, in order; works ahead in the background."""
        num_values = self.network.task.num_values
        if self._blends_frames(plan) and whole_frames.fits(plan, num_values):
            if plan.window not in self._frame_programs:
                self._frame_programs[plan.window] = FramePrograms(
                    plan.window, num_values, self._overlap
                )
            programs = self._frame_programs[plan.window]
            return in_background(programs.dispatch(windows, plan, self._apply), 2)
        if plan.window not in self._blenders:
            self._blenders[plan.window] = Blender(plan.window, num_values)
        results = tiles.dispatch(windows, plan, self._blenders[plan.window], self._apply)
        # Enough results in flight for the network to have its next batch while they are read back.
        return in_background(results, 2 * math.ceil(plan.batch_size / plan.num_windows))

    def _blends_frames(self, plan: Plan) -> bool:
        if self._blend is not None:
            return self._blend == "frames"
        # Windows of the training clip's size serve every video, whatever its size.
        any_size = self._full_frame is not False and self.network.any_size
        return jax.default_backend() == "cpu" and any_size and plan.num_windows == 1

    def _apply(self, batch: jax.Array | np.ndarray) -> jax.Array:
        """(B,T,H,W,3) uint8 → (B,T,H,W,K) float32; one thread compiles and the others wait."""
        if batch.shape not in self._compiled:
            with self._compiling, traced_for(jax.default_backend()):
                result = self._forward(self._params, batch)
                self._compiled.add(batch.shape)
                return result
        return self._forward(self._params, batch)


def _with_scaled(
    first: np.ndarray, others: Iterator[np.ndarray], size: tuple[int, int]
) -> Iterator[Frame]:
    resize = FrameResizer(size)
    for frame in itertools.chain([first], others):
        yield Frame(frame, resize(frame))


class _Ending:
    """An iterator that ends where `items` raises a UserError, and keeps the error for later."""

    def __init__(self, items: Iterator[np.ndarray]):
        self._items = items
        self.error: UserError | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            yield from self._items
        except UserError as error:
            self.error = error
