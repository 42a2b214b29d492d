"""Compiles the real training step for TPUs, on a machine that has none.

    python -m benchmarks.tpu_compile
    python -m benchmarks.tpu_compile --topology v5e:2x2 --clips-per-chip 8 --json tpu.json
    python -m benchmarks.tpu_compile --forms taps_in_input native --layers conv2a deconv3

Needs the extra `tpu` (`pip install -c constraints.txt -e '.[tpu]'`), whose libtpu holds the
compiler. Nothing runs: what is printed is the compiler's analysis, and times are estimates. Fails
with one sentence when the step does not fit a chip's memory, or has any collective but one
all-reduce. A topology takes several minutes, nearly all of it in libtpu.

`--forms` compares how single layers of V2V compile in the forms that `v2v_jax.models.layers` has.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import importlib.util
import json
import math
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from v2v_jax.datasets.base.video_dataset import FIELDS
from v2v_jax.errors import ConfigError, UserError
from v2v_jax.input.preprocess import gather_clips
from v2v_jax.input.tf_data_feed import TfDataFeed
from v2v_jax.models import layers
from v2v_jax.run.experiment import Experiment, make_experiment
from v2v_jax.system import sharding
from v2v_jax.training.loop import make_train_step

ROOT = pathlib.Path(__file__).resolve().parent.parent


class StepProblem(UserError):
    """The compiled step is not what it should be."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of a chip: bf16 FLOP/s, bytes/s and bytes of its memory."""

    flops: float
    bandwidth: float
    memory: float

    @property
    def clock(self) -> float:
        """Cycles a second, from the peak: four matrix units of 128×128 multiply-adds a cycle."""
        return self.flops / (2 * 4 * 128 * 128)


CHIPS = {"v5e": Chip(flops=197e12, bandwidth=819e9, memory=16e9)}


# ------------------------------------------------------------------------------------------------
# The step, on abstract arrays


def topology_mesh(name: str) -> Mesh:
    """A mesh over the chips of a TPU topology, such as `v5e:4x4`, that need not exist.

    Raises:
      ConfigError: the topology is not known, or libtpu is not installed.
    """
    from jax.experimental import topologies

    chip_of(name)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("libtpu is not installed: pip install -c constraints.txt -e '.[tpu]'.")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU host to ask about itself
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU to lock for one process
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    try:
        devices = topologies.get_topology_desc(name, "tpu").devices
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"libtpu does not know topology {name!r}: {error}") from error
    return sharding.make_mesh(devices)


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as `v5e:4x4`; ConfigError if it is not in `CHIPS`."""
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise ConfigError(f"Topology {topology!r} is of no known chip; known: {', '.join(CHIPS)}.")
    return CHIPS[kind]


def load_config(path: str) -> ConfigDict:
    """`configs/seg.py` or `configs/seg.py:key=value,…`, as train.py's --config reads it."""
    path, _, arg = path.partition(":")
    spec = importlib.util.spec_from_file_location("config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


class AbstractDeviceFeed:
    """What feed=device does inside the step, with a store of shapes only."""

    def __init__(self, experiment: Experiment):
        self._preprocessing = experiment.preprocessing
        dataset = experiment.dataset
        frames = sum(video.num_frames for video in dataset.videos)
        whole = functools.partial(
            jax.ShapeDtypeStruct, sharding=sharding.replicated(experiment.mesh)
        )
        self.store = {
            name: whole((frames, *dataset.frame_size, *FIELDS[name].channels), FIELDS[name].dtype)
            for name in experiment.task.fields
        }

    def prepare(self, store: Any, batch: Any) -> Any:
        """Cuts the clips out of the store; traced inside the jitted step."""
        return gather_clips(store, batch, self._preprocessing) | {"mask": batch["mask"]}


def abstract_step(config: ConfigDict, mesh: Mesh, feed_kind: str) -> jax.stages.Lowered:
    """The real training step of a configuration, lowered for a mesh without making an array."""
    experiment = make_experiment(config, "train", mesh)
    if feed_kind == "device":
        feed = AbstractDeviceFeed(experiment)
    else:
        fields = experiment.task.fields
        feed = TfDataFeed(experiment.dataset, fields, experiment.preprocessing, mesh)
    whole = sharding.replicated(mesh)
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        jax.eval_shape(experiment.init_state),
    )
    batch = abstract_batch(experiment, feed_kind)
    return make_train_step(experiment, feed).lower(state, feed.store, batch)


