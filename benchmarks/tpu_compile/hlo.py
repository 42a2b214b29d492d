"""What the text of an optimised HLO module says: its collectives and its estimated cycles."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

from benchmarks.tpu_compile import StepProblem

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_COLLECTIVE = re.compile(
    rf"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})"
    r"(?:-start)?\((?P<rest>.*)$",
    re.MULTILINE,
)
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a compiled program.

    Attributes:
      kind: as in HLO, asynchronous ones (`-start`) too.
      reduction: what it computes ("add"), empty where it only moves data.
      arrays: (element type, number of elements) of each array that it carries.
    """

    kind: str
    name: str
    reduction: str
    arrays: tuple[tuple[str, int], ...]

    @property
    def num_bytes(self) -> int:
        return sum(_width(dtype) * elements for dtype, elements in self.arrays)

    def describe(self) -> str:
        """Such as `all-reduce add of 31 arrays (f32), 135 MB`."""
        dtypes = ", ".join(sorted({dtype for dtype, _ in self.arrays}))
        reduction = f" {self.reduction}" if self.reduction else ""
        n = len(self.arrays)
        size = self.num_bytes
        amount = f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size} bytes"
        return f"{self.kind}{reduction} of {n} array{'s' * (n != 1)} ({dtypes}), {amount}"


def _width(dtype: str) -> int:
    """Bytes of an HLO element type."""
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits[0]) // 8) if bits else 1  # pred has no number


def find_collectives(hlo: str) -> list[Collective]:
    """The collectives of all computations of an optimised HLO module's text.

    An asynchronous pair counts once, by its start; one that is merged over several arrays is one.
    """
    reductions = dict(_reductions(hlo))
    found = []
    for match in _COLLECTIVE.finditer(hlo):
        arrays = tuple(
            (dtype, math.prod(int(n) for n in shape.split(",") if n))
            for dtype, shape in _ARRAY.findall(_without_layouts(match["type"]))
        )
        if "-start(" in match[0] and match["kind"] != "all-reduce":
            arrays = arrays[len(arrays) // 2 :]  # (operands, results)
        applied = re.search(r"to_apply=%?([\w.-]+)", match["rest"])
        reduction = reductions.get(applied[1], "?") if applied else ""
        found.append(Collective(match["kind"], match["name"], reduction, arrays))
    return found


def _without_layouts(text: str) -> str:
    """`f32[2,3]{1,0:T(8,128)S(1)}` → `f32[2,3]`."""
    return re.sub(r"\{[^{}]*\}", "", text)


def _reductions(hlo: str) -> Iterator[tuple[str, str]]:
    """(computation, opcode of its root), for all computations of a module."""
    name = None
    for line in hlo.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = header[1]
        elif root := re.match(r"\s+ROOT %?[\w.-]+ = \S+ ([\w-]+)\(", line):
            yield name, root[1]


def check_collectives(collectives: Sequence[Collective], what: str) -> None:
    """Raises StepProblem unless there is exactly one all-reduce and no other collective."""
    if [c.kind for c in collectives] == ["all-reduce"]:
        return
    if not collectives:
        raise StepProblem(f"The step for {what} has no all-reduce: its devices do not learn alike.")
    listed = "; ".join(c.describe() for c in collectives)
    raise StepProblem(
        f"The step for {what} should have one all-reduce and no other collective, but has "
        f"{len(collectives)}: {listed}."
    )


def count_gradients(collective: Collective, parameter_sizes: Sequence[int]) -> int:
    """How many of the parameters (by number of elements) are among a collective's arrays."""
    arrays = collections.Counter(elements for _, elements in collective.arrays)
    return (arrays & collections.Counter(parameter_sizes)).total()


_INSTRUCTION = re.compile(r"^  (?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(", re.MULTILINE)
_HEAVY = ("fusion", "convolution", "reduce-window", "select-and-scatter", "sort", "scatter")


def estimated_cycles(hlo: str) -> tuple[int, dict[str, int]]:
    """The TPU compiler's own estimate, summed over the entry computation.

    Returns:
      Cycles, and by opcode the number of instructions that it has no estimate for and that take
      time (its pooling; collectives depend on the network).
    """
    entry = hlo[hlo.index("\nENTRY ") :]
    cycles, without = 0, collections.Counter()
    for line in entry.splitlines():
        if found := re.search(r'"estimated_cycles":"(\d+)"', line):
            cycles += int(found[1])
        elif (opcode := _INSTRUCTION.match(line)) and opcode[1] in (*_HEAVY, *KINDS):
            without[opcode[1]] += 1
    return cycles, dict(without)
