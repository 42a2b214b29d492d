"""Pictures of flow as in the paper's figures 6 and 7: input, teacher, network, truth.

    python -m experiments.flow_pictures --network=runs/flow --sintel=data/sintel \\
        --ucf101=data/ucf101 --output=runs/flow_pictures

flow_ucf101.png (figure 6) has a row for each of some test clips of UCF101, flow_sintel.png (figure
7) one for each of some labelled frames of Sintel. Every row has its own scale of colours, the same
for all its columns; its name says how many pixels a frame the full colour stands for.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

import v2v_jax
from experiments.distillation import sintel, ucf101
from experiments.flow_methods import pairs_of
from v2v_jax.drawing import colors, panels
from v2v_jax.inference.predictor import Predictor
from v2v_jax.system import compilation_cache

_WIDEST = 400  # px of a column
Row = tuple[str, Mapping[str, np.ndarray]]  # name, column → (H,W,3)


def draw_row(
    frames: np.ndarray,
    index: int,
    flows: Mapping[str, np.ndarray],
    truth: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[float, dict[str, np.ndarray]]:
    """Colours one frame's flows on one scale.

    Args:
      frames: (T,H,W,3) uint8 RGB.
      index: which frame.
      flows: column → (H,W,2).
      truth: flow (H,W,2) and where it is known (H,W).

    Returns:
      Pixels that the full colour stands for, and column → (H,W,3) uint8 RGB.
    """
    reference = next(iter(flows.values())) if truth is None else truth[0][truth[1]]
    speed = np.linalg.norm(reference.reshape(-1, 2), axis=-1)
    scale = max(float(np.percentile(speed, 99)), 1.0)
    columns = {"input": frames[index]}
    for name, flow in flows.items():
        columns[name] = colors.flow_to_color(flow, scale)
    if truth is not None:
        columns["truth (black: none)"] = colors.flow_to_color(truth[0], scale, truth[1])
    return scale, columns


def rows(clips: list, predictor: Predictor, teachers: tuple[str, ...], count: int) -> list[Row]:
    """One row a clip, of the middle of the frames that are looked at, for `count` of the clips."""
    chosen = np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int)
    result = []
    for number, which in enumerate(chosen):
        frames, indices, truth, valid = clips[which]
        place = len(indices) // 2
        index = indices[place]
        flows = {name: pairs_of(frames, [index], name)[0] for name in teachers}
        flows["V2V"] = predictor(frames)[index]
        known = None if truth is None else (truth[place], valid[place])
        scale, columns = draw_row(frames, index, flows, known)
        result.append((f"{number + 1}: full colour {scale:.1f} px", columns))
    return result


def sheet(found: list[Row], title: str) -> np.ndarray:
    """All rows under one another, (H,W,3) uint8 RGB."""
    names = [name for name, _ in found]
    columns = {
        column: np.stack([_shrunk(pictures[column]) for _, pictures in found])
        for column in found[0][1]
    }
    return panels.panels(
        columns,
        range(len(names)),
        title=title,
        row_names=names,
        legends=[colors.flow_legend(96)],
    )


def _shrunk(picture: np.ndarray) -> np.ndarray:
    h, w = picture.shape[:2]
    factor = min(1.0, _WIDEST / w)
    size = (round(w * factor), round(h * factor))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def main(argv: list[str] | None = None) -> None:
    """Draws a sheet for every dataset that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=pathlib.Path, required=True, help="of configs/flow.py")
    parser.add_argument("--ucf101", help="folder of UCF101; its test clips that are at hand")
    parser.add_argument("--sintel", help="folder that holds training/")
    parser.add_argument("--render_pass", choices=("clean", "final", "both"), default="both")
    parser.add_argument("--partial", action="store_true", help="an incomplete copy of Sintel")
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    compilation_cache.enable()
    args.output.mkdir(parents=True, exist_ok=True)
    predictor = v2v_jax.load(args.network)
    sheets: dict[str, tuple[str, Callable[[], list], tuple[str, ...]]] = {}
    if args.ucf101:
        read_ucf101 = lambda: list(ucf101(args.ucf101, 16))
        sheets["flow_ucf101"] = ("Test clips of UCF101", read_ucf101, ("Brox",))
    if args.sintel:
        read_sintel = lambda: list(sintel(args.sintel, args.render_pass, args.partial))
        sheets["flow_sintel"] = ("MPI-Sintel", read_sintel, ("Brox", "Brox, accurate"))
    for name, (title, read, teachers) in sheets.items():
        path = args.output / f"{name}.png"
        picture = sheet(rows(read(), predictor, teachers, args.rows), title)
        panels.write_png(path, picture)
        print(path)


if __name__ == "__main__":
    main()
