"""A colouring network on whole videos: error, and flicker beside a frame-by-frame run.

    python -m experiments.real_color --data=/dev/shm/real --weights=color.npz --output=runs/color

Of videos of both test sets (unpacked by `experiments.real_data`) the first frames, 120×213: ADE,
and the mean RGB distance along Brox's motion, of the network's windows, of each frame on its own,
of grey and of the frames themselves; "of chroma" leaves grey, which is given, out. Writes
real_color.json and a picture of each video.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import jax
import numpy as np
from PIL import Image

from experiments import half_precision
from experiments.real_data import Part, RealVideos
from v2v_jax.evaluation.temporal_consistency import brox_motion, color_changes
from v2v_jax.inference.predictor import Predictor
from v2v_jax.input.preprocess import LUMA
from v2v_jax.system import compilation_cache


def ways(predictor: Predictor, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Name → colours (T,H,W,3) uint8."""
    grey = np.rint(frames @ np.array(LUMA, np.float32)).astype(np.uint8)
    alone = Predictor(predictor.network, full_frame=False, overlap=0.0)
    return {
        "windows": predictor(frames),
        "windows, end to end": alone(frames),
        "frame by frame": np.concatenate([predictor(frame[None]) for frame in frames]),
        "grey": np.repeat(grey[..., None], 3, -1),
        "truth": frames,
    }


def ade(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in RGB of 0..1."""
    difference = (found.astype(np.float64) - truth) / 255
    return float(np.sqrt((difference**2).sum(-1)).mean())


def main(argv: list[str] | None = None) -> None:
    """Prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "weights", "output"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--videos", type=int, default=10, help="of each set")
    parser.add_argument("--frames", type=int, default=25)
    args = parser.parse_args(argv)
    compilation_cache.enable()
    args.output.mkdir(parents=True, exist_ok=True)
    predictor = half_precision.load(args.weights, full_frame=False)
    results: dict[str, dict[str, dict[str, list[float]]]] = {}
    for source in ("clips_test", "davis_val"):
        videos = RealVideos(args.data, [Part(source)])
        count = min(args.videos, len(videos.videos))
        for number in np.linspace(0, len(videos.videos) - 1, count).round().astype(int):
            name, frames = (
                videos.videos[number].name,
                videos.whole(int(number), ("video",))["video"],
            )
            frames = frames[: args.frames]
            flow, valid = brox_motion(frames)
            found = ways(predictor, frames)
            for way, colors in found.items():
                values = [ade(colors, frames)]
                chroma = (colors.astype(np.float64) - found["grey"]) / 255
                for part in (colors, chroma):
                    changed, compared = color_changes(part, flow, valid)
                    values.append(changed / max(compared, 1))
                results.setdefault(source, {}).setdefault(way, {})[name] = values
            rows = [
                np.concatenate([found[w][t] for w in ("grey", "windows", "truth")], 1)
                for t in (0, len(frames) // 2)
            ]
            picture = Image.fromarray(np.concatenate(rows))
            picture.save(args.output / f"{name.replace('/', '_')}.jpg", quality=85)
    summary = {
        f"{source}, {way}": dict(
            zip(("ade", "change", "of chroma"), np.mean(list(found.values()), 0))
        )
        for source, by_way in results.items()
        for way, found in by_way.items()
    }
    written = {"summary": summary, "videos": results, "device": jax.devices()[0].device_kind}
    (args.output / "real_color.json").write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
