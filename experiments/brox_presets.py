"""Brox's method with other parameters: its error on real frames with true flow.

    python -m experiments.brox_presets --middlebury=data/middlebury --sintel=data/sintel

Prints a Markdown table: mean endpoint error (px) over the pixels with known flow of RubberWhale and
of each Sintel pair that is at hand, on Sintel also of those seen in both frames, and seconds a
pair. --json keeps the results, and what is in that file already is not computed again. --settings
replaces the built-in list, as in --settings "warps=3,inner=5" "alpha=0.1".
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from v2v_jax.brox import brox_flow
from v2v_jax.media.flow_files import read_flow
from v2v_jax.system import compilation_cache

ZERO = "zero flow"
SETTINGS = (
    ZERO,
    "",
    *(f"warps={w},inner={i}" for w, i in ((2, 5), (3, 3), (3, 5), (5, 3), (5, 5), (10, 2))),
    *(f"warps=5,inner=5,alpha={a}" for a in (0.05, 0.1, 0.14, 0.3)),
    *(f"warps=5,inner=5,gamma={g}" for g in (5, 15, 100)),
    *(f"warps=5,inner=5,solver={s}" for s in (5, 20)),
    "warps=5,inner=3,outer=10",
    *(f"warps=5,inner=3,warped_levels={n}" for n in (6, 9, 10)),
    "warps=5,inner=2,warped_levels=9",
)
Pair = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--middlebury", type=pathlib.Path, help="folder of RubberWhale/")
    parser.add_argument("--sintel", type=pathlib.Path, help="folder of training/")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    compilation_cache.enable()
    pairs = dict(_pairs(args))
    if not pairs:
        parser.error("no pair with true flow: give --middlebury or --sintel")
    results = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for setting in args.settings:
        for name, pair in pairs.items():
            if name in results.setdefault(setting, {}):
                continue
            results[setting][name] = _measure(pair, setting)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1))
        print(_row(setting, results[setting], pairs), flush=True)
    print("\n" + _header(pairs))
    for setting in args.settings:
        print(_row(setting, results[setting], pairs))


def _pairs(args: argparse.Namespace) -> Iterator[tuple[str, Pair]]:
    """name → frame 0, frame 1, flow, where it is known, where it is also seen in frame 1."""
    if args.middlebury:
        folder = args.middlebury / "RubberWhale"
        flow, known = read_flow(folder / "RubberWhale.flo")
        frames = (_grey(folder / f"RubberWhale{k}.png") for k in (1, 2))
        yield "RubberWhale", (*frames, flow, known, None)
    for path in sorted((args.sintel / "training/flow").glob("*/*.flo")) if args.sintel else ():
        sequence, frame = path.parent.name, int(path.stem.split("_")[1])
        training = args.sintel / "training"
        for rendering in ("clean", "final"):
            files = [
                training / rendering / sequence / f"frame_{k:04}.png" for k in (frame, frame + 1)
            ]
            if not all(file.exists() for file in files):
                continue
            flow, known = read_flow(path)
            known &= ~_mask(training / "invalid" / sequence / f"{path.stem}.png")
            seen = known & ~_mask(training / "occlusions" / sequence / f"{path.stem}.png")
            frames = (_grey(file) for file in files)
            yield f"{sequence} {frame} {rendering}", (*frames, flow, known, seen)


def _grey(path: pathlib.Path) -> np.ndarray:
    return brox_flow.grey_of_rgb(np.asarray(Image.open(path).convert("RGB")))


def _mask(path: pathlib.Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L")) > 0


def _measure(pair: Pair, setting: str) -> dict[str, float]:
    frame0, frame1, truth, known, seen = pair
    if setting == ZERO:
        flow, seconds = np.zeros_like(truth), 0.0
    else:
        options = dict(item.split("=") for item in setting.split(",") if item)
        options = {k: int(v) if v.isdigit() else float(v) for k, v in options.items()}
        # Compiles: on CPUs the counts that differ need no compilation of their own.
        brox_flow.brox_flow(frame0, frame1, **(options | {"inner": 1, "solver": 1, "warps": 1}))
        begin = time.perf_counter()
        flow = np.asarray(brox_flow.brox_flow(frame0, frame1, **options))
        seconds = time.perf_counter() - begin
    error = np.linalg.norm(flow - truth, axis=-1)
    result = {"error": float(error[known].mean()), "seconds": seconds}
    if seen is not None:
        result["seen"] = float(error[seen].mean())
    return result


def _header(pairs: dict[str, Pair]) -> str:
    names = [n if pair[-1] is None else f"{n} (seen in both)" for n, pair in pairs.items()]
    return f"| parameters | {' | '.join(names)} | s a pair |\n|---|" + "---|" * (len(pairs) + 1)


def _row(setting: str, results: dict[str, dict[str, float]], pairs: dict[str, Pair]) -> str:
    cells = []
    for name in pairs:
        result = results[name]
        seen = f" ({result['seen']:.3f})" if "seen" in result else ""
        cells.append(f"{result['error']:.4f}{seen}")
    seconds = np.mean([results[name]["seconds"] for name in pairs])
    return f"| {setting or 'default'} | {' | '.join(cells)} | {seconds:.1f} |"


if __name__ == "__main__":
    main()
