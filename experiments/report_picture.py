"""Takes a picture of a report's page, as a browser shows it: docs/images/report.png.

    make demo
    python -m experiments.report_picture runs/demo/eval/report.html --output=docs/images/report.png

Needs Chromium or Chrome. Without --height the picture is as long as the page.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=9000",  # until the videos play and their controls are gone
)
_LONGEST = 8000  # px


def photograph(page: pathlib.Path, width: int, height: int | None, dark: bool) -> np.ndarray:
    """(H,W,3) uint8 of a page.

    Args:
      page: an HTML file.
      width: px; a narrow page stands in a frame, as a browser's window is no narrower than 500.
      height: px; None: up to where the page is empty.
      dark: whether the page is told that its reader wants it dark.

    Raises:
      RuntimeError: there is no browser, or it took no picture.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise RuntimeError(f"No browser is installed; one of {', '.join(_BROWSERS)} is needed.")
    with tempfile.TemporaryDirectory() as folder:
        picture, frame = pathlib.Path(folder, "page.png"), pathlib.Path(folder, "frame.html")
        tall = height or _LONGEST
        frame.write_text(
            f'<body style="margin:0"><iframe src="{page.resolve().as_uri()}" width="{width}" '
            f'height="{tall}" style="border:0"></iframe>'
        )
        options = [f"--user-data-dir={folder}/user", f"--window-size={max(width, 500)},{tall}"]
        options += ["--blink-settings=preferredColorScheme=0"] * dark
        command = [browser, *_FLAGS, *options, f"--screenshot={picture}", frame.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if not picture.exists():
            raise RuntimeError(f"{browser} took no picture: {done.stderr[-500:]}")
        pixels = np.asarray(Image.open(picture).convert("RGB"))[:, :width]
    if height is None:
        used = np.flatnonzero((pixels != pixels[-1:]).any(axis=(1, 2)))
        pixels = pixels[: used.max(initial=0) + 24]
    return pixels


def main(argv: list[str] | None = None) -> int:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--width", type=int, default=900)
    parser.add_argument("--height", type=int)
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args(argv)
    try:
        pixels = photograph(args.page, args.width, args.height, args.dark)
    except RuntimeError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    Image.fromarray(pixels).save(args.output, optimize=True)
    print(f"{args.output}: {pixels.shape[1]}x{pixels.shape[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
