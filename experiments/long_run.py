"""A long run of a tiny network: memory, open files and compilations from beginning to end.

    python -m experiments.long_run --workdir=/tmp/long_run              # 20,000 steps: minutes
    python -m experiments.long_run --workdir=/tmp/long_run --feed=tf_data --json=long_run.json

Trains `configs/seg.py`, narrow, on short rendered scenes, with everything that a real run does:
it logs every 20 steps, saves every 500 and evaluates every 2,000. With each logged step the
process's own resident memory, its open files and the number of compilations so far are noted.
Prints a sentence and exits with 1 if memory was not flat within 2 %, or if something was compiled
or left open on the way. The first tenth of the run, with its first evaluation, is the warm-up.
Stopped earlier, by Ctrl-C or SIGTERM, it says what it has found so far, and exits with 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import time
from typing import Any

import jax

from configs import seg
from v2v_jax.errors import Stopped
from v2v_jax.run.metrics_log import MetricsLog
from v2v_jax.training import loop, training_run

_COMPILED = "/jax/core/compile/backend_compile_duration"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Runs, prints, and returns what --json writes."""
    args = parse(argv)
    shutil.rmtree(args.workdir, ignore_errors=True)
    samples: list[dict[str, int]] = []
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(seconds) if name == _COMPILED else None
    )

    class Sampling(MetricsLog):
        """Notes the state of the process with every line of training."""

        def write(self, step, prefix, values):
            super().write(step, prefix, values)
            if prefix == "train":
                samples.append(
                    {
                        "step": step,
                        "memory": resident_bytes(),
                        "files": len(os.listdir("/proc/self/fd")),
                        "compilations": len(compiled),
                    }
                )

    training_run.MetricsLog = Sampling
    start = time.perf_counter()
    try:
        loop.train_and_evaluate(tiny(args), args.workdir)
    except Stopped:
        if not samples or samples[-1]["step"] < 0.2 * args.steps:  # too few to say anything
            raise
    result = summarize(args, samples, time.perf_counter() - start)
    print(sentence(result))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return result


def tiny(args: argparse.Namespace):
    """The configuration: some ten milliseconds a step on one core."""
    config = seg.get_config("")
    config.model.width = 0.05
    config.data.update(
        num_train_videos=4, num_validation_videos=3, num_test_videos=3, num_frames=12
    )
    config.data.num_train_frames, config.grow_share = 0, 0.0
    config.preprocessing.update(frame_size=(32, 32), crop_size=(16, 16), clip_length=8)
    config.batch_size, config.eval_batch_size = 1, 1
    config.num_steps, config.feed = args.steps, args.feed
    config.log_every, config.save_every = 20, max(args.steps // 40, 1)
    config.eval_every = max(args.steps // 10, 1)
    config.optimizer.learning_rate = 1e-3
    return config.lock()


def resident_bytes() -> int:
    """The process's own (RssAnon): Linux takes back pages of files, as of libraries, at will."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def summarize(
    args: argparse.Namespace, samples: list[dict[str, int]], seconds: float
) -> dict[str, Any]:
    """JSON-ready: what changed after the warm-up, beside 100 of the samples."""
    warm = [sample for sample in samples if sample["step"] > args.steps // 10 + 20]
    tenth = max(len(warm) // 9, 1)
    memory = [sample["memory"] for sample in warm]
    parts = [statistics.median(memory[i : i + tenth]) for i in range(0, tenth * 9, tenth)]
    files = [sample["files"] for sample in warm]
    return {
        "command": "python -m experiments.long_run",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
        "feed": args.feed,
        "steps": samples[-1]["step"],
        "of_steps": args.steps,
        "minutes": seconds / 60,
        "median_memory_mb_of_each_tenth": [part / 1e6 for part in parts],
        "memory_change": max(parts) / min(parts) - 1,
        "memory_change_of_all_samples": max(memory) / min(memory) - 1,
        # A checkpoint being written has files open: what counts is what stays.
        "files": [min(files[:tenth]), min(files[-tenth:])],
        "compilations_after_warm_up": warm[-1]["compilations"] - warm[0]["compilations"],
        "samples": samples[:: max(len(samples) // 100, 1)],
    }


def sentence(result: dict[str, Any]) -> str:
    """What happened, in one."""
    first, *_, last = result["median_memory_mb_of_each_tenth"]
    return (
        "{steps} of {of_steps} steps in {minutes:.1f} minutes ({feed}, {device}, JAX {jax}, "
        f"{{date}}): memory {first:.0f} MB after the warm-up, {last:.0f} MB at the end, within "
        "{memory_change:.2%} throughout (all samples: {memory_change_of_all_samples:.2%}); open "
        "files {files[0]} and {files[1]}; {compilations_after_warm_up} compilations after the "
        "first tenth."
    ).format(**result)


def is_steady(result: dict[str, Any]) -> bool:
    """Whether nothing grew, to the end."""
    return (
        result["steps"] == result["of_steps"]
        and result["memory_change"] < 0.02
        and result["files"][1] <= result["files"][0]
        and result["compilations_after_warm_up"] == 0
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="emptied first")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--feed", default="device", choices=("device", "tf_data"))
    parser.add_argument("--json", help="file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(0 if is_steady(main()) else 1)
