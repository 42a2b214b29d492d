"""GATECH as it circulates on disk, tiny."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (36, 36)
NAMES = (
    *("sky", "ground", "solid", "porous"),
    *("cars", "humans", "vertical mix", "main mix"),
)


COLORS = [
    *[(255, 128, 0), (255, 0, 0), (0, 130, 180), (0, 255, 0), (255, 255, 0)],
    *[(120, 0, 255), (255, 0, 255), (160, 160, 160), (64, 64, 64)],
]


def index_mask(t: int = 0) -> np.ndarray:
    """Nine columns of four voxels; column c of frame t has the value (c + t) % 9."""
    return np.broadcast_to((np.arange(SIZE[1]) // 4 + t) % 9, SIZE).astype(np.uint8)


def save_mask(path: Path, values: np.ndarray, kind: str) -> None:
    if kind == "colour":
        picture = Image.fromarray(np.array(COLORS, np.uint8)[values])
    elif kind == "palette of colours":  # its numbers are in another order
        picture = Image.fromarray(8 - values, "P")
        picture.putpalette([v for color in reversed(COLORS) for v in color])
    elif kind == "palette of numbers":
        picture = Image.fromarray(values, "P")
        picture.putpalette([v for i in range(256) for v in (i, i, i)])
    elif kind == "16 bits":
        picture = Image.fromarray(values.astype(np.uint16))
    else:
        picture = Image.fromarray(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def make_pictures(
    root: Path, folder="Images", videos=(2, 10), count=17, kind="index", ext="tiff", first=1
) -> None:
    """Frame n of a video is grey 7·n."""
    for video in videos:
        for n in range(first, first + count):
            frame = Image.fromarray(np.full((*SIZE, 3), 7 * n, np.uint8))
            path = root / folder / "Original" / f"{video}_{n}.{ext}"
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.save(path)
            save_mask(root / folder / "Ground_Truth" / f"{video}_{n}.{ext}", index_mask(n), kind)


def truth(root: Path, name: str) -> Path:
    return root / "Images" / "Ground_Truth" / name
