"""Kills every command at random moments, runs the same command again, and compares what is there.

    python -m tests.kills --kills=200 --workdir=DIR          # all commands in turn
    python -m tests.kills --kills=20 --only=export

A killed process and its children get SIGKILL, at a moment between its start and a little after the
end of a run that is left alone. The same command follows, until one is left to end; then all files
have to be those of the run that was left alone, and nothing half written may lie beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator

import numpy as np

from tests.tiny import ROOT, SMALLEST, tiny_arguments

_SECONDS = 900  # that a run which is left alone may take
_LATE = 1.1  # of that run's time: some kills come too late, and the run has ended


@dataclasses.dataclass(frozen=True)
class Target:
    """A command under attack.

    Attributes:
      command: (folder) → its arguments; all that it writes lies in the folder.
      contents: (folder) → what has to be equal, by name; run in a process of its own.
      needs: the name of the target whose finished folder lies beside, as `given`.
    """

    command: Callable[[pathlib.Path], list[str]]
    contents: Callable[[pathlib.Path], dict[str, object]]
    needs: str | None = None


def _train(feed: str) -> Target:
    options = dict(num_steps=30, eval_every=10, save_every=1, feed=feed, data__num_frames=8)
    config = f"--config={ROOT}/configs/color.py:{SMALLEST}"

    def command(folder: pathlib.Path) -> list[str]:
        return ["train", config, f"--workdir={folder / 'run'}", *tiny_arguments(**options)]

    return Target(command, lambda folder: _run_contents(folder / "run", options["num_steps"]))


def _run_contents(run: pathlib.Path, steps: int) -> dict[str, object]:
    """Lines of the log but for the speed, steps that are kept, every array of the last one."""
    from v2v_jax.run.stored_checkpoints import StoredCheckpoints

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found: dict[str, object] = {
        "lines": [{k: v for k, v in line.items() if "clips_per" not in k} for line in lines]
    }
    checkpoints = StoredCheckpoints(run, {}, headline="x")
    assert checkpoints.latest_step() == steps
    found["kept"] = sorted(path.name for path in (run / "checkpoints").iterdir())
    for layer, leaves in checkpoints.restore_params(steps).items():
        found |= {f"{layer}/{leaf}": value for leaf, value in leaves.items()}
    found["progress"] = checkpoints.read_about(steps)["progress"]
    return found


def _files(folder: pathlib.Path) -> dict[str, object]:
    """Every file's bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _eval(folder: pathlib.Path) -> list[str]:
    if not (folder / "run").exists():
        shutil.copytree(folder / "given" / "run", folder / "run")
    config = f"--config={ROOT}/configs/color.py:{SMALLEST}"
    return ["eval", config, f"--workdir={folder / 'run'}", *tiny_arguments()]


def _predict(output: str) -> Callable[[pathlib.Path], list[str]]:
    def command(folder: pathlib.Path) -> list[str]:
        make_video(folder / "in.mp4", 40)
        run = folder / "given" / "run"
        return ["predict", f"--checkpoint={run}", f"--video={folder / 'in.mp4'}",
                f"--output={folder / 'out' / output}", "--overwrite"]  # fmt: skip

    return command


def _predict_folder(folder: pathlib.Path) -> list[str]:
    for number in range(3):
        make_video(folder / "videos" / f"{number}.mp4", 20 + number)
    run = folder / "given" / "run"
    return ["predict", f"--checkpoint={run}", f"--video={folder / 'videos'}", "--processes=2",
            f"--output={folder / 'out'}/{{name}}.mp4"]  # fmt: skip


def _label(*how: str) -> Callable[[pathlib.Path], list[str]]:
    def command(folder: pathlib.Path) -> list[str]:
        for number in range(4):
            make_video(folder / "videos" / f"{number}.mp4", 30 + number)
        videos, labels = f"--videos={folder / 'videos'}", f"--output={folder / 'labels'}"
        return ["label", videos, labels, "--teacher=tests.teachers:slow_flow", *how]

    return command


