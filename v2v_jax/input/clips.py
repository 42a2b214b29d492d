"""Which clips a step sees: a pure function of (seed, step), the same on any number of hosts.

Random numbers come from the raw output of Philox, a counter-based generator whose stream NumPy
guarantees, so that a plan never changes with NumPy's version or with who computes it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np

from v2v_jax.errors import ConfigError, DataError
from v2v_jax.input.preprocess import Preprocessing

_SHUFFLE, _AUGMENT, _CHOICE = 0, 1, 2  # independent random streams
STAGES = 16  # in which a growing training set grows
_EPOCHS_OF_A_STAGE = 2**40  # sets the orders of one stage's epochs apart from another's


@dataclasses.dataclass(frozen=True)
class Clips:
    """A batch of clips: where each is cut out of which video.

    Attributes:
      video: (B,) int32, index into the dataset's videos.
      start: (B,) int32, first frame.
      top, left: (B,) int32, the crop's corner in the resized frame.
      mirror: (B,) bool, mirrored left to right.
      mask: (B,) bool, False for padding that must not count.
    """

    video: np.ndarray
    start: np.ndarray
    top: np.ndarray
    left: np.ndarray
    mirror: np.ndarray
    mask: np.ndarray

    def rows(self, first: int, last: int) -> Clips:
        """The clips first..last-1 of the batch, as one host's share."""
        return Clips(*(getattr(self, f.name)[first:last] for f in dataclasses.fields(self)))


