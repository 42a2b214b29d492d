"""Flow networks in half precision on real clips: `experiments.real_video`'s figures for each set.

    python -m experiments.real_flow --frames=flow_frames.npz --clips=packed/clips_test \
        --output=DIR WEIGHTS.npz …

The frames are JPEGs of 128×171 in a .npz, "set/clip" → (T,) of their sizes and "set/clip.jpg"; of
the clips, videos that `experiments.real_data` decodes, the middle frames are taken.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
from PIL import Image

from experiments import half_precision, real_data, real_video
from v2v_jax.datasets.base.video_dataset import FRAME_SIZE
from v2v_jax.inference.predictor import Predictor
from v2v_jax.system import compilation_cache


def pack(clips: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Writes "set/clip" → (T,H,W,3) uint8."""
    arrays = {}
    for name, frames in clips.items():
        files = []
        for frame in frames:
            stream = io.BytesIO()
            Image.fromarray(frame).save(stream, "JPEG", quality=95, subsampling=0)
            files.append(stream.getvalue())
        arrays[name] = np.array([len(file) for file in files])
        arrays[f"{name}.jpg"] = np.frombuffer(b"".join(files), np.uint8)
    np.savez(path, **arrays)


def unpack(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The inverse of `pack`."""
    clips = {}
    with np.load(path) as stored:
        for name in stored.files:
            if not name.endswith(".jpg"):
                ends, data = np.cumsum(stored[name]), stored[f"{name}.jpg"].tobytes()
                parts = [data[a:b] for a, b in zip([0, *ends[:-1]], ends)]
                frames = [Image.open(io.BytesIO(part)).convert("RGB") for part in parts]
                clips[name] = np.stack([np.asarray(frame) for frame in frames])
    return clips


def of_videos(folder: pathlib.Path, count: int = 17) -> dict[str, np.ndarray]:
    """ "clips/name" → `count` frames (T,H,W,3) of 128×171 from the middle of each video."""
    clips = {}
    for path in sorted(folder.glob("*.mp4")):
        frames = list(real_data.decoded(path))
        start = (len(frames) - count) // 2
        if start >= 0:
            some = [Image.fromarray(frame) for frame in frames[start : start + count]]
            scaled = [image.resize(FRAME_SIZE[::-1], Image.Resampling.BICUBIC) for image in some]
            clips[f"clips/{path.stem}"] = np.stack([np.asarray(image) for image in scaled])
    return clips


def by_set(
    clips: dict[str, np.ndarray], predictor: Predictor, brox: dict[str, np.ndarray]
) -> dict[str, Any]:
    """set → `real_video.evaluate`'s figures of its clips."""
    found = real_video.both_ways(lambda frames: predictor(frames)[:-1], clips)
    results: dict[str, Any] = {}
    for name in sorted({key.partition("/")[0] for key in clips}):
        mine = [key for key in clips if key.partition("/")[0] == name]
        parts = ({key: flows[key] for key in mine} for flows in (clips, found, brox))
        results[name] = real_video.evaluate(*parts) | {"clips": len(mine)}
    return results


def main(argv: list[str] | None = None) -> None:
    """Prints and writes the figures of every file of weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=pathlib.Path, nargs="*")
    parser.add_argument("--frames", type=pathlib.Path, required=True)
    parser.add_argument("--clips", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args(argv)
    compilation_cache.enable()
    clips = unpack(args.frames) | of_videos(args.clips)
    start = time.perf_counter()
    brox = real_video.brox_flows(clips, args.output / "brox.npz")
    print(f"Brox: {time.perf_counter() - start:.1f} s", flush=True)
    for path in args.weights:
        results = by_set(clips, half_precision.load(path), brox)
        results["device"] = jax.devices()[0].device_kind
        text = json.dumps(results, indent=2)
        (args.output / f"real_flow_{path.stem}.json").write_text(text + "\n")
        print(path.name, text, flush=True)


if __name__ == "__main__":
    main()
