"""Compiles the real training step for TPUs, on a machine that has none.

    python -m benchmarks.tpu_compile
    python -m benchmarks.tpu_compile --topology v5e:2x2 --clips_per_chip 8 --json tpu.json
    python -m benchmarks.tpu_compile --forms taps_in_input native --layers conv2a deconv3

Needs the extra `tpu` (`pip install -c constraints.txt -e '.[tpu]'`), whose libtpu holds the
compiler. Nothing runs: what is printed is the compiler's analysis, and times are estimates. Fails
with one sentence when the step does not fit a chip's memory, or has any collective but one
all-reduce. A topology takes several minutes, nearly all of it in libtpu.

`--forms` compares how single layers of V2V compile in the forms of `v2v_jax.models.lowering`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.tpu_compile.figures import analyse, check_memory, memory_of, report
from benchmarks.tpu_compile.hlo import check_collectives, find_collectives
from benchmarks.tpu_compile.layer_forms import CONVOLUTIONS, TRANSPOSED, compare_forms
from benchmarks.tpu_compile.step import abstract_step, compile_for, load_config
from benchmarks.tpu_compile.topology import chip_of, topology_mesh
from v2v_jax.errors import UserError
from v2v_jax.models.lowering.forms import FORMS


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


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", nargs="+", default=["v5e:4x4", "v5e:16x16"])
    parser.add_argument("--clips_per_chip", type=int, default=16)
    parser.add_argument("--config", default="configs/seg.py", help="as of train.py")
    parser.add_argument("--feed", choices=["tf_data", "device"], default="tf_data")
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--hlo", help="folder for the optimised HLO")
    parser.add_argument("--forms", nargs="+", choices=FORMS, help="compare single layers")
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
