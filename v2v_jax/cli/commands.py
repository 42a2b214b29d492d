"""V2V: one network that predicts a value for every voxel of a video."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

import v2v_jax
from v2v_jax.cli import command_line

# What each command does, in a line; its module in this folder has the same name.
COMMANDS = {
    "train": "trains a network by a recipe, and resumes it",
    "eval": "evaluates a run on the test split: metrics, pictures, a report page",
    "predict": "predicts videos with trained weights",
    "models": "lists the weights that ship with this version",
    "check-data": "reads a whole dataset once and says what is in it",
    "label": "labels videos by a teacher: flow, classes or depth",
    "pack": "decodes a dataset once into a cache of its frames, or verifies caches",
    "prepare-tfds": "prepares scenes or GATECH for tensorflow-datasets",
    "convert-tfds": "gives TFRecord files of tensorflow-datasets random access",
    "convert": "converts C3D's pretrained weights into a folder of this package",
    "export": "writes a trained network as one file that needs no model code",
}


def main() -> None:
    """The console script `v2v`, and `python -m v2v_jax`: ends with the command's exit status."""
    command_line.leave(execute(sys.argv[1:]))


def run(name: str, prog: str) -> None:
    """One command as a program of its own, which its help calls `prog`: see train.py."""
    command_line.leave(_execute(name, sys.argv[1:], prog))


def execute(argv: Sequence[str], prog: str = "v2v") -> int:
    """Runs `COMMAND …` in this process.

    Returns:
      The exit status; see `command_line.execute`.
    """
    name, *rest = argv or [""]
    if name in COMMANDS:
        return _execute(name, rest, f"{prog} {name}")
    if name == "--version":
        print(f"v2v_jax {v2v_jax.__version__}")
        return 0
    if name in ("", "-h", "--help"):
        print(_help(prog), file=sys.stdout if name else sys.stderr)
        return 0 if name else 2
    close = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    print(
        f"Error: Unknown command {name}; {hint}Known: {', '.join(COMMANDS)}; see {prog} --help.",
        file=sys.stderr,
    )
    return 2


def _execute(name: str, argv: Sequence[str], prog: str) -> int:
    # Your own modules (--teacher=my_module:function) are found in the current folder, as they are
    # by `python -m`; last, so that nothing there takes another module's place.
    with contextlib.suppress(OSError):  # the current folder was removed
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())
    module = importlib.import_module(f"v2v_jax.cli.{name.replace('-', '_')}")
    return command_line.execute(module, argv, prog)


def _help(prog: str) -> str:
    lines = [f"  {name:<13} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {prog} COMMAND [options]\n\n{__doc__}\n",
            *lines,
            f"\n{prog} COMMAND --help explains a command and its options; {prog} --version tells "
            "the version.",
        ]
    )
