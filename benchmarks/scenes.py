"""Frames a second of the dataset `scenes`, building the scenes included.

    python -m benchmarks.scenes

Renders whole videos with every field (video, labels, flow, validity, depth), as filling an
accelerator's memory does, in one process and in several; `--domain=wide --frames=16` for others.
"""

from __future__ import annotations

import argparse
import time

from v2v_jax.datasets.base.reading import read_videos
from v2v_jax.datasets.scenes import Scenes
from v2v_jax.datasets.scenes.dataset import DOMAINS


def frames_per_second(dataset: Scenes, fields: tuple[str, ...], workers: int) -> float:
    """Renders all of a dataset's videos once.

    The clock starts when the first videos have arrived (one a process): importing NumPy in a new
    process is not rendering.
    """
    dataset.processes = workers
    videos = read_videos(dataset, fields)
    for _ in range(workers):
        next(videos)
    start = time.perf_counter()
    rest = sum(1 for _ in videos)
    return rest * dataset.num_frames / (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> None:
    """Prints one line a number of processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=30)
    parser.add_argument("--frames", type=int, default=48, help="of a video")
    parser.add_argument("--domain", choices=DOMAINS, default="plain")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args(argv)
    dataset = Scenes("train", num_videos=args.videos, num_frames=args.frames, domain=args.domain)
    height, width = dataset.frame_size
    for fields in (dataset.fields, ("video", "labels")):
        for workers in args.workers:
            speed = frames_per_second(dataset, fields, workers)
            name = "+".join(fields)
            print(
                f"{args.domain} {height}x{width} {name:<40} {workers} processes: "
                f"{speed:6.1f} frames/s, {speed / args.frames:.2f} videos/s"
            )


if __name__ == "__main__":
    main()
