"""The dataset `scenes`: rendered street scenes with exact labels, flow and depth."""

from __future__ import annotations

import collections
import functools
import hashlib
import importlib.metadata
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from v2v_jax.datasets.base.video_dataset import FIELDS, FRAME_SIZE, VideoDataset, VideoInfo
from v2v_jax.datasets.scenes.compression import check_compression
from v2v_jax.datasets.scenes.motion import VIDEO_LABEL_NAMES, video_label
from v2v_jax.datasets.scenes.render import Layers, SceneRenderer
from v2v_jax.datasets.scenes.wide import WideVideo
from v2v_jax.datasets.scenes.world import Scene, random_scene
from v2v_jax.errors import ConfigError, DataError

LABEL_NAMES = (
    "sky",
    "ground",
    "solid",
    "porous",
    "cars",
    "humans",
    "vertical mix",
    "main mix",
)
SPLITS = ("train", "test", "validation")  # the order is part of what seeds a video
SENSOR_NOISE = 4.0  # grey levels, standard deviation
_STREAM = 0x5CE7E5  # sets these random streams apart from any other use of the same seed
_SCENE, _NOISE, _WIDE = 0, 1, 2
DOMAINS = ("plain", "wide")
_SCENES_KEPT = 32  # built scenes, about 5 MB each


@functools.lru_cache(maxsize=1)
def _noise_bank() -> np.ndarray:
    """A million standard normal numbers; a frame's noise is a random stretch of them."""
    return np.random.default_rng(_STREAM).standard_normal(1 << 20, np.float32)


def check_window(dataset: VideoDataset, video: int, start: int, stop: int) -> None:
    """Raises DataError if the dataset has no such video, or the video no such frames."""
    if not 0 <= video < len(dataset.videos):
        raise DataError(
            f"Dataset {dataset.name} has videos 0 to {len(dataset.videos) - 1} here, not {video}."
        )
    info = dataset.videos[video]
    if not 0 <= start < stop <= info.num_frames:
        raise DataError(
            f"Video {info.name} has frames 0 to {info.num_frames - 1}; "
            f"frames {start} to {stop - 1} were asked for."
        )


