"""The counterparts of the paper's figures, from trained runs.

    python -m experiments.figures --output=docs/images/paper --table1=runs/table1 \\
        --color=runs/table1_color --flow=runs/flow --c3d=runs/table1/c3d

    figure4  class probabilities of V2V, from --table1 (a folder of experiments.table1, or of
             experiments.search whose plan has the table's rows) or --seg
    figure5  V2V beside the upsampling baselines, from --table1
    figure6, figure7  flow beside the teacher's and the truth, by experiments.flow_pictures: --flow,
             and folders of --ucf101 and --sintel
    figure8  what classification (--c3d), segmentation (--seg) and flow (--flow) have added to the
             random filters of conv1a: a grid of the filters' three frames, and an animation
    figure9  colouring by V2V and 2D-V2V, from --color (experiments.table1 --task=color)

What is missing is skipped with a sentence. PNGs, and GIFs of what moves.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from experiments.result_tables import TABLES, Row
from experiments.trained_runs import TrainedRun, open_run
from v2v_jax.drawing import colors, panels
from v2v_jax.drawing.layout import join, text_picture
from v2v_jax.errors import UserError
from v2v_jax.system.console import console

_CLIPS = 3  # a figure
_COLUMNS = 8  # filters side by side
_SCALE = 8  # pixels a filter's voxel


class Missing(UserError):
    """A figure's run is not there."""


def of_table(folder: pathlib.Path | None, task: str, names: tuple[str, ...]) -> list[TrainedRun]:
    """The first seed's runs of some rows of `experiments.table1`, or of `experiments.search`."""
    if folder is None:
        raise Missing("no folder of experiments.table1 is given")
    return [open_run(_row_folder(folder, TABLES[task].row(name))) for name in names]


def _row_folder(folder: pathlib.Path, row: Row) -> pathlib.Path:
    searched = folder.glob(f"runs/table_1_{row.name}_*-0")
    steps = lambda path: int(path.name.removesuffix("-0").rpartition("_")[2])
    return max(searched, key=steps, default=folder / row.slug / "run")


def figure4(args: argparse.Namespace) -> None:
    """Class probabilities (paper, figure 4)."""
    run = open_run(args.seg) if args.seg else of_table(args.table1, "segmentation", ("V2V",))[0]
    for index, (name, clip, prediction) in enumerate(run.clips(_CLIPS)):
        columns = {"input": clip["video"], "truth": truth_colors(run, clip)}
        columns["V2V"] = label_colors(run, prediction)
        maps = colors.class_heat_maps(prediction, run.experiment.task.label_names)
        frames = middle_frames(clip["video"], 2)
        sheets = [
            panels.panels(
                columns,
                frames,
                title=name,
                legends=(colors.label_legend(run.experiment.task.label_names),),
            ),
            panels.panels(maps, frames, scale=1, legends=(colors.probability_legend(),)),
        ]
        write(args.output / f"figure4_{index}", join(sheets, axis=0))


def figure5(args: argparse.Namespace) -> None:
    """V2V against linear upsampling (paper, figure 5)."""
    names = ("V2V", "Conv5b-up", "Conv4b-up", "Conv3b-up")
    runs = of_table(args.table1, "segmentation", names)
    found = [run.clips(_CLIPS) for run in runs]
    for index, clips in enumerate(zip(*found)):
        name, clip, _ = clips[0]
        columns = {"input": clip["video"]}
        for method, run, (_, _, prediction) in zip(names, runs, clips):
            columns[method] = label_colors(run, prediction)
        columns["truth"] = truth_colors(runs[0], clip)
        legend = colors.label_legend(runs[0].experiment.task.label_names)
        layout = dict(title=name, legends=(legend,))
        frames = middle_frames(clip["video"], 2)
        write(args.output / f"figure5_{index}", panels.panels(columns, frames, **layout))
        panels.write_gif(
            args.output / f"figure5_{index}.gif", panels.animation(columns, **layout), fps=8
        )


def figures6and7(args: argparse.Namespace) -> None:
    """Flow beside the teacher's and the truth (paper, figures 6 and 7)."""
    data = {"ucf101": args.ucf101, "sintel": args.sintel}
    given = [f"--{name}={folder}" for name, folder in data.items() if folder]
    if not (args.flow and given):
        raise Missing("--flow, and --ucf101 or --sintel, are needed")
    from experiments import flow_pictures

    flow_pictures.main([f"--network={args.flow}", f"--output={args.output}", *given])


def figure8(args: argparse.Namespace) -> None:
    """What conv1a has learned from classification, segmentation and flow (paper, figure 8)."""
    given = {
        "C3D (classification)": args.c3d,
        "V2V (segmentation)": args.seg,
        "V2V (flow)": args.flow,
    }
    runs = {name: open_run(folder) for name, folder in given.items() if folder}
    if not runs:
        raise Missing("none of --c3d, --seg and --flow is given")
    images = {
        name: filter_frames(learned_filters(run), run.experiment.preprocessing.color_order)
        for name, run in runs.items()
    }
    grids = [
        join([text_picture(name, frames[0].shape[1], bold=True), *frames], axis=0)
        for name, frames in images.items()
    ]
    write(args.output / "figure8", join(grids, axis=1))
    moving = [join(list(frames), axis=1) for frames in zip(*images.values())]
    panels.write_gif(args.output / "figure8.gif", moving, fps=4)


