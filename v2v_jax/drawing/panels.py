"""Pictures side by side, with titles and legends, and PNG and GIF files of them.

A column is a video, (T,H,W,3) uint8 RGB, under a title: `panels` draws chosen frames as rows,
`animation` one picture a frame.

    write_png("flow.png", panels({"input": video, "truth": colors}, frames=(0, 5, 10)))
    write_gif("flow.gif", animation({"input": video, "truth": colors}), fps=8)

Wrong shapes, dtypes and values raise ValueError, which says what was expected and what came.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from v2v_jax.drawing.layout import GAP, center, expect, join, text_picture
from v2v_jax.drawing.legends import Legend
from v2v_jax.system.whole_files import write_bytes

_HEADING = 21  # font size of a title, px
_LEAST_CELL, _LEAST_COLUMN, _WIDEST_NAME = 192, 112, 160  # px


def panels(
    columns: Mapping[str, np.ndarray],
    frames: Sequence[int],
    *,
    title: str = "",
    caption: str = "",
    row_names: Sequence[str] | None = None,
    legends: Sequence[Legend | np.ndarray] = (),
    scale: int | None = None,
) -> np.ndarray:
    """Lays videos side by side: one column a video, one row a chosen frame.

    Args:
      columns: column title -> (T,H,W,3) uint8 RGB, all of one shape.
      frames: the frames to show, 0..T-1, top to bottom.
      title, caption: text above and below everything.
      row_names: text at the rows instead of "frame N", one for each of `frames`.
      legends: what stands below the rows, such as `flow_legend(96)`; or (h,w,3) uint8 pictures.
      scale: integer enlargement of the frames (nearest neighbour, so that voxels stay visible);
        None makes the longer side at least 192 pixels.

    Returns:
      (H',W',3) uint8 RGB on white.
    """
    t, h, w = _check_columns(columns)
    if not len(frames) or not all(0 <= frame < t for frame in frames):
        raise ValueError(f"frames must be some of 0..{t - 1}; got {list(frames)}.")
    names = [f"frame {frame}" for frame in frames] if row_names is None else list(row_names)
    if len(names) != len(frames):
        raise ValueError(f"row_names must be {len(frames)}, one a row; got {names}.")
    legends = [
        each.picture() if isinstance(each, Legend) else _check_picture(each, "legend")
        for each in legends
    ]
    scale = -(-_LEAST_CELL // max(h, w)) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale must be at least 1; got {scale}.")
    # The last frame's number is the widest: an animation's rows all get the same margin.
    margin = max(
        min(text_picture(name).shape[1], _WIDEST_NAME) for name in [*names, f"frame {t - 1}"]
    )
    column = max(w * scale, _LEAST_COLUMN)
    header = [text_picture(name, column, bold=True) for name in columns]
    grid = [join([text_picture("", margin), *header], axis=1)]
    for frame, name in zip(frames, names, strict=True):
        cells = [
            video[frame].repeat(scale, axis=0).repeat(scale, axis=1)
            for video in map(np.asarray, columns.values())
        ]
        cells = [center(cell, h * scale, column) for cell in cells]
        grid.append(join([text_picture(name, margin), *cells], axis=1))
    width = max(picture.shape[1] for picture in [*grid, *legends])
    head = [text_picture(title, width, _HEADING, bold=True)] if title else []
    foot = [text_picture(caption, width)] if caption else []
    image = join([*head, *grid, *legends, *foot], axis=0)
    return center(image, image.shape[0] + 2 * GAP, image.shape[1] + 2 * GAP)


def _check_columns(columns: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Returns the T, H, W that all columns share."""
    shape = np.shape(next(iter(columns.values()), None))
    if len(shape) != 4:
        raise ValueError(f"columns must be one video (T,H,W,3) or more; the first is {shape}.")
    for name, video in columns.items():
        video = np.asarray(video)
        expect(
            video.shape == (*shape[:3], 3) and video.size > 0 and video.dtype == np.uint8,
            f"column {name!r}",
            video,
            f"uint8 {(*shape[:3], 3)}, not empty, all columns alike",
        )
    return shape[:3]


def animation(columns: Mapping[str, np.ndarray], **layout: object) -> list[np.ndarray]:
    """One picture of `panels` a frame, for `write_gif`.

    Takes `columns` and all options of `panels` but `frames`; returns T pictures (H',W',3) uint8
    RGB of one size.
    """
    t, _, _ = _check_columns(columns)
    return [panels(columns, (frame,), **layout) for frame in range(t)]


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes an (H,W,3) uint8 RGB picture; `path` holds the whole file or is left as it was."""
    file = io.BytesIO()
    Image.fromarray(_check_picture(image)).save(file, format="PNG")
    _replace(path, file.getvalue())


def write_gif(path: str | os.PathLike[str], frames: Sequence[np.ndarray], fps: float) -> None:
    """Writes an animation that loops for ever; `path` holds the whole file or is left as it was.

    Every frame gets its own 256 colours and error diffusion, so that gradients show no bands.
    Equal frames in a row are stored once and shown longer. `frames` are one or more
    (H,W,3) uint8 RGB pictures of one size; `fps` is 0.01 to 50 (viewers slow down what is faster).
    """
    if not 0.01 <= fps <= 50:
        raise ValueError(f"fps must be in 0.01..50; got {fps}.")
    pictures = [Image.fromarray(_check_picture(frame, "frame")) for frame in frames]
    if len({picture.size for picture in pictures}) != 1:
        raise ValueError(f"frames must share one size; got {[p.size for p in pictures]} (W,H).")
    for i, picture in enumerate(pictures):
        step = 1 + max(picture.size) // 400  # a sample of the pixels is enough, and 5 times faster
        sample = Image.fromarray(np.asarray(picture)[::step, ::step])
        palette = sample.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1)
        pictures[i] = picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    # The format counts hundredths of a second: round the times, so that errors do not add up.
    times = 10 * np.rint(np.arange(len(pictures) + 1) * 100 / fps).astype(int)
    file, durations = io.BytesIO(), np.diff(times).tolist()
    more = {"append_images": pictures[1:], "duration": durations, "loop": 0}
    pictures[0].save(file, "GIF", save_all=True, **more)
    _replace(path, file.getvalue())


def _check_picture(image: np.ndarray, name: str = "image") -> np.ndarray:
    image = np.asarray(image)
    expect(
        image.ndim == 3 and image.shape[-1] == 3 and image.dtype == np.uint8 and image.size > 0,
        name,
        image,
        "uint8 (H,W,3), not empty",
    )
    return image


def _replace(path: str | os.PathLike[str], data: bytes) -> None:
    write_bytes(path, data, durable=False)
