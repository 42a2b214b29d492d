"""Draws what the dataset `scenes` holds: frames, classes, flow and depth of one video.

python -m experiments.scenes_picture --output=docs/images/scenes.png
python -m experiments.scenes_picture --domain=wide --output=docs/images/scenes_wide.png
"""

from __future__ import annotations

import argparse

import numpy as np

from v2v_jax.datasets.scenes import LABEL_NAMES, Scenes
from v2v_jax.datasets.scenes.dataset import DOMAINS
from v2v_jax.drawing import colors
from v2v_jax.drawing.panels import panels, write_png

WIDE = (4, 2)  # videos below and beside one another in the picture of the wide domain


def plain_picture(video: int) -> np.ndarray:
    """(H, W, 3) uint8: frames, classes, flow and depth of one video."""
    clip = Scenes("train", num_videos=video + 1).read(video, 0, 16, Scenes.fields)
    columns = {
        "video": clip["video"],
        "classes": colors.labels_to_color(clip["labels"], len(LABEL_NAMES)),
        "flow (black: not valid)": colors.flow_to_color(clip["flow"], 6.0, clip["flow_valid"]),
        "depth (black: none)": colors.depth_to_color(clip["depth"].astype(np.float32)),
    }
    return panels(columns, (0, 7, 15), legends=[colors.label_legend(LABEL_NAMES)])


def wide_picture(first: int) -> np.ndarray:
    """(H, W, 3) uint8: two frames and the flow between, of some videos of the wide domain."""
    count = WIDE[0] * WIDE[1]
    scenes = Scenes("train", num_videos=first + count, domain="wide")
    rows = []
    for video in range(first, first + count):
        clip = scenes.read(video, 0, 9, ("video", "flow", "flow_valid"))
        length = np.linalg.norm(clip["flow"].astype(np.float32), axis=-1)
        scale = max(1.0, float(np.percentile(length, 99)))
        flow = colors.flow_to_color(clip["flow"], scale, clip["flow_valid"])
        rows.append(np.concatenate([clip["video"][0], clip["video"][8], flow[0]], axis=1))
    per_column = [rows[i :: WIDE[1]] for i in range(WIDE[1])]
    return np.concatenate([np.concatenate(column) for column in per_column], axis=1)


def main(argv: list[str] | None = None) -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="a PNG file")
    parser.add_argument("--domain", choices=DOMAINS, default="plain")
    parser.add_argument("--video", type=int, default=1, help="which; of wide the first of some")
    args = parser.parse_args(argv)
    draw = plain_picture if args.domain == "plain" else wide_picture
    write_png(args.output, draw(args.video))


if __name__ == "__main__":
    main()
