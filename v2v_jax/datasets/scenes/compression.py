"""Video at low rates: what H.264, MPEG-4 and JPEG leave of frames.

H.264 and MPEG-4 code `GROUP` frames together, each from those before it alone, so that any window
of a video is found without what comes after it; the next group starts with a key frame. Colour is
converted here and not by the codec's scaler, and one thread codes: the same bytes on every machine
with the same PyAV.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from v2v_jax.errors import ConfigError
from v2v_jax.media.pictures import Picture

GROUP = 16  # frames from a key frame to the next
CODECS = ("h264", "mpeg4", "jpeg", "none")
COMPRESSIONS = (*CODECS, "mixed")  # mixed: any of them, by the video
_ODDS = (0.4, 0.15, 0.2, 0.25)


def check_compression(name: str) -> None:
    """Raises ConfigError unless `name` is known and what it needs is installed."""
    if name not in COMPRESSIONS:
        raise ConfigError(
            f"Dataset scenes has no compression {name!r}: choose {', '.join(COMPRESSIONS)}."
        )
    if name in ("jpeg", "none"):
        return
    try:
        import av

        missing = [codec for codec in ("libx264", "mpeg4") if codec not in av.codecs_available]
    except ImportError:
        missing = ["PyAV"]
    if missing:
        raise ConfigError(
            f"data.compression={name} needs {missing[0]}, which is not installed here: install the "
            "package av, or set data.compression=jpeg, which makes other videos."
        )


def random_codec(rng: np.random.Generator, compression: str) -> tuple[str, int]:
    """Draws a codec, as `compression` allows, and its quality: what `compress` takes."""
    drawn = CODECS[rng.choice(len(CODECS), p=_ODDS)]
    codec = drawn if compression == "mixed" else compression
    place = rng.uniform()
    worst = {"h264": (18, 38), "mpeg4": (2, 14), "jpeg": (92, 15), "none": (0, 0)}[codec]
    return codec, round(worst[0] + place * (worst[1] - worst[0]))


def compress(frames: Sequence[np.ndarray], codec: str, quality: int) -> list[np.ndarray]:
    """What is left of the frames of one group.

    Args:
      frames: (H, W, 3) uint8 RGB, from a key frame on, at most GROUP.
      codec: of CODECS.
      quality: H.264's constant rate factor, MPEG-4's quantiser, JPEG's quality.

    Returns:
      The frames as a player shows them, of the same type.
    """
    if codec == "none":
        return list(frames)
    if codec == "jpeg":
        return [_jpeg(frame, quality) for frame in frames]
    height, width = frames[0].shape[:2]
    pad = ((0, -height % 16), (0, -width % 16), (0, 0))
    planes = [_to_planes(np.pad(frame, pad, "edge")) for frame in frames]
    return [_to_rgb(shown)[:height, :width] for shown in _coded(planes, codec, quality)]


def _jpeg(frame: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Picture(file.getvalue()).frame()


def _coded(planes: Sequence[np.ndarray], codec: str, quality: int) -> list[np.ndarray]:
    """Encodes and decodes (3/2 H, W) uint8 frames, yuv420p."""
    import av

    encoder = _encoder(av, codec, quality, planes[0].shape[0] * 2 // 3, planes[0].shape[1])
    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    packets = []
    for index, plane in enumerate(planes):
        frame = av.VideoFrame.from_ndarray(plane, format="yuv420p")
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    shown = [frame for packet in packets for frame in decoder.decode(packet)]
    shown += decoder.decode(None)
    return [frame.to_ndarray() for frame in shown]


def _encoder(av: Any, codec: str, quality: int, height: int, width: int) -> Any:
    encoder = av.CodecContext.create({"h264": "libx264"}.get(codec, codec), "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.framerate = Fraction(25)
    encoder.gop_size = GROUP
    encoder.thread_count = 1
    if codec == "h264":
        # zerolatency: no frame depends on one after it.
        encoder.options = {"preset": "veryfast", "tune": "zerolatency", "crf": str(quality)}
        encoder.options |= {"x264-params": "threads=1:sliced-threads=0"}
    else:
        encoder.qmin = encoder.qmax = quality
        encoder.bit_rate = 10**9  # the quantiser alone limits it
        encoder.options = {"flags": "+bitexact"}
    return encoder


def _to_planes(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB → (3/2 H, W) uint8: ITU-R BT.601 at 4:2:0, Y in 16..235."""
    height, width = rgb.shape[:2]
    r, g, b = np.moveaxis(rgb.astype(np.float32), -1, 0)
    y = 16 + 0.256788 * r + 0.504129 * g + 0.097906 * b
    u = 128 - 0.148223 * r - 0.290993 * g + 0.439216 * b
    v = 128 + 0.439216 * r - 0.367788 * g - 0.071427 * b
    quarter = lambda plane: plane.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    parts = [y, *(quarter(plane).reshape(height // 4, width) for plane in (u, v))]
    return np.clip(np.concatenate(parts) + 0.5, 0, 255).astype(np.uint8)


def _to_rgb(planes: np.ndarray) -> np.ndarray:
    """The inverse of `_to_planes`, each colour sample repeated over its four pixels."""
    width = planes.shape[1]
    height = planes.shape[0] * 2 // 3
    y = 1.164384 * (planes[:height].astype(np.float32) - 16)
    chroma = planes[height:].reshape(2, height // 2, width // 2).astype(np.float32) - 128
    u, v = chroma.repeat(2, axis=1).repeat(2, axis=2)
    rgb = np.stack([y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u], -1)
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)
