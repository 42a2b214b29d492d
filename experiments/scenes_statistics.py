"""Flow and validity of the dataset `scenes`, and how well the flow explains the next frame.

python -m experiments.scenes_statistics
"""

from __future__ import annotations

import argparse

import numpy as np

from v2v_jax.datasets.scenes import Scenes

PERCENTILES = (5, 50, 95, 99)


def warp_back(frame: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Samples `frame` (H,W,3) bilinearly at x + flow (H,W,2); (H,W,3) float32, clamped outside."""
    h, w, _ = frame.shape
    rows, columns = np.mgrid[:h, :w].astype(np.float32)
    x = np.clip(columns + flow[..., 0], 0, w - 1.001)
    y = np.clip(rows + flow[..., 1], 0, h - 1.001)
    left, top = x.astype(int), y.astype(int)
    dx, dy = (x - left)[..., None], (y - top)[..., None]
    frame = frame.astype(np.float32)
    upper = (1 - dx) * frame[top, left] + dx * frame[top, left + 1]
    lower = (1 - dx) * frame[top + 1, left] + dx * frame[top + 1, left + 1]
    return (1 - dy) * upper + dy * lower


def main(argv: list[str] | None = None) -> None:
    """Prints the statistics of noise-free training videos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=30)
    parser.add_argument("--frames", type=int, default=9)
    args = parser.parse_args(argv)
    scenes = Scenes("train", num_videos=args.videos, num_frames=args.frames, noise=0.0)
    valid, speed, error = [], [], []
    for video in range(args.videos):
        clip = scenes.read(video, 0, args.frames, ("video", "flow", "flow_valid"))
        flow = clip["flow"].astype(np.float32)
        valid.append(clip["flow_valid"].mean())
        speed.append(np.linalg.norm(flow, axis=-1)[clip["flow_valid"]])
        for t in range(args.frames - 1):
            difference = np.abs(warp_back(clip["video"][t + 1], flow[t]) - clip["video"][t])
            error.append(difference.mean(-1)[clip["flow_valid"][t]])
    speeds, errors = np.concatenate(speed), np.concatenate(error)
    shown = ", ".join(f"{p}%: {np.percentile(speeds, p):.2f}" for p in PERCENTILES)
    print(f"valid voxels: {100 * np.mean(valid):.1f} %")
    print(f"flow, px/frame: mean {speeds.mean():.2f}, {shown}, largest {speeds.max():.1f}")
    print(
        f"next frame warped back, grey levels: mean error {errors.mean():.2f}, "
        f"99%: {np.percentile(errors, 99):.1f}"
    )


if __name__ == "__main__":
    main()
