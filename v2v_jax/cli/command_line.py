"""What train.py and eval.py share: the options, and errors that end in one clear sentence."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence

import absl.logging
import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from v2v_jax.errors import ConfigError, Stopped, UserError
from v2v_jax.system import compilation_cache
from v2v_jax.system.console import console

Main = Callable[..., object]  # (config, workdir, **switches)
INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it

_OPTIONS = """
  --config=FILE[:key=value,…]   a file of configs/, e.g. configs/seg.py or configs/seg.py:demo
  --config.KEY=VALUE            sets one of its fields, e.g. --config.batch_size=8
  --workdir=FOLDER              the run: checkpoints, metrics, pictures

  --multihost                   one of several processes; which, is found out from Slurm, Open MPI,
                                Kubernetes or a TPU pod, or said by all three of
  --coordinator=HOST:PORT       where the first process listens
  --num_processes=N             how many there are
  --process_id=I                which one this is, from 0
  --heartbeat_timeout=SECONDS   after which a process that is silent counts as dead (60)"""
_KNOWN = (
    "--config, --config.KEY, --workdir, --multihost, --coordinator, --num_processes, "
    "--process_id, --heartbeat_timeout"
)
_OVERRIDE = re.compile(r"--?(no)?config\.(?P<key>[^=]+)")


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of several processes this one is; None is found out from the cluster's variables."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    heartbeat_timeout: int = 60  # seconds


def run(
    main: Main, switches: Mapping[str, str] | None = None, *, needs_workdir: bool = True
) -> None:
    """Reads the command line, calls `main` and exits with `execute`'s status."""
    status = execute(sys.argv, main, switches, needs_workdir=needs_workdir)
    if status == INTERRUPTED or (status and _others()):
        # All is closed. JAX, interrupted while compiling, would crash in Python's own clean-up;
        # and with other processes it would wait there for all of them to end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def execute(
    argv: Sequence[str],
    main: Main,
    switches: Mapping[str, str] | None = None,
    *,
    needs_workdir: bool = True,
) -> int:
    """Calls main(config, workdir, switch=bool, …) as the command line `argv` says.

    Args:
      switches: what a program has beside the common options: name → what --name does.
      needs_workdir: False: --workdir may be left out, and workdir is then empty.

    Returns:
      0, also after SIGTERM once the state is saved; 1 after a `UserError`, 2 for a command line
      that cannot be understood, 130 after an interrupt; standard error then has one message. Other
      exceptions pass.
    """
    if {"--help", "-h"} & set(argv[1:]):
        more = "".join(f"\n  --{name:<27} {text}" for name, text in (switches or {}).items())
        print(f"{sys.modules[main.__module__].__doc__}{_OPTIONS}{more}")
        return 0
    quieten()
    given = {name: f"--{name}" in argv[1:] for name in switches or {}}
    argv = [argument for argument in argv if argument not in {f"--{name}" for name in given}]
    try:
        config, workdir = parse(argv, needs_workdir=needs_workdir)
        processes = parse_processes(argv)
    except UserError as error:
        return _fail(f"Error: {error}", 2)
    try:
        if processes is not None:
            join_processes(processes)
        compilation_cache.enable()
        main(config, workdir, **given)
    except UserError as error:
        return _fail(f"Error: {error}", 1)
    except Stopped as reason:
        console.print(str(reason))
    except KeyboardInterrupt:
        return _fail("Interrupted.", INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _fail(f"Error: {error}. Make room and run the same command again.", 1)
    except jax.errors.JaxRuntimeError as error:
        if not _others():
            raise
        return _fail(
            f"Error: process {jax.process_index()} lost another one "
            f"({str(error).strip().splitlines()[0][:200]}). Run all of them again: they go on from "
            "the last checkpoint.",
            1,
        )
    return 0


def join_processes(processes: Processes) -> None:
    """Connects this process with the others, before any device is touched.

    Raises:
      ConfigError: the processes cannot be found out, or not be reached.
    """
    # On CPUs, where it is for trying things out, the processes need a library to communicate.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # An error of another process ends this one, too; by default only after minutes.
    try:
        jax.distributed.initialize(
            processes.coordinator,
            processes.count,
            processes.index,
            heartbeat_timeout_seconds=processes.heartbeat_timeout,
            shutdown_timeout_seconds=2 * processes.heartbeat_timeout,
        )
    except (RuntimeError, ValueError, TypeError) as error:  # JaxRuntimeError is a RuntimeError
        raise ConfigError(
            f"--multihost cannot start ({str(error).strip().splitlines()[0][:300]}); say "
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=I, or start it by Slurm, "
            "Open MPI, Kubernetes or on a TPU pod."
        ) from error
    if jax.process_index() > 0:
        console.quiet = True
        absl.logging.set_verbosity(absl.logging.ERROR)


def _others() -> bool:
    """Whether there are other processes; without touching the devices of a run that has none."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def parse(argv: Sequence[str], *, needs_workdir: bool = True) -> tuple[ConfigDict, str]:
    """The locked configuration with its overrides, and the run's folder, empty if not needed.

    Raises:
      ConfigError: an option, key or value that cannot be used.
    """
    try:
        config, workdir, unknown = _read(argv, overrides=False)
        if needs_workdir and not workdir:
            raise ConfigError("--config=FILE and --workdir=FOLDER are both needed.")
        for argument in unknown:
            _check_option(argument, config)
        config, workdir, rest = _read(argv, overrides=True)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        # The last line: errors from within a configuration file come with their traceback.
        raise ConfigError(str(error).strip().splitlines()[-1]) from error
    if rest:
        raise ConfigError(f"Unexpected argument {rest[0]!r}; options start with --.")
    return config, workdir


def parse_processes(argv: Sequence[str]) -> Processes | None:
    """What the options say of other processes; None if there are none.

    Raises:
      ConfigError: values that cannot be used, or only some of them.
    """
    values = flags.FlagValues()
    _define_processes(values)
    try:
        values(list(argv), known_only=True)
    except flags.Error as error:
        raise ConfigError(str(error).strip().splitlines()[-1]) from error
    explicit = (values.coordinator, values.num_processes, values.process_id)
    if not values.multihost and all(value is None for value in explicit):
        return None
    if any(value is None for value in explicit) and any(value is not None for value in explicit):
        raise ConfigError("--coordinator, --num_processes and --process_id go together.")
    if values.num_processes is not None and values.process_id >= values.num_processes:
        raise ConfigError(
            f"--process_id is {values.process_id}; with --num_processes={values.num_processes} it "
            f"is 0 to {values.num_processes - 1}."
        )
    return Processes(*explicit, values.heartbeat_timeout)


def _define_processes(values: flags.FlagValues) -> None:
    flags.DEFINE_bool("multihost", False, "", flag_values=values)
    flags.DEFINE_string("coordinator", None, "", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process_id", None, "", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("heartbeat_timeout", 60, "", lower_bound=1, flag_values=values)


def _read(argv: Sequence[str], overrides: bool) -> tuple[ConfigDict, str, list[str]]:
    """Config, workdir and arguments left over, among them the overrides if not asked for."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        lock_config=True,
        sys_argv=list(argv) if overrides else [argv[0]],
        flag_values=values,
    )
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    _define_processes(values)
    rest = values(list(argv), known_only=not overrides)[1:]
    if not values["config"].present:
        raise ConfigError("--config=FILE is needed, and for training --workdir=FOLDER.")
    config, file = values.config, values["config"].config_filename.partition(":")[0]
    if not os.path.isfile(file):
        raise ConfigError(f"Configuration file {file} does not exist; see configs/.")
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"Configuration file {file} cannot be read.")
    return config, values.workdir or "", rest