class ClipSampler:
    """Training clips in random order: every clip once an epoch, random crop and mirror.

    A video of n frames gives the clips that start at 0, stride, 2·stride, …; one epoch goes
    through all clips of all videos in an order drawn anew from (seed, epoch).

    With `grow_steps` the first steps see the first videos only, in stages: the k-th sixteenth of
    these steps draws from the first k sixteenths of the videos, so that the others can be read or
    rendered meanwhile. Each stage has epochs of its own.

    With `probabilities` there are no epochs: the clips of a step are drawn independently of one
    another and of other steps, each as often as its probability says (`input.class_balance`);
    beside `grow_steps` as often as it says among the clips of the stage's videos.
    """

    def __init__(
        self,
        num_frames: Sequence[int],
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        stride: int,
        seed: int,
        mirror: bool = True,
        grow_steps: int = 0,
        probabilities: np.ndarray | None = None,
    ):
        """Lists the clips.

        Args:
          num_frames: of every video.
          stride: frames between the starts of a video's clips.
          grow_steps: how many steps it takes until all videos are seen; 0: from the first on.
          probabilities: (N,) of the clips of `clip_table`, whose sum is 1.

        Raises:
          ConfigError: the crop does not fit the frame, or stride or batch_size is not positive.
          DataError: no video is long enough for a clip.
        """
        _check_sizes(preprocessing, batch_size, stride)
        self._videos, self._starts = clip_table(num_frames, preprocessing.clip_length, stride)
        if probabilities is not None and len(probabilities) != len(self._videos):
            raise ValueError(f"Expected {len(self._videos)} probabilities, one for each clip.")
        self._cumulative = None if probabilities is None else np.cumsum(probabilities)
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._seed = seed
        self._mirror = mirror
        self._grow_steps = grow_steps
        videos = [-(-len(num_frames) * (stage + 1) // STAGES) for stage in range(STAGES)]
        self._stage_clips = np.maximum(np.searchsorted(self._videos, videos), 1).tolist()

    @property
    def clips_per_epoch(self) -> int:
        """How many clips there are."""
        return len(self._videos)

    def plan(self, step: int) -> Clips:
        """The clips of one step, step ≥ 0; depends on nothing but the constructor's arguments."""
        clip = self._clips(step)
        rows = self._preprocessing.frame_size[0] - self._preprocessing.crop_size[0] + 1
        columns = self._preprocessing.frame_size[1] - self._preprocessing.crop_size[1] + 1
        draws = _random((self._seed, _AUGMENT, step), 3 * self._batch_size).reshape(3, -1)
        return Clips(
            video=self._videos[clip],
            start=self._starts[clip],
            top=(draws[0] % rows).astype(np.int32),
            left=(draws[1] % columns).astype(np.int32),
            mirror=(draws[2] % 2 == 1) & self._mirror,
            mask=np.ones(self._batch_size, bool),
        )

    def _clips(self, step: int) -> np.ndarray:
        """(B,) int64: which clips a step sees."""
        if step >= self._grow_steps:
            count, first_step, stage = self.clips_per_epoch, self._grow_steps, 0
        else:
            stage = step * STAGES // self._grow_steps
            first_step = -(-stage * self._grow_steps // STAGES)
            count, stage = self._stage_clips[stage], stage + 1
        if self._cumulative is not None:
            draws = _random((self._seed, _CHOICE, step), self._batch_size)
            cumulative = self._cumulative[:count]
            if not cumulative[-1]:  # no label is known in this stage's videos
                cumulative = np.arange(1.0, count + 1)
            places = (draws >> np.uint64(11)) * 2.0**-53 * cumulative[-1]  # 53 bits: exact
            return np.minimum(np.searchsorted(cumulative, places, side="right"), count - 1)
        first = (step - first_step) * self._batch_size
        epoch, place = np.divmod(np.arange(first, first + self._batch_size), count)
        order = lambda e: _permutation(self._seed, int(e) + stage * _EPOCHS_OF_A_STAGE, count)
        return np.array([order(e)[p] for e, p in zip(epoch, place)])


def evaluation_windows(
    num_frames: Sequence[int], preprocessing: Preprocessing, *, batch_size: int, stride: int = 16
) -> Iterator[Clips]:
    """Evaluation's clips: centre crop, windows `stride` frames apart, the last batch padded.

    With stride = clip_length the windows do not overlap (paper section 4); what is left of a video
    after its last whole window is not evaluated.

    Yields:
      Batches of batch_size clips; padding repeats the first clip of all with mask False.

    Raises:
      ConfigError, DataError: as `ClipSampler`.
    """
    _check_sizes(preprocessing, batch_size, stride)
    videos, starts = clip_table(num_frames, preprocessing.clip_length, stride)
    top, left = (
        (frame - crop) // 2
        for frame, crop in zip(preprocessing.frame_size, preprocessing.crop_size)
    )
    for first in range(0, len(videos), batch_size):
        position = np.arange(first, first + batch_size)
        mask = position < len(videos)
        clip = np.where(mask, position, 0)
        full = lambda value: np.full(batch_size, value, np.int32)
        yield Clips(
            video=videos[clip],
            start=starts[clip],
            top=full(top),
            left=full(left),
            mirror=np.zeros(batch_size, bool),
            mask=mask,
        )


def _check_sizes(preprocessing: Preprocessing, batch_size: int, stride: int) -> None:
    if stride < 1 or batch_size < 1:
        raise ConfigError(
            f"batch_size is {batch_size} and stride {stride}; both must be at least 1."
        )
    frame, crop = preprocessing.frame_size, preprocessing.crop_size
    if crop[0] > frame[0] or crop[1] > frame[1] or min(crop) < 1:
        raise ConfigError(
            f"preprocessing.crop_size {tuple(crop)} does not fit frame_size {tuple(frame)}."
        )


def clip_table(
    num_frames: Sequence[int], clip_length: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """(video, first frame) of every clip, each (N,) int32.

    Raises:
      DataError: no video is long enough for a clip.
    """
    clips = [
        (video, start)
        for video, n in enumerate(num_frames)
        for start in range(0, n - clip_length + 1, stride)
    ]
    if not clips:
        raise DataError(
            f"None of the {len(num_frames)} videos has the {clip_length} frames that a clip needs."
        )
    videos, starts = np.array(clips, np.int32).T
    return videos, starts


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.argsort(_random((seed, _SHUFFLE, epoch), size), kind="stable")


def _random(key: tuple[int, int, int], size: int) -> np.ndarray:
    """(size,) uint64 drawn from the stream that `key` names."""
    seed, stream, counter = key
    # uint64 arrays: NumPy would turn a list with a large seed into floating point numbers.
    words = lambda *values: np.array(values, np.uint64)
    philox = np.random.Philox(key=words(seed % 2**64, stream), counter=words(0, 0, 0, counter))
    return philox.random_raw(size)
