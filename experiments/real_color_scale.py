"""How strongly a colouring network should paint: its colour times a factor, by ADE.

    python -m experiments.real_color_scale --data=/dev/shm/real --weights=color.npz [--test] \\
        [--write=scaled.npz --scale=0.4]

Of the set `color shipped` of `experiments.real_data`: the validation windows, or with --test those
of the test sets; ADE for every factor from 0, grey, to 1, the network as it was trained. The last
layer is linear, so that the chosen factor can be written into it.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import half_precision, real_data
from experiments.real_data import Part, RealVideos
from v2v_jax.input.preprocess import to_gray
from v2v_jax.system import compilation_cache

SCALES = tuple(round(0.1 * k, 1) for k in range(11))
LENGTH, LAST = 16, "conv_pre"


def times(params: dict[str, Any], scale: float) -> dict[str, Any]:
    """A colouring network's parameters with its colour multiplied."""
    return {**params, LAST: {leaf: scale * value for leaf, value in params[LAST].items()}}


def measure(
    root: pathlib.Path, parts: tuple[Part, ...], weights: pathlib.Path, windows: int
) -> dict[str, np.ndarray]:
    """Source → (windows, scales) ADE; at most `windows` of each video, the middle of the frame."""
    network = half_precision.trained(*half_precision.read(weights))
    apply = jax.jit(network.apply)
    h, w = network.preprocessing.crop_size
    videos = RealVideos(root, parts)
    top, left = ((a - b) // 2 for a, b in zip(videos.frame_size, (h, w)))
    found: dict[str, list[list[float]]] = {}
    for number, info in enumerate(videos.videos):
        count = info.num_frames // LENGTH
        for window in np.unique(np.linspace(0, count - 1, min(count, windows)).round()):
            start = LENGTH * int(window)
            clip = videos.read(number, start, start + LENGTH)["video"]
            clip = clip[:, top : top + h, left : left + w]
            color, grey = apply(network.params, clip[None])[0], to_gray(jnp.asarray(clip))
            errors = [
                np.linalg.norm(np.clip(grey + scale * color, 0, 1) - clip / 255, axis=-1).mean()
                for scale in SCALES
            ]
            found.setdefault(info.name.partition("/")[0], []).append(errors)
    return {source: np.array(errors) for source, errors in found.items()}


def main(argv: list[str] | None = None) -> None:
    """Prints a table, or writes scaled weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--test", action="store_true", help="not the validation windows")
    parser.add_argument("--write", type=pathlib.Path, help="scaled weights")
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args(argv)
    if args.write:
        about, params = half_precision.read(args.weights)
        half_precision.write(args.write, about, times(params, args.scale))
        return
    compilation_cache.enable()
    chosen = real_data.sets(args.data)["color shipped"]
    parts, windows = (chosen.test, 4) if args.test else (chosen.validation, 2)
    print("| | windows | " + " | ".join(map(str, SCALES)) + " |")
    print("|---" * (2 + len(SCALES)) + "|")
    for source, errors in measure(args.data, parts, args.weights, windows).items():
        cells = (f"{value:.4f}" for value in errors.mean(0))
        print(f"| {source} | {len(errors)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
