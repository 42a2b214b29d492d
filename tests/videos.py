"""Small videos in files, and what folders hold of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from v2v_jax.media.video import write_video


def smooth(t: int, h: int, w: int) -> np.ndarray:
    """(T,h,w,3) colours that a codec keeps nearly as they are."""
    x = np.indices((t, h, w)).astype(np.float64)
    colors = [120 + 80 * np.sin(x[1] / 9 + x[0] / 5), 90 + x[2] * 120 / w, 60 + x[1] * 150 / h]
    return np.stack(colors, -1).astype(np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path → content of all files in a folder and its subfolders."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def make_videos(folder: Path, *names: str) -> None:
    """Writes videos of two frames of 20x30."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, smooth(2, 20, 30))


def with_sound(path: Path, frames: np.ndarray, codec: str = "aac", fps: int = 10) -> None:
    """Writes H.264 with a tone as long as the frames."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.pix_fmt, (video.height, video.width) = "yuv420p", frames.shape[1:3]
        sound = container.add_stream(codec, rate=48000)
        tone = (3000 * np.sin(np.arange(4800) / 20)).astype(np.int16)
        for number, frame in enumerate(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            part = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            part.sample_rate, part.pts, part.time_base = 48000, number * 4800, Fraction(1, 48000)
            container.mux(sound.encode(part))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


def sound_seconds(path: Path) -> float | None:
    """How long the sound of a file is; None without one."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        rate = container.streams.audio[0].rate
        return sum(frame.samples for frame in container.decode(audio=0)) / rate
