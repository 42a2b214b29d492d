"""V2V's forward pass and training step: this project's against PyTorch's, in one run.

    pip install -e '.[benchmark]' -c constraints.txt          # PyTorch
    python -m benchmarks.network                              # a GPU: bfloat16, batch 32 and 128
    python -m benchmarks.network --latency                    # batch 1, one call after the other
    python -m benchmarks.network --standardized               # standardised kernels, in PyTorch too
    python -m benchmarks.network --forms                      # also each form for all layers
    python -m benchmarks.network --batch 1                    # a CPU: float32

Random data, full width, K outputs; a training step is softmax cross-entropy and SGD with momentum.
Every implementation is compiled first; then all take turns, several rounds of about a second each,
and the median round counts. PyTorch runs in channels_last_3d with cudnn.benchmark, in autocast
where the computation is bfloat16, eager and through torch.compile; on a CPU in both memory formats.
With --latency both have their weights in bfloat16, and PyTorch CUDA graphs too. What PyTorch takes
to compile includes its first run. Prints a Markdown table; --json writes all figures and versions.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from v2v_jax.models import V2V
from v2v_jax.models.lowering import choice
from v2v_jax.system import triton
from v2v_jax.tasks import losses
from v2v_jax.training import recompute

SIZE = (16, 112, 112)


@dataclasses.dataclass
class Row:
    """One implementation of one job; `run` does it once and returns what to wait for."""

    implementation: str
    job: str
    batch: int
    run: Callable[[], object]
    wait: Callable[[object], object]
    compile_seconds: float
    temporary_bytes: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        """Of the median round."""
        return 1e3 * statistics.median(self.seconds)


def timed_rounds(rows: list[Row], rounds: int, seconds: float, each: bool) -> None:
    """Fills in the rows' seconds a run; with `each`, waits for every run (latency)."""
    for row in rows:
        row.wait(row.run())
        row.wait(row.run())
    for _ in range(rounds):
        for row in rows:
            start = time.perf_counter()
            row.wait(row.run())
            runs = max(1, min(200, int(seconds / (time.perf_counter() - start))))
            start = time.perf_counter()
            for _ in range(runs):
                result = row.run()
                if each:
                    row.wait(result)
            row.wait(result)
            row.seconds.append((time.perf_counter() - start) / runs)


# ------------------------------------------------------------------------------------------------
# This project


@contextlib.contextmanager
def forced(form: str | None) -> Iterator[None]:
    """Makes one form compute all layers on an accelerator; None leaves it to choice.py."""
    if form is None:
        yield
        return
    with mock.patch.object(choice, "_by_channels", lambda cin, cout: form), triton.switched_off():
        yield


def jax_row(name: str, job: str, batch: int, args: argparse.Namespace, form=None, parts=1) -> Row:
    """Compiles a job of this project."""
    model = V2V(args.outputs, dtype=jnp.dtype(args.dtype), standardized=args.standardized)
    key = jax.random.key(0)
    x = jax.jit(jax.random.normal, static_argnums=1)(key, (batch, *SIZE, 3))
    params = jax.jit(lambda key: model.init(key, jnp.zeros((1, *SIZE, 3)))["params"])(key)
    # conv_pre starts at zero, which would make gradients zero too.
    params["conv_pre"]["kernel"] += 0.01
    forward = recompute.in_parts(lambda p, x: model.apply({"params": p}, x), parts)
    with forced(form):
        if job == "forward":
            half = args.dtype != "float32" and args.latency  # what one would do for inference
            params = jax.tree.map(lambda p: p.astype(args.dtype), params) if half else params
            lowered = jax.jit(forward).lower(params, x)
            compiled, seconds = _timed(lowered.compile)
            run = functools.partial(compiled, params, x)
        else:
            run, compiled, seconds = _jax_step(forward, params, x, args.outputs)
    memory = compiled.memory_analysis()
    temporary = memory.temp_size_in_bytes if memory is not None else None
    return Row(name, job, batch, run, jax.block_until_ready, seconds, temporary)


def _jax_step(forward, params, x, outputs):
    labels = jax.random.randint(jax.random.key(1), x.shape[:-1], 0, outputs)
    optimizer = optax.sgd(1e-3, momentum=0.9)

    def loss(params, x, labels):
        logits = forward(params, x)
        return losses.mean(
            losses.softmax_cross_entropy(logits, labels, jnp.ones(labels.shape, bool))
        )

    def step(params, state, x, labels):
        value, gradient = jax.value_and_grad(loss)(params, x, labels)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, x, labels)
    compiled, seconds = _timed(lowered.compile)
    now = [params, state]

    def run():
        now[0], now[1], value = compiled(*now, x, labels)
        return value

    return run, compiled, seconds


def _timed(function):
    start = time.perf_counter()
    return function(), time.perf_counter() - start


# ------------------------------------------------------------------------------------------------
# PyTorch


def pytorch_rows(job: str, batch: int, args: argparse.Namespace) -> list[Row]:
    """PyTorch's ways to do a job; the comparison is with the quickest."""
    rows = []
    for name, how in _pytorch_ways(job, args):
        if args.only and name not in args.only:
            continue
        try:
            start = time.perf_counter()
            run, wait = _pytorch_run(job, batch, args, **how)
            wait(run())
            rows.append(Row(name, job, batch, run, wait, time.perf_counter() - start))
        except Exception as error:  # a way that this PyTorch or machine does not have
            print(f"skipped {name}, {job}, batch {batch}: {str(error).splitlines()[0]}")
    return rows


