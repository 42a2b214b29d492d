"""Forty small videos as people have them: every container that PyAV writes, with odd properties.

python -m tests.odd_videos      # the table of docs/reference/videos.md
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

FRAMES, HEIGHT, WIDTH = 20, 48, 64
_QUARTER = (0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
_MIRRORED = (-(1 << 16), 0, 0, 0, 1 << 16, 0, WIDTH << 16, 0, 1 << 30)
_MS = Fraction(1, 1000)
UNEVEN = [*range(0, 1000, 100), *(1000 + 33 * i for i in range(10))]


@dataclasses.dataclass(frozen=True)
class OddVideo:
    """A file to be made.

    Attributes:
      name: with the extension, which says the container.
      codec: of the pictures.
      odd: what is odd about it.
      refused: a piece of the message, where it cannot be used.
      frames, size: how many and (H,W) frames `read` gives.
      pix_fmt, rate, options, mux, ms: of PyAV; `ms` are the frames' times.
      sound: codec of sound beside the pictures.
      title: that the container notes.
      setup: called with PyAV's stream before it is opened.
      change: of the finished file's bytes.
    """

    name: str
    codec: str
    odd: str
    refused: str = ""
    frames: int = FRAMES
    size: tuple[int, int] = (HEIGHT, WIDTH)
    stored: tuple[int, int] = (HEIGHT, WIDTH)
    pix_fmt: str = "yuv420p"
    rate: Fraction = Fraction(25)
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    container: str | None = None
    mux: dict[str, str] = dataclasses.field(default_factory=dict)
    ms: Sequence[int] | None = None
    begin: int = 0
    sound: str | None = None
    title: str = ""
    setup: Callable[[Any], None] | None = None
    change: Callable[[bytes], bytes] | None = None


def _matrix(values: tuple[int, ...]) -> Callable[[bytes], bytes]:
    """Replaces the matrix in the track's header of an MP4 or MOV file."""

    def change(data: bytes) -> bytes:
        at = data.index(b"tkhd") + 4 + 40
        return data[:at] + struct.pack(">9i", *values) + data[at + 36 :]

    return change


def _set(**values: Any) -> Callable[[Any], None]:
    def setup(stream: Any) -> None:
        for name, value in values.items():
            target = stream if name == "sample_aspect_ratio" else stream.codec_context
            setattr(target, name, value)

    return setup


