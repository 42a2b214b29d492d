"""Brox's optical flow: pairs a second, correctness of every form, and where the time goes.

    python -m benchmarks.brox --golden data/brox_golden            # this device's own form
    python -m benchmarks.brox --golden FOLDER --all --batches 16 64 128 256 --json OUT/brox.json
    python -m benchmarks.brox --profile --batches 128              # GPU: kernel by kernel

FOLDER holds OpenCV's frame0, frame1 (.png, or .npy of float32 grey) and its flow, a .bin. The timed
pairs are 320×240 cuttings of these frames, mirrored by turns; without a folder they are random
waves. Every form is held to the golden flow and to the form for all devices. A form's time is the
shortest of some rounds, in which all take turns; the parts are differences: without the equations,
without their terms too, and with fewer sweeps. Bytes are those of the model in brox_kernels.py,
bandwidth is a large copy's, measured first.
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
from v2v_jax import brox, brox_kernels, brox_level
from v2v_jax.brox_kernels import Tiling

SIZE = (240, 320)
PARAMETERS = {"scale": 0.8, "outer": 77, "inner": 10, "solver": 10, "warps": 1}


# Rows, columns, sweeps at a time, in registers?, warps, programs.
TILINGS = tuple(
    Tiling(*values)
    for values in (
        (64, 32, 1, False, 16, 264),
        (64, 32, 2, False, 8, 264),
        (64, 32, 2, False, 32, 264),
        (64, 32, 5, False, 16, 264),
        (64, 32, 2, True, 16, 132),
        (32, 32, 2, False, 16, 528),
        (32, 32, 2, True, 16, 264),
        (32, 64, 2, False, 16, 264),
        (32, 16, 1, True, 8, 1056),
    )
)


def _describe(t: Tiling) -> str:
    kept = ", registers" * t.keep
    return f"{t.rows}×{2 * t.columns} px, {t.sweeps} sweeps{kept}, {t.programs}×{t.warps} warps"


def forms(every: bool) -> dict[str, tuple]:
    """name → (minimise, padding of the canvases, bytes a pixel and sweep by the model)."""
    if jax.default_backend() == "cpu":
        return {"XLA": (brox_level.minimise, brox.MAX_PADDING, 60.0)}
    padding = brox.MAX_PADDING_ON_ACCELERATORS
    tilings = {"as built": Tiling()}
    if every:
        half = functools.partial(brox_kernels.minimise, tiling=None)
        rows = {
            "XLA": (brox_level.minimise, padding, 60.0),
            "half sweeps": (half, padding, 60.0),
        }
        tilings |= {_describe(tiling): tiling for tiling in TILINGS}
    else:
        rows = {}
    for name, tiling in tilings.items():
        area = tiling.rows * tiling.columns / (tiling.inner_rows * tiling.inner_columns)
        minimise = functools.partial(brox_kernels.minimise, tiling=tiling)
        rows[name] = (minimise, padding, (36 * area + 8) / tiling.sweeps)
    return rows


def solver(minimise, padding: float, **changes: int):
    """frames (2,B,H,W) → flow, by one form."""
    settings = PARAMETERS | changes
    return lambda frames: brox._flow_of_known_counts(
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
            frames.append(brox.grey_of_rgb(rgb))
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


def shortest(runs: dict, frames: jax.Array, rounds: int, seconds: float) -> dict[str, float]:
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


def check(rows: dict, golden, pairs: np.ndarray) -> list[dict]:
    """Each form's mean endpoint difference to OpenCV, and to the form for all devices."""
    records = []
    expected = np.asarray(solver(brox_level.minimise, brox.MAX_PADDING)(pairs))
    for name, (minimise, padding, _) in rows.items():
        begin = time.perf_counter()
        record = {"form": name}
        try:
            run = solver(minimise, padding)
            result = np.asarray(run(pairs))
            record["compile_seconds"] = time.perf_counter() - begin
            record["to_xla"] = float(np.linalg.norm(result - expected, axis=-1).mean())
            if golden is not None:
                result = np.asarray(run(golden[0]))[0]
                record["to_opencv"] = float(np.linalg.norm(result - golden[1], axis=-1).mean())
        except Exception as error:  # a form that this device or compiler cannot run
            record["error"] = f"{type(error).__name__}: {str(error)[:600]}"
        print(record, flush=True)
        records.append(record)
    return records


