"""The domain `wide`: videos for networks that are to work on real ones.

Somewhat less than half are street scenes, some from a tripod, the others collages (`collage`).
They are played at any speed, from a still to several times as fast, some with frames shown twice;
each is taken with a look of its own (`photography`) and coded at some low rate (`compression`). No
video has a cut.

The truth is that of the sharp rendering at the middle of the exposure: blur, noise and compression
do not move it. The bars of a letter box and captions stand still, validly, at no depth, and their
label is ignored. In a still street scene nobody can tell a driving car from a parked one: what
would move is labelled as what does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from v2v_jax.datasets.base.video_dataset import FIELDS, IGNORE_LABEL
from v2v_jax.datasets.scenes import photography
from v2v_jax.datasets.scenes.actors import CARS, HUMANS, POROUS, SOLID, VERTICAL_MIX
from v2v_jax.datasets.scenes.camera import REFERENCE_SIZE, Wave
from v2v_jax.datasets.scenes.collage import log_uniform, random_collage
from v2v_jax.datasets.scenes.collage_renderer import CollageRenderer
from v2v_jax.datasets.scenes.compression import GROUP, compress, random_codec
from v2v_jax.datasets.scenes.render import Layers, SceneRenderer
from v2v_jax.datasets.scenes.world import Scene, random_scene

STILL = {CARS: SOLID, HUMANS: SOLID, POROUS: VERTICAL_MIX}
_LONGEST = 4096  # frames after which the pattern of repeated frames begins anew
_OVERLAY = np.int16(2**15 - 1)  # owner of what is laid over the picture
_MOST_EXPOSURES = 12  # renderings that make up a motion blur
_BLUR_STEP = 1.5  # pixels between two of them


@dataclasses.dataclass(frozen=True)
class Clock:
    """At which time of its world each frame of a video shows it.

    Attributes:
      rate: time from one frame to the next.
      source: (_LONGEST,) int: the frame shows what this one would without repeated frames.
    """

    rate: float
    source: np.ndarray

    def __call__(self, frame: int) -> float:
        """The time at the middle of a frame's exposure."""
        rounds, place = divmod(frame, len(self.source) - 1)
        return self.rate * float(self.source[place] + rounds * self.source[-1])


def _random_clock(rng: np.random.Generator, street: bool) -> Clock:
    still = rng.random() < (0.14 if street else 0.08)
    speed = log_uniform(rng, 0.3, 4.5) if street else log_uniform(rng, 0.6, 1.2)
    steps = np.ones(_LONGEST - 1, int)
    repeats = rng.random(_LONGEST - 1) < rng.uniform(0.05, 0.3)
    if rng.random() < 0.1:
        steps[repeats] = 0
    return Clock(0.0 if still else speed, np.concatenate([[0], np.cumsum(steps)]))


def _street(rng: np.random.Generator) -> Scene:
    """A street scene, in some videos from a tripod."""
    scene = random_scene(rng)
    if rng.random() < 0.55:
        return scene
    path = dataclasses.asdict(scene.camera)
    held = {
        name: Wave(wave["amplitude"], 0 * wave["frequency"], wave["phase"])
        for name, wave in path.items()
        if isinstance(wave, dict)
    }
    return dataclasses.replace(scene, camera=dataclasses.replace(scene.camera, **held))


