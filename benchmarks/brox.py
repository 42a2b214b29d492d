"""Brox's optical flow: pairs a second, correctness, and where the time goes.

    python -m benchmarks.brox --golden data/brox_golden
    python -m benchmarks.brox --golden FOLDER --batches 16 64 128 256 --profile --json OUT/brox.json

FOLDER holds OpenCV's frame0, frame1 (.png, or .npy of float32 grey) and its flow, a .bin; the mean
endpoint difference to it is printed first, with --all also that to the form for all devices, which
a GPU's compiler takes a minute for. The timed pairs are 320×240 cuttings of these frames, mirrored
by turns; without a folder they are random waves. A time is the shortest of some rounds. The parts
are differences: without the equations, without their terms too, and with fewer sweeps. On a GPU
a sweep is held to the 30 bytes a pixel that kernels.py counts, at the bandwidth of a large
copy, which is measured first. --profile adds a GPU's kernels one by one.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import device_trace
from v2v_jax.brox import brox_flow, kernels, level

SIZE = (240, 320)
# A pixel: seven fields, the edges twice, the unknowns of both colours, new ones.
SWEEP_BYTES = {"XLA": 60, "kernels": 30}
PARAMETERS = {"scale": 0.8, "outer": 77, "inner": 10, "solver": 10, "warps": 1, "warped_levels": 77}


def forms(every: bool) -> dict[str, tuple]:
    """name → (minimise, padding of the canvases)."""
    if jax.default_backend() == "cpu":
        return {"XLA": (level.minimise, brox_flow.MAX_PADDING)}
    rows = {}
    if kernels.available():
        rows["kernels"] = kernels.minimise, brox_flow.MAX_PADDING_ON_ACCELERATORS
    if every or not rows:
        rows["XLA"] = level.minimise, brox_flow.MAX_PADDING_ON_ACCELERATORS
    return rows


def solver(minimise, padding: float, **changes: int):
    """frames (2,B,H,W) → flow, by one form."""
    settings = PARAMETERS | changes
    return lambda frames: brox_flow._flow_of_known_counts(
        frames,
        jnp.float32(0.197),
        jnp.float32(50),
        minimise=minimise,
        max_padding=padding,
        **settings,
    )


def _no_equations(terms, flow, size, **_):
    """Takes the place of minimise: what is left is resampling, derivatives and warping."""
    return flow + 1e-9 * terms.sum(0)


def _no_terms(terms, flow, size, **_):
    """Likewise: what is left is resampling."""
    return flow + 1e-3


def golden_pair(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV's frames (2,1,H,W) and flow (H,W,2)."""
    frames = []
    for name in ("frame0", "frame1"):
        if (folder / f"{name}.npy").exists():
            frames.append(np.load(folder / f"{name}.npy"))
        else:
            from PIL import Image

            rgb = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
            frames.append(brox_flow.grey_of_rgb(rgb))
    (file,) = folder.glob("*.bin")
    stored = file.read_bytes()
    size = np.frombuffer(stored, "<i4", 2)
    flow = np.frombuffer(stored, "<f4", offset=8).reshape(2, *size)
    return np.stack(frames)[:, None], np.moveaxis(flow, 0, -1)


def timed_frames(batch: int, golden: np.ndarray | None) -> np.ndarray:
    """(2,B,240,320) float32."""
    rng = np.random.default_rng(0)
    if golden is None:
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        frames = np.zeros((2, batch, *SIZE))
        for k in range(batch):
            for a, b, phase in rng.uniform(-1, 1, (12, 3)) * (0.6, 0.6, np.pi):
                u, v = rng.uniform(-2, 2, 2)
                frames[0, k] += np.sin(a * x + b * y + phase) / 24
                frames[1, k] += np.sin(a * (x - u) + b * (y - v) + phase) / 24
        return (frames + 0.5).clip(0, 1).astype(np.float32)
    cuttings = []
    for k in range(batch):
        i, j = (rng.integers(n - m + 1) for n, m in zip(golden.shape[2:], SIZE))
        cut = golden[:, 0, i : i + SIZE[0], j : j + SIZE[1]]
        cuttings.append(cut[:, :, :: -1 if k % 2 else 1])
    return np.stack(cuttings, 1)