def parts(name: str, row: tuple, frames: jax.Array, args) -> dict:
    """Milliseconds a pair of each part of the work."""
    minimise, padding, model = row
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
        "form": name,
        "batch": batch,
        "all": ms["all"],
        "resampling": ms["no terms"],
        "derivatives and warp": ms["no equations"] - ms["no terms"],
        "equations": ms["all"] - ms["no equations"] - sweeps,
        "sweeps": sweeps,
        "model_bytes": model,
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
    parser.add_argument("--parts", type=int, default=3, help="of how many forms, the fastest")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args(argv)
    device = jax.devices()[0]
    record = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "size": SIZE,
        "bandwidth": bandwidth(),
    }
    print(
        f"{device.device_kind}, jax {jax.__version__}, copy {record['bandwidth'] / 1e12:.2f} TB/s"
    )
    golden = golden_pair(args.golden) if args.golden else None
    rows = forms(args.all)

    def save(**more) -> None:
        record.update(more)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(record, indent=1) + "\n")

    frames = timed_frames(max(args.batches), golden and golden[0])
    checks = check(rows, golden, frames[:, :1] if cpu else frames[:, :4])
    save(checks=checks)
    rows = {c["form"]: rows[c["form"]] for c in checks if "error" not in c}
    times = []
    print("\n| form | batch | ms a pair | pairs/s |\n|---|---|---|---|")
    for batch in args.batches:
        runs = {name: solver(row[0], row[1]) for name, row in rows.items()}
        seconds = shortest(runs, jnp.asarray(frames[:, :batch]), args.rounds, args.seconds)
        for name, s in seconds.items():
            times.append({"form": name, "batch": batch, "ms": 1e3 * s / batch, "rate": batch / s})
            print(f"| {name} | {batch} | {1e3 * s / batch:.3f} | {batch / s:.1f} |", flush=True)
        save(times=times)
    fastest = sorted(seconds, key=seconds.get)[: args.parts]
    save(parts=_print_parts(rows, fastest, jnp.asarray(frames[:, :batch]), record, args))
    if args.profile:
        run = functools.partial(solver(*rows[fastest[0]][:2]), jnp.asarray(frames[:, :batch]))
        print(f"\n{fastest[0]}, batch {batch}")
        save(profile=device_trace.kernels(run))
        device_trace.print_table(record["profile"], 40)


def _print_parts(rows: dict, names: list[str], frames: jax.Array, record: dict, args) -> list:
    updates = sum(h * w for h, w in brox.pyramid_sizes(SIZE, PARAMETERS["scale"], 77))
    updates *= PARAMETERS["inner"] * PARAMETERS["solver"] * PARAMETERS["warps"]
    titles = ("all, ms a pair", "resampling", "derivatives, warp", "equations", "sweeps")
    titles += ("bytes a pixel and sweep: by the model", "at the copy's bandwidth")
    print(f"\n| form | batch | {' | '.join(titles)} |\n" + "|---" * (len(titles) + 2) + "|")
    results = []
    for name in names:
        part = parts(name, rows[name], frames, args)
        spent = 1e-3 * part["sweeps"] * record["bandwidth"] / updates
        part["bytes_at_bandwidth"] = spent
        results.append(part)
        keys = ("all", "resampling", "derivatives and warp", "equations", "sweeps")
        figures = " | ".join(f"{part[key]:.3f}" for key in keys)
        share = 100 * part["model_bytes"] / spent
        print(
            f"| {name} | {part['batch']} | {figures} | {part['model_bytes']:.1f} | {spent:.1f}, so "
            f"{share:.0f} % of the copy's bandwidth |",
            flush=True,
        )
    return results


if __name__ == "__main__":
    main()
