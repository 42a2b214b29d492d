"""V2V's layers one by one, each in all forms, beside the floor that the device sets.

    python -m benchmarks.layers                       # forward, input gradient, weight gradient
    python -m benchmarks.layers --layers conv2a conv_pre --forms taps_in_input taps_in_output
    python -m benchmarks.layers --profile             # instead: the training step, kernel by kernel

The floor of a job is the larger of its FLOPs at the device's measured peak (a large matrix product)
and one pass over its input and output at the measured copy bandwidth. Random data. "as built" is
what the lowering chooses, with all it does in one: conv1a and conv2a with bias, ReLU and pooling,
deconv3 and conv_pre together. Prints Markdown; --json writes all figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import device_trace, network
from v2v_jax.models.lowering.convolution import conv3d
from v2v_jax.models.lowering.forms import FORMS
from v2v_jax.models.lowering.pooling import conv_relu_pool
from v2v_jax.models.lowering.transposed import ReluOfTranspose, conv_of_relu

JOBS = ("forward", "input gradient", "weight gradient")
SAME = ((1, 1),) * 3  # of every layer here


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution (B,T,H,W,cin) → cout; of a transposed one its convolution to blocks."""

    name: str
    cin: int
    cout: int
    size: tuple[int, int, int]
    kernel: tuple[int, int, int] = (3, 3, 3)

    @property
    def out_size(self) -> tuple[int, ...]:
        """T,H,W of the output; padding is 1 everywhere."""
        return tuple(n + 3 - k for n, k in zip(self.size, self.kernel))

    def flops(self, batch: int) -> float:
        """Of one of the three jobs."""
        return (
            2.0 * batch * math.prod(self.out_size) * math.prod(self.kernel) * self.cin * self.cout
        )

    def bytes(self, batch: int, itemsize: int) -> float:
        """Input and output once."""
        voxels = math.prod(self.size) * self.cin + math.prod(self.out_size) * self.cout
        return float(batch * itemsize * voxels)


LAYERS = (
    Layer("conv1a", 3, 64, (16, 112, 112)),
    Layer("conv2a", 64, 128, (16, 56, 56)),
    Layer("conv3a", 128, 256, (8, 28, 28)),
    Layer("conv3b", 256, 256, (8, 28, 28)),
    Layer("conv4a", 256, 512, (4, 14, 14)),
    Layer("conv4b", 512, 512, (4, 14, 14)),
    Layer("conv5a", 512, 512, (2, 7, 7)),
    Layer("deconv5", 512, 512, (2, 7, 7), (2, 2, 2)),
    Layer("conv4c", 512, 64, (4, 14, 14)),
    Layer("deconv4", 128, 512, (4, 14, 14), (2, 2, 2)),
    Layer("conv3c", 256, 64, (8, 28, 28)),
    Layer("deconv3", 128, 2048, (8, 28, 28), (2, 2, 2)),
    Layer("conv_pre", 64, 8, (16, 112, 112)),
)


def milliseconds(function: Callable, *args: jax.Array, seconds: float = 0.1) -> float:
    """Of a jitted call, median of three rounds after two calls to warm up."""
    compiled = jax.jit(function)
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        once = time.perf_counter() - start
    runs = max(3, min(100, int(seconds / once)))
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(runs):
            result = compiled(*args)
        jax.block_until_ready(result)
        rounds.append((time.perf_counter() - start) / runs)
    return 1e3 * sorted(rounds)[1]


def random(shape: tuple[int, ...], dtype) -> jax.Array:
    """Standard normal."""
    draw = lambda: jax.random.normal(jax.random.key(math.prod(shape)), shape, jnp.float32)
    return jax.jit(lambda: draw().astype(dtype))()


def ceilings(dtype) -> tuple[float, float]:
    """(FLOP/s of a large matrix product, bytes/s of a large copy)."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = random((n, n), dtype)
    product = 2.0 * n**3 / (1e-3 * milliseconds(lambda a: a @ a, a))
    x = random((16 * n, n), dtype)
    copy = 2.0 * x.nbytes / (1e-3 * milliseconds(lambda x: x + 1, x))
    return product, copy


def job_function(job: str, layer: Layer, form: str | None) -> Callable:
    """(x, kernel, dy) → the job's result."""
    convolve = lambda x, kernel: conv3d(x, kernel, SAME, form)
    if job == "forward":
        return lambda x, kernel, dy: convolve(x, kernel)
    argument = JOBS.index(job) - 1
    return lambda x, kernel, dy: jax.vjp(convolve, x, kernel)[1](dy)[argument]


