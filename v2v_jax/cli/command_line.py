"""What all commands share: one spelling of options, and errors that end in one clear sentence.

A command is a module of this folder. Its docstring is its help; `add_options(parser)` adds its
options; `run(options)` does it and returns the exit status (None: 0). Such a module imports JAX
and TensorFlow only within `run`, so that help and mistakes in options need not wait for them.

An option is written --batch_size=4 or --batch_size 4, with underscores and in full.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import io
import os
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NoReturn

from v2v_jax.errors import INTERRUPTED, ConfigError, DataError, Stopped, UserError
from v2v_jax.system import causes, messages
from v2v_jax.system.console import console
from v2v_jax.system.paths import local_path

# Errors of the operating system that tell of a user's files and not of a bug.
_UNUSABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR),
    *(errno.EIO, errno.ESTALE, errno.ELOOP, errno.EFBIG, errno.EMFILE, errno.ENFILE),
)
_SIGPIPE = 141  # the exit status of what a closed pipe ended, as shells have it
# Modules that the extra `train` installs.
_OF_TRAINING = (
    *("tensorflow", "tensorflow_datasets", "array_record", "importlib_resources", "tensorboardX"),
    "h5py",
)
# (options, arguments that no option of the parser's takes, parser): see `Parser.take_rest`.
TakeRest = Callable[[argparse.Namespace, list[str], "Parser"], None]


class Parser(argparse.ArgumentParser):
    """argparse's, with a ConfigError of one sentence for what cannot be understood.

    Attributes:
      take_rest: what is done with arguments that are no option of the parser's own.
      checks: called with the options; they raise ConfigError where options contradict each other.
    """

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.take_rest: TakeRest = _refuse_rest
        self.checks: list[Callable[[argparse.Namespace], None]] = []

    def error(self, message: str) -> NoReturn:
        """Raises a ConfigError instead of printing the usage."""
        raise ConfigError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """The options.

        Raises:
          ConfigError: an argument that cannot be understood.
        """
        options, rest = self.parse_known_args(list(argv))
        self.take_rest(options, rest, self)
        for check in self.checks:
            check(options)
        return options

    def unexpected(self, argument: str) -> ConfigError:
        """The error for an argument that is no option."""
        if not argument.startswith("-"):
            return ConfigError(
                f"Unexpected argument {argument!r}; options start with --; see {self.prog} --help."
            )
        name = argument.partition("=")[0]
        known = [option for option in self._option_string_actions if option.startswith("--")]
        close = difflib.get_close_matches(f"--{name.lstrip('-').replace('-', '_')}", known, 1)
        hint = f"did you mean {close[0]}? Known: " if close else "known: "
        return ConfigError(
            f"Unknown option {name}; {hint}{', '.join(known)}; see {self.prog} --help."
        )


def _refuse_rest(options: argparse.Namespace, rest: list[str], parser: Parser) -> None:
    if rest:
        raise parser.unexpected(rest[0])


def path(text: str) -> str:
    """The type of options that name a file or folder; shells leave the ~ of --option=~/x to us."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, but it is empty")
    try:
        return local_path(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from error


def execute(command: ModuleType, argv: Sequence[str], prog: str) -> int:
    """Runs a command in this process.

    Args:
      command: its module.
      argv: the arguments, without the program's name.
      prog: what the command is called in its help and errors.

    Returns:
      What the command returns, or 0, also after SIGTERM once the state is saved; 1 after a
      `UserError`, 2 for arguments that cannot be understood, 130 after an interrupt; standard
      error then has one message. 141 where nobody reads standard output any more (`| head`). Other
      exceptions pass.
    """
    quieten()
    parser = Parser(prog, command.__doc__)
    command.add_options(parser)
    try:
        options = parser.parse(argv)
    except SystemExit as ended:  # after --help
        return 2 if ended.code else 0
    except UserError as error:
        return _fail(f"Error: {error}", 2)
    except KeyboardInterrupt:
        return _fail("Interrupted.", INTERRUPTED)
    try:
        status = command.run(options) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return _SIGPIPE
    except UserError as error:
        return _fail(f"Error: {error}", 1)
    except Stopped as reason:
        console.print(f"{reason}\nTo go on: {shlex.join([*prog.split(), *argv])}")
        return reason.status
    except KeyboardInterrupt:
        return _fail("Interrupted.", INTERRUPTED)
    except OSError as error:
        if causes.is_full(error):
            return _fail(f"Error: {error}. Make room and run the same command again.", 1)
        if error.errno in _UNUSABLE and error.filename is not None:
            name = os.fsdecode(error.filename2 or error.filename)  # what was to get that name
            remedy = causes.for_writing(error)
            return _fail(f"Error: {name} cannot be used ({error.strerror}); {remedy}.", 1)
        raise
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _OF_TRAINING:
            raise
        return _fail(
            f"Error: {prog} needs {module}, which is not installed here; pip install "
            "'v2v_jax[train]'.",
            1,
        )
    except Exception as error:
        lost = _lost_process(error)
        if lost is None:
            raise
        return _fail(f"Error: {lost}", 1)


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe without a reader; what is left to print goes nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def leave(status: int) -> NoReturn:
    """Ends this process with that exit status."""
    if status == INTERRUPTED or (status and _others()):
        # All is closed. JAX, interrupted while compiling, would crash in Python's own clean-up;
        # and with other processes it would wait there for all of them to end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _lost_process(error: Exception) -> str | None:
    """A sentence if it is JAX's error after another process ended; else None."""
    if not _others() or not isinstance(error, sys.modules["jax"].errors.JaxRuntimeError):
        return None
    return (
        f"process {sys.modules['jax'].process_index()} lost another one "
        f"({str(error).strip().splitlines()[0][:200]}). Run all of them again: they go on from "
        "the last checkpoint."
    )


def _others() -> bool:
    """Whether there are other processes; without touching the devices of a run that has none."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def quieten() -> None:
    """Shows warnings as one line each; keeps TensorFlow's start-up notes off the terminal.

    What the terminal cannot show is printed as its number (\\xe9): a name of another code than the
    system's, or our own … and × where that knows ASCII alone, must stop no command. Nor must a
    terminal that is not there.
    """
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself; only reads data here
    messages.install()


def _open_closed() -> None:
    """Opens what was closed (`>&-`) of standard input, output and error, to go nowhere.

    Else the next file that is opened would have its number, and get what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