def shortest(runs: dict, frames, rounds: int, seconds: float) -> dict[str, float]:
    """name → seconds a call, the shortest of `rounds`, after one that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            jax.block_until_ready(run(frames))
            once = time.perf_counter() - begin
            calls = max(1, min(50, int(seconds / max(once, 1e-6))))
            begin = time.perf_counter()
            for _ in range(calls):
                result = run(frames)
            jax.block_until_ready(result)
            times[name].append((time.perf_counter() - begin) / calls)
    return {name: min(values) for name, values in times.items()}


def bandwidth() -> float:
    """Bytes a second of a copy, read and written."""
    x = jnp.zeros(2**28 if jax.default_backend() != "cpu" else 2**25, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / shortest({"copy": copy}, x, 3, 0.1)["copy"]


def check(rows: dict, golden, pairs: jax.Array, every: bool) -> list[dict]:
    """Each form's mean endpoint difference to OpenCV, and to the form for all devices."""
    records = []
    expected = np.asarray(solver(*rows["XLA"])(pairs)) if every else None
    for name, row in rows.items():
        begin = time.perf_counter()
        run = solver(*row)
        result = np.asarray(run(pairs))
        record = {"form": name, "compile_seconds": time.perf_counter() - begin}
        if expected is not None:
            record["to_xla"] = float(np.linalg.norm(result - expected, axis=-1).mean())
        if golden is not None:
            result = np.asarray(run(golden[0]))[0]
            record["to_opencv"] = float(np.linalg.norm(result - golden[1], axis=-1).mean())
        print(record, flush=True)
        records.append(record)
    return records


def parts(row: tuple, frames: jax.Array, args) -> dict[str, float]:
    """Milliseconds a pair of each part of the work."""
    minimise, padding = row
    runs = {
        "all": solver(minimise, padding),
        "2 sweeps": solver(minimise, padding, solver=2),
        "no equations": solver(_no_equations, padding),
        "no terms": solver(_no_terms, padding),
    }
    batch = frames.shape[1]
    ms = {k: 1e3 * s / batch for k, s in shortest(runs, frames, args.rounds, args.seconds).items()}
    sweeps = (ms["all"] - ms["2 sweeps"]) / (PARAMETERS["solver"] - 2) * PARAMETERS["solver"]
    return {
        "all": ms["all"],
        "resampling": ms["no terms"],
        "derivatives, warp": ms["no equations"] - ms["no terms"],
        "equations": ms["all"] - ms["no equations"] - sweeps,
        "sweeps": sweeps,
    }


def main(argv: list[str] | None = None) -> None:
    """Prints Markdown tables."""
    cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--all", action="store_true", help="every form, not only the built one")
    parser.add_argument("--batches", type=int, nargs="+", default=[1] if cpu else [16, 64, 128])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="at least so long a round")
    parser.add_argument("--profile", action="store_true", help="kernels of the largest batch")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args(argv)
    device = jax.devices()[0]
    record = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "size": SIZE,
        "bandwidth": bandwidth(),
    }
    print(f"{device.device_kind}, jax {jax.__version__}, copy {record['bandwidth'] / 1e9:.0f} GB/s")
    golden = golden_pair(args.golden) if args.golden else None
    rows = forms(args.all)

    def save(**more) -> None:
        record.update(more)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(record, indent=1) + "\n")

    frames = timed_frames(max(args.batches), golden and golden[0])
    pairs = jnp.asarray(frames[:, : args.batches[0]])
    save(checks=check(rows, golden, pairs, args.all and not cpu))
    times = []
    print("\n| form | batch | ms a pair | pairs/s |\n|---|---|---|---|")
    for batch in args.batches:
        pairs = jnp.asarray(frames[:, :batch])
        runs = {name: solver(*row) for name, row in rows.items()}
        for name, s in shortest(runs, pairs, args.rounds, args.seconds).items():
            times.append({"form": name, "batch": batch, "ms": 1e3 * s / batch, "rate": batch / s})
            print(f"| {name} | {batch} | {1e3 * s / batch:.3f} | {batch / s:.1f} |", flush=True)
        save(times=times)
    name, row = next(iter(rows.items()))
    if args.profile:
        record["profile"] = device_trace.kernels(functools.partial(solver(*row), pairs))
        print(f"\n{name}, batch {batch}: ", end="")
        device_trace.print_table(record["profile"], 25)
    part = parts(row, pairs, args)
    updates = sum(h * w for h, w in brox_flow.pyramid_sizes(SIZE, PARAMETERS["scale"], 77))
    updates *= PARAMETERS["inner"] * PARAMETERS["solver"] * PARAMETERS["warps"]
    speed = SWEEP_BYTES[name] * updates / (1e-3 * part["sweeps"])
    print(f"\n{name}, batch {batch}, ms a pair:\n\n| {' | '.join(part)} |\n{'|---' * len(part)}|")
    print("| " + " | ".join(f"{ms:.3f}" for ms in part.values()) + " |")
    if not cpu:  # there the fields of a pair stay in the cache
        share = 100 * speed / record["bandwidth"]
        print(f"\nSweeps: {speed / 1e12:.2f} TB/s, {share:.0f} % of a copy's.")
    save(parts=part, sweep_bandwidth=speed)


if __name__ == "__main__":
    main()
