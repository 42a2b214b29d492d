"""An object in a process of its own, which calls functions with it.

    remote = RemoteObject(pickle.dumps(dataset))
    frames = remote.call(read_whole, 7)          # read_whole(dataset, 7), over there

The process is a new Python that imports what unpickling needs and nothing else. The program that
starts it is not run again there, unlike with `multiprocessing`, so scripts need no guard.
Everything goes through two pipes: containers' small or missing /dev/shm does not matter, and when
this process ends, however it does, the other one finds its pipe closed and ends, too.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from v2v_jax.errors import UserError
from v2v_jax.system import causes, messages

T = TypeVar("T")
_PATIENCE = 5.0  # seconds in which a process that closed its pipe has ended
# With -P and our own path nothing in the current folder hides a module.
_PROGRAM = (
    "import pickle, sys\n"
    "sys.path[:] = pickle.load(sys.stdin.buffer)\n"
    "from v2v_jax.system import remote_object\n"
    "remote_object.serve()\n"
)
_NO_ACCELERATOR = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


class CannotStart(Exception):
    """There is no such process, or the object cannot be unpickled there; the message says why."""


class ProcessDied(Exception):
    """The process ended in the midst of a call; the message says how: "was killed (SIGKILL)"."""


class RemoteObject:
    """The object, and the process that it is in, which ends with this."""

    def __init__(self, payload: bytes) -> None:
        """Returns when the process has the object.

        Args:
          payload: the pickled object.

        Raises:
          CannotStart: see there.
        """
        try:
            # Ctrl-C or a cluster's SIGTERM may go to all; the one that has something to save first
            # handles it.
            with signals_blocked(signal.SIGINT, signal.SIGTERM):
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _PROGRAM],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **_NO_ACCELERATOR},
                )
        except OSError as error:
            raise CannotStart(causes.reason(error)) from error
        self.kill = weakref.finalize(self, _kill, self._process)
        try:
            self._send(pickle.dumps(sys.path) + payload)
            reason = self._receive()
        except ProcessDied as died:
            raise CannotStart(f"one {died} at its start") from died
        if reason is not None:
            raise CannotStart(reason)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """`function(object, *args)`, all of them picklable; for one thread at a time.

        Raises:
          ProcessDied: it ended meanwhile, or had done so before.
          What the function raises (`portable`).
        """
        self._send(pickle.dumps((function, args), 5))
        result, error = self._receive()
        if error is not None:
            raise error
        return result

    def _send(self, message: bytes) -> None:
        try:
            self._process.stdin.write(message)
            self._process.stdin.flush()
        except OSError as error:
            raise ProcessDied(self._end()) from error

    def _receive(self) -> Any:
        try:
            return pickle.load(self._process.stdout)  # large arrays: from the pipe to their place
        except (EOFError, OSError, pickle.UnpicklingError) as error:  # of a message cut short
            raise ProcessDied(self._end()) from error

    def _end(self) -> str:
        """How it ended, which it is about to have done."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        return how_it_ended(self._process.returncode)


def how_it_ended(status: int | None) -> str:
    """A process's exit status as the end of a sentence; None: it is not known."""
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):  # a number without a name
            return f"was killed ({signal.Signals(-status).name})"
    return f"ended (exit status {status})"


def portable(error: BaseException) -> BaseException:
    """The exception itself where it can be sent to another process, else what it says.

    To be called where it was caught. One that is no `UserError` brings its traceback along.
    """
    kind = UserError if isinstance(error, UserError) else RuntimeError
    found = kind(str(error) if kind is UserError else f"{type(error).__name__}: {error}")
    with contextlib.suppress(Exception):  # of whatever cannot be pickled
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            found = error
    if kind is RuntimeError:
        found.add_note(f"In a worker process:\n{traceback.format_exc()}")
    return found


def _kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what it was being sent
            pipe.close()


@contextlib.contextmanager
def signals_blocked(*numbers: signal.Signals) -> Iterator[None]:
    """What is started inside never gets these signals."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------------------------------------------
# In the process


def serve() -> NoReturn:
    """Calls what it is sent until nobody sends any more."""
    if hasattr(os, "nice"):
        os.nice(10)  # training, which compiles and feeds a device meanwhile, goes first
    messages.install()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed
    sys.stdout = sys.stderr
    with contextlib.suppress(EOFError, OSError):  # the other side has ended
        _serve(requests, answers)
    os._exit(0)


def _serve(requests: Any, answers: Any) -> None:
    def answer(message: Any) -> None:
        pickle.dump(message, answers, 5)
        answers.flush()

    try:
        target = pickle.load(requests)
    except Exception as error:
        return answer(f"{type(error).__name__}: {error}")
    answer(None)
    while True:
        function, args = pickle.load(requests)
        try:
            result = function(target, *args), None
        except Exception as error:
            result = None, portable(error)
        answer(result)
