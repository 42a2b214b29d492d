"""The paper's Table 1: V2V against 2D-V2V, training from scratch and plain upsampling.

    python -m experiments.table1 --dataset=scenes --workdir=runs/table1 --jobs=3

Trains and evaluates every row with the same seeds, that is, the same clips and, where the networks
agree, the same start. Rows that the paper fine-tunes start from a C3D that is trained first
(configs/c3d.py on the dataset's video-level labels; its trunk is used), or from --init_from.

`--task=color` is the comparison of section 6 (V2V against 2D-V2V), `--task=flow` that of section 5
(whether C3D's weights help or hurt flow).

Writes WORKDIR/table.md and table.json after every run, ROW/seed<k>.json with the learning curve, a
checkpoint of each row's first seed in ROW/run (for eval.py and experiments.figures), ROW/log.txt.
Called again it goes on: finished runs are not done again.

--jobs processes share the accelerator, so that one compiles while another trains; their clips/s
are then no measure of speed. With --gpus=0,1 they take turns on these. The rows' frames are
rendered or decoded once, into WORKDIR/cache.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.result_tables import TABLES, Row, write_tables
from v2v_jax import datasets
from v2v_jax.errors import ConfigError, Stopped, UserError
from v2v_jax.run import recipes
from v2v_jax.system.console import console, progress
from v2v_jax.system.whole_files import write_text
from v2v_jax.tasks import task_class

C3D = "C3D"  # the job that the fine-tuned rows wait for
_MEMORY_SHARE = 0.92  # of the accelerator, for all jobs together


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the results; runs in one folder must agree in it."""

    task: str
    dataset: str
    steps: int
    init_from: str
    options: tuple[str, ...]  # KEY=VALUE, for the rows and for C3D
    pretraining: tuple[str, ...]  # KEY=VALUE, for C3D alone


def row_config(settings: Settings, row: Row, workdir: pathlib.Path) -> ConfigDict:
    """The configuration of a row, but for its seed."""
    module = importlib.import_module(f"configs.{TABLES[settings.task].config}")
    config = module.get_config(f"dataset={settings.dataset},model={row.model}")
    config.num_steps = settings.steps
    config.log_every = max(1, settings.steps // 50)
    config.num_evaluations = 4
    if row.pretrained:
        config.init_from = settings.init_from or str(workdir / "c3d")
    config.data.cache = str(workdir / "cache")
    return _with_options(config, settings.options)


def c3d_config(settings: Settings) -> ConfigDict:
    """The configuration of the pretraining."""
    config = importlib.import_module("configs.c3d").get_config(f"dataset={settings.dataset}")
    config.num_evaluations = 1  # a checkpoint of C3D is a gigabyte
    return _with_options(config, (*settings.options, *settings.pretraining))


def _with_options(config: ConfigDict, options: tuple[str, ...]) -> ConfigDict:
    config.feed = "device"
    config.lock()
    for option in options:
        key, equals, text = option.partition("=")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        try:
            if not equals:
                raise KeyError(key)
            config.update_from_flattened_dict({key: value})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"--set={option} cannot be used: {error}") from error
    recipes.validate(config)
    return config


# ------------------------------------------------------------------------------------------------
# A worker: one row, all its seeds


def work(name: str, settings: Settings, seeds: int, workdir: pathlib.Path) -> None:
    """Trains the seeds of a row that are not done yet, or C3D."""
    from v2v_jax.system import compilation_cache

    compilation_cache.enable()
    if name == C3D:
        from v2v_jax.training.loop import train_and_evaluate

        start = time.perf_counter()
        config = c3d_config(settings)
        values = train_and_evaluate(config, workdir / "c3d")
        metrics = {name: value if math.isfinite(value) else None for name, value in values.items()}
        result = {"metrics": metrics, "seconds": round(time.perf_counter() - start, 1)}
        _write_json(workdir / "c3d.json", result | {"steps": config.num_steps})
        return
    from experiments.seeded_runs import SeededRuns

    row = TABLES[settings.task].row(name)
    folder = workdir / row.slug
    missing = [seed for seed in range(seeds) if not (folder / f"seed{seed}.json").exists()]
    if not missing:
        return
    runs = SeededRuns(row_config(settings, row, workdir))
    for seed in missing:
        # A folder for each seed, so that a stopped run goes on as what it is.
        run = "run" if seed == 0 else f"seed{seed}.running"
        result = runs.run(seed, folder / run, keep=seed == 0)
        result |= {"compilations": runs.compilations, **_device()}
        _write_json(folder / f"seed{seed}.json", result)


def _device() -> dict[str, str]:
    import jax

    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__}


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1) + "\n")


# ------------------------------------------------------------------------------------------------
# The parent: which rows may run, results as they come