def abstract_batch(experiment: Experiment, feed_kind: str) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch that a feed hands to the step, split over the mesh."""
    b = experiment.config.batch_size
    split = functools.partial(
        jax.ShapeDtypeStruct, sharding=sharding.batch_sharded(experiment.mesh)
    )
    batch = {"mask": split((b,), jnp.bool_), "mirror": split((b,), jnp.bool_)}
    if feed_kind == "device":
        return batch | {name: split((b,), jnp.int32) for name in ("frame", "top", "left")}
    preprocessing = experiment.preprocessing
    size = (b, preprocessing.clip_length, *preprocessing.crop_size)
    for name in experiment.task.fields:
        batch[name] = split((*size, *FIELDS[name].channels), FIELDS[name].dtype)
    return batch


def compile_for(lowered: jax.stages.Lowered, what: str, chip: Chip) -> jax.stages.Compiled:
    """Compiles; StepProblem if the compiler itself finds that the memory does not suffice."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        raise StepProblem(out_of_memory(what, str(error), chip)) from error


def out_of_memory(what: str, message: str, chip: Chip) -> str:
    """One sentence out of what the TPU compiler says, which depends on where it runs out."""
    found = re.search(r"Used ([\d.]+\w?) of ([\d.]+\w?) hbm", message) or re.search(
        r"\(([\d.]+\w?)\) exceeds available HBM \(([\d.]+\w?)\)", message
    )
    used = f": it needs {found[1]} of {found[2]}" if found else ""
    return (
        f"The step for {what} does not fit a chip's {chip.memory / 1e9:.0f} GB{used}; "
        "take fewer clips a chip (--clips-per-chip)."
    )


# ------------------------------------------------------------------------------------------------
# What the optimised HLO says

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


# ------------------------------------------------------------------------------------------------
# Figures of one topology


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
            f"{memory.peak / 1e9:.1f} GB; take fewer clips a chip (--clips-per-chip)."
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


