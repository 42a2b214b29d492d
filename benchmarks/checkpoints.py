"""How much saving checkpoints slows training down, and how long a checkpoint takes.

    python -m benchmarks.checkpoints --workdir=/a/disk        # full size: for an accelerator
    python -m benchmarks.checkpoints --workdir=/tmp/x --arg=size=small --clips=2 --crop=64

Blocks of --every training steps (`configs/seg.py`, a batch that stays on the device) with and
without one checkpoint take turns; a block ends when its last step has, and the checkpoint of one
block is on disk before the next begins. What counts is the median of blocks over the median of
blocks. Beside that: how long the training program is held up by `save`, until the files are on
disk, and until they are verified again and restored.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import shutil
import statistics
import time
from typing import Any

import jax

from experiments import scaling_step
from v2v_jax.run.checkpoint import Checkpoints


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a sentence, and returns what --json writes."""
    args = parse(argv)
    experiment = scaling_step.make(args.arg, args.clips, args.crop, jax.devices()[:1])
    workdir = pathlib.Path(args.workdir) / "checkpoints_benchmark"
    shutil.rmtree(workdir, ignore_errors=True)
    times: dict[str, list[float]] = {name: [] for name in ("with", "without", "save", "on_disk")}
    kwargs = dict(headline="accuracy", better="max")
    with jax.set_mesh(experiment.mesh):
        train_step = scaling_step.make_step(experiment)
        batch = scaling_step.make_batch(experiment)()
        state = experiment.init_state()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        with Checkpoints(workdir, experiment.about, writable=True, **kwargs) as checkpoints:
            for block in range(2 * args.rounds + 2):
                saving = block % 2 == 1
                start = time.perf_counter()
                for number in range(args.every):
                    state, metrics = train_step(state, (), batch)
                    if saving and number == args.every // 4:
                        jax.block_until_ready(metrics)  # which is training's time, not saving's
                        began = time.perf_counter()
                        checkpoints.save(state, block)
                        times["save"].append(time.perf_counter() - began)
                jax.block_until_ready(state)
                times["with" if saving else "without"].append(time.perf_counter() - start)
                checkpoints.wait()
                if saving:
                    times["on_disk"].append(time.perf_counter() - began)
        with Checkpoints(workdir, experiment.about, **kwargs) as checkpoints:
            start = time.perf_counter()
            step = checkpoints.latest_step()
            verified = time.perf_counter()
            jax.block_until_ready(checkpoints.restore(step, state))
            restored = time.perf_counter()
    shutil.rmtree(workdir)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}  # 1: warm-up
    result = {
        "command": "python -m benchmarks.checkpoints",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
        "arg": args.arg, "clips": args.clips, "every": args.every, "rounds": args.rounds,
        "megabytes": size / 1e6,
        "step_ms": 1e3 * median["without"] / args.every,
        "slower": median["with"] / median["without"] - 1,
        "save_ms": 1e3 * median["save"],
        "on_disk_s": median["on_disk"],
        "verify_s": verified - start,
        "restore_s": restored - verified,
    }  # fmt: skip
    print(
        "{device}, JAX {jax}, {date}: steps of {step_ms:.1f} ms take {slower:+.1%} with a "
        "checkpoint of {megabytes:.0f} MB every {every} steps; save returns after {save_ms:.0f} "
        "ms, the files are on disk, summed, after {on_disk_s:.2f} s; verifying takes "
        "{verify_s:.2f} s, restoring {restore_s:.2f} s.".format(**result)
    )
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return result


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="a folder on the disk to be measured")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--arg", default="", help="configs/seg.py's argument, e.g. size=small")
    parser.add_argument("--crop", type=int, default=0, help="the crop's height and width")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
