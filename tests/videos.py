"""Small videos in files, and what folders hold of them."""

from __future__ import annotations

from pathlib import Path

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
