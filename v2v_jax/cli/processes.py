"""Commands that run as several processes: the options that say which one this is."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import absl.logging

from v2v_jax.cli.command_line import Parser
from v2v_jax.errors import ConfigError
from v2v_jax.system.console import console


def add_options(parser: Parser) -> None:
    """Adds --multihost and its companions."""
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--multihost",
        action="store_true",
        help="one of several processes; Slurm, Open MPI, Kubernetes or a TPU pod say which one, or "
        "the next three options do",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where the first process listens")
    group.add_argument("--num_processes", type=_at_least(1), metavar="N", help="how many there are")
    group.add_argument(
        "--process_id", type=_at_least(0), metavar="I", help="which one this is, from 0"
    )
    group.add_argument(
        "--heartbeat_timeout",
        type=_at_least(1),
        default=60,
        metavar="SECONDS",
        help="after which a process that is silent counts as dead (default: %(default)s)",
    )
    parser.checks.append(_check)


def _check(options: argparse.Namespace) -> None:
    explicit = (options.coordinator, options.num_processes, options.process_id)
    if any(value is None for value in explicit) and any(value is not None for value in explicit):
        raise ConfigError("--coordinator, --num_processes and --process_id go together.")
    if options.num_processes is not None and options.process_id >= options.num_processes:
        raise ConfigError(
            f"--process_id is {options.process_id}; with --num_processes={options.num_processes} "
            f"it is 0 to {options.num_processes - 1}."
        )


def join(options: argparse.Namespace) -> None:
    """Connects this process with the others, if there are any, before any device is touched.

    Raises:
      ConfigError: the processes cannot be found out, or not be reached.
    """
    if not options.multihost and options.coordinator is None:
        return
    import jax

    # On CPUs, where it is for trying things out, the processes need a library to communicate.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # An error of another process ends this one, too; by default only after minutes.
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            heartbeat_timeout_seconds=options.heartbeat_timeout,
            shutdown_timeout_seconds=2 * options.heartbeat_timeout,
        )
    except (RuntimeError, ValueError, TypeError) as error:  # JaxRuntimeError is a RuntimeError
        raise ConfigError(
            f"--multihost cannot start ({str(error).strip().splitlines()[0][:300]}); give "
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=I, or start it by Slurm, "
            "Open MPI, Kubernetes or on a TPU pod."
        ) from error
    if jax.process_index() > 0:
        console.quiet = True
        absl.logging.set_verbosity(absl.logging.ERROR)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return number