class Jobs:
    """Runs the rows in processes, some at a time, C3D before the rows that need it."""

    def __init__(
        self,
        args: argparse.Namespace,
        settings: Settings,
        workdir: pathlib.Path,
        argv: Sequence[str],
    ):
        """argv: the command line, which the workers get too."""
        self._args, self._settings, self._workdir = args, settings, workdir
        self._argv = argv
        self._table = TABLES[settings.task]
        self._gpus = [gpu for gpu in args.gpus.split(",") if gpu]
        self._gpu_of: dict[str, str] = {}  # of the jobs that run
        self._running: dict[str, subprocess.Popen] = {}
        self.failed: list[str] = []
        self._seen: set[pathlib.Path] = set(self._results())
        self._waiting = [row.name for row in self._table.rows if not self._is_done(row)]
        if self._needs_c3d():
            self._waiting.insert(0, C3D)

    def _is_done(self, row: Row) -> bool:
        folder = self._workdir / row.slug
        return all((folder / f"seed{s}.json").exists() for s in range(self._args.seeds))

    def _needs_c3d(self) -> bool:
        rows = [self._table.row(name) for name in self._waiting]
        needed = any(row.pretrained for row in rows) and not self._settings.init_from
        return needed and not (self._workdir / "c3d.json").exists()

    def _results(self) -> list[pathlib.Path]:
        return sorted(self._workdir.glob("*/seed*.json"))

    def run(self) -> None:
        """Until nothing is left to do."""
        write_tables(self._workdir, self._settings)
        try:
            while self._running or self._waiting:
                self._start()
                self._collect()
                self._report()
                time.sleep(0.5)
        finally:
            for process in self._running.values():
                process.terminate()

    def _start(self) -> None:
        pending = C3D in self._waiting or C3D in self._running
        for name in list(self._waiting):
            if len(self._running) >= self._args.jobs:
                return
            if name != C3D and self._table.row(name).pretrained and pending:
                continue
            self._waiting.remove(name)
            if name != C3D and self._table.row(name).pretrained and C3D in self.failed:
                self.failed.append(name)
                continue
            self._running[name] = self._spawn(name)

    def _spawn(self, name: str) -> subprocess.Popen:
        folder = self._workdir / ("c3d" if name == C3D else self._table.row(name).slug)
        folder.mkdir(parents=True, exist_ok=True)
        console.print(f"{name}: started, see {folder / 'log.txt'}")
        with open(folder / "log.txt", "a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "experiments.table1", *self._argv, f"--worker={name}"],
                env=self._environment(name),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _environment(self, name: str) -> dict[str, str]:
        """A job's, which takes the GPU that the fewest have."""
        environment = os.environ.copy()
        share = _MEMORY_SHARE / math.ceil(self._args.jobs / max(len(self._gpus), 1))
        environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.3f}")
        if self._gpus:
            self._gpu_of[name] = min(self._gpus, key=list(self._gpu_of.values()).count)
            environment["CUDA_VISIBLE_DEVICES"] = self._gpu_of[name]
        return environment

    def _collect(self) -> None:
        for name, process in list(self._running.items()):
            if process.poll() is None:
                continue
            del self._running[name]
            self._gpu_of.pop(name, None)
            if process.returncode:
                self.failed.append(name)
                folder = "c3d" if name == C3D else self._table.row(name).slug
                log = (self._workdir / folder / "log.txt").read_text().strip()
                console.print(f"{name} failed: {log.splitlines()[-1] if log else ''}")

    def _report(self) -> None:
        new = [path for path in self._results() if path not in self._seen]
        self._seen.update(new)
        metric = self._table.metric
        for path in new:
            result = json.loads(path.read_text())
            value = result["metrics"].get(metric)
            shown = "diverged" if value is None else f"{metric} {value:.4f}"
            console.print(f"{path.parent.name} {path.stem}: {shown}")
        if new:
            write_tables(self._workdir, self._settings)


def prepare_cache(settings: Settings, workdir: pathlib.Path) -> None:
    """Renders or decodes the rows' data once, before several processes want it."""
    config = row_config(settings, TABLES[settings.task].rows[0], workdir)
    for split in ("train", "test"):
        size, clip = config.preprocessing.frame_size, config.preprocessing.clip_length
        dataset = datasets.load(config.data, split, tuple(size), min_frames=clip)
        dataset.prepare_fields(task_class(config.task).fields, progress)


def check_settings(settings: Settings, workdir: pathlib.Path) -> None:
    """Raises ConfigError if the folder holds runs of other settings."""
    path = workdir / "settings.json"
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    if path.exists():
        found = json.loads(path.read_text())
        different = [key for key in wanted if found.get(key) != wanted[key]]
        if different:
            shown = ", ".join(f"{key} {found.get(key)!r}, not {wanted[key]!r}" for key in different)
            raise ConfigError(f"{workdir} holds runs with {shown}; take another --workdir.")
    workdir.mkdir(parents=True, exist_ok=True)
    _write_json(path, wanted)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, Settings]:
    """The command line, and what of it decides the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=tuple(TABLES), default="segmentation")
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="of every row")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--gpus", default="", help="numbers, with commas; default: the first")
    parser.add_argument("--init_from", default="", help="C3D's weights; default: trained first")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a field of all configs"
    )
    parser.add_argument(
        "--set_c3d", action="append", default=[], metavar="KEY=VALUE", help="a field of C3D's"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("seeds", "steps", "jobs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    settings = Settings(
        *(args.task, args.dataset, args.steps, args.init_from),
        options=tuple(args.set),
        pretraining=tuple(args.set_c3d),
    )
    return args, settings


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, prints the tables and returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args, settings = parse(argv)
    workdir = args.workdir.absolute()
    try:
        if args.worker:
            work(args.worker, settings, args.seeds, workdir)
            return 0
        check_settings(settings, workdir)
        prepare_cache(settings, workdir)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except Stopped as reason:  # a worker that was asked to end, and has saved its run
        print(reason, file=sys.stderr)
        return 143
    jobs = Jobs(args, settings, workdir, argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers end, too
    jobs.run()
    print((workdir / "table.md").read_text())
    for name in jobs.failed:
        print(f"{name} is not there: see its log.txt, and call again.", file=sys.stderr)
    return 1 if jobs.failed else 0


if __name__ == "__main__":
    sys.exit(main())
