"""Renders a collage: the frame and, exactly, what every pixel shows and where it goes."""

from __future__ import annotations

import numpy as np

from v2v_jax.datasets.base.video_dataset import IGNORE_LABEL
from v2v_jax.datasets.scenes import tiles
from v2v_jax.datasets.scenes.camera import REFERENCE_SIZE
from v2v_jax.datasets.scenes.collage import Collage, Sheet
from v2v_jax.datasets.scenes.render import CLEAR, OPAQUE, Layers, seen_again
from v2v_jax.datasets.scenes.sampling import planes_of, sample


class CollageRenderer:
    """What `SceneRenderer` is to a street scene; the owner of a pixel is the index of its sheet."""

    def __init__(self, collage: Collage, frame_size: tuple[int, int]) -> None:
        self.collage = collage
        self.frame_size = frame_size
        height, width = frame_size
        self._scale = max(height / REFERENCE_SIZE[0], width / REFERENCE_SIZE[1])
        self._factor = 2 ** max(0, int(np.floor(np.log2(1 / self._scale) + 0.4)))
        backdrop, *sheets = collage.sheets
        wrapped = np.pad(backdrop.texture, ((0, self._factor), (0, self._factor), (0, 0)), "wrap")
        self._textures = [planes_of(sheet.texture, self._factor) for sheet in (backdrop, *sheets)]
        self._textures[0] = planes_of(wrapped, self._factor)[:3]
        self._x = (np.arange(width) - (width - 1) / 2) / self._scale
        self._y = (np.arange(height) - (height - 1) / 2) / self._scale
        self._depths = np.array([sheet.z for sheet in collage.sheets], np.float32)

    def layers(self, t: float) -> Layers:
        """Paints time t."""
        height, width = self.frame_size
        planes = np.empty((3, height, width), np.float32)
        owner = np.zeros((height, width), np.int16)
        pure = np.ones((height, width), bool)
        bent = []
        for index, sheet in enumerate(self.collage.sheets):
            place = self.collage.place(sheet, t)
            rows, cols = self._box(sheet, *place) if index else (slice(0, height), slice(0, width))
            if rows.start >= rows.stop or cols.start >= cols.stop:
                continue
            p, q = self._texels(sheet, *place, t, rows, cols)
            if index == 0:
                planes[:] = self._look_up(0, p % tiles.SIZE, q % tiles.SIZE)
            else:
                rgba = self._look_up(index, p, q)
                alpha = rgba[3]
                planes[:, rows, cols] *= 1 - alpha
                planes[:, rows, cols] += rgba[:3]
                np.copyto(owner[rows, cols], index, where=alpha >= 0.5)
                pure[rows, cols] &= alpha < CLEAR
                pure[rows, cols] |= alpha > OPAQUE
            bent.append((index, rows, cols, p, q))
        np.clip(planes, 0, 255, out=planes)
        return Layers(planes, owner, pure, bent)

    def _look_up(self, index: int, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Bilinear (C, h, w) samples of a sheet's texture at its texels (h, w)."""
        if self._factor > 1:
            p, q = (p + 0.5) / self._factor - 0.5, (q + 0.5) / self._factor - 0.5
        return sample(self._textures[index], p.astype(np.float32), q.astype(np.float32))

    def _box(self, sheet: Sheet, matrix: np.ndarray, offset: np.ndarray) -> tuple[slice, slice]:
        """Rows and columns of the frame that a sheet may touch; empty where it is not in view."""
        height, width = sheet.texture.shape[:2]
        reach = sheet.deformation.reach if sheet.deformation else (0.0, 0.0)
        p = np.array([-reach[0], width - 1 + reach[0]]) - sheet.anchor[0]
        q = np.array([-reach[1], height - 1 + reach[1]]) - sheet.anchor[1]
        corners = matrix @ np.array(np.meshgrid(p, q)).reshape(2, 4) + offset[:, None]
        low, high = corners.min(1) * self._scale, corners.max(1) * self._scale
        limits = []
        for axis, size in ((1, self.frame_size[0]), (0, self.frame_size[1])):
            middle = (size - 1) / 2
            first = int(np.clip(np.ceil(low[axis] + middle), 0, size))
            limits.append(slice(first, int(np.clip(np.floor(high[axis] + middle) + 1, 0, size))))
        return limits[0], limits[1]

    def _texels(
        self,
        sheet: Sheet,
        matrix: np.ndarray,
        offset: np.ndarray,
        t: float,
        rows: slice,
        cols: slice,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The (h, w) float64 texel coordinates p and q that a part of the frame shows."""
        back = np.linalg.inv(matrix)
        x, y = self._x[cols] - offset[0], (self._y[rows] - offset[1])[:, None]
        p = back[0, 0] * x + back[0, 1] * y + sheet.anchor[0]
        q = back[1, 0] * x + back[1, 1] * y + sheet.anchor[1]
        if sheet.deformation is not None:
            q = q - sheet.deformation.dy(p, t)
            p = p - sheet.deformation.dx(q, t)
        return p, q

    def labels(self, now: Layers) -> np.ndarray:
        """(H, W) uint8: nothing here is of a street's classes."""
        return np.full(now.owner.shape, IGNORE_LABEL, np.uint8)

    def depth(self, now: Layers, t: float) -> np.ndarray:
        """(H, W) float32 metres."""
        del t  # sheets keep their distance
        return self._depths[now.owner]

    def flow(self, now: Layers, t: float, then: float | None = None) -> np.ndarray:
        """(H, W, 2) float32; see `SceneRenderer.flow`."""
        then = t + 1 if then is None else then
        flow = np.zeros((*self.frame_size, 2), np.float32)
        for index, rows, cols, p, q in now.bent:
            mine = now.owner[rows, cols] == index
            if not mine.any():
                continue
            sheet = self.collage.sheets[index]
            if sheet.deformation is not None:
                p = p + sheet.deformation.dx(q, then)
                q = q + sheet.deformation.dy(p, then)
            matrix, offset = self.collage.place(sheet, then)
            p, q = p - sheet.anchor[0], q - sheet.anchor[1]
            u = matrix[0, 0] * p + matrix[0, 1] * q + offset[0] - self._x[cols]
            v = matrix[1, 0] * p + matrix[1, 1] * q + offset[1] - self._y[rows][:, None]
            moved = np.stack([u, v], -1) * self._scale
            np.copyto(flow[rows, cols], moved.astype(np.float32), where=mine[..., None])
        return flow

    def valid(self, now: Layers, following: Layers, flow: np.ndarray) -> np.ndarray:
        """(H, W) bool; see `SceneRenderer.valid`."""
        return seen_again(now, following, flow)
