"""Modules of the user's own, imported by name: what they register is known from then on.

Weights come with data and never with code. Whoever uses weights of a task of their own names the
module that registers it: `--import=my_task`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable

from v2v_jax.errors import ConfigError


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --import, which may be given several times; `options.modules` lists what was given."""
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module that registers a task or dataset of your own: its name, or its file",
    )


def import_all(modules: Iterable[str]) -> None:
    """Imports modules by name (my_task) or file (tasks/my_task.py), in order.

    A file's folder is added to where modules are looked for, at the end: processes that are started
    later find it under the same name, and nothing there hides another module.

    Raises:
      ConfigError: there is no such module, or it cannot be imported.
    """
    for module in modules:
        name = module
        if module.endswith(".py"):
            folder, file = os.path.split(os.path.abspath(module))
            name = file.removesuffix(".py")
            if folder not in sys.path:
                sys.path.append(folder)
        try:
            importlib.import_module(name)
        except (ImportError, SyntaxError, ValueError) as error:
            raise ConfigError(
                f"--import={module} cannot be imported ({error}); it is the name of a module that "
                "Python finds, or a file ending in .py."
            ) from error
