"""Renders a scene: the frame and, exactly, what every pixel shows and where it goes.

Painter's algorithm: sky, ground, then the sprites from far to near, each with soft edges. A pixel
belongs to the last surface that covers at least half of it, and is *pure* if nothing else shows
through. Flow is computed from the geometry of the owner: the pixel's point of the surface is
projected by the camera of the next frame.

Inside, colours are kept as planes (C, H, W): NumPy multiplies whole rows by alpha at once, where a
channels-last array would be worked off three numbers at a time.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from v2v_jax.datasets.scenes import backdrop as backdrops
from v2v_jax.datasets.scenes.actors import GROUND, SKY
from v2v_jax.datasets.scenes.camera import FOCAL, Pose
from v2v_jax.datasets.scenes.sampling import planes_of, sample, sample_separable, split
from v2v_jax.datasets.scenes.sprites import Cast, Placement
from v2v_jax.datasets.scenes.world import Scene

SKY_ID, GROUND_ID, FIRST_SPRITE_ID = 0, 1, 2
CLEAR, OPAQUE = 0.02, 0.98  # alpha beyond which a pixel counts as pure
FARTHEST = 60_000.0  # metres, given for ground that touches the horizon; float16 ends at 65504


@dataclasses.dataclass(frozen=True)
class Layers:
    """One rendered instant.

    Attributes:
      planes: (3, H, W) float32, RGB 0..255, without sensor noise.
      owner: (H, W) int16, id of the visible surface: sky 0, ground 1, then sprites.
      pure: (H, W) bool, nothing but the owner shows.
      bent: for each visible deformed sprite its index, its rows, its columns and the (h, w) texel
        coordinates p and q of those pixels.
    """

    planes: np.ndarray
    owner: np.ndarray
    pure: np.ndarray
    bent: list[tuple[int, slice, slice, np.ndarray, np.ndarray]]

    @property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) float32 view of `planes`."""
        return np.moveaxis(self.planes, 0, -1)


