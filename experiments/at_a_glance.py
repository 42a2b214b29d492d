"""What the zoo's networks see in a real video, side by side: `make demo` begins with it.

    python -m experiments.at_a_glance [--video=FILE] [--models=people,flow] --output=runs/demo

Writes OUTPUT/at_a_glance.mp4, all answers in one video, and OUTPUT/at_a_glance.png, two moments of
it. The video that comes with the package is of DAVIS 2016: examples/README.md.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from v2v_jax import zoo
from v2v_jax.drawing.layout import join, text_picture
from v2v_jax.drawing.legends import Legend, strip
from v2v_jax.drawing.panels import panels, write_png
from v2v_jax.errors import UserError
from v2v_jax.inference.predictor import Chunk
from v2v_jax.inference.views import Drawing
from v2v_jax.media.frame_sources import open_source
from v2v_jax.media.video_writer import write_video
from v2v_jax.tasks import Task

ROOT = pathlib.Path(__file__).resolve().parents[1]
VIDEO = ROOT / "examples" / "dance-twirl.mp4"
SOURCE = "Video: DAVIS 2016 (Perazzi et al.), dance-twirl, CC BY 4.0; the networks never saw it"
# In the order of the picture, and its titles. Those that are not in the zoo are left out.
MODELS = {"people": "people", "flow": "optical flow", "color": "colours", "depth": "depth"}
_COLUMNS = 3  # beside each other
_MOMENTS = (0.5, 0.85)  # of the video, in the picture
_OVERLAP = 0.125  # of clips: the quickest that hides where one ends


def answers(
    frames: np.ndarray, models: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[Legend | np.ndarray]]:
    """Predicts and draws.

    Args:
      frames: (T,H,W,3) uint8 RGB.
      models: names in the zoo.

    Returns:
      Title → (T,H,W,3) uint8 RGB, the video first, and legends of the colours.
    """

    def predicted(name: str) -> tuple[Task, np.ndarray]:
        predictor = zoo.load(name, full_frame=True, overlap=_OVERLAP)
        return predictor.network.task, predictor(frames)

    columns: dict[str, np.ndarray] = {"video": frames}
    legends: list[Legend | np.ndarray] = []
    # Together: one network is compiled while another computes.
    with concurrent.futures.ThreadPoolExecutor(len(models)) as pool:
        found = list(pool.map(predicted, models))
    for name, (task, values) in zip(models, found, strict=True):
        if task.finish_reads_video:  # of a colouring: what it was given
            columns["grey"] = task.shown_input(frames)
        drawing = Drawing(task, "overlay" if task.label_names else "plain")
        columns[MODELS.get(name, name)] = drawing.draw(Chunk(frames, values))
        legends += drawing.legends()
    return columns, legends


def tiled(
    columns: dict[str, np.ndarray], legends: Sequence[Legend | np.ndarray]
) -> Iterator[np.ndarray]:
    """Every frame of all columns under their titles, (H',W',3) uint8 RGB with even sides.

    What the colours mean stands below them.
    """
    shape = next(iter(columns.values())).shape
    titles = {name: text_picture(name, shape[2], bold=True) for name in columns}
    for t in range(shape[0]):
        cells = [join([titles[name], video[t]], axis=0) for name, video in columns.items()]
        rows = [join(cells[i : i + _COLUMNS], 1) for i in range(0, len(cells), _COLUMNS)]
        picture = join(rows, axis=0)
        h, w = (side - side % 2 for side in picture.shape[:2])
        below = strip(legends, (h, w))
        yield np.concatenate([picture[:h, :w], *([] if below is None else [below])])


def still(
    columns: dict[str, np.ndarray], legends: Sequence[Legend | np.ndarray], caption: str
) -> np.ndarray:
    """Two moments of all columns, three columns beside each other, (H',W',3) uint8 RGB."""
    names, last = list(columns), len(next(iter(columns.values()))) - 1
    moments = [round(share * last) for share in _MOMENTS]
    blocks = [
        panels({name: columns[name] for name in names[i : i + _COLUMNS]}, moments)
        for i in range(0, len(names), _COLUMNS)
    ]
    drawn = [each.picture() if isinstance(each, Legend) else each for each in legends]
    below = [join(drawn, axis=1)] if drawn else []
    width = max(picture.shape[1] for picture in (*blocks, *below))
    return join([*blocks, *below, *([text_picture(caption, width)] if caption else [])], axis=0)


def main(argv: list[str] | None = None) -> int:
    """Writes both files; without weights in the zoo it says so and writes none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", default=str(VIDEO))
    parser.add_argument("--models", default=",".join(MODELS), help="names in the zoo, with commas")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    known = [entry.name for entry in zoo.read_index()]
    models = [name for name in args.models.split(",") if name in known]
    if not models:
        print("No weights ship with this version; nothing to show.")
        return 0
    start = time.perf_counter()
    try:
        source = open_source(args.video)
        frames = np.stack(list(source.frames))
        columns, legends = answers(frames, models)
        args.output.mkdir(parents=True, exist_ok=True)
        movie = args.output / "at_a_glance.mp4"
        write_video(movie, tiled(columns, legends), source.fps or 25.0)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    caption = SOURCE if args.video == str(VIDEO) else ""
    write_png(args.output / "at_a_glance.png", still(columns, legends, caption))
    seconds = time.perf_counter() - start
    print(f"{', '.join(models)} on {len(frames)} frames: {seconds:.0f} s")
    print(f"See {movie} and {args.output / 'at_a_glance.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
