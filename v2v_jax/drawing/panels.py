"""Pictures side by side, with titles and legends, and PNG and GIF files of them.

A column is a video, (T,H,W,3) uint8 RGB, under a title: `panels` draws chosen frames as rows,
`animation` one picture a frame.

    write_png("flow.png", panels({"input": video, "truth": colors}, frames=(0, 5, 10)))
    write_gif("flow.gif", animation({"input": video, "truth": colors}), fps=8)

Wrong shapes, dtypes and values raise ValueError, which says what was expected and what came.
"""

from __future__ import annotations

import functools
import io
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from v2v_jax.system.whole_files import write_bytes

INK = 24  # grey level of text, on white
GAP = 6  # px between cells
TEXT_SIZE, _HEADING = 16, 21  # font sizes, px
_LEAST_CELL, _LEAST_COLUMN, _WIDEST_NAME = 192, 112, 160  # px


def expect(ok: bool, name: str, array: np.ndarray, wanted: str) -> None:
    """Raises ValueError, naming the array's dtype and shape and what was wanted, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} must be {wanted}; got {array.dtype} of shape {array.shape}.")


def panels(
    columns: Mapping[str, np.ndarray],
    frames: Sequence[int],
    *,
    title: str = "",
    caption: str = "",
    row_names: Sequence[str] | None = None,
    legends: Sequence[np.ndarray] = (),
    scale: int | None = None,
) -> np.ndarray:
    """Lays videos side by side: one column a video, one row a chosen frame.

    Args:
      columns: column title -> (T,H,W,3) uint8 RGB, all of one shape.
      frames: the frames to show, 0..T-1, top to bottom.
      title, caption: text above and below everything.
      row_names: text at the rows instead of "frame N", one for each of `frames`.
      legends: (h,w,3) uint8 pictures to put below the rows, such as `flow_legend(96)`.
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
    legends = [_check_picture(legend, "legend") for legend in legends]
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
        cells = [_center(cell, h * scale, column) for cell in cells]
        grid.append(join([text_picture(name, margin), *cells], axis=1))
    width = max(picture.shape[1] for picture in [*grid, *legends])
    head = [text_picture(title, width, _HEADING, bold=True)] if title else []
    foot = [text_picture(caption, width)] if caption else []
    image = join([*head, *grid, *legends, *foot], axis=0)
    return _center(image, image.shape[0] + 2 * GAP, image.shape[1] + 2 * GAP)


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


@functools.lru_cache(maxsize=4)
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    # By path: matplotlib's font manager would search the whole machine's fonts first.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def text_picture(
    text: str,
    width: int | None = None,
    size: int = TEXT_SIZE,
    bold: bool = False,
    left: bool = False,
) -> np.ndarray:
    """Text on white, broken into lines that fit the width; (H,W,3) uint8. None: one line."""
    font, text = _font(size, bold), " ".join(text.split())
    lines, longest = [text], len(text)
    while width is not None and longest > 1 and max(map(font.getlength, lines)) > width:
        longest -= 1
        lines = textwrap.wrap(text, longest)
    width = int(font.getlength(text)) + 2 if width is None else width
    image = Image.new("RGB", (width, (size * 5 // 4) * len(lines)), (255,) * 3)
    for i, line in enumerate(lines):
        start = (0 if left else (width - font.getlength(line)) / 2, (i + 0.5) * (size * 5 // 4))
        ImageDraw.Draw(image).text(start, line, (INK,) * 3, font, anchor="lm")
    return np.asarray(image)


def _center(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    bottom, right = height - image.shape[0] - top, width - image.shape[1] - left
    return np.pad(image, ((top, bottom), (left, right), (0, 0)), constant_values=255)


def join(images: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Puts pictures below (axis 0) or beside (axis 1) each other, centred, with gaps."""
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    cells = [
        (h + GAP, width) if axis == 0 else (height, w + GAP)
        for h, w, _ in (image.shape for image in images)
    ]
    return np.concatenate([_center(i, *cell) for i, cell in zip(images, cells, strict=True)], axis)


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