def _label_contents(folder: pathlib.Path) -> dict[str, object]:
    from v2v_jax.media.label_files import StoredLabels, label_path

    found: dict[str, object] = {"kept": sorted(p.name for p in (folder / "labels").iterdir())}
    for number in range(4):
        labels = StoredLabels(label_path(str(folder / "labels"), f"{number}.mp4"))
        arrays = labels.read(0, labels.info.num_frames)
        found |= {f"{number}.{field}": array for field, array in arrays.items()}
    return found


def _pack(folder: pathlib.Path) -> list[str]:
    tiny = [a for a in tiny_arguments() if ".data." in a or ".preprocessing." in a]
    config = f"--config={ROOT}/configs/seg.py:{SMALLEST}"
    return ["pack", config, f"--config.data.cache={folder / 'cache'}", *tiny]


def _pack_contents(folder: pathlib.Path) -> dict[str, object]:
    kept = _files(folder / "cache")
    return {name: data for name, data in kept.items() if not name.endswith((".lock", ".json"))}


def _export(folder: pathlib.Path) -> list[str]:
    run = folder / "given" / "run"
    return ["export", f"--checkpoint={run}", f"--output={folder / 'a.v2v'}", "--overwrite"]


TARGETS = {
    "train, device": _train("device"),
    "train, tf_data": _train("tf_data"),
    "eval": Target(_eval, lambda folder: _files(folder / "run" / "eval"), "train, device"),
    "predict, video": Target(
        _predict("out.mp4"), lambda folder: _files(folder / "out"), "train, device"
    ),
    "predict, frames": Target(
        _predict("frames/%03d.png"), lambda folder: _files(folder / "out"), "train, device"
    ),
    "predict, processes": Target(
        _predict_folder, lambda folder: _files(folder / "out"), "train, device"
    ),
    "label": Target(_label("--threads=2"), _label_contents),
    "label, processes": Target(_label("--processes=2", "--threads=2"), _label_contents),
    "pack": Target(_pack, _pack_contents),
    "export": Target(
        _export, lambda folder: {"a": (folder / "a.v2v").read_bytes()}, "train, device"
    ),
}


def make_video(path: pathlib.Path, frames: int) -> None:
    """A video of noise, unless it is there."""
    from v2v_jax.media.video import write_video

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "out").mkdir(exist_ok=True)
        rng = np.random.default_rng(frames)
        write_video(path, rng.integers(0, 255, (frames, 32, 48, 3), np.uint8))


# ------------------------------------------------------------------------------------------------
# Processes


