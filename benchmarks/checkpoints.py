"""What saving a checkpoint costs training, and how long a checkpoint takes.

    python -m benchmarks.checkpoints --workdir=/a/disk        # full size: for an accelerator
    python -m benchmarks.checkpoints --workdir=/tmp/x --arg=size=small --clips=2 --crop=64

Blocks of training steps (`configs/seg.py`, a batch that stays on the device) with and without one
checkpoint take turns. A block ends when its last step has, and is long enough for its checkpoint to
be on disk before, so that all of its cost is in there. That cost is the median of blocks with one
less the median of those without, and is compared with the steps from one checkpoint to the next,
the recipe's own or --every. Beside that: how long the training program is held up by `save`, until
the files are on disk, and until they are verified again and restored.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from experiments import scaling_step
from v2v_jax.run.checkpoint import Checkpoints
from v2v_jax.run.schedule import Schedule

_WARM_UP = 5  # steps after which one of them is timed
_ROOM = 1.3  # of a block: a checkpoint beside training takes longer than one alone
_AT_ONCE = 0.02  # seconds within which `wait` returns when there is nothing to wait for


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints a sentence, and returns what --json writes."""
    args = parse(argv)
    experiment = scaling_step.make(args.arg, args.clips, args.crop, jax.devices()[:1])
    workdir = pathlib.Path(args.workdir) / "checkpoints_benchmark"
    shutil.rmtree(workdir, ignore_errors=True)
    kwargs = dict(headline="accuracy", better="max")
    with jax.set_mesh(experiment.mesh):
        train_step = scaling_step.make_step(experiment)
        batch = scaling_step.make_batch(experiment)()
        state = experiment.init_state()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        with Checkpoints(workdir, experiment.about, writable=True, **kwargs) as checkpoints:
            blocks = Blocks(lambda state: train_step(state, (), batch), checkpoints, state)
            measured = measure(blocks, args.rounds)
        with Checkpoints(workdir, experiment.about, **kwargs) as checkpoints:
            start = time.perf_counter()
            step = checkpoints.latest_step()
            verified = time.perf_counter()
            jax.block_until_ready(checkpoints.restore(step, blocks.state))
            restored = time.perf_counter()
    shutil.rmtree(workdir)
    every = args.every or Schedule.of(experiment.config).eval_every
    result = {
        "command": "python -m benchmarks.checkpoints",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
        "arg": args.arg, "clips": args.clips, "every": every, "rounds": args.rounds,
        "megabytes": size / 1e6,
        **measured,
        "slower": measured["cost_s"] / (every * measured["step_ms"] / 1e3),
        "verify_s": verified - start,
        "restore_s": restored - verified,
    }  # fmt: skip
    print(sentence(result))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return result


@dataclasses.dataclass
class Blocks:
    """Trains in blocks of steps.

    Attributes:
      train_step: state → (state, metrics).
      state: after the last step so far.
      number: of blocks so far.
    """

    train_step: Callable[[Any], tuple[Any, Any]]
    checkpoints: Checkpoints
    state: Any
    number: int = 0

    def train(self, steps: int) -> float:
        """Seconds that so many take; as in training each is waited for when the next is sent."""
        start, earlier = time.perf_counter(), None
        for _ in range(steps):
            self.state, metrics = self.train_step(self.state)
            jax.block_until_ready(earlier)
            earlier = metrics
        jax.block_until_ready(self.state)
        return time.perf_counter() - start

    def train_and_save(self, steps: int) -> tuple[float, float, float]:
        """Seconds that they take with a checkpoint after the first; of `save`; of waiting after."""
        self.number += 1
        first = self.train(1)  # it ends before `save`: its time is training's, not saving's
        start = time.perf_counter()
        self.checkpoints.save(self.state, self.number)
        saving = time.perf_counter() - start
        seconds = first + saving + self.train(steps - 1)
        start = time.perf_counter()
        self.checkpoints.wait()
        return seconds, saving, time.perf_counter() - start


def measure(blocks: Blocks, rounds: int) -> dict[str, Any]:
    """JSON-ready: what a step takes and what a checkpoint costs, medians over the rounds."""
    blocks.train(_WARM_UP)
    step = blocks.train(_WARM_UP) / _WARM_UP
    _, saving, waiting = blocks.train_and_save(1)
    on_disk = saving + waiting
    steps = max(math.ceil(_ROOM * on_disk / step), _WARM_UP)
    while blocks.train_and_save(steps)[2] > _AT_ONCE:
        steps *= 2
    plain, seconds, saving, waiting = [], [], [], []
    for _ in range(rounds):
        plain.append(blocks.train(steps))
        for values, value in zip((seconds, saving, waiting), blocks.train_and_save(steps)):
            values.append(value)
    median = statistics.median
    return {
        "steps_a_block": steps,
        "step_ms": 1e3 * median(plain) / steps,
        "cost_s": median(seconds) - median(plain),
        "save_ms": 1e3 * median(saving),
        "on_disk_s": on_disk,
        "blocks_too_short": sum(value > _AT_ONCE for value in waiting),
    }


def sentence(result: dict[str, Any]) -> str:
    """What was measured, in one."""
    text = (
        "{device}, JAX {jax}, {date}: a checkpoint of {megabytes:.0f} MB costs {cost_s:.2f} s of "
        "training, {slower:.1%} where there is one every {every} steps of {step_ms:.1f} ms; save "
        "returns after {save_ms:.0f} ms, the files are on disk, summed, after {on_disk_s:.2f} s "
        "with nothing beside it; verifying takes {verify_s:.2f} s, restoring {restore_s:.2f} s."
    ).format(**result)
    if result["blocks_too_short"]:
        text += (
            " {blocks_too_short} of {rounds} checkpoints were still being written at the end of "
            "their block of {steps_a_block} steps: they cost more."
        ).format(**result)
    return text


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="a folder on the disk to be measured")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--arg", default="", help="configs/seg.py's argument, e.g. size=small")
    parser.add_argument("--crop", type=int, default=0, help="the crop's height and width")
    parser.add_argument(
        "--every", type=int, default=0, help="steps between checkpoints; 0: as the recipe has them"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