class Scenes(VideoDataset):
    """Street scenes in GATECH's eight classes, rendered when they are read, never downloaded.

    A video is a function of (seed, split, its index): the same bytes in every process, whichever
    other videos are read, at any `num_videos`; and its first frames are the same at any
    `num_frames`. The splits draw from disjoint random streams.

    Attributes:
      split: "train", "test" or "validation".
      seed, num_frames, noise: as given.
      label_names: GATECH's eight classes.
      video_label_names: see `motion`.
      frame_size, videos: see `VideoDataset`.
    """

    name = "scenes"
    fields = ("video", "labels", "flow", "flow_valid", "depth")
    python_share = 1.0
    label_names = LABEL_NAMES
    video_label_names = VIDEO_LABEL_NAMES

    def __init__(
        self,
        split: str,
        *,
        seed: int = 0,
        num_videos: int = 200,
        num_frames: int = 48,
        frame_size: tuple[int, int] = FRAME_SIZE,
        noise: float = SENSOR_NOISE,
        domain: str = "plain",
        compression: str = "mixed",
    ) -> None:
        """Describes the videos; nothing is rendered yet.

        Args:
          split: "train", "test" or "validation".
          seed: which world; not negative.
          num_videos: how many videos.
          num_frames: frames of each video.
          frame_size: (H, W) in pixels. The world and the picture's crop of it stay the same.
          noise: standard deviation of the sensor's noise in grey levels, 0 for none; plain domain.
          domain: "plain", street scenes as a good camera sees them, or "wide", for networks that
            are to work on real video (`wide`).
          compression: of the wide domain: "h264", "mpeg4", "jpeg", "none", or "mixed", any of them.

        Raises:
          ConfigError: one of them is out of range.
        """
        if split not in SPLITS:
            raise ConfigError(f"Dataset scenes has no split {split!r}: choose {', '.join(SPLITS)}.")
        sizes = {"num_videos": num_videos, "num_frames": num_frames}
        sizes |= {"frame height": frame_size[0], "frame width": frame_size[1]}
        for key, value in sizes.items():
            if value < 1:
                raise ConfigError(f"Dataset scenes needs a positive {key}, not {value}.")
        for key, value in {"seed": seed, "noise": noise}.items():
            if value < 0:
                raise ConfigError(f"Dataset scenes needs a {key} of 0 or more, not {value}.")
        if domain not in DOMAINS:
            raise ConfigError(
                f"Dataset scenes has no domain {domain!r}: choose {' or '.join(DOMAINS)}."
            )
        if domain == "wide":
            check_compression(compression)
            self.video_label_names = ()  # what moves is not drawn by class there
        self.domain = domain
        self.compression = compression
        self.split = split
        self.seed = seed
        self.num_frames = num_frames
        self.frame_size = (int(frame_size[0]), int(frame_size[1]))
        self.noise = noise
        self.videos = [
            VideoInfo(f"scenes-{split}-{seed}-{index:05d}", num_frames)
            for index in range(num_videos)
        ]
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        """Leaves the built scenes and the lock behind, so that workers can be sent a copy."""
        state = self.__dict__.copy()
        del state["_kept"], state["_lock"]
        return state

    def __setstate__(self, state: dict) -> None:
        """The counterpart of `__getstate__`."""
        self.__dict__.update(state)
        self._kept = collections.OrderedDict()
        self._lock = threading.Lock()

    def _rng(self, video: int, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(
            [_STREAM, SPLITS.index(self.split), self.seed, video, *purpose]
        )

    def renderer(self, video: int) -> SceneRenderer:
        """The renderer of one video of the plain domain, built on first use, kept for a while."""
        return self._built(video, lambda: SceneRenderer(self.scene(video), self.frame_size))

    def wide_video(self, video: int) -> WideVideo:
        """One video of the wide domain, built on first use and kept for a while."""
        rng_of = functools.partial(self._rng, video, _WIDE)
        return self._built(video, lambda: WideVideo(rng_of, self.frame_size, self.compression))

    def _built(self, video: int, build: Callable[[], Any]) -> Any:
        with self._lock:
            if video in self._kept:
                self._kept.move_to_end(video)
                return self._kept[video]
        # Built outside the lock: two threads may build the same scene, which harms nobody.
        built = build()
        with self._lock:
            self._kept[video] = built
            while len(self._kept) > _SCENES_KEPT:
                self._kept.popitem(last=False)
        return built

    def video_label(self, video: int) -> int:
        """See `VideoDataset.video_label`; builds the scene, which takes a tenth of a second."""
        return video_label(self.scene(video), self.num_frames)

    def scene(self, video: int) -> Scene:
        """What the video shows: camera, backdrop, sprites; built anew."""
        return random_scene(self._rng(video, _SCENE))

    def read(
        self, video: int, start: int, stop: int, fields: Sequence[str] = ("video",)
    ) -> dict[str, np.ndarray]:
        """Renders frames start..stop-1 of one video.

        Returns:
          For every field asked for an array (T,H,W,…), T = stop - start, as in `FIELDS`: video
          RGB 0..255, labels 0..7, flow (u, v) in pixels a frame (also for the last frame, whose
          follower is not part of the video), flow_valid, depth in metres and inf for the sky.

        Raises:
          DataError: no such video, frames or field.
        """
        self.check_fields(fields)
        check_window(self, video, start, stop)
        if self.domain == "wide":
            return self.wide_video(video).read(start, stop, fields)
        renderer = self.renderer(video)
        result = {
            field: np.empty(
                (stop - start, *self.frame_size, *FIELDS[field].channels), FIELDS[field].dtype
            )
            for field in fields
        }
        now = renderer.layers(start)
        for t in range(start, stop):
            more = t + 1 < stop or "flow_valid" in fields
            following = renderer.layers(t + 1) if more else None
            for field, value in self._frame(renderer, video, t, now, following, fields).items():
                result[field][t - start] = value
            now = following
        return result

    def identity(self) -> dict[str, Any]:
        """See `VideoDataset.identity`: the parameters, and a sum of the program that renders."""
        program = hashlib.sha256()
        for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
            program.update(path.read_bytes())
        return {
            "split": self.split,
            "seed": self.seed,
            "num_frames": self.num_frames,
            "noise": self.noise,
            **self._wide_identity(),
            "program": program.hexdigest(),
        }

    def _wide_identity(self) -> dict[str, Any]:
        if self.domain == "plain":
            return {}
        versions = {name: importlib.metadata.version(name) for name in ("av", "pillow")}
        return {"domain": self.domain, "compression": self.compression, **versions}

    def _frame(
        self,
        renderer: SceneRenderer,
        video: int,
        t: int,
        now: Layers,
        following: Layers | None,
        fields: Sequence[str],
    ) -> dict[str, np.ndarray]:
        """All fields of frame t; `following` is needed for flow_valid only."""
        result: dict[str, np.ndarray] = {}
        if "video" in fields:
            result["video"] = self._expose(now.planes, video, t)
        if "labels" in fields:
            result["labels"] = renderer.labels(now)
        if "depth" in fields:
            result["depth"] = renderer.depth(now, t)
        if "flow" in fields or "flow_valid" in fields:
            flow = renderer.flow(now, t)
            if "flow" in fields:
                result["flow"] = flow
            if "flow_valid" in fields:
                result["flow_valid"] = renderer.valid(now, following, flow)
        return result

    def _expose(self, planes: np.ndarray, video: int, t: int) -> np.ndarray:
        """(3, H, W) float32 → (H, W, 3) uint8 with the sensor's noise of frame t."""
        if self.noise:
            bank = _noise_bank()
            start = int(self._rng(video, _NOISE, t).integers(max(1, bank.size - planes.size)))
            grain = bank[start : start + planes.size]
            if grain.size < planes.size:  # a frame larger than the bank repeats it
                grain = np.resize(grain, planes.size)
            planes = planes + grain.reshape(planes.shape) * np.float32(self.noise)
        exposed = np.minimum(np.maximum(planes + np.float32(0.5), 0), 255).astype(np.uint8)
        return np.moveaxis(exposed, 0, -1)
