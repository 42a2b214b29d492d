"""Soft-edged shapes on a small RGBA canvas, from which the sprites' textures are made."""

from __future__ import annotations

import numpy as np

EDGE = 1.5  # texels over which an edge fades
MARGIN = 2  # clear texels around every texture, for bilinear sampling at its rim


class Canvas:
    """A picture under construction, measured in texels from its top left inner corner.

    Attributes:
      rgba: (height + 2 MARGIN, width + 2 MARGIN, 4) float32, colour premultiplied by alpha.
      x: (1, W) and y: (H, 1) float32, coordinates of the texels' centres.
    """

    def __init__(self, height: int, width: int) -> None:
        shape = (height + 2 * MARGIN, width + 2 * MARGIN)
        self.rgba = np.zeros((*shape, 4), np.float32)
        self.x = np.arange(-MARGIN, width + MARGIN, dtype=np.float32)[None, :]
        self.y = np.arange(-MARGIN, height + MARGIN, dtype=np.float32)[:, None]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the canvas with its margins."""
        return self.rgba.shape[0], self.rgba.shape[1]

    def paint(self, distance: np.ndarray, rgb: np.ndarray, opacity: float = 1.0) -> None:
        """Paints over what is there.

        Args:
          distance: (H, W) signed distance to the shape in texels, negative inside.
          rgb: a colour (3,) or a picture (H, W, 3), 0..255.
          opacity: 0..1.
        """
        alpha = opacity * np.clip(0.5 - distance / EDGE, 0.0, 1.0)
        alpha = np.broadcast_to(alpha, self.shape)[..., None]
        self.rgba *= 1 - alpha
        self.rgba[..., :3] += alpha * rgb
        self.rgba[..., 3:] += alpha

    def stain(self, distance: np.ndarray, rgb: np.ndarray, opacity: float = 1.0) -> None:
        """Like `paint`, but colours only what is already there and leaves the outline alone."""
        alpha = opacity * np.clip(0.5 - distance / EDGE, 0.0, 1.0)
        alpha = np.broadcast_to(alpha, self.shape)[..., None]
        self.rgba[..., :3] += alpha * (rgb * self.rgba[..., 3:] - self.rgba[..., :3])

    def finished(self, rgb_gain: float = 1.0) -> np.ndarray:
        """The texture: (H, W, 4) float32 with MARGIN clear texels around."""
        self.rgba[:MARGIN] = 0
        self.rgba[-MARGIN:] = 0
        self.rgba[:, :MARGIN] = 0
        self.rgba[:, -MARGIN:] = 0
        self.rgba[..., :3] *= rgb_gain
        return self.rgba


def box(
    canvas: Canvas, left: float, top: float, right: float, bottom: float, radius: float = 0.0
) -> np.ndarray:
    """Signed distance (H, W) to a rectangle with rounded corners, texels."""
    dx = np.abs(canvas.x - (left + right) / 2) - ((right - left) / 2 - radius)
    dy = np.abs(canvas.y - (top + bottom) / 2) - ((bottom - top) / 2 - radius)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - radius


def ellipse(canvas: Canvas, x: float, y: float, rx: float, ry: float) -> np.ndarray:
    """About the signed distance (H, W) to an ellipse, texels."""
    return (np.hypot((canvas.x - x) / rx, (canvas.y - y) / ry) - 1) * min(rx, ry)


def convex(canvas: Canvas, corners: list[tuple[float, float]]) -> np.ndarray:
    """Signed distance (H, W), exact inside, to a convex polygon given clockwise on the screen."""
    result = np.full(canvas.shape, -np.inf, np.float32)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-6)
        side = ((x1 - x0) * (canvas.y - y0) - (y1 - y0) * (canvas.x - x0)) / length
        result = np.maximum(result, -side)
    return result


def grid(
    canvas: Canvas,
    x0: float,
    y0: float,
    step: tuple[float, float],
    size: tuple[float, float],
    count: tuple[int, int],
) -> np.ndarray:
    """Signed distance (H, W) to a grid of rectangles.

    Args:
      x0, y0: centre of the first rectangle.
      step, size: (horizontal, vertical) distance between centres, and extent, texels.
      count: columns and rows.
    """
    column = np.clip(np.round((canvas.x - x0) / step[0]), 0, count[0] - 1)
    row = np.clip(np.round((canvas.y - y0) / step[1]), 0, count[1] - 1)
    dx = np.abs(canvas.x - x0 - column * step[0]) - size[0] / 2
    dy = np.abs(canvas.y - y0 - row * step[1]) - size[1] / 2
    return np.maximum(dx, dy)


def haze(rgba: np.ndarray, z: float, air: np.ndarray) -> np.ndarray:
    """Aerial perspective: blends a premultiplied texture at z metres towards the air's colour."""
    share = np.float32(haze_share(z))
    rgba[..., :3] += share * (air * rgba[..., 3:] - rgba[..., :3])
    return rgba


def haze_share(z: float | np.ndarray) -> float | np.ndarray:
    """The share of the air's colour at z metres: 0 near by, at most 0.75."""
    return 0.75 * (1 - np.exp(-np.asarray(z) / 130.0))
