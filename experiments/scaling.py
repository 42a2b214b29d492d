"""Weak scaling: clips/s of the real training step on more and more devices, as many clips on each.

    python -m experiments.scaling                       # 1, 2, 4, … and all devices, 32 clips each
    python -m experiments.scaling --devices=1,2,4,8 --clips_per_device=16,32,64 --profile=as_is
    python -m experiments.scaling --reduce=as_is,buckets,bfloat16,none --json=scaling.json

The step is `configs/seg.py`'s (with --arg), full size by default: forward, gradient, all-reduce,
optimiser. Its batch stays on the devices, so that the network between them is measured and not the
reading of data; no TensorFlow is needed. All programs are compiled first, at the same time, those
of the fewest devices before the rest, which then find the compiler's trials done. They take turns
within a round, so that another program slows all of them; clips/s are medians over the rounds.
Efficiency is clips/s a device over those of the first way on the fewest devices, same clips.

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


@dataclasses.dataclass(eq=False)
class Program:
    """The training step for some devices, clips on each, and a way to add up; what came of it."""

    devices: int
    clips: int
    way: str
    experiment: Experiment
    step: Callable[..., Any] | None = None  # None: it could not be compiled, or has failed
    batch: dict[str, jax.Array] | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)  # a step, of each round
    losses: list[float] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.way}, devices: {self.devices}, clips: {self.clips}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables, and returns what --json writes."""
    args = parse(argv)
    compilation_cache.enable()
    where = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    report = Report(args.json, "experiments.scaling", vars(args) | where)
    programs = planned(args)
    print(f"{len(programs)} programs on {args.devices} of {where['device']}", flush=True)
    states = compile_all(programs, report)
    report.attempt("memory", check_memory, programs, states, report)
    run_all(programs, states, args, report)
    print(markdown(report.result), flush=True)
    return report.result


def planned(args: argparse.Namespace) -> list[Program]:
    """What --devices, --clips_per_device and --reduce ask for."""
    first = args.reduce[0]
    programs = []
    for devices in args.devices:
        for clips in args.clips_per_device:
            experiment = scaling_step.make(args.arg, clips, args.crop, jax.devices()[:devices])
            ways = args.reduce if devices > 1 and clips in args.reduce_clips else [first]
            programs += [Program(devices, clips, way, experiment) for way in ways]
    return programs


# ------------------------------------------------------------------------------------------------
# Compiling


class States:
    """A training state for each number of devices, which its programs hand on to one another.

    One a program would take 0.4 GB of the first device for each of them.
    """

    def __init__(self, initial: TrainState):
        """`initial` is copied to the host."""
        self._initial = jax.device_get(initial)
        self._of: dict[int, TrainState] = {}

    @property
    def nbytes(self) -> int:
        """Of one state."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._initial))

    def renew(self, program: Program) -> None:
        """Puts the initial state where `program` runs."""
        everywhere = sharding.replicated(program.experiment.mesh)
        self._of.pop(program.devices, None)
        self._of[program.devices] = jax.device_put(self._initial, everywhere)

    def run(self, program: Program, steps: int) -> list[jax.Array]:
        """Runs the program; waits for it and returns the losses."""
        if program.devices not in self._of:
            self.renew(program)
        state = self._of.pop(program.devices)  # it is donated: if the program fails, it is lost
        state, losses = scaling_step.run(program.step, state, program.batch, steps)
        self._of[program.devices] = state
        return losses


def compile_all(programs: list[Program], report: Report) -> States:
    """Compiles all steps and batches, each in a thread; returns the states.

    Tracing needs Python's lock and so happens here, one by one; compiling does not.
    """
    least = min(p.devices for p in programs)
    is_first = lambda p: p.devices == least and p.clips <= GPU_CLIPS
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
        states = States(initial.result())
    report.result["compile_seconds"] = time.perf_counter() - begun
    print(f"all compiled after {report.result['compile_seconds']:.1f} s", flush=True)
    return states


def initial_state(experiment: Experiment) -> TrainState:
    """The state at step 0; for a thread, which has its own mesh."""
    with jax.set_mesh(experiment.mesh):
        return jax.block_until_ready(experiment.init_state())


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


def check_memory(programs: list[Program], states: States, report: Report) -> None:
    """Notes and prints what the first device needs for all programs, and what it has."""
    compiled = [p for p in programs if p.step is not None]
    kept = states.nbytes * len({p.devices for p in compiled})
    kept += sum(leaf.nbytes // p.devices for p in compiled for leaf in p.batch.values())
    temporary = {p.name: p.step.memory_analysis().temp_size_in_bytes for p in compiled}
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    report.result["memory"] = {"kept": kept, "temporary": temporary, "limit": limit}
    need = kept + max(temporary.values())
    print(f"memory of the first device: {need / 1e9:.1f} GB needed, {limit / 1e9:.1f} GB there")


# ------------------------------------------------------------------------------------------------
# Running


def run_all(
    programs: list[Program], states: States, args: argparse.Namespace, report: Report
) -> None:
    """Losses, rounds, profiles; a program that fails is left out of what follows."""
    first, compared = args.reduce[0], args.reduce_clips[0]

    def of_each(what: str, function: Callable[..., Any], *arguments: Any) -> None:
        for program in programs:
            if program.step is None:
                continue
            if not report.attempt(f"{what} {program.name}", function, program, *arguments):
                program.step = None

    of_each("starting", start, states, args.losses, compared)
    report.result["losses"] = {
        "clips_per_device": compared,
        "steps": args.losses,
        "series": [
            {"devices": p.devices, "reduce": p.way, "losses": p.losses}
            for p in programs
            if p.losses
        ],
    }
    for number in range(args.rounds):
        of_each(f"round {number + 1},", measure, states, args.steps)
        report.result["rows"] = rows([p for p in programs if p.seconds], first)
        report.write()
        print(f"round {number + 1} of {args.rounds} measured", flush=True)
    for program in to_profile(programs, args):
        report.attempt(f"profile of {program.name}", profile, program, states, report)


def start(program: Program, states: States, steps: int, compared: int) -> None:
    """Warms up; at `compared` clips a device from the initial state, noting the losses."""
    if program.clips == compared:
        states.renew(program)
        program.losses = [float(np.asarray(loss)) for loss in states.run(program, steps)]
    else:
        states.run(program, 3)


def measure(program: Program, states: States, steps: int) -> None:
    """Seconds a step."""
    begun = time.perf_counter()
    states.run(program, steps)
    program.seconds.append((time.perf_counter() - begun) / steps)


def to_profile(programs: list[Program], args: argparse.Namespace) -> list[Program]:
    """The ways of --profile on the most devices, and the first way on the fewest."""
    if not args.profile:
        return []
    wanted = {(max(args.devices), way) for way in args.profile}
    wanted.add((min(args.devices), args.reduce[0]))
    running = [p for p in programs if p.step is not None and p.clips == args.reduce_clips[0]]
    return [p for p in running if (p.devices, p.way) in wanted]


def profile(program: Program, states: States, report: Report) -> None:
    """Where a step's time goes, in ms, on each device."""
    trace = device_trace.trace(lambda: states.run(program, _PROFILED), 1)
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
