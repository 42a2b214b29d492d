"""Brox's method and DIS on every pair of real or rendered frames whose true flow is at hand.

    python -m experiments.flow_pairs --middlebury=data/middlebury --chairs=data/chairs \\
        --kitti=data/kitti --json=runs/flow_pairs.json

Prints a Markdown table: mean end-point error in pixels over the pixels whose flow is known, and
seconds a pair (the second call, so without compilation). Middlebury's folders hold NAME1.png,
NAME2.png and NAME.flo, FlyingChairs' N_img0.png, N_img1.png and N.flo, KITTI's frame1.png,
frame2.png and flow_gt.png. DIS needs OpenCV. What --json has already is not computed again.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from v2v_jax.brox import brox_flow
from v2v_jax.media.flow_files import read_flow
from v2v_jax.media.pictures import Picture
from v2v_jax.system import compilation_cache

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def pairs(
    args: argparse.Namespace,
) -> Iterator[tuple[str, pathlib.Path, pathlib.Path, pathlib.Path]]:
    """(name, first frame, second frame, true flow) of all that are there."""
    for folder in sorted(args.middlebury.iterdir()) if args.middlebury else ():
        frames = [folder / f"{folder.name}{k}.png" for k in (1, 2)]
        yield f"Middlebury {folder.name}", *frames, folder / f"{folder.name}.flo"
    for flow in sorted(args.chairs.glob("*.flo")) if args.chairs else ():
        frames = [flow.with_name(f"{flow.stem}_img{k}.png") for k in (0, 1)]
        yield f"FlyingChairs {flow.stem}", *frames, flow
    if args.kitti:
        yield "KITTI", *(args.kitti / n for n in ("frame1.png", "frame2.png", "flow_gt.png"))


def brox(**options: float) -> Method:
    """Brox's with other parameters than the default's."""

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        grey = [brox_flow.grey_of_rgb(frame) for frame in (first, second)]
        return np.asarray(brox_flow.brox_flow(*grey, **options))

    return flow


def dis(preset: str) -> Method:
    """OpenCV's dense inverse search."""
    import cv2

    method = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset}"))
    grey = lambda frame: cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return lambda first, second: method.calc(grey(first), grey(second), None)


def methods() -> dict[str, Method]:
    """By name; those of OpenCV where it is installed."""
    known = {
        "zero flow": lambda first, second: np.zeros((*first.shape[:2], 2)),
        "Brox": brox(),
        "Brox, accurate": brox(**brox_flow.ACCURATE),
    }
    try:
        return known | {f"DIS, {p.lower()}": dis(p) for p in ("FAST", "MEDIUM")}
    except ImportError:
        return known


def main(argv: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("middlebury", "chairs", "kitti", "json"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    args = parser.parse_args(argv)
    compilation_cache.enable()
    results = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for name, *paths in pairs(args):
        first, second = (Picture(str(path)).frame() for path in paths[:2])
        truth, valid = read_flow(paths[2])
        row = results.setdefault(name, {})
        for method, flow in methods().items():
            if method in row:
                continue
            found = flow(first, second)
            start = time.perf_counter()
            found = flow(first, second)
            seconds = time.perf_counter() - start
            error = np.linalg.norm(found - truth, axis=-1)[valid]
            row[method] = [float(error.mean(dtype=np.float64)), round(seconds, 2)]
            print(name, method, row[method], flush=True)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown; errors, and in brackets seconds."""
    heads = list(next(iter(results.values())))
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, row in results.items():
        cells = (f"{row[m][0]:.3f} ({row[m][1]:.2f} s)" for m in heads)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