class WideVideo:
    """One video; holds nothing that changes: threads may share it."""

    def __init__(
        self,
        rng_of: Callable[..., np.random.Generator],
        frame_size: tuple[int, int],
        compression: str,
    ) -> None:
        """Draws the video's world and look.

        Args:
          rng_of: (purpose, …) → that random stream of the video.
          frame_size: (H, W).
          compression: of COMPRESSIONS.
        """
        self._rng_of = rng_of
        rng = rng_of(0)
        street = rng.random() < 0.45
        self.clock = _random_clock(rng, street)
        self.look = photography.random_look(rng_of(1))
        self.codec, self.quality = random_codec(rng_of(2), compression)
        world = rng_of(3)
        if street:
            self.renderer = SceneRenderer(_street(world), frame_size)
        else:
            self.renderer = CollageRenderer(random_collage(world), frame_size)
        self._relabel = np.arange(256, dtype=np.uint8)
        if self.clock.rate == 0:
            for label, still in STILL.items():
                self._relabel[label] = still
        self._over, self._overlay = photography.covered(self.look, frame_size)
        self._scale = max(frame_size[0] / REFERENCE_SIZE[0], frame_size[1] / REFERENCE_SIZE[1])

    def read(self, start: int, stop: int, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """See `Scenes.read`."""
        result: dict[str, list[np.ndarray]] = {field: [] for field in fields}
        wanted = "video" in fields
        first = start - start % GROUP if wanted and self.codec in ("h264", "mpeg4") else start
        exposed: list[np.ndarray] = []
        now = self.renderer.layers(self.clock(first))
        for frame in range(first, stop):
            if wanted:
                exposed.append(self._expose(now, frame))
            more = frame + 1 < stop or "flow_valid" in fields
            following = self.renderer.layers(self.clock(frame + 1)) if more else None
            if frame >= start:
                for field, value in self._truth(now, following, frame, fields).items():
                    result[field].append(value)
            now = following
        if wanted:
            shown: list[np.ndarray] = []
            for group in _groups(exposed, first):
                shown += compress(group, self.codec, self.quality)
            result["video"] = shown[start - first :]
        return {
            field: np.stack(values).astype(FIELDS[field].dtype) for field, values in result.items()
        }

    def _truth(
        self, now: Layers, following: Layers | None, frame: int, fields: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """All fields of a frame but the video; `following` is needed for flow_valid only."""
        t, then = self.clock(frame), self.clock(frame + 1)
        found: dict[str, np.ndarray] = {}
        if "labels" in fields:
            found["labels"] = self._relabel[self.renderer.labels(now)]
            found["labels"][self._over] = IGNORE_LABEL
        if "depth" in fields:
            found["depth"] = self.renderer.depth(now, t)
            found["depth"][self._over] = np.inf
        if "flow" in fields or "flow_valid" in fields:
            flow = self.renderer.flow(now, t, then)
            flow[self._over | (then == t)] = 0  # not even by a rounding error
            if "flow" in fields:
                found["flow"] = flow
            if "flow_valid" in fields:
                overlaid = [self._overlaid(layers) for layers in (now, following)]
                found["flow_valid"] = self.renderer.valid(*overlaid, flow)
        return found

    def _overlaid(self, layers: Layers) -> Layers:
        if not self._over.any():
            return layers
        owner = np.where(self._over, _OVERLAY, layers.owner)
        return dataclasses.replace(layers, owner=owner, pure=layers.pure | self._over)

    def _expose(self, now: Layers, frame: int) -> np.ndarray:
        """(H, W, 3) uint8: the frame as it was taken, before it is coded."""
        t = self.clock(frame)
        planes = now.planes
        exposures = self._exposures(now, t)
        if len(exposures) > 1:
            planes = sum(self.renderer.layers(moment).planes for moment in exposures)
            planes = planes / np.float32(len(exposures))
        if self.look.blur:
            depth = self.renderer.depth(now, t)
            planes = photography.defocus(self.look, planes, depth, self._scale)
        rng = self._rng_of(4, frame)
        exposed = photography.expose(self.look, planes, frame, self._scale, rng)
        exposed[self._over] = self._overlay[self._over]
        return exposed

    def _exposures(self, now: Layers, t: float) -> np.ndarray:
        """Times whose renderings make up the frame: as many as its fastest parts need."""
        open_for = self.look.shutter * self.clock.rate
        if not open_for:
            return np.array([t])
        flow = self.renderer.flow(now, t, t + open_for)
        length = np.percentile(np.abs(flow[::4, ::4]).max(-1), 98) / self._scale
        count = int(np.clip(np.ceil(length / _BLUR_STEP), 1, _MOST_EXPOSURES))
        return t + open_for * ((np.arange(count) + 0.5) / count - 0.5)


def _groups(frames: Sequence[np.ndarray], first: int) -> list[Sequence[np.ndarray]]:
    """Divides frames first … where a group ends."""
    cuts = [0, *range(GROUP - first % GROUP, len(frames), GROUP), len(frames)]
    return [frames[a:b] for a, b in zip(cuts, cuts[1:])]
