"""What the measurements of scaling say: JSON that is written as they go on, and tables."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol


class Measured(Protocol):
    """A program that was measured."""

    devices: int
    clips: int
    way: str
    first: int
    seconds: list[float]


class Report:
    """The result so far; attempts parts of the work, and writes after each.

    Attributes:
      result: JSON-ready.
    """

    def __init__(self, path: str | None, module: str, options: dict[str, Any]):
        """A file `path`, if any, for what python -m `module` finds.

        Args:
          options: its command line, and `device` and `jax`: on what it ran.
        """
        self._path = path
        self.result: dict[str, Any] = {
            "command": f"python -m {module}",
            "options": options,
            "date": datetime.date.today().isoformat(),
            "rows": [],
            "profiles": [],
            "failures": [],
        }

    def attempt(self, what: str, function: Callable[..., Any], *arguments: Any) -> bool:
        """Calls the function; prints and notes its error, if any. Returns whether there is none."""
        failure = None
        try:
            function(*arguments)
        except Exception as error:  # whatever it is, the other parts go on
            first = (str(error).strip() or "no message").splitlines()[0]
            failure = {"what": what, "error": f"{type(error).__name__}: {first[:300]}"}
            self.result["failures"].append(failure)
            print(f"FAILED {what}: {failure['error']}", flush=True)
        self.write()
        return failure is None

    def write(self) -> None:
        """Writes what there is."""
        if self._path:
            pathlib.Path(self._path).write_text(json.dumps(self.result, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured on some devices, the first of which is number `first`.

    Relative is speed-up to the first way on the fewest devices, with as many clips on each; where
    that is one device, to the mean of all that were measured alone.
    """

    devices: int
    first: int
    clips_per_device: int
    reduce: str
    batch_size: int
    milliseconds: float
    clips_per_second: float
    speedup: float
    efficiency: float


def rows(programs: Iterable[Measured], first: str) -> list[dict[str, Any]]:
    """The medians over the rounds, JSON-ready; `first`: the way that others are compared with."""
    programs = list(programs)
    speed = lambda p: p.clips * p.devices / statistics.median(p.seconds)
    found = []
    for p in programs:
        same = [q for q in programs if q.clips == p.clips]
        fewest = min(q.devices for q in same if q.way == first)
        alone = [speed(q) for q in same if (q.way, q.devices) == (first, fewest)]
        speedup = speed(p) / statistics.mean(alone)
        row = Row(
            devices=p.devices,
            first=p.first,
            clips_per_device=p.clips,
            reduce=p.way,
            batch_size=p.clips * p.devices,
            milliseconds=1e3 * statistics.median(p.seconds),
            clips_per_second=speed(p),
            speedup=speedup,
            efficiency=speedup / (p.devices / fewest),
        )
        found.append(dataclasses.asdict(row))
    return sorted(found, key=lambda row: (row["clips_per_device"], row["devices"]))


def greatest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """The greatest relative difference of two series of losses.

    Raises:
      ValueError: they do not have the same length.
    """
    pairs = zip(found, expected, strict=True)
    return max(abs(a - b) / max(abs(b), 1e-30) for a, b in pairs)


def markdown(result: dict[str, Any]) -> str:
    """All tables of a result, under a line that says where and when."""
    options = result["options"]
    where = f"{options['device']}, JAX {options['jax']}, {result['date']}"
    parts = [where, _rates(result["rows"])]
    if result.get("losses", {}).get("series"):
        parts.append(_losses(result["losses"]))
    if result["profiles"]:
        parts.append(_profiles(result["profiles"]))
    parts += [f"FAILED {failure['what']}: {failure['error']}" for failure in result["failures"]]
    return "\n\n".join(parts)


def _rates(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| clips a device | devices | all-reduce | batch | ms a step | clips/s | speed-up "
        "| efficiency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        devices = f"{row['devices']} (number {row['first']})" if row["first"] else row["devices"]
        lines.append(
            f"| {row['clips_per_device']} | {devices} | {row['reduce']} | "
            f"{row['batch_size']} | {row['milliseconds']:.2f} | {row['clips_per_second']:.1f} | "
            f"{row['speedup']:.3f} | {row['efficiency']:.1%} |"
        )
    return "\n".join(lines)


def _losses(losses: dict[str, Any]) -> str:
    """Each way's losses beside those of the first on as many devices."""
    expected: dict[int, list[float]] = {}
    lines = [
        "| devices | all-reduce | first loss | last loss | greatest relative difference |",
        "|---|---|---|---|---|",
    ]
    for one in losses["series"]:
        values = one["losses"]
        difference = greatest_difference(values, expected.setdefault(one["devices"], values))
        lines.append(
            f"| {one['devices']} | {one['reduce']} | {values[0]:.6f} | {values[-1]:.6f} | "
            f"{difference:.1e} |"
        )
    return "\n".join(lines)


def _profiles(profiles: list[dict[str, Any]]) -> str:
    """Medians over the devices; of the slowest one, and of the one that the others wait for."""
    kinds: list[str] = []
    table = []
    for one in profiles:
        times = list(one["milliseconds"].values())
        if not times:
            continue
        kinds = list(times[0])
        medians = [statistics.median(t[kind] for t in times) for kind in kinds]
        table.append(
            f"| {one['devices']} | {one['reduce']} | "
            + " | ".join(f"{value:.2f}" for value in medians)
            + f" | {max(t['computing'] for t in times):.2f}"
            + f" | {min(t['all-reduce'] for t in times):.2f} |"
        )
    if not table:
        return "The profiles have no kernels of GPUs."
    head = ["devices", "all-reduce", *kinds, "most computing", "least all-reduce"]
    title = "Where a step's time goes, ms, without CUDA graphs, which the profiler switches off:"
    return "\n".join([title, "", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *table])
