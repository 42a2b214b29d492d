"""Pictures and videos as data URIs, for pages that are one file.

In a page they stand where an address would:

    <img src="{png_uri(picture)}">    <video src="{mp4_uri(frames, fps=8)}">
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from v2v_jax.drawing.layout import expect

MP4, WEBP = "data:video/mp4;base64,", "data:image/webp;base64,"
# Constant rate factors to try, from what cannot be told from the original to what is still clear.
_QUALITIES = (18, 24, 30, 36, 42, 51)


def png_uri(picture: np.ndarray) -> str:
    """An (H,W,3) uint8 RGB picture, or (H,W,4) with opacity, as a PNG data URI."""
    return "data:image/png;base64," + _image_bytes(picture, "PNG")


def poster_uri(picture: np.ndarray) -> str:
    """An (H,W,3) uint8 RGB picture as a JPEG data URI: what a video shows before it plays."""
    return "data:image/jpeg;base64," + _image_bytes(picture, "JPEG", quality=85)


def _image_bytes(picture: np.ndarray, kind: str, **options: object) -> str:
    picture = np.asarray(picture)
    expect(
        picture.ndim == 3 and picture.shape[2] in (3, 4) and picture.dtype == np.uint8, "picture",
        picture, "uint8 (H,W,3) or (H,W,4)",
    )  # fmt: skip
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def video_uri(frames: np.ndarray, fps: float, max_bytes: int = 1_000_000) -> str:
    """A video as the data URI of an H.264 MP4 file; of an animated WebP where no encoder is.

    Args:
      frames: (T,H,W,3) uint8 RGB; an odd height or width is padded by repeating its last line.
      fps: frames per second.
      max_bytes: the quality is lowered step by step until the file is no larger; the last step is
        taken whatever its size.

    Raises:
      ValueError: `frames` is not such an array, or empty.
    """
    frames = np.asarray(frames)
    expect(
        frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8 and frames.size > 0,
        "frames", frames, "uint8 (T,H,W,3), not empty",
    )  # fmt: skip
    if "libx264" not in av.codecs_available:
        return WEBP + _smallest(lambda q: _webp(frames, fps, quality=90 - q), max_bytes)
    return MP4 + _smallest(lambda q: _mp4(frames, fps, crf=q), max_bytes)


def _smallest(encode, max_bytes: int) -> str:
    for quality in _QUALITIES:
        data = encode(quality)
        if len(data) <= max_bytes:
            break
    return base64.b64encode(data).decode()


def _mp4(frames: np.ndarray, fps: float, crf: int) -> bytes:
    _, h, w, _ = frames.shape
    padded = np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)}
        )
        stream.pix_fmt = "yuv420p"  # what every browser shows
        stream.height, stream.width = padded.shape[1:3]
        for frame in padded:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue()


def _webp(frames: Sequence[np.ndarray], fps: float, quality: int) -> bytes:
    file = io.BytesIO()
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(
        file, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0,
        quality=quality,
    )  # fmt: skip
    return file.getvalue()