_PAL = Fraction(25), (576, 720)
_LATIN = dict(title="cafXXX", change=lambda data: data.replace(b"cafXXX", b"caf\xe9\xff\0"))
_CUT = "expected a complete video file"
VIDEOS = (
    OddVideo("plain.mp4", "libx264", "B-frames, AAC", sound="aac"),
    OddVideo("UPPER.MP4", "libx264", "extension in capitals"),
    OddVideo("uneven.mp4", "libx264", "uneven frame times", ms=UNEVEN, sound="aac"),
    OddVideo(
        "phone.mp4",
        "libx265",
        "HEVC, lies on its side",
        size=(WIDTH, HEIGHT),
        change=_matrix(_QUARTER),
        options={"x265-params": "log-level=0"},
    ),
    OddVideo("front.mov", "mpeg4", "mirrored", change=_matrix(_MIRRORED), sound="pcm_s16le"),
    OddVideo(
        "fragments.mp4",
        "libx264",
        "fragmented, as streams are saved",
        mux={"movflags": "frag_keyframe+empty_moov"},
    ),
    OddVideo("late.mp4", "libx264", "pictures begin 5 s after 0", begin=5000, sound="aac"),
    OddVideo("prores.mov", "prores_ks", "4:2:2, 10 bits", pix_fmt="yuv422p10le"),
    OddVideo("animation.mov", "qtrle", "with opacity", pix_fmt="argb"),
    OddVideo(
        "timelapse.mov", "mjpeg", "one frame in 10 s", rate=Fraction(1, 10), pix_fmt="yuvj420p"
    ),
    OddVideo("quick.mp4", "libx264", "2,000 frames a second", rate=Fraction(2000)),
    OddVideo("old.3gp", "h263", "128×96", stored=(96, 128), size=(96, 128)),
    OddVideo("elder.3g2", "mpeg4", "AAC", sound="aac"),
    OddVideo(
        "wide.m4v", "libx264", "pixels of 16:11", setup=_set(sample_aspect_ratio=Fraction(16, 11))
    ),
    OddVideo("player.f4v", "libx264", "AAC", sound="aac"),
    OddVideo("flash.flv", "flv", "Sorenson, MP3", sound="libmp3lame"),
    OddVideo("screen.flv", "flashsv", "screen recording", pix_fmt="bgr24"),
    OddVideo(
        "browser.webm",
        "libvpx",
        "VP8 of a browser: claims 1,000 frames a second",
        rate=Fraction(1000),
        ms=[33 * i + i % 3 * 4 for i in range(FRAMES)],
        mux={"live": "1"},
        sound="libopus",
    ),
    OddVideo("vp9.webm", "libvpx-vp9", "4:4:4", pix_fmt="yuv444p"),
    OddVideo(
        "av1.webm", "libsvtav1", "10 bits", pix_fmt="yuv420p10le", stored=(64, 64), size=(64, 64)
    ),
    OddVideo(
        "claims.mkv",
        "libx264",
        "claims 30,000 frames a second",
        rate=Fraction(30000),
        ms=range(0, 33 * FRAMES, 33),
        options={"bf": "0"},
        sound="flac",
    ),
    OddVideo("lossless.mkv", "ffv1", "16 bits", pix_fmt="gray16le"),
    OddVideo("odd.mkv", "ffv1", "63×47", stored=(47, 63), size=(47, 63)),
    OddVideo(
        "cut.mkv",
        "mpeg4",
        "breaks off",
        refused=_CUT,
        change=lambda data: data[: len(data) * 2 // 3],
    ),
    OddVideo("xvid.avi", "mpeg4", "B-frames in AVI, MP3", options={"bf": "2"}, sound="libmp3lame"),
    OddVideo("title.avi", "mpeg4", "title in Latin-1", **_LATIN),
    OddVideo("title.mkv", "libx264", "title in Latin-1", sound="aac", **_LATIN),
    OddVideo("dv.avi", "dvvideo", "PAL", rate=_PAL[0], stored=_PAL[1], size=_PAL[1]),
    OddVideo("huffyuv.avi", "huffyuv", "RGB", pix_fmt="rgb24"),
    OddVideo("capture.avi", "rawvideo", "BGR, not compressed", pix_fmt="bgr24"),
    OddVideo("camera.dv", "dvvideo", "raw DV, PAL", rate=_PAL[0], stored=_PAL[1], size=_PAL[1]),
    OddVideo(
        "00001.MTS",
        "libx264",
        "interlaced, camcorder's name, AC-3",
        container="mpegts",
        options={"x264-params": "tff=1"},
        sound="ac3",
    ),
    OddVideo("hours.m2ts", "libx264", "begins at 10 h", begin=36_000_000, sound="aac"),
    OddVideo("broadcast.ts", "mpeg2video", "MP2", sound="mp2"),
    OddVideo("disc.vob", "mpeg2video", "AC-3", sound="ac3"),
    OddVideo("tape.mpg", "mpeg1video", "MP2", sound="mp2"),
    OddVideo("stream.m2v", "mpeg2video", "no container, no times"),
    OddVideo("no_pictures.mp4", "", "sound alone", refused="has no video stream", sound="aac"),
    OddVideo(
        "text.avi",
        "",
        "a text",
        refused="not a video of a known format",
        sound="aac",
        change=lambda data: b"no video\n" * 99,
    ),
    OddVideo(
        "page.ts",
        "",
        "a page of TypeScript",
        refused="not a video of a known format",
        sound="aac",
        change=lambda data: b"export const a = 1;\n" * 99,
    ),
    OddVideo(
        "empty.mov",
        "",
        "empty",
        refused="not a video of a known format",
        sound="aac",
        change=lambda data: b"",
    ),
    OddVideo("windows.wmv", "wmv2", "WMA", sound="wmav2"),
    OddVideo("real.rm", "rv20", "RealVideo"),
    OddVideo("theora.ogv", "vp8", "VP8 in Ogg, Opus", sound="libopus"),
    OddVideo("studio.mxf", "mpeg2video", "4:2:2", pix_fmt="yuv422p"),
    OddVideo("moving.gif", "gif", "palette", pix_fmt="rgb8"),
    OddVideo("motion.mjpeg", "mjpeg", "no container, no times", pix_fmt="yuvj420p"),
    OddVideo("raw.y4m", "rawvideo", "grey", container="yuv4mpegpipe", pix_fmt="gray"),
    OddVideo("any.nut", "ffvhuff", "4:2:2", pix_fmt="yuv422p"),
    OddVideo("alone.ivf", "libvpx-vp9", "video alone"),
)


def make(video: OddVideo, folder: pathlib.Path) -> pathlib.Path:
    """Writes a file; its frame t is of a grey of its own with a moving square."""
    path = folder / video.name
    form = video.container or (None if video.codec else "mp4")
    with av.open(str(path), "w", format=form, options=video.mux) as container:
        if video.title:
            container.metadata["title"] = video.title
        stream = _add_pictures(container, video) if video.codec else None
        sound = container.add_stream(video.sound, rate=48000) if video.sound else None
        if sound is not None:
            sound.bit_rate = 128_000
        for number in range(FRAMES if stream is not None else 0):
            frame = av.VideoFrame.from_ndarray(picture(number, *video.stored), format="rgb24")
            frame.time_base = tick = _tick(video)
            ms = video.ms[number] if video.ms is not None else round(1000 * number / video.rate)
            frame.pts = ms + video.begin if tick == _MS else number
            container.mux(stream.encode(frame.reformat(format=video.pix_fmt)))
        if stream is not None:
            container.mux(stream.encode(None))
        if sound is not None:
            _add_sound(container, sound, video.begin)
    if video.change:
        path.write_bytes(video.change(path.read_bytes()))
    return path


def _add_pictures(container: Any, video: OddVideo) -> Any:
    stream = container.add_stream(video.codec, rate=video.rate, options=video.options)
    stream.height, stream.width = video.stored
    stream.pix_fmt = video.pix_fmt
    stream.bit_rate = 2_000_000
    stream.codec_context.time_base = _tick(video)
    if video.setup:
        video.setup(stream)
    return stream


def _tick(video: OddVideo) -> Fraction:
    return _MS if video.ms is not None or video.begin else 1 / video.rate


def picture(number: int, height: int, width: int) -> np.ndarray:
    """(H,W,3) uint8."""
    frame = np.full((height, width, 3), 60 + 37 * number % 120, np.uint8)
    left = 2 * number % (width - 16)
    frame[height // 3 : height // 3 + 16, left : left + 16] = (220, 40, 30)
    return frame


def _add_sound(container: Any, stream: Any, begin: int) -> None:
    context = stream.codec_context
    kind, count = context.format, 800 // FRAMES * 960 // 20
    for start in range(0, FRAMES * 1920, count):
        tone = np.sin(np.arange(start, start + count) / 20) / 2
        scale, dtype = {"flt": (1, "f4"), "s16": (2**15 - 1, "i2"), "s32": (2**31 - 1, "i4")}[
            kind.name.removesuffix("p")
        ]
        pair = np.repeat((tone * scale).astype(dtype)[None], 2, axis=0)
        part = pair if kind.is_planar else np.ascontiguousarray(pair.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(part, format=kind.name, layout="stereo")
        frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
        frame.pts = start + begin * 48
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def table() -> list[str]:
    """Rows of the table in docs/reference/videos.md."""
    rows = ["| file | pictures, sound | what is odd | |", "|---|---|---|---|"]
    for odd in VIDEOS:
        codecs = ", ".join(filter(None, (odd.codec, odd.sound))) if odd.codec else ""
        what = f"refused: {odd.refused}" if odd.refused else "as any"
        rows.append(f"| `{odd.name}` | {codecs} | {odd.odd} | {what} |")
    return rows


if __name__ == "__main__":
    print("\n".join(table()))