def measure(args: argparse.Namespace) -> list[dict]:
    """One record a layer and job: milliseconds of each form, and the floor."""
    dtype = jnp.dtype(args.dtype)
    product, copy = ceilings(dtype)
    print(f"ceilings: {product / 1e9:,.0f} GFLOP/s, {copy / 1e9:,.0f} GB/s\n", flush=True)
    print(f"| layer | job | floor | {' | '.join(args.forms)} | as built |")
    print("|---" * (len(args.forms) + 4) + "|")
    records = []
    for layer in LAYERS:
        if layer.name not in args.layers:
            continue
        x = random((args.batch, *layer.size, layer.cin), dtype)
        kernel = random((*layer.kernel, layer.cin, layer.cout), dtype) * 0.02
        dy = random((args.batch, *layer.out_size, layer.cout), dtype)
        floor = max(layer.flops(args.batch) / product, layer.bytes(args.batch, x.itemsize) / copy)
        for job in JOBS:
            record = {"layer": layer.name, "job": job, "floor": 1e3 * floor}
            for form in (*args.forms, None):
                function = job_function(job, layer, form)
                try:
                    record[form or "as built"] = milliseconds(function, x, kernel, dy)
                except jax.errors.JaxRuntimeError:  # gathering all taps may not fit
                    record[form or "as built"] = float("nan")
            records.append(record)
            cells = [f"{record[c]:.3f}" for c in ("floor", *args.forms, "as built")]
            print(f"| {layer.name} | {job} | {' | '.join(cells)} |", flush=True)
    return records + fused(args, dtype)


def fused(args: argparse.Namespace, dtype) -> list[dict]:
    """What is done in one: conv1a and conv2a to the pool's output, deconv3 with conv_pre."""
    b = args.batch
    x1, k1 = random((b, 16, 112, 112, 3), dtype), random((3, 3, 3, 3, 64), dtype)
    x2, k2 = random((b, 16, 56, 56, 64), dtype), random((3, 3, 3, 64, 128), dtype)
    x3, k3 = random((b, 8, 28, 28, 128), dtype), random((4, 8, 8, 128, 64), dtype) * 0.05
    kp = random((3, 3, 3, 64, 8), dtype)

    def last(x, kernel, prediction):
        y = ReluOfTranspose(x, kernel, jnp.zeros(64), (2, 4, 4), (1, 2, 2))
        return conv_of_relu(y, prediction, SAME)

    pool = lambda window: lambda x, k: conv_relu_pool(x, k, jnp.zeros(k.shape[-1]), SAME, window)
    jobs = {
        "conv1a, bias, ReLU, pool1": (pool((1, 2, 2)), (x1, k1), (1,)),
        "conv2a, bias, ReLU, pool2": (pool((2, 2, 2)), (x2, k2), (0, 1)),
        "deconv3, bias, ReLU, conv_pre": (last, (x3, k3, kp), (0, 1, 2)),
    }
    records = []
    print("\n| in one | forward | forward and gradients |\n|---|---|---|")
    for name, (function, operands, wanted) in jobs.items():
        loss = lambda *operands, f=function: (f(*operands).astype(jnp.float32) ** 2).mean()
        record = {
            "layer": name,
            "forward": milliseconds(function, *operands),
            "forward and gradients": milliseconds(jax.grad(loss, wanted), *operands),
        }
        records.append(record)
        print(f"| {name} | {record['forward']:.3f} | {record['forward and gradients']:.3f} |")
    return records


# ------------------------------------------------------------------------------------------------
# The training step, kernel by kernel


def profile(args: argparse.Namespace, steps: int = 5) -> list[dict]:
    """Device time of every kernel of the training step of benchmarks.network, the longest first."""
    options = argparse.Namespace(outputs=8, dtype=args.dtype, latency=False)
    row = network.jax_row("v2v_jax", "training step", args.batch, options)
    records = device_trace.kernels(row.run, steps)
    device_trace.print_table(records, args.kernels)
    return records[: args.kernels]


def main(argv: list[str] | None = None) -> None:
    """Prints a table."""
    cpu = jax.default_backend() == "cpu"
    names = [layer.name for layer in LAYERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1 if cpu else 32)
    parser.add_argument("--dtype", default="float32" if cpu else "bfloat16")
    parser.add_argument("--layers", nargs="+", default=names, choices=names, metavar="LAYER")
    forms = [form for form in FORMS if form not in ("gathered", "native")]
    parser.add_argument("--forms", nargs="+", default=forms, choices=FORMS)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--kernels", type=int, default=40, help="rows of the profile")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args(argv)
    device = jax.devices()[0].device_kind
    print(f"{device}, {args.dtype}, batch {args.batch}, jax {jax.__version__}", flush=True)
    records = profile(args) if args.profile else measure(args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
