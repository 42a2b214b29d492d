"""Memory, work, time and communication of a compiled step, checked and printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.tpu_compile import StepProblem
from benchmarks.tpu_compile.hlo import (
    Collective,
    count_gradients,
    estimated_cycles,
    find_collectives,
)
from benchmarks.tpu_compile.topology import Chip


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a chip's memory that a program takes."""

    arguments: int
    outputs: int
    donated: int
    temporaries: int
    code: int

    @property
    def peak(self) -> int:
        """Outputs that take a donated argument's place are counted once."""
        return self.arguments + self.outputs - self.donated + self.temporaries + self.code


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """What the compiler allots on each chip."""
    stats = compiled.memory_analysis()
    return Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )


def check_memory(memory: Memory, what: str, chip: Chip) -> None:
    """Raises StepProblem if the program needs more than the chip has."""
    if memory.peak > chip.memory:
        raise StepProblem(
            f"The step for {what} does not fit a chip's {chip.memory / 1e9:.0f} GB: it needs "
            f"{memory.peak / 1e9:.1f} GB; take fewer clips a chip (--clips_per_chip)."
        )


def analyse(compiled: jax.stages.Compiled, clips_per_chip: int, chip: Chip) -> dict[str, Any]:
    """Everything that is printed and written of a compiled step, JSON-ready; sizes in bytes."""
    hlo = compiled.as_text()
    memory = memory_of(compiled)
    cost = compiled.cost_analysis()
    cycles, without = estimated_cycles(hlo)
    return {
        "memory": dataclasses.asdict(memory) | {"peak": memory.peak},
        "flops": cost["flops"],
        "flops_per_clip": cost["flops"] / clips_per_chip,
        "bytes_accessed": cost["bytes accessed"],
        "seconds_at_peak_flops": cost["flops"] / chip.flops,
        "seconds_at_peak_bandwidth": cost["bytes accessed"] / chip.bandwidth,
        "seconds_by_compiler": cycles / chip.clock,
        "without_estimate": without,
        "collectives": [dataclasses.asdict(c) for c in find_collectives(hlo)],
    }


def report(figures: dict[str, Any], clips: int, parameter_sizes: Sequence[int]) -> None:
    """Prints the figures of one topology."""
    gb = lambda name: f"{figures['memory'][name] / 1e9:.2f}"
    ms = lambda name: f"{1e3 * figures[name]:.0f} ms"
    print(f"  compiled in {figures['compile_seconds']:.0f} s")
    print(
        f"  memory a chip     {gb('peak')} GB: arguments {gb('arguments')}, outputs "
        f"{gb('outputs')} of which donated {gb('donated')}, temporaries {gb('temporaries')}, "
        f"code {gb('code')}"
    )
    print(
        f"  work a chip       {figures['flops'] / 1e12:.2f} TFLOP "
        f"({figures['flops_per_clip'] / 1e9:.0f} GFLOP a clip), "
        f"{figures['bytes_accessed'] / 1e9:.1f} GB accessed"
    )
    print(
        f"  estimated step    {ms('seconds_at_peak_flops')} at the peak of arithmetic, "
        f"{ms('seconds_at_peak_bandwidth')} at the peak of memory"
    )
    without = ", ".join(f"{n} {op}" for op, n in figures["without_estimate"].items())
    if figures["seconds_by_compiler"]:
        print(
            f"                    {ms('seconds_by_compiler')} by the compiler's cycles "
            f"({clips / figures['seconds_by_compiler']:.0f} clips/s a chip), "
            f"without {without or 'nothing'}"
        )
    for values in figures["collectives"]:
        collective = Collective(**values)
        gradients = count_gradients(collective, parameter_sizes)
        print(
            f"  collective        {collective.describe()}: the gradients of {gradients} of "
            f"{len(parameter_sizes)} parameters and {len(collective.arrays) - gradients} others"
        )
