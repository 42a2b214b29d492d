"""Recipes by name or file: a Python file with `get_config(arg)`, which returns a ConfigDict.

The package's own, in configs/, are installed with it and go by name: seg is configs/seg.py.
"""

from __future__ import annotations

import difflib
import os
import pathlib
import re
from typing import TYPE_CHECKING

import v2v_jax
from v2v_jax.errors import ConfigError
from v2v_jax.system import own_modules
from v2v_jax.system.paths import local_path

if TYPE_CHECKING:
    from ml_collections import ConfigDict


_PARTS = re.compile(r"((?:[\w+.-]+://)?[^:]*):?(.*)", re.DOTALL)  # no colon of an address


def read_config(recipe: str | os.PathLike[str]) -> ConfigDict:
    """The configuration of a recipe, whose fields may be changed before training.

        config = v2v_jax.read_config("seg:dataset=davis")
        config.data.root = "data/davis"

    Args:
      recipe: a name or file, and perhaps an argument, as --config takes it: seg, seg:demo,
        configs/seg.py:size=small.

    Returns:
      A locked ConfigDict: fields have new values, but there are no new fields.

    Raises:
      ConfigError: there is no such recipe, or its argument cannot be used.
      DataError: it is an address of another machine.
    """
    from ml_collections import ConfigDict

    file, arg = find_recipe(os.fspath(recipe))
    config = _load(file, arg)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file} is not a recipe: its get_config returns no ConfigDict.")
    return config.lock()


def recipes_folder() -> pathlib.Path:
    """configs/: within the package where that is installed, beside it in a checkout."""
    package = pathlib.Path(v2v_jax.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def known_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    names = (file.stem for file in recipes_folder().glob("*.py"))
    return sorted(name for name in names if not name.startswith("_"))


def find_recipe(recipe: str) -> tuple[pathlib.Path, str]:
    """(file, argument) of NAME, NAME:ARG, FILE or FILE:ARG, where FILE may begin with file://.

    Raises:
      ConfigError: there is no such recipe.
      DataError: it is an address of another machine.
    """
    name, arg = _PARTS.fullmatch(recipe).groups(default="")
    file = pathlib.Path(local_path(name))
    if file.is_file():
        return file, arg
    known = known_recipes()
    if name in known:
        return recipes_folder() / f"{name}.py", arg
    close = difflib.get_close_matches(file.stem, known, 1)
    hint = f"did you mean {close[0]}? Known" if close else "known"
    raise ConfigError(
        f"Recipe {name} does not exist; {hint}: {', '.join(known)}, or the path of a file of your "
        "own."
    )


def _load(file: pathlib.Path, arg: str) -> object:
    """What the file's get_config returns."""
    try:
        module = own_modules.import_file(file)
    except (ImportError, SyntaxError, OSError) as error:
        raise ConfigError(f"Recipe {file} cannot be read ({error}).") from error
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"{file} is not a recipe: it has no function get_config.")
    return module.get_config(arg)
