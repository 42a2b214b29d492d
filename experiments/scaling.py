"""Weak scaling: clips/s of the real training step on more and more devices, as many clips on each.

    python -m experiments.scaling                       # 1, 2, 4, … and all devices, 32 clips each
    python -m experiments.scaling --devices=1,2,4,8 --clips_per_device=16,32,64 --profile=as_is
    python -m experiments.scaling --reduce=as_is,buckets,bfloat16,none --json=scaling.json

The step is `configs/seg.py`'s (with --arg), full size by default: forward, gradient, all-reduce,
optimiser. Its batch stays on the devices, so that the network between them is measured and not the
reading of data; no TensorFlow is needed. All programs are compiled first, at the same time, those
of the fewest devices before the rest, which then find the compiler's trials done. They take turns
within a round, so that another program slows all of them; clips/s are medians over the rounds.
Every turn starts from the same state, as what a card's clock does depends on the numbers that it
computes with; kernels that training starts as zeros are not zeros in it. One device alone is
measured on each of the devices, which differ: speed-up is over their mean, and efficiency is
speed-up a device.

--reduce names ways to add up the gradients (`experiments/all_reduce.py`; a+b is a with b's options
too), of which the first is measured everywhere, the others on several devices, with --reduce_clips
clips on each. Beside their speed: their losses from the same start. --profile tells where the time
of a step goes, on the fewest and the most devices. A part that fails is printed and left out.
--json is written after every part.

Several processes, one device each: `experiments.scaling_processes`. Settings of NCCL, one process
for each: `experiments.scaling_settings`.

On a machine without accelerators, to see that it runs (its efficiency there means nothing):

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m experiments.scaling \\
        --arg=size=small --clips_per_device=1 --crop=32 --steps=2 --rounds=2
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import device_trace
from experiments import scaling_step
from experiments.all_reduce import WAYS, find_way
from experiments.scaling_report import Report, markdown, rows
from v2v_jax.run.experiment import Experiment, TrainState
from v2v_jax.system import compilation_cache, sharding
from v2v_jax.training.accumulation import GPU_CLIPS

_PROFILED = 5  # steps
_WARM_UP = 5  # steps before the clock starts


@dataclasses.dataclass(eq=False)
class Program:
    """The training step for some devices, clips on each, and a way to add up; what came of it.

    Attributes:
      first: the number of its first device.
    """

    devices: int
    clips: int
    way: str
    experiment: Experiment
    first: int = 0
    step: Callable[..., Any] | None = None  # None: it could not be compiled, or has failed
    batch: dict[str, jax.Array] | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)  # a step, of each round
    losses: list[float] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.way}, devices: {self.devices} from {self.first} on, clips: {self.clips}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables, and returns what --json writes."""
    args = parse(argv)
    compilation_cache.enable()
    where = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    report = Report(args.json, "experiments.scaling", vars(args) | where)
    programs = planned(args)
    print(f"{len(programs)} programs on {args.devices} of {where['device']}", flush=True)
    state = compile_all(programs, report)
    report.attempt("memory", check_memory, programs, state, report)
    run_all(programs, state, args, report)
    print(markdown(report.result), flush=True)
    return report.result


def planned(args: argparse.Namespace) -> list[Program]:
    """What --devices, --clips_per_device and --reduce ask for."""
    programs = []
    for devices, clips in itertools.product(args.devices, args.clips_per_device):
        ways = args.reduce if devices > 1 and clips in args.reduce_clips else args.reduce[:1]
        for first in range(max(args.devices)) if devices == 1 else [0]:
            used = jax.devices()[first : first + devices]
            experiment = scaling_step.make(args.arg, clips, args.crop, used)
            programs += [Program(devices, clips, way, experiment, first) for way in ways]
    return programs


# ------------------------------------------------------------------------------------------------
# Compiling