class SceneRenderer:
    """Renders one scene at one frame size. Holds nothing that changes: threads may share it."""

    def __init__(self, scene: Scene, frame_size: tuple[int, int]) -> None:
        self.scene = scene
        self.frame_size = frame_size
        height, width = frame_size
        scale = scene.camera.pose(0, frame_size).f / scene.camera.pose(0, (128, 171)).f
        self._factor = 2 ** max(0, int(np.floor(np.log2(1 / scale) + 0.4)))
        self._cast = Cast(scene.sprites)
        self._textures = [planes_of(sprite.texture, self._factor) for sprite in scene.sprites]
        self._ground = planes_of(scene.backdrop.ground, self._factor)
        self._sky = planes_of(scene.backdrop.sky, self._factor)
        self._labels = np.array(
            [SKY, GROUND, *(sprite.label for sprite in scene.sprites)], np.uint8
        )
        self._x = np.arange(width, dtype=np.float64)
        self._y = np.arange(height, dtype=np.float64)

    def _shrink(self, coordinate: np.ndarray) -> np.ndarray:
        """Texel coordinates of the original textures → of the shrunk ones."""
        if self._factor == 1:
            return coordinate
        return (coordinate + 0.5) / self._factor - 0.5

    def layers(self, t: float) -> Layers:
        """Paints frame t."""
        pose = self.scene.camera.pose(t, self.frame_size)
        height, width = self.frame_size
        rgb = np.empty((3, height, width), np.float32)
        horizon = int(np.clip(np.floor(pose.cy) + 1, 0, height))  # the first row of ground
        owner = np.full((height, width), GROUND_ID, np.int16)
        owner[:horizon] = SKY_ID
        pure = np.ones((height, width), bool)
        if horizon > 0:
            rgb[:, :horizon] = self._paint_sky(pose, t, horizon)
        if horizon < height:
            rgb[:, horizon:] = self._paint_ground(pose, horizon)
        bent: list[tuple[int, slice, slice, np.ndarray, np.ndarray]] = []
        placement = self._cast.place(pose, t)
        boxes = self._cast.boxes(placement, self.frame_size)
        visible = (boxes[:, 0] < boxes[:, 1]) & (boxes[:, 2] < boxes[:, 3])
        for index in np.flatnonzero(visible):
            left, right, top, bottom = boxes[index]
            rows, cols = slice(top, bottom), slice(left, right)
            canvas = rgb[:, rows, cols], owner[rows, cols], pure[rows, cols]
            where = self._paint_sprite(int(index), placement, t, rows, cols, canvas)
            if where is not None:
                bent.append((int(index), rows, cols, *where))
        rgb *= self.scene.light[:, None, None]
        np.clip(rgb, 0, 255, out=rgb)
        return Layers(rgb, owner, pure, bent)

    def _paint_sky(self, pose: Pose, t: float, rows: int) -> np.ndarray:
        """(3, rows, W): the rows above the horizon."""
        zoom = FOCAL / pose.f
        columns = self._sky.shape[2]
        q = self._shrink(backdrops.SKY_ROWS + (self._y[:rows] - pose.cy) * zoom)
        p = self._shrink((self._x - pose.cx) * zoom - self.scene.backdrop.drift * t)
        p0 = np.floor(p)
        fp = (p - p0).astype(np.float32)
        p0 = p0.astype(np.int64) % columns
        q0, fq = split(q, self._sky.shape[1])
        upper = self._sky[:, q0]
        strip = upper + fq[:, None] * (self._sky[:, q0 + 1] - upper)
        left = strip.take(p0, axis=2)
        return left + fp * (strip.take((p0 + 1) % columns, axis=2) - left)

    def _ground_depth(self, pose: Pose, first_row: int) -> np.ndarray:
        """(H - first_row,) distance from the camera of the ground in each row, metres."""
        return pose.f * pose.h / (self._y[first_row:] - pose.cy)

    def _paint_ground(self, pose: Pose, first_row: int) -> np.ndarray:
        """(3, H - first_row, W): the rows below the horizon."""
        distance = self._ground_depth(pose, first_row)
        z = distance + pose.tz
        slope = FOCAL * distance / (pose.f * z)
        shift = FOCAL * pose.tx / z - slope * pose.cx + (backdrops.GROUND_COLUMNS - 1) / 2
        p = slope[:, None] * self._x + shift[:, None]
        q = (FOCAL * pose.h / z - 1)[:, None]
        return sample(self._ground, self._shrink(p).astype(np.float32), self._shrink(q))

    def _paint_sprite(
        self,
        index: int,
        placement: Placement,
        t: float,
        rows: slice,
        cols: slice,
        canvas: tuple[np.ndarray, np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Paints one sprite.

        Args:
          rows, cols: which part of the frame.
          canvas: (rgb (3, h, w), owner (h, w), pure (h, w)), views of that part, painted over.

        Returns:
          The (h, w) texel coordinates p and q of the pixels if the sprite is deformed, else None.
        """
        sprite, texture = self.scene.sprites[index], self._textures[index]
        s, ox, oy = placement.s[index], placement.ox[index], placement.oy[index]
        p = ((self._x[cols] - ox) / s).astype(np.float32)
        q = ((self._y[rows] - oy) / s).astype(np.float32)
        where = None
        if sprite.deformation is None:
            rgba = sample_separable(texture, self._shrink(p), self._shrink(q))
        else:
            q = q[:, None] - np.broadcast_to(sprite.deformation.dy(p, t), p.shape)
            p = p - sprite.deformation.dx(q, t)
            rgba = sample(texture, self._shrink(p), self._shrink(q))
            where = p, q
        rgb, owner, pure = canvas
        alpha = rgba[3]
        rgb *= 1 - alpha
        rgb += rgba[:3]
        np.copyto(owner, index + FIRST_SPRITE_ID, where=alpha >= 0.5)
        pure &= alpha < CLEAR
        pure |= alpha > OPAQUE
        return where

    def labels(self, now: Layers) -> np.ndarray:
        """(H, W) uint8 class indices."""
        return self._labels[now.owner]

    def depth(self, now: Layers, t: float) -> np.ndarray:
        """(H, W) float32 metres along the optical axis, inf for the sky."""
        pose = self.scene.camera.pose(t, self.frame_size)
        table = np.concatenate([[np.inf, 0.0], self._cast.z - pose.tz]).astype(np.float32)
        depth = table[now.owner]
        first = int(np.clip(np.floor(pose.cy) + 1, 0, self.frame_size[0]))
        ground = np.minimum(self._ground_depth(pose, first), FARTHEST).astype(np.float32)[:, None]
        np.copyto(depth[first:], ground, where=now.owner[first:] == GROUND_ID)
        return depth

    def flow(self, now: Layers, t: float, then: float | None = None) -> np.ndarray:
        """(H, W, 2) float32, where each pixel's point of its surface is seen later, minus here.

        Defined for hidden and leaving points, too: `valid` says which can be found again.

        Args:
          now: frame t.
          then: the later time; default: t + 1.
        """
        then = t + 1 if then is None else then
        here = self.scene.camera.pose(t, self.frame_size)
        there = self.scene.camera.pose(then, self.frame_size)
        before, after = self._cast.place(here, t), self._cast.place(there, then)
        motion = self._rigid_motion(here, there, before, after, then - t)
        table = motion.take(now.owner, axis=1)  # (4, H, W)
        x = self._x.astype(np.float32)
        y = self._y.astype(np.float32)[:, None]
        u = table[1] * x
        u += table[0]
        v = table[3] * y
        v += table[2]
        self._flow_of_ground(u, v, now.owner, here, there)
        for index, rows, cols, p, q in now.bent:
            mine = now.owner[rows, cols] == index + FIRST_SPRITE_ID
            if not mine.any():
                continue
            sprite = self.scene.sprites[index]
            s, ox, oy = after.s[index], after.ox[index], after.oy[index]
            moved_p = p + sprite.deformation.dx(q, then)
            moved_q = q + sprite.deformation.dy(moved_p, then)
            to_x = np.float32(ox) + np.float32(s) * moved_p
            to_y = np.float32(oy) + np.float32(s) * moved_q
            np.copyto(u[rows, cols], to_x - x[cols], where=mine)
            np.copyto(v[rows, cols], to_y - y[rows], where=mine)
        return np.stack([u, v], axis=-1)

    def _rigid_motion(
        self, here: Pose, there: Pose, before: Placement, after: Placement, frames: float
    ) -> np.ndarray:
        """(4, ids) float32: u = m[0] + m[1] x, v = m[2] + m[3] y, for rigid surfaces."""
        zoom = there.f / here.f
        drift = self.scene.backdrop.drift * frames * there.f / FOCAL
        sky = [there.cx - zoom * here.cx + drift, zoom - 1, there.cy - zoom * here.cy, zoom - 1]
        ground = [0.0] * 4  # filled in row by row
        k = after.s / before.s
        sprites = [after.ox - k * before.ox, k - 1, after.oy - k * before.oy, k - 1]
        return np.concatenate([np.array([sky, ground]).T, sprites], axis=1).astype(np.float32)

    def _flow_of_ground(
        self, u: np.ndarray, v: np.ndarray, owner: np.ndarray, here: Pose, there: Pose
    ) -> None:
        """Writes the ground's flow into u and v (H, W), row by row."""
        first = int(np.clip(np.floor(here.cy) + 1, 0, self.frame_size[0]))
        distance = self._ground_depth(here, first)
        ahead = np.maximum(distance + here.tz - there.tz, 1e-3)
        k = there.f * distance / (ahead * here.f)
        offset = there.cx + there.f * (here.tx - there.tx) / ahead - k * here.cx
        across = offset[:, None] + (k - 1)[:, None] * self._x
        down = there.cy + there.f * here.h / ahead - self._y[first:]
        mine = owner[first:] == GROUND_ID
        np.copyto(u[first:], across.astype(np.float32), where=mine)
        np.copyto(v[first:], down.astype(np.float32)[:, None], where=mine)

    def valid(self, now: Layers, following: Layers, flow: np.ndarray) -> np.ndarray:
        """(H, W) bool: the flow's end point is in the next frame and seen there."""
        return seen_again(now, following, flow)


def seen_again(now: Layers, following: Layers, flow: np.ndarray) -> np.ndarray:
    """(H, W) bool: the end point of a pixel's flow (H, W, 2) is in the next frame and seen there.

    True where the pixel is pure, and the four pixels around the end point are in the frame, pure,
    and show the same surface.
    """
    height, width = now.owner.shape
    key_now = np.where(now.pure, now.owner, -1)
    key_next = np.where(following.pure, following.owner, -2)
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    inside = (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)
    index = np.where(inside, y, 0).astype(np.int32) * width
    index += np.where(inside, x, 0).astype(np.int32)
    flat = key_next.reshape(-1)
    for step in (0, 1, width, width + 1):
        # Where not inside, index is 0, and all four steps stay in the array.
        inside &= flat.take(index + step) == key_now
    return inside
