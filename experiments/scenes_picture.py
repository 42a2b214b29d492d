"""Draws what the dataset `scenes` holds: frames, classes, flow and depth of one video.

python -m experiments.scenes_picture --output=docs/images/scenes.png
"""

from __future__ import annotations

import argparse

import numpy as np

from v2v_jax.datasets.scenes import LABEL_NAMES, Scenes
from v2v_jax.drawing import colors
from v2v_jax.drawing.panels import panels, write_png


def main(argv: list[str] | None = None) -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="a PNG file")
    parser.add_argument("--video", type=int, default=1)
    args = parser.parse_args(argv)
    scenes = Scenes("train", num_videos=args.video + 1)
    clip = scenes.read(args.video, 0, 16, scenes.fields)
    columns = {
        "video": clip["video"],
        "classes": colors.labels_to_color(clip["labels"], len(LABEL_NAMES)),
        "flow (black: not valid)": colors.flow_to_color(clip["flow"], 6.0, clip["flow_valid"]),
        "depth (black: none)": colors.depth_to_color(clip["depth"].astype(np.float32)),
    }
    write_png(args.output, panels(columns, (0, 7, 15), legends=[colors.label_legend(LABEL_NAMES)]))


if __name__ == "__main__":
    main()