class InitialState:
    """The state that every turn starts from, on the host."""

    def __init__(self, initial: TrainState):
        """`initial` is copied."""
        self._initial = jax.device_get(initial)

    @property
    def nbytes(self) -> int:
        """Of the state."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._initial))

    def on(self, program: Program) -> TrainState:
        """A copy where `program` runs, which may be donated."""
        return jax.device_put(self._initial, sharding.replicated(program.experiment.mesh))


def compile_all(programs: list[Program], report: Report) -> InitialState:
    """Compiles all steps and batches, each in a thread; returns the state to start from.

    Tracing needs Python's lock and so happens here, one by one; compiling does not.
    """
    least = min(p.devices for p in programs)
    is_first = lambda p: p.devices == least and p.first == 0 and p.clips <= GPU_CLIPS
    ordered = sorted(programs, key=lambda p: not is_first(p))
    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(2 * len(programs) + 1) as pool:
        initial = pool.submit(initial_state, ordered[0].experiment)
        before: list[concurrent.futures.Future] = [initial]
        futures: dict[Program, list[concurrent.futures.Future]] = {}

        def submit(program: Program) -> None:
            options = find_way(program.way).options
            step, batch = lower(program), scaling_step.make_batch(program.experiment).lower()
            futures[program] = [
                pool.submit(compile_after, before, step, options),
                pool.submit(compile_after, before, batch),
            ]

        def collect(program: Program) -> None:
            step, make_batch = [future.result() for future in futures[program]]
            program.batch = jax.block_until_ready(make_batch())
            program.step = step

        for program in ordered:
            if not is_first(program) and len(before) == 1:
                before = [initial, *itertools.chain.from_iterable(futures.values())]
            report.attempt(f"tracing {program.name}", submit, program)
        print(f"all traced after {time.perf_counter() - begun:.1f} s", flush=True)
        # Nothing runs on the devices while the compiler tries kernels there.
        concurrent.futures.wait(itertools.chain.from_iterable(futures.values()))
        for program in futures:
            report.attempt(f"compiling {program.name}", collect, program)
        state = InitialState(initial.result())
    report.result["compile_seconds"] = time.perf_counter() - begun
    print(f"all compiled after {report.result['compile_seconds']:.1f} s", flush=True)
    return state


def initial_state(experiment: Experiment) -> TrainState:
    """The state to start from; for a thread, which has its own mesh."""
    with jax.set_mesh(experiment.mesh):
        return jax.block_until_ready(scaling_step.initial_state(experiment))


def lower(program: Program) -> jax.stages.Lowered:
    """The step, traced."""
    experiment = program.experiment
    with jax.set_mesh(experiment.mesh):
        step = scaling_step.make_step(experiment, find_way(program.way).add_up)
        batch = scaling_step.abstract_batch(experiment)
        return step.lower(experiment.abstract_state(), (), batch)


def compile_after(
    before: Sequence[concurrent.futures.Future],
    lowered: jax.stages.Lowered,
    options: dict[str, Any] | None = None,
) -> jax.stages.Compiled:
    """Waits for `before`, whether they fail or not, and compiles."""
    concurrent.futures.wait(before)
    return lowered.compile(compiler_options=options or None)


def check_memory(programs: list[Program], state: InitialState, report: Report) -> None:
    """Notes and prints what the first device needs for all programs, and what it has."""
    compiled = [p for p in programs if p.step is not None]
    kept = state.nbytes + sum(
        leaf.nbytes // p.devices for p in compiled for leaf in p.batch.values()
    )
    temporary = {p.name: p.step.memory_analysis().temp_size_in_bytes for p in compiled}
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    report.result["memory"] = {"kept": kept, "temporary": temporary, "limit": limit}
    need = kept + max(temporary.values())
    print(f"memory of the first device: {need / 1e9:.1f} GB needed, {limit / 1e9:.1f} GB there")


# ------------------------------------------------------------------------------------------------
# Running


def run_all(
    programs: list[Program], state: InitialState, args: argparse.Namespace, report: Report
) -> None:
    """Losses, rounds, profiles; a program that fails is left out of what follows."""
    first, compared = args.reduce[0], args.reduce_clips[0]

    def of_each(what: str, function: Callable[..., Any], *arguments: Any) -> None:
        for program in programs:
            if program.step is None:
                continue
            if not report.attempt(f"{what} {program.name}", function, program, *arguments):
                program.step = None

    of_each("first run,", run_first, state, args.losses, compared)
    report.result["losses"] = {
        "clips_per_device": compared,
        "steps": args.losses,
        "series": [
            {"devices": p.devices, "reduce": p.way, "losses": p.losses}
            for p in programs
            if p.losses and p.first == 0
        ],
    }
    for number in range(args.rounds):
        of_each(f"round {number + 1},", measure, state, args.steps)
        report.result["rows"] = rows([p for p in programs if p.seconds], first)
        report.write()
        print(f"round {number + 1} of {args.rounds} measured", flush=True)
    for program in to_profile(programs, args):
        report.attempt(f"profile of {program.name}", profile, program, state, report)


def run_first(program: Program, state: InitialState, steps: int, compared: int) -> None:
    """Runs it once before the clock does, with `compared` clips a device noting the losses."""
    _, losses = run(program, state.on(program), steps)
    if program.clips == compared:
        program.losses = [float(np.asarray(loss)) for loss in losses]


def measure(program: Program, state: InitialState, steps: int) -> None:
    """Seconds a step."""
    now, _ = run(program, state.on(program), _WARM_UP)
    begun = time.perf_counter()
    run(program, now, steps)
    program.seconds.append((time.perf_counter() - begun) / steps)


def run(program: Program, state: TrainState, steps: int) -> tuple[TrainState, list[jax.Array]]:
    """Donates the state; waits."""
    return scaling_step.run(program.step, state, program.batch, steps)


def to_profile(programs: list[Program], args: argparse.Namespace) -> list[Program]:
    """The ways of --profile on the most devices, and the first way on the fewest."""
    if not args.profile:
        return []
    wanted = {(max(args.devices), way) for way in args.profile}
    wanted.add((min(args.devices), args.reduce[0]))
    running = [p for p in programs if p.step is not None and p.clips == args.reduce_clips[0]]
    return [p for p in running if (p.devices, p.way) in wanted and p.first == 0]


def profile(program: Program, state: InitialState, report: Report) -> None:
    """Where a step's time goes, in ms, on each device."""
    now = [state.on(program)]

    def steps() -> None:
        now[0], _ = run(program, now[0], _PROFILED)

    trace = device_trace.trace(steps, 1)
    report.result["profiles"].append(
        {
            "devices": program.devices,
            "clips_per_device": program.clips,
            "reduce": program.way,
            "milliseconds": device_trace.times_by_kind(trace, _PROFILED),
        }
    )


