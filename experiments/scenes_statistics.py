"""How much moves in the dataset `scenes`, and how well the flow explains the next sharp frame.

python -m experiments.scenes_statistics
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from v2v_jax.datasets.scenes import Scenes
from v2v_jax.datasets.scenes.dataset import DOMAINS

PERCENTILES = (5, 50, 95, 99)
STILL = 0.05  # pixels a frame


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


def sharp_pairs(domain: str, videos: int, frames: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Every pair of successive frames of the first training videos, before lens and sensor.

    Yields:
      (frame (H,W,3) and the next one, float32; flow (H,W,2); flow_valid (H,W)).
    """
    scenes = Scenes("train", num_videos=videos, num_frames=frames, domain=domain)
    for video in range(videos):
        if domain == "plain":
            renderer, clock = scenes.renderer(video), float
        else:
            wide = scenes.wide_video(video)
            renderer, clock = wide.renderer, wide.clock
        now = renderer.layers(clock(0))
        for t in range(frames - 1):
            following = renderer.layers(clock(t + 1))
            flow = renderer.flow(now, clock(t), clock(t + 1))
            yield now.rgb, following.rgb, flow, renderer.valid(now, following, flow)
            now = following


def report(domain: str, videos: int, frames: int) -> None:
    """Prints a domain's statistics."""
    valid, speed, error, unmoved = [], [], [], []
    for now, following, flow, known in sharp_pairs(domain, videos, frames):
        valid.append(known.mean())
        speed.append(np.linalg.norm(flow, axis=-1).ravel())
        error.append(np.abs(warp_back(following, flow) - now).mean(-1)[known])
        unmoved.append(np.abs(following - now).mean(-1)[known])
    speeds, errors = np.concatenate(speed), np.concatenate(error)
    shown = ", ".join(f"{p}%: {np.percentile(speeds, p):.2f}" for p in PERCENTILES)
    print(f"{domain}: {videos} videos of {frames} frames, 128x171")
    print(f"  valid voxels: {100 * np.mean(valid):.1f} %")
    print(f"  flow, px/frame: mean {speeds.mean():.2f}, {shown}, largest {speeds.max():.1f}")
    print(f"  still voxels (below {STILL} px/frame): {100 * (speeds < STILL).mean():.1f} %")
    print(
        f"  next frame warped back, grey levels: mean error {errors.mean():.2f}, "
        f"99%: {np.percentile(errors, 99):.1f}; not warped: {np.concatenate(unmoved).mean():.2f}"
    )


def main(argv: list[str] | None = None) -> None:
    """Prints the statistics of both domains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domain", choices=DOMAINS, nargs="+", default=DOMAINS)
    parser.add_argument("--videos", type=int, default=30)
    parser.add_argument("--frames", type=int, default=9)
    args = parser.parse_args(argv)
    for domain in args.domain:
        report(domain, args.videos, args.frames)


if __name__ == "__main__":
    main()
