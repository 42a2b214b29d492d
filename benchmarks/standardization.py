"""What standardised kernels cost a training step: time and memory, with and without, in turns.

    python -m benchmarks.standardization
    XLA_FLAGS=--xla_gpu_enable_command_buffer= python -m benchmarks.standardization --profile

--profile also prints the kernels of both, which the profiler sees without CUDA graphs alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import time
from typing import Any

import jax
import numpy as np

from benchmarks import device_trace
from configs import flow
from v2v_jax.datasets.base.video_dataset import FIELDS, FRAME_SIZE, VideoDataset, VideoInfo
from v2v_jax.input.feeds import make_feed
from v2v_jax.run.experiment import make_experiment
from v2v_jax.training.setup import make_sampler
from v2v_jax.training.step import make_train_step


class Noise(VideoDataset):
    """Random frames and flow, small enough to be drawn in no time."""

    name = "noise"
    fields = ("video", "flow", "flow_valid")

    def __init__(self, num_videos: int = 8, num_frames: int = 16):
        self.frame_size = FRAME_SIZE
        self.videos = [VideoInfo(f"noise-{index}", num_frames) for index in range(num_videos)]

    def read(self, video: int, start: int, stop: int, fields: Any = ("video",)) -> Any:
        rng = np.random.default_rng([video, start, stop])
        size = (stop - start, *self.frame_size)
        return {
            field: rng.integers(0, 256, (*size, *FIELDS[field].channels)).astype(
                FIELDS[field].dtype
            )
            for field in fields
        }


def main(argv: list[str] | None = None) -> None:
    """Prints clips/s and temporary memory of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="of a turn")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--profile", action="store_true", help="also print the kernels")
    args = parser.parse_args(argv)
    steps = {}
    for standardized in (False, True):
        config = flow.get_config()
        config.feed = "device"
        config.batch_size = args.batch_size
        config.model.update(standardized=standardized, width=args.width)
        experiment = dataclasses.replace(make_experiment(config, "train"), dataset=Noise())
        with jax.set_mesh(experiment.mesh):
            feed = make_feed(
                *("device", experiment.dataset, experiment.task.fields),
                *(experiment.preprocessing, experiment.mesh),
            )
            plan = make_sampler(experiment).plan(0)
            batch = next(iter(feed.batches([plan])))
            state = experiment.init_state()
            step = make_train_step(experiment, feed).lower(state, feed.store, batch).compile()
            memory = step.memory_analysis()
            steps[standardized] = [step, state, feed.store, batch]
        temporary = getattr(memory, "temp_size_in_bytes", 0) / 2**30
        print(f"standardized={standardized}: {temporary:.3f} GiB of temporary memory", flush=True)
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(args.turns + 1):
        for standardized, (step, state, store, batch) in steps.items():
            start = time.perf_counter()
            for _ in range(args.steps):
                state, values = step(state, store, batch)
            jax.block_until_ready(values["loss"])
            steps[standardized][1] = state
            if turn:  # the first warms up
                times[standardized].append((time.perf_counter() - start) / args.steps)
    medians = {key: statistics.median(value) for key, value in times.items()}
    for key, value in medians.items():
        spread = max(times[key]) - min(times[key])
        print(
            f"standardized={key}: {1e3 * value:.3f} ms a step (spread {1e3 * spread:.3f}), "
            f"{args.batch_size / value:.1f} clips/s"
        )
    print(f"{100 * (medians[True] / medians[False] - 1):+.2f} % on {jax.devices()[0].device_kind}")
    for standardized, program in steps.items() if args.profile else ():
        print(f"\nstandardized={standardized}: ", end="")
        device_trace.print_table(device_trace.kernels(functools.partial(_step, program)), 40)


def _step(program: list[Any]) -> jax.Array:
    """Runs [step, state, store, batch] once, whose state is donated; the loss."""
    step, state, store, batch = program
    program[1], values = step(state, store, batch)
    return values["loss"]


if __name__ == "__main__":
    main()