def _check_option(argument: str, config: ConfigDict) -> None:
    """Raises ConfigError if an argument is an option that does not exist."""
    if not argument.startswith("-"):
        return  # a value, or stray; the second reading knows
    override = _OVERRIDE.match(argument)
    if override is None:
        name = argument.partition("=")[0]
        raise ConfigError(f"Unknown option {name}; known: {_KNOWN}; see --help.")
    key, known = override["key"], _keys(config)
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {close[0]}? Known: " if close else "known: "
        raise ConfigError(f"Unknown configuration key {key}; {hint}{', '.join(known)}.")


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        nested = isinstance(value, ConfigDict)
        keys += _keys(value, f"{prefix}{key}.") if nested else [prefix + key]
    return keys


class _Formatter(logging.Formatter):
    """`Warning: …`, without the place in the code, which says nothing to who runs a program."""

    def format(self, record: logging.LogRecord) -> str:
        # In a terminal: back to the line's start, clear it, as a live progress line may be there.
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        return f"{clear}{record.levelname.capitalize()}: {record.getMessage()}"


def quieten() -> None:
    """Shows warnings as one line each; keeps TensorFlow's start-up notes off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself; only reads data here
    absl.logging.use_absl_handler()
    absl.logging.set_verbosity(absl.logging.WARNING)
    handler = absl.logging.get_absl_handler()
    handler.setFormatter(_Formatter())
    # orbax tells of a failed write with tracebacks of several threads; `Checkpoints` says it once.
    handler.addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
