"""Pictures of docs/results/real_video.md: masks and flow on the test sequences of DAVIS 2016.

    python -m experiments.real_pictures masks --runs=runs/real --davis=data/davis2016 \\
        --output=docs/images/real_davis.jpg
    python -m experiments.real_pictures flow --weights=flow --davis=data/davis2016 \\
        --output=docs/images/real_flow.jpg
    python -m experiments.real_pictures networks --davis=data/davis2016 \\
        --output=docs/images/real_networks.jpg
    python -m experiments.real_pictures camvid --runs=runs/real --output=docs/images/real_camvid.png

`masks` takes what `experiments.real_runs` wrote, the first seed of each network, and shows the
sequences where V2V is best and those where it is worst, of those that may be shown. `flow` takes
weights by their name in the zoo or a file, and shows one frame of ten sequences beside Brox's flow,
accurate, in one scale of colours a sequence. `networks` shows what every network of the zoo sees on
some of them. `camvid` shows predicted classes alone: its frames may not be shown here.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from PIL import Image

from experiments.flow_methods import teacher_flow
from experiments.real_data import CAMVID_CLASSES, FRAME_SIZE, YOUTUBE, cover
from experiments.real_results import Truth, predicted
from v2v_jax.datasets.readers.davis import Davis
from v2v_jax.drawing import colors
from v2v_jax.drawing.layout import join, text_picture
from v2v_jax.drawing.legends import strip
from v2v_jax.evaluation.davis_measures import region

MASKS = {  # title → file of the run's masks
    "V2V, from scenes": "davis_V2V-0.0003-0.npz",
    "V2V-0": "davis_V2V-0-0.0002-0.npz",
    "2D-V2V": "davis_2D-V2V-0.0002-0.npz",
    "Conv3b-up": "davis_Conv3b-up-0.0003-0.npz",
}
CAMVID = {"V2V": "camvid_V2V-0.0005-0.npz", "2D-V2V": "camvid_2D-V2V-0.002-0.npz"}
_SHOWN = 3  # best sequences, and as many of the worst
_SIZE = (144, 256)
_FLOW_FRAMES, _FLOW_SHOWN = 17, 10
_EVERY = 2  # sequences of `networks`
_RED, _OUTLINE = np.array([220, 30, 60], np.uint8), np.array([255, 220, 0], np.uint8)


def masked(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A mask (H,W) bool over a frame (H,W,3) uint8, with its outline, at the pictures' size."""
    drawn = np.where(
        mask[..., None], colors.half_over(frame, np.broadcast_to(_RED, frame.shape)), frame
    )
    drawn[scipy.ndimage.binary_dilation(mask) & ~mask] = _OUTLINE
    picture = Image.fromarray(drawn).resize(_SIZE[::-1], Image.Resampling.BICUBIC)
    return np.asarray(picture)


def titled(text: str, picture: np.ndarray) -> np.ndarray:
    """A picture (H,W,3) under a line of text."""
    return join([text_picture(text, picture.shape[1]), picture], axis=0)


def mask_picture(runs: pathlib.Path, root: str) -> np.ndarray:
    """Rows of frames: truth and each network; best sequences first."""
    truth, dataset = Truth(root), Davis(root, "test")
    size = truth[truth.test[0]].shape[1:]
    found = {name: predicted(runs / "masks" / file, size) for name, file in MASKS.items()}
    first = next(iter(found.values()))
    score = {name: float(region(first[name], truth[name])[1:-1].mean()) for name in truth.test}
    free = [name for name in score if name not in YOUTUBE]
    order = sorted(free, key=score.__getitem__, reverse=True)
    numbers = {info.name: number for number, info in enumerate(dataset.videos)}
    rows = []
    for name in (*order[:_SHOWN], *order[-_SHOWN:]):
        frames = list(dataset.native_frames(numbers[name]))
        middle = len(frames) // 2
        cells = [titled(f"{name}, true", masked(frames[middle], truth[name][middle]))]
        for title, masks in found.items():
            value = float(region(masks[name], truth[name])[1:-1].mean())
            picture = masked(frames[middle], masks[name][middle])
            cells.append(titled(f"{title}, J {value:.2f}", picture))
        rows.append(join(cells, axis=1))
    return join(rows, axis=0)


