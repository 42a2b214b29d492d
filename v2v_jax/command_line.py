"""What train.py and eval.py share: the flags, and errors that end in one clear sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from v2v_jax.errors import ConfigError, UserError


def run(main: Callable[[ConfigDict, str], object]) -> None:
    """Parses --config and --workdir, calls main(config, workdir) and exits.

    Exit status: 0; 1 after a `UserError`, whose message is printed to standard error; 2 for flags
    that cannot be parsed.
    """
    config = config_flags.DEFINE_config_file(
        "config", None, "A file of configs/, e.g. configs/seg.py or configs/seg.py:demo.", lock_config=True
    )
    workdir = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, pictures.")
    logging.set_verbosity(logging.WARNING)

    def checked_main(argv: list[str]) -> int:
        try:
            if len(argv) > 1:
                raise ConfigError(f"Unexpected argument {argv[1]!r}; options start with --.")
            main(config.value, workdir.value)
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 1
        return 0

    app.run(checked_main, flags_parser=lambda argv: _parse(argv, config, workdir))


def _parse(argv: list[str], config, workdir) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if config.value is None or workdir.value is None:
            raise ConfigError("--config=FILE and --workdir=FOLDER are both needed.")
        config.value.to_dict()  # a configuration file that cannot be read shows itself here
        return rest
    except flags.UnrecognizedFlagError as error:
        _exit(_unknown_flag(error, config))
    except (flags.Error, UserError, AttributeError, KeyError, TypeError, ValueError) as error:
        _exit(str(error))
    except FileNotFoundError as error:
        _exit(f"Cannot read the configuration {error.filename}; the ones that exist are in configs/.")
    raise AssertionError("unreachable")


def _unknown_flag(error: flags.UnrecognizedFlagError, config) -> str:
    name = error.flagname
    if not name.startswith("config.") or config.value is None:
        return f"Unknown option --{name}; known: --config, --config.KEY, --workdir."
    return f"Unknown configuration key --{name}; known: {', '.join(_keys(config.value))}."


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        nested = isinstance(value, ConfigDict)
        keys += _keys(value, f"{prefix}{key}.") if nested else [prefix + key]
    return keys


def _exit(message: str) -> None:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)