def _pytorch_ways(job: str, args: argparse.Namespace) -> list[tuple[str, dict]]:
    if jax.default_backend() == "cpu":
        ways = [("PyTorch eager", dict(last=False)), ("PyTorch eager, channels_last", {})]
        return ways + [("PyTorch compile", dict(compiler="default"))] * args.torch_compile
    ways = [("PyTorch eager", {}), ("PyTorch compile", dict(compiler="default"))]
    if args.latency:
        ways += [
            ("PyTorch CUDA graph", dict(graph=True)),
            ("PyTorch compile, CUDA graph", dict(compiler="default", graph=True)),
            ("PyTorch compile reduce-overhead", dict(compiler="reduce-overhead")),
        ]
    return ways


def _pytorch_run(job, batch, args, last=True, compiler=None, graph=False):
    import torch

    from benchmarks.pytorch_v2v import PyTorchV2V

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    form = torch.channels_last_3d if last else torch.contiguous_format
    model = PyTorchV2V(args.outputs, args.standardized).to(device, memory_format=form)
    x = torch.randn(batch, 3, *SIZE, device=device).to(memory_format=form)
    half = args.dtype == "bfloat16"
    if half and job == "forward" and args.latency:
        model, x, half = model.bfloat16(), x.bfloat16(), False
    if compiler is not None:
        model = torch.compile(model, mode=compiler)
    wait = (lambda _: torch.cuda.synchronize()) if device == "cuda" else (lambda _: None)
    cast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=half)
    if job == "forward":

        def run():
            with torch.no_grad(), cast():
                return model(x).float()

        return (_captured(run) if graph else run), wait
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, fused=device == "cuda")
    labels = torch.randint(0, args.outputs, (batch, *SIZE), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with cast():
            logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step, wait


def _captured(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as one CUDA graph."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


# ------------------------------------------------------------------------------------------------
# The table


def measure(job: str, batch: int, args: argparse.Namespace) -> list[Row]:
    """All implementations of a job, timed in turns."""
    rows = [jax_row("v2v_jax", job, batch, args, parts=1)]
    if args.forms:
        for form in ("taps_in_input", "taps_in_output", "per_tap"):
            rows.append(jax_row(f"v2v_jax, all {form}", job, batch, args, form=form))
    if job == "training step":
        rows += [
            jax_row(f"v2v_jax, recompute={n}", job, batch, args, parts=n) for n in args.recompute
        ]
    if not args.no_pytorch:
        rows += pytorch_rows(job, batch, args)
    timed_rounds(rows, args.rounds, args.seconds, each=args.latency)
    return rows


def table(rows: list[Row]) -> str:
    """Markdown; the ratio is to the quickest of PyTorch's ways for the same job and batch."""
    lines = [
        "| job | batch | | ms | clips/s | PyTorch's best / this | compile, s | MB a clip |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rivals = [
            r.milliseconds
            for r in rows
            if (r.job, r.batch) == (row.job, row.batch) and r.implementation.startswith("PyTorch")
        ]
        ratio = f"{min(rivals) / row.milliseconds:.2f}" if rivals else ""
        memory = f"{row.temporary_bytes / row.batch / 1e6:.0f}" if row.temporary_bytes else ""
        lines.append(
            f"| {row.job} | {row.batch} | {row.implementation} | {row.milliseconds:.3f} "
            f"| {1e3 * row.batch / row.milliseconds:.1f} | {ratio} | {row.compile_seconds:.1f} "
            f"| {memory} |"
        )
    return "\n".join(lines)


def environment(args: argparse.Namespace) -> dict[str, str]:
    """Date, device and versions."""
    versions = {"jax": jax.__version__}
    if not args.no_pytorch:
        import torch

        versions["torch"] = torch.__version__
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "dtype": args.dtype,
        "kernels": "standardised" if args.standardized else "plain",
        **versions,
    }


def main(argv: list[str] | None = None) -> None:
    """Prints the environment and the table."""
    cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1] if cpu else [32, 128])
    parser.add_argument("--outputs", type=int, default=8)
    parser.add_argument("--dtype", default="float32" if cpu else "bfloat16")
    parser.add_argument("--jobs", nargs="+", default=["forward", "training step"])
    parser.add_argument("--latency", action="store_true", help="batch 1, waiting for every call")
    parser.add_argument("--standardized", action="store_true", help="both networks' kernels are")
    parser.add_argument("--forms", action="store_true", help="also each form for all layers")
    parser.add_argument("--recompute", type=int, nargs="*", default=[], metavar="PARTS")
    parser.add_argument("--no_pytorch", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these of PyTorch's ways alone")
    parser.add_argument("--torch_compile", action="store_true", help="torch.compile on a CPU too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="a round of a row")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args(argv)
    if args.latency:
        args.batch, args.jobs = [1], ["forward"]
    about = environment(args)
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    rows: list[Row] = []
    for job in args.jobs:
        for batch in args.batch:
            rows += measure(job, batch, args)
            for row in rows:  # lets go of the arrays before the next job
                row.run = row.wait = None
            print(table(rows), flush=True)
            if args.json:
                _write_json(args.json, about, rows)


def _write_json(path: pathlib.Path, about: dict[str, str], rows: list[Row]) -> None:
    fields = ("implementation", "job", "batch", "milliseconds", "seconds", "compile_seconds")
    figures = [{f: getattr(row, f) for f in (*fields, "temporary_bytes")} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": about, "rows": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