def flow_picture(weights: str, root: str) -> np.ndarray:
    """Two columns of frame, network, Brox; prints both end-point errors to Brox's flow."""
    import v2v_jax

    dataset, predictor = Davis(root, "test"), v2v_jax.load(weights)
    rows, errors = [], []
    free = [k for k, info in enumerate(dataset.videos) if info.name not in YOUTUBE]
    for number in free[:_FLOW_SHOWN]:
        name, frames = dataset.videos[number].name, list(dataset.native_frames(number))
        start = (len(frames) - _FLOW_FRAMES) // 2
        clip = np.stack([cover(f, FRAME_SIZE) for f in frames[start : start + _FLOW_FRAMES]])
        middle = _FLOW_FRAMES // 2
        ours, brox = (
            predictor(clip)[middle],
            teacher_flow(clip[middle : middle + 2], "Brox, accurate")[0],
        )
        most = float(np.percentile(np.linalg.norm(brox, axis=-1), 99))
        error = [float(np.linalg.norm(flow - brox, axis=-1).mean()) for flow in (ours, 0 * brox)]
        errors.append(error)
        print(f"{name}: {error[0]:.3f} px, zero flow {error[1]:.3f} px", flush=True)
        cells = [clip[middle], *(colors.flow_to_color(flow, most) for flow in (ours, brox))]
        titles = (name, f"network, {error[0]:.2f} px", f"Brox, to {most:.1f} px")
        rows.append(join([titled(t, c) for t, c in zip(titles, cells)], axis=1))
    mean = np.mean(errors, 0)
    print(f"mean: {mean[0]:.3f} px, zero flow {mean[1]:.3f} px")
    half = (len(rows) + 1) // 2
    return join([join(part, axis=0) for part in (rows[:half], rows[half:])], axis=1)


def networks_picture(root: str) -> np.ndarray:
    """Rows of a middle frame and what each network of the zoo sees there."""
    from experiments import at_a_glance
    from v2v_jax import zoo

    dataset, rows = Davis(root, "test"), []
    models = [entry.name for entry in zoo.read_index()]
    free = [k for k, info in enumerate(dataset.videos) if info.name not in YOUTUBE]
    for number in free[::_EVERY]:
        frames = list(dataset.native_frames(number))
        start = (len(frames) - _FLOW_FRAMES) // 2
        clip = np.stack([cover(f, FRAME_SIZE) for f in frames[start : start + _FLOW_FRAMES]])
        columns, _ = at_a_glance.answers(clip, models)
        columns = {dataset.videos[number].name: columns.pop("video"), **columns}
        middle = _FLOW_FRAMES // 2
        rows.append(join([titled(name, video[middle]) for name, video in columns.items()], axis=1))
        print(dataset.videos[number].name, flush=True)
    return join(rows, axis=0)


def camvid_picture(runs: pathlib.Path) -> np.ndarray:
    """Two frames of each test video: V2V's classes, 2D-V2V's, and what the colours mean."""
    files = [np.load(runs / "masks" / file) for file in CAMVID.values()]
    count, rows = len(CAMVID_CLASSES), []
    for video in files[0].files:
        for t in np.linspace(5, len(files[0][video]) - 6, 2).astype(int):
            shown = [colors.labels_to_color(file[video][t], count) for file in files]
            cells = [titled(title, picture) for title, picture in zip(CAMVID, shown)]
            rows.append(join(cells, axis=1))
    pairs = [join(pair, axis=1) for pair in zip(rows[::2], rows[1::2])]
    picture = join(pairs, axis=0)
    legend = strip((colors.label_legend(CAMVID_CLASSES, ignored=False),), picture.shape[:2])
    return picture if legend is None else join([picture, legend], axis=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Draws one of the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("masks", "flow", "networks", "camvid"))
    parser.add_argument("--runs", type=pathlib.Path, help="of masks and camvid")
    parser.add_argument("--weights", default="flow", help="of flow")
    parser.add_argument("--davis", help="not of camvid")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    if args.what == "masks":
        picture = mask_picture(args.runs, args.davis)
    elif args.what == "networks":
        picture = networks_picture(args.davis)
    elif args.what == "camvid":
        picture = camvid_picture(args.runs)
    else:
        picture = flow_picture(args.weights, args.davis)
    Image.fromarray(picture).save(args.output, quality=88)


if __name__ == "__main__":
    main()