def run_topology(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Compiles, prints and checks the step for one topology.

    Raises:
      StepProblem: it does not fit, or communicates more than one all-reduce.
    """
    chip, mesh = chip_of(name), topology_mesh(name)
    config = load_config(args.config)
    config.dtype = "bfloat16"  # what `auto` is on accelerators; here the backend is the CPU
    config.batch_size = args.clips_per_chip * mesh.devices.size
    what = f"{name} with {args.clips_per_chip} clips a chip"
    print(f"{args.config} on {what}, {mesh.devices.size} chips, feed={args.feed}", flush=True)
    lowered = abstract_step(config, mesh, args.feed)
    start = time.perf_counter()
    compiled = compile_for(lowered, what, chip)
    seconds = time.perf_counter() - start
    if args.hlo:
        path = pathlib.Path(args.hlo) / f"{name.replace(':', '_')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(compiled.as_text())
    figures = analyse(compiled, args.clips_per_chip, chip) | {"compile_seconds": seconds}
    parameters = lowered.in_avals[0][0].params
    report(figures, args.clips_per_chip, [x.size for x in jax.tree.leaves(parameters)])
    check_memory(memory_of(compiled), what, chip)
    if mesh.devices.size > 1:
        check_collectives(find_collectives(compiled.as_text()), what)
    return figures


# ------------------------------------------------------------------------------------------------
# Single layers by form


CONVOLUTIONS = {  # name: input's (T,H,W,C) and output channels; kernels of 3×3×3, padding 1
    "conv1a": ((16, 112, 112, 3), 64),
    "conv2a": ((16, 56, 56, 64), 128),
    "conv3a": ((8, 28, 28, 128), 256),
    "conv3b": ((8, 28, 28, 256), 256),
    "conv4a": ((4, 14, 14, 256), 512),
    "conv4b": ((4, 14, 14, 512), 512),
    "conv5a": ((2, 7, 7, 512), 512),
    "conv4c": ((4, 14, 14, 512), 64),
    "conv3c": ((8, 28, 28, 256), 64),
    "conv_pre": ((16, 112, 112, 64), 8),
}
TRANSPOSED = {  # to 64 channels; name: input's (T,H,W,C) and strides: kernels of 2·, padding of ½·
    "deconv5": ((2, 7, 7, 512), (2, 2, 2)),
    "deconv4": ((4, 14, 14, 128), (2, 2, 2)),
    "deconv3": ((8, 28, 28, 128), (2, 4, 4)),
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution of V2V: its shapes, and (x, kernel, form) → y."""

    name: str
    input_shape: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    apply: Callable[[jax.Array, jax.Array, str], jax.Array]


def network_layers() -> list[Layer]:
    """The layers of the full V2V by their shapes."""
    same = ((1, 1),) * 3
    convolve = lambda x, kernel, form: layers.conv3d(x, kernel, same, form)
    found = [
        Layer(name, shape, (3, 3, 3, shape[-1], outputs), convolve)
        for name, (shape, outputs) in CONVOLUTIONS.items()
    ]
    for name, (shape, strides) in TRANSPOSED.items():
        kernel = (*(2 * s for s in strides), shape[-1], 64)
        padding = tuple(s // 2 for s in strides)
        transpose = functools.partial(_transpose, strides, padding)
        found.append(Layer(name, shape, kernel, transpose))
    return found


def _transpose(strides, padding, x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
    return layers.conv3d_transpose(x, kernel, strides, padding, form)


def compare_forms(forms: Sequence[str], names: Sequence[str], clips: int) -> list[dict]:
    """Compiles layers' outputs and gradients in every form, for one chip; prints a table."""
    from jax.experimental.layout import Format, Layout

    chip, mesh = CHIPS["v5e"], topology_mesh("v5e:2x2")
    # As between two layers, the compiler chooses how arrays lie in memory.
    free = Format(Layout.AUTO, sharding.replicated(mesh))
    rows = []
    print(f"ms by the compiler's cycles / GB accessed / GB of temporaries, {clips} clips, bfloat16")
    for layer in (layer for layer in network_layers() if layer.name in names):
        x = jax.ShapeDtypeStruct((clips, *layer.input_shape), jnp.bfloat16)
        kernel = jax.ShapeDtypeStruct(layer.kernel_shape, jnp.bfloat16)
        for part in ("forward", "input gradient", "weight gradient"):
            line = f"{layer.name:9} {part:16}"
            for form in forms:
                function, operands = _part(layer, part, form, x, kernel)
                step = jax.jit(function, in_shardings=free, out_shardings=free)
                figures = analyse(step.lower(*operands).compile(), clips, chip)
                rows.append({"layer": layer.name, "part": part, "form": form} | figures)
                line += (
                    f"  {form} {1e3 * figures['seconds_by_compiler']:.2f} / "
                    f"{figures['bytes_accessed'] / 1e9:.2f} / "
                    f"{figures['memory']['temporaries'] / 1e9:.2f}"
                )
            print(line, flush=True)
    return rows


def _part(layer: Layer, part: str, form: str, x: Any, kernel: Any) -> tuple[Callable, tuple]:
    """What computes a part of a layer, and what it takes."""
    apply = lambda x, kernel: layer.apply(x, kernel, form)
    if part == "forward":
        return apply, (x, kernel)
    dy = jax.eval_shape(apply, x, kernel)
    zeros = lambda like: jnp.zeros(like.shape, like.dtype)  # linear: the value does not matter
    input_gradient = lambda kernel, dy: jax.vjp(lambda x: apply(x, kernel), zeros(x))[1](dy)[0]
    weight_gradient = lambda x, dy: jax.vjp(lambda k: apply(x, k), zeros(kernel))[1](dy)[0]
    if part == "input gradient":
        return input_gradient, (kernel, dy)
    return weight_gradient, (x, dy)


# ------------------------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", nargs="+", default=["v5e:4x4", "v5e:16x16"])
    parser.add_argument("--clips-per-chip", type=int, default=16)
    parser.add_argument("--config", default="configs/seg.py", help="as of train.py")
    parser.add_argument("--feed", choices=["tf_data", "device"], default="tf_data")
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--hlo", help="folder for the optimised HLO")
    parser.add_argument("--forms", nargs="+", choices=layers.FORMS, help="compare single layers")
    names = [*CONVOLUTIONS, *TRANSPOSED]
    parser.add_argument("--layers", nargs="+", choices=names, default=names, help="for --forms")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints what was asked for; raises UserError where the step fails its checks."""
    args = parse_arguments(argv)
    jax.config.update("jax_platforms", "cpu")  # else JAX looks for the TPU that is not there
    if args.forms:
        figures = compare_forms(args.forms, args.layers, args.clips_per_chip)
    else:
        figures = {name: run_topology(name, args) for name in args.topology}
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"Error: {error}")
