"""--config=RECIPE[:key=value,…] and --config.KEY=VALUE: a recipe and what is changed in it."""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from v2v_jax.cli.command_line import Parser, path
from v2v_jax.errors import ConfigError
from v2v_jax.run import recipe_files
from v2v_jax.system.paths import local_path

if TYPE_CHECKING:
    from ml_collections import ConfigDict

_OVERRIDE = re.compile(r"--(no)?config\.(?P<key>[^=]+)")


def add_options(parser: Parser, *, needs_workdir: bool = True, may_print: bool = False) -> None:
    """Adds --config, --config.KEY and --workdir; `options.config` will be the locked ConfigDict.

    Args:
      needs_workdir: False: --workdir may be left out, and is then None.
      may_print: adds --print_config, with which --workdir may be left out, too.
    """
    group = parser.add_argument_group(
        "configuration", "--config.KEY=VALUE sets a field of the recipe; an unknown KEY lists all."
    )
    known = ", ".join(recipe_files.known_recipes())
    group.add_argument(
        "--config",
        metavar="RECIPE[:key=value,…]",
        help=f"one of {known}, or a file of your own; e.g. seg or seg:demo",
    )
    group.add_argument(
        "--workdir", type=path, metavar="FOLDER", help="the run: what it writes, and what it reads"
    )
    if may_print:
        text = "prints every field with its value, and ends"
        group.add_argument("--print_config", action="store_true", help=text)
        # As people type it first: the one option for which both spellings will do.
        group.add_argument(
            "--print-config", dest="print_config", action="store_true", help=argparse.SUPPRESS
        )
    parser.take_rest = functools.partial(_take_overrides, needs_workdir=needs_workdir)


def _take_overrides(
    options: argparse.Namespace, rest: list[str], parser: Parser, *, needs_workdir: bool
) -> None:
    missing = ["--config=RECIPE"] * (not options.config)
    needs_workdir = needs_workdir and not getattr(options, "print_config", False)
    missing += ["--workdir=FOLDER"] * (needs_workdir and not options.workdir)
    for argument in rest:
        if argument.startswith("-") and not _OVERRIDE.match(argument):
            raise parser.unexpected(argument)
    if missing:
        parser.error(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} needed")
    options.config = read(options.config, rest)


def read(recipe: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked configuration of a recipe.

    Args:
      recipe: name or file, and perhaps an argument: seg, seg:demo, configs/seg.py:size=small.
      overrides: --config.KEY=VALUE, --config.KEY VALUE, --config.FLAG and --noconfig.FLAG.

    Raises:
      ConfigError: a recipe, key or value that cannot be used.
    """
    from absl import flags
    from ml_collections import config_flags

    config = recipe_files.read_config(recipe)
    for argument in overrides:
        _check_key(argument, config)
    argv = ["v2v", *overrides]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(str(error).strip().splitlines()[-1]) from error
    if rest:
        raise ConfigError(f"Unexpected argument {rest[0]!r}; options start with --.")
    _expand_users(config)
    return config


def listing(config: ConfigDict) -> str:
    """Every field, a line each: its name as in --config.NAME, and its value as JSON; so YAML, too.

    Comments give units, and the steps that shares of the run amount to.

    Raises:
      ConfigError: a value that cannot be used.
    """
    from v2v_jax.run import config_fields, recipes
    from v2v_jax.run.schedule import Schedule

    recipes.validate(config)
    values = dict(_fields(config))
    lines = ["# Set a field with --config.FIELD=VALUE.", f"# {Schedule.of(config)}."]
    for heading, fields in config_fields.grouped(values, config.data.name).items():
        lines += ["", f"# {heading}"]
        for key, field in fields.items():
            line = f"{key}: {json.dumps(values[key], ensure_ascii=False, default=str)}"
            lines.append(f"{line:<45} # {field.unit}" if field.unit else line)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------
# Fields


def _check_key(argument: str, config: ConfigDict) -> None:
    """Raises ConfigError if an argument is an override of a field that does not exist."""
    override = _OVERRIDE.match(argument)
    if override is None:
        return  # a value, or stray: absl's parser knows
    key, known = override["key"], [name for name, _ in _fields(config)]
    if key not in known:
        close = difflib.get_close_matches(key.replace("-", "_"), known, 1)
        hint = f"did you mean {close[0]}? Known: " if close else "known: "
        raise ConfigError(f"Unknown configuration key {key}; {hint}{', '.join(known)}.")


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of all fields."""
    for key, value in config.items():
        if isinstance(value, type(config)):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _expand_users(config: ConfigDict) -> None:
    """~ or file:// at the beginning of a value: a path, as in --workdir."""
    changed = {
        key: local_path(value)
        for key, value in _fields(config)
        if isinstance(value, str) and value.startswith(("~", "file://"))
    }
    config.update_from_flattened_dict(changed)