# ------------------------------------------------------------------------------------------------
# The command line


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; argparse's own errors for what cannot be understood."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(word) for word in text.split(",")]
    words = lambda text: text.split(",")
    parser.add_argument("--devices", type=numbers, help="how many, e.g. 1,2,4")
    parser.add_argument("--clips_per_device", type=numbers, default=[32], help="e.g. 16,32,64")
    parser.add_argument("--arg", default="", help="configs/seg.py's argument, e.g. size=small")
    parser.add_argument("--crop", type=int, default=0, help="the crop's height and width")
    parser.add_argument("--reduce", type=words, default=["as_is"], help="of " + ", ".join(WAYS))
    parser.add_argument(
        "--reduce_clips", type=numbers, help="clips a device with which ways are compared: all"
    )
    parser.add_argument("--losses", type=int, default=10, help="steps whose losses are compared")
    parser.add_argument("--profile", type=words, default=[], help="ways, on the most devices")
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args(argv)
    args.devices = args.devices or default_sizes(jax.device_count())
    args.reduce_clips = args.reduce_clips or args.clips_per_device
    if max(args.devices) > jax.device_count():
        parser.error(f"--devices={args.devices}: there are {jax.device_count()}")
    parts = {part for name in (*args.reduce, *args.profile) for part in name.split("+")}
    if unknown := parts - {*WAYS}:
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(WAYS)}")
    return args


def default_sizes(count: int) -> list[int]:
    """1, 2, 4, … below `count`, and `count`."""
    return [n for n in (2**i for i in range(count.bit_length())) if n < count] + [count]


if __name__ == "__main__":
    main()