def figure9(args: argparse.Namespace) -> None:
    """Colouring (paper, figure 9)."""
    names = ("V2V", "2D-V2V")
    runs = of_table(args.color, "color", names)
    for index, clips in enumerate(zip(*(run.clips(_CLIPS) for run in runs))):
        name, clip, _ = clips[0]
        pictures = [
            run.experiment.task.picture(fields, prediction).columns
            for run, (_, fields, prediction) in zip(runs, clips)
        ]
        columns = {"input": pictures[0]["input"]}
        columns |= {method: p["prediction"] for method, p in zip(names, pictures)}
        columns["truth"] = clip["video"]
        frames = middle_frames(clip["video"], 3)
        write(args.output / f"figure9_{index}", panels.panels(columns, frames, title=name))


FIGURES: dict[str, Callable[[argparse.Namespace], None]] = {
    "figure 4": figure4,
    "figure 5": figure5,
    "figures 6 and 7": figures6and7,
    "figure 8": figure8,
    "figure 9": figure9,
}


# ------------------------------------------------------------------------------------------------


def label_colors(run: TrainedRun, prediction: np.ndarray) -> np.ndarray:
    """(T,H,W,K) probabilities → (T,H,W,3) uint8, the likeliest class."""
    task = run.experiment.task
    return colors.labels_to_color(prediction.argmax(-1).astype(np.uint8), task.num_outputs)


def truth_colors(run: TrainedRun, clip: dict[str, np.ndarray]) -> np.ndarray:
    """The clip's labels, (T,H,W,3) uint8."""
    return colors.labels_to_color(clip["labels"], run.experiment.task.num_outputs)


def middle_frames(video: np.ndarray, count: int) -> list[int]:
    """`count` frames spread evenly, without the first and the last."""
    return np.linspace(0, len(video) - 1, count + 2).round().astype(int)[1:-1].tolist()


def filter_frames(kernel: np.ndarray, color_order: str = "rgb") -> list[np.ndarray]:
    """Filters (kt,kh,kw,C,O) at each moment, in a grid: kt pictures (H,W,3) uint8.

    Each filter has its own scale: grey is zero, and its largest weight is full intensity.
    """
    kt, kh, kw, channels, count = kernel.shape
    if channels == 3 and color_order == "bgr":
        kernel = kernel[..., ::-1, :]
    # Of a network with grey input, and hints, the grey alone.
    kernel = np.repeat(kernel[..., :1, :], 3, axis=3) if channels != 3 else kernel
    kernel = kernel / np.maximum(np.abs(kernel).max((0, 1, 2, 3)), 1e-12)
    pictures = np.round(127.5 + 127.5 * kernel).astype(np.uint8)
    cells = np.moveaxis(pictures, -1, 1)  # (kt, filter, kh, kw, 3)
    cells = cells.repeat(_SCALE, axis=2).repeat(_SCALE, axis=3)
    # White space between the filters, then rows of _COLUMNS.
    cells = np.pad(cells, ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
    rest = -count % _COLUMNS
    cells = np.pad(cells, ((0, 0), (0, rest), *[(0, 0)] * 3), constant_values=255)
    rows = cells.reshape(kt, -1, _COLUMNS, *cells.shape[2:])
    grids = rows.transpose(0, 1, 3, 2, 4, 5).reshape(
        kt, rows.shape[1] * cells.shape[2], _COLUMNS * cells.shape[3], 3
    )
    return list(grids)


def learned(kernel: np.ndarray, start: np.ndarray) -> np.ndarray:
    """What training has added to filters (…,O) that began as `start`.

    Standardised kernels do not depend on their filters' means and lengths, and keep most of the
    random numbers that they began with. Of each filter, less its mean, what is left is the part at
    right angles to its start.
    """
    axes = tuple(range(kernel.ndim - 1))
    unit = lambda k: (k - k.mean(axes)) / np.maximum(k.std(axes), 1e-12)
    after, before = (unit(np.asarray(k, np.float64)) for k in (kernel, start))
    return (after - (after * before).mean(axes) * before).astype(np.float32)


def learned_filters(run: TrainedRun) -> np.ndarray:
    """What a run has added to conv1a's filters, (3,3,3,C,O).

    They began as the random ones of its seed; so did those of the run that it goes on from, where
    that has the same seed.
    """
    state = run.experiment.init_state(run.experiment.config.seed)
    kernels = (params["conv1a"]["kernel"] for params in (run.params, state.params))
    return learned(*map(np.asarray, jax.device_get(tuple(kernels))))


def write(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes path.png and says so."""
    panels.write_png(path.with_suffix(".png"), picture)
    console.print(f"{path.with_suffix('.png')}")


def main(argv: list[str] | None = None) -> None:
    """Draws what there are runs for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, required=True)
    for name in ("table1", "seg", "color", "flow", "c3d", "ucf101", "sintel"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        try:
            draw(args)
        except UserError as error:
            console.print(f"Left out, {name}: {error}")


if __name__ == "__main__":
    main()
