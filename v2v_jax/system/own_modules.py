"""Modules of the user's own, imported by name: what they register is known from then on.

Weights come with data and never with code. Whoever uses weights of a task of their own names the
module that registers it: `--import=my_task`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from v2v_jax.errors import ConfigError
from v2v_jax.system.paths import local_path


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

    Raises:
      ConfigError: there is no such module, or it cannot be imported.
    """
    for module in modules:
        try:
            if module.endswith(".py"):
                import_file(pathlib.Path(local_path(module)))
            else:
                importlib.import_module(module)
        except (ImportError, SyntaxError, ValueError, OSError) as error:
            raise ConfigError(
                f"--import={module} cannot be imported ({error}); give the name of a module that "
                "Python finds, or a file ending in .py."
            ) from error


def import_file(file: pathlib.Path) -> ModuleType:
    """Imports a Python file, once, as a module of its name.

    Its folder is added to where modules are looked for, at the end: processes that are started
    later find it under the same name, and nothing there hides another module.

    Raises:
      ImportError, SyntaxError, OSError: it cannot be imported.
    """
    file = file.absolute()
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = sys.modules.get(file.stem)
    if getattr(module, "__file__", None) == str(file):
        return module
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    mine = importlib.util.module_from_spec(spec)
    known = sys.modules.setdefault(file.stem, mine)
    try:
        spec.loader.exec_module(mine)
    except BaseException:
        if known is mine:
            del sys.modules[file.stem]
        raise
    return mine


def origin(definition: Any) -> str:
    """module:name of a class or function; a file's name for a module not imported by its own.

    The module of a program that `python -m` started is the one that was named.
    """
    module = getattr(definition, "__module__", None) or ""
    named = getattr(getattr(sys.modules.get(module), "__spec__", None), "name", module)
    file = _file(definition)
    if file and named.rpartition(".")[2] not in (file.stem, _package(file)):
        named = file.name  # a configuration, or the program that was started
    return f"{named}:{getattr(definition, '__qualname__', definition)}"


def is_same_definition(one: Any, other: Any) -> bool:
    """Whether two classes or functions are one of the source, whose module was loaded twice.

    So it is with the program that was started, `__main__`, once another module imports it by name.
    """
    if origin(one) == origin(other):
        return True
    names = [getattr(definition, "__qualname__", None) for definition in (one, other)]
    file = _file(one)
    return names[0] == names[1] is not None and file == _file(other) is not None


def _file(definition: Any) -> pathlib.Path | None:
    """The file of the module that defines a class or function, if there is one."""
    module = sys.modules.get(getattr(definition, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return pathlib.Path(file).resolve() if file else None


def _package(file: pathlib.Path) -> str:
    """The name of the package whose __init__.py a file is."""
    return file.parent.name if file.stem == "__init__" else file.stem