def _begin(function: Callable[[], int], log: pathlib.Path) -> int:
    """Starts a function in a process and group of its own; its number.

    Forked, so that nothing is imported again; this process must not have used JAX.
    """
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    status = 70
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        status = function()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pid: int, seconds: float) -> int | None:
    """Its exit status, or None if it has not ended by then."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _run(arguments: list[str]) -> int:
    from v2v_jax.cli import commands

    return commands.execute(arguments)


def _compare(target: Target, folder: pathlib.Path, reference: pathlib.Path) -> int:
    """1, with what differs on standard error, unless all is as in the reference."""
    from v2v_jax.system.whole_files import is_temporary

    found, expected = target.contents(folder), target.contents(reference)
    different = sorted(found.keys() ^ expected.keys())
    for name in found.keys() & expected.keys():
        if not np.array_equal(found[name], expected[name]):
            different.append(name)
    left = [str(path) for path in folder.rglob("*") if is_temporary(path.name)]
    if different or left:
        print(f"differ: {different}; left over: {left}", file=sys.stderr)
    return int(bool(different or left))


class Attack:
    """Kills one target again and again."""

    def __init__(self, name: str, workdir: pathlib.Path, rng: np.random.Generator):
        """Runs it once, left alone, in `workdir`/reference/NAME."""
        self.name, self.target, self._rng = name, TARGETS[name], rng
        self._workdir = workdir
        self._log = workdir / f"{name}.log"
        self.reference = workdir / "reference" / name
        self.kills = self.ended = 0
        for warm in (True, False):  # compiled and read once, then timed
            if warm or not self.reference.exists():
                shutil.rmtree(self.reference, ignore_errors=True)
            self._prepare(self.reference)
            start = time.monotonic()
            self._finish(self.reference)
            self.seconds = time.monotonic() - start
            if warm and self.name != "train, device":
                shutil.rmtree(self.reference)

    def _prepare(self, folder: pathlib.Path) -> None:
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "out").mkdir()
            if self.target.needs is not None:
                (folder / "given").symlink_to(self._workdir / "reference" / self.target.needs)

    def _start(self, folder: pathlib.Path) -> int:
        return _begin(lambda: _run(self.target.command(folder)), self._log)

    def _finish(self, folder: pathlib.Path) -> None:
        pid = self._start(folder)
        status = _wait(pid, _SECONDS)
        if status is None:
            _kill(pid)
        if status != 0:
            raise SystemExit(f"{self.name}: status {status}; see {self._log}, {folder}")

    def run(self, kills: int) -> None:
        """Kills it that often; SystemExit where something is lost."""
        rounds = 0
        while self.kills < kills:
            rounds += 1
            folder = self._workdir / f"{self.name} {rounds}"
            shutil.rmtree(folder, ignore_errors=True)
            self._prepare(folder)
            for _ in self._until_it_ends(folder, kills):
                self.kills += 1
            self.ended += 1
            check = self._begin_comparing(folder)
            if _wait(check, _SECONDS) != 0:
                raise SystemExit(f"{self.name}: not as it was; see {self._log}, {folder}")
            shutil.rmtree(folder)

    def _begin_comparing(self, folder: pathlib.Path) -> int:
        return _begin(lambda: _compare(self.target, folder, self.reference), self._log)

    def _until_it_ends(self, folder: pathlib.Path, kills: int) -> Iterator[None]:
        """Yields once a kill; returns when a run has ended."""
        while self.kills < kills:
            pid = self._start(folder)
            status = _wait(pid, float(self._rng.uniform(0, _LATE * self.seconds)))
            if status is None:
                _kill(pid)
                yield
            elif status:
                raise SystemExit(f"{self.name}: status {status}; see {self._log}, {folder}")
            else:
                return
        self._finish(folder)


def preload() -> None:
    """Imports what the commands import, without using JAX."""
    import tensorflow  # noqa: F401

    import v2v_jax.evaluation.evaluator
    import v2v_jax.inference.export
    import v2v_jax.inference.output_files
    import v2v_jax.labelling.label_maker
    import v2v_jax.training.loop  # noqa: F401


def main() -> None:
    """Attacks the targets in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workdir", type=pathlib.Path)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    workdir = options.workdir or pathlib.Path(tempfile.mkdtemp())
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(workdir / "compiled"))
    preload()
    rng = np.random.default_rng(options.seed)
    print(f"seed {options.seed}, {workdir}", flush=True)
    attack_all(workdir, [options.only] if options.only else list(TARGETS), options.kills, rng)


def attack_all(
    workdir: pathlib.Path, names: list[str], kills: int, rng: np.random.Generator
) -> list[Attack]:
    """Attacks targets, each with its share of the kills; SystemExit where something is lost."""
    attacks = []
    for index, name in enumerate(names):
        if (needs := TARGETS[name].needs) and not (workdir / "reference" / needs).exists():
            Attack(needs, workdir, rng)
        attack = Attack(name, workdir, rng)
        attack.run(kills // len(names) + (index < kills % len(names)))
        line = f"{name}: {attack.kills} kills in {attack.ended} runs of {attack.seconds:.1f} s"
        print(f"{line}: all as it was", flush=True)
        attacks.append(attack)
    return attacks


if __name__ == "__main__":
    main()
