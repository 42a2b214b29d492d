"""Several processes on this machine that do one kind of work side by side, without Ray.

Threads of one process take turns wherever Python itself is at work; processes do not.

    with WorkerProcesses(make_work, processes=4, threads=2) as workers:
        for number, error in workers.run(items, do, tick):
            ...

Every process builds the work once, by `make_work()`, and then calls `do(item, work, tick)` for the
items that it is dealt, by so many threads. They are started anew ("spawn"), as JAX does not stand
being forked: what they are given is pickled.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Self

import absl.logging

from v2v_jax.errors import UserError
from v2v_jax.system.console import InterruptedJob
from v2v_jax.system.remote_object import how_it_ended, portable, signals_blocked

ATTEMPTS = 3  # times that an item is begun whose process dies
_PATIENCE = 5.0  # seconds that processes get to end by themselves
# Any of these, set by the user, says how much of a GPU's memory a process takes.
_MEMORY = (
    *("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR"),
    *("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION"),
)

# (item, work, tick) → what went wrong, in one sentence, or None.
Do = Callable[[Any, Any, Callable[[int], None]], "str | None"]
Tick = Callable[[int], object]


def environment_of_workers() -> dict[str, str]:
    """What is set for JAX in processes that share a GPU and a cache of compiled programs.

    Of a GPU's memory they take what they need, when they need it, where by default each would take
    three quarters at its start; unless the user has said how much. Programs are kept where this
    process keeps them.
    """
    chosen = any(name in os.environ for name in _MEMORY)
    environment = {} if chosen else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if folder := folder_of_programs():
        environment["JAX_COMPILATION_CACHE_DIR"] = folder
    return environment


def folder_of_programs() -> str | None:
    """Where this process keeps compiled programs, if it does; JAX is not imported for it."""
    jax = sys.modules.get("jax")
    return None if jax is None else jax.config.jax_compilation_cache_dir or None


class WorkerProcesses:
    """Processes that have built their work and wait for items; a context manager."""

    def __init__(self, make_work: Callable[[], Any], processes: int, threads: int = 1) -> None:
        """Starts the processes, and does not wait for them.

        Args:
          make_work: pickled; builds the work, once a process.
          processes: how many.
          threads: items at a time, of each.
        """
        self._payload = pickle.dumps((make_work, threads))
        self._threads = threads
        # The first result says that what is compiled has been: see `_choose`.
        self._warm = False
        self._workers = [_Worker(self._payload) for _ in range(processes)]

    def wait(self) -> None:
        """Returns when all have built their work; see `run` for what it raises."""
        while not all(worker.ready for worker in self._workers):
            for worker, message in self._messages():
                self._begin(worker, message)

    def run(self, items: Sequence[Any], do: Do, tick: Tick) -> Iterator[tuple[int, str | None]]:
        """Does every item once, by whichever process is free.

        The items of a process that dies are begun again, each then with a process for itself; a new
        one takes its place.

        Args:
          items: pickled, one by one.
          do: pickled. An exception of it counts as its sentence.
          tick: called here with what `do` ticks there; with less than 0 for what is begun again.

        Yields:
          (number of the item, error or None), as they end.

        Raises:
          UserError: a process died while it built its work.
          ValueError: the processes were ended.
          Any exception of `make_work`.
        """
        if not self._workers:
            raise ValueError("These processes were ended.")
        waiting = collections.deque(range(len(items)))
        begun: collections.Counter[int] = collections.Counter()
        left = len(items)
        for worker in self._workers:
            worker.send("do", do)
        while left:
            while waiting and (chosen := self._choose(alone=begun[waiting[0]] > 0)) is not None:
                number = waiting.popleft()
                begun[number] += 1
                chosen.deal(number, items[number], alone=begun[number] > 1)
            for worker, message in self._messages():
                if message is None:
                    for number, reason in self._bury(worker, do, tick):
                        if begun[number] < ATTEMPTS:
                            waiting.append(number)
                        else:
                            left -= 1
                            yield number, _given_up(reason)
                elif message[0] == "tick":
                    self._warm = True
                    worker.ticked[message[1]] += message[2]
                    tick(message[2])
                elif message[0] == "end":
                    self._warm = True
                    worker.ended(message[1])
                    left -= 1
                    yield message[1], message[2]
                else:
                    self._begin(worker, message)

    def close(self, stop: bool = False) -> None:
        """Ends the processes; `stop`: whatever they are at."""
        for worker in self._workers:
            worker.send("stop" if stop else "close")
        until = time.monotonic() + _PATIENCE
        for worker in self._workers:
            worker.end(until)
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(stop=kind is not None)

    def _choose(self, alone: bool) -> _Worker | None:
        """A process that can take one more item: the one with the fewest."""
        at_work = any(worker.ticked for worker in self._workers)
        if at_work and not self._warm:
            return None  # the first one compiles; the others find that in the cache
        most = 0 if alone else self._threads - 1
        free = [
            worker
            for worker in self._workers
            if worker.ready and not worker.alone and len(worker.ticked) <= most
        ]
        return min(free, key=lambda worker: len(worker.ticked), default=None)

    def _messages(self) -> Iterator[tuple[_Worker, tuple | None]]:
        """Waits for messages; None: the process has died."""
        workers = {worker.connection: worker for worker in self._workers}
        for connection in multiprocessing.connection.wait(list(workers)):
            try:
                yield workers[connection], connection.recv()
            except (EOFError, OSError):
                yield workers[connection], None

    def _begin(self, worker: _Worker, message: tuple | None) -> None:
        """What a process says beside its items: that it is ready, or why it never will be."""
        if message is None:
            raise UserError(
                f"A worker process {worker.reason()} before it could begin; where memory is short, "
                "use fewer --processes."
            )
        if message[0] == "failed":
            raise message[1]
        if message[0] == "log":
            absl.logging.get_absl_logger().log(message[1], "%s", message[2])
        else:
            worker.ready = True

    def _bury(self, worker: _Worker, do: Do, tick: Tick) -> Iterator[tuple[int, str]]:
        """Puts a new process in a dead one's place; gives the items that it was at, and why."""
        if not worker.ready:
            self._begin(worker, None)
        reason = worker.reason()
        worker.end(until=0.0)
        new = _Worker(self._payload)
        new.send("do", do)
        self._workers[self._workers.index(worker)] = new
        for number, ticks in worker.ticked.items():
            tick(-ticks)
            yield number, reason


def _given_up(reason: str) -> str:
    return (
        f"its worker process {reason}, {ATTEMPTS} times; where memory is short, use fewer "
        "--processes."
    )


class _Worker:
    """One process, as the one sees it that deals out the items.

    Attributes:
      connection: to it.
      ready: whether it has built its work.
      alone: whether it is at an item beside which it gets no other.
      ticked: the items that it is at → what they ticked so far.
    """

    def __init__(self, payload: bytes) -> None:
        self.ready = self.alone = False
        self.ticked: dict[int, int] = {}
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, payload), name="worker")
        multiprocessing.resource_tracker.ensure_running()  # its start would set the mask back
        # A terminal sends Ctrl-C to all; the one that deals out the items ends the others.
        with signals_blocked(signal.SIGINT), _set(environment_of_workers()):
            self._process.start()
        theirs.close()

    def send(self, *message: Any) -> None:
        """Whoever has died does not hear it; `WorkerProcesses` will notice."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def deal(self, number: int, item: Any, alone: bool) -> None:
        self.ticked[number], self.alone = 0, alone
        self.send("item", number, item)

    def ended(self, number: int) -> None:
        del self.ticked[number]
        self.alone = False

    def reason(self) -> str:
        """How it ended, as the end of a sentence."""
        self._process.join(_PATIENCE)
        return how_it_ended(self._process.exitcode)

    def end(self, until: float) -> None:
        """Waits until then at most; who still builds its work, or has died, is not waited for."""
        if self.ready:
            self._process.join(max(0.0, until - time.monotonic()))
        self._process.kill()
        self._process.join()
        self.connection.close()
        self._process.close()


@contextlib.contextmanager
def _set(environment: dict[str, str]) -> Iterator[None]:
    """Variables for what is started inside: they are there before it imports anything."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ------------------------------------------------------------------------------------------------
# In the process


def _serve(connection: multiprocessing.connection.Connection, payload: bytes) -> NoReturn:
    """Does what it is sent until it is told to end, or nobody is there any more."""
    talk = _Talk(connection)
    logging.root.handlers = [_LogToParent(talk)]
    try:
        make_work, threads = pickle.loads(payload)
        work = make_work()
        talk.send("ready")
        _Items(talk, work).serve(threads)
    except BaseException as error:
        talk.send("failed", portable(error))
    _leave()


def _leave() -> NoReturn:
    """Without Python's own clean-up, in which what runs in background threads may crash."""
    os._exit(0)


class _Talk:
    """A connection for several threads; without the one at the other end this process ends."""

    def __init__(self, connection: multiprocessing.connection.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        try:
            with self._lock:
                self._connection.send(message)
        except OSError:
            _leave()

    def receive(self) -> tuple:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            _leave()


class _LogToParent(logging.Handler):
    """Warnings and errors are shown by the one that has the terminal."""

    def __init__(self, talk: _Talk) -> None:
        super().__init__(logging.WARNING)
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        self._talk.send("log", record.levelno, record.getMessage())


class _Items:
    """The items that this process is at."""

    def __init__(self, talk: _Talk, work: Any) -> None:
        self._talk, self._work = talk, work
        self._stopped = threading.Event()

    def serve(self, threads: int) -> None:
        """Does items until "close", or "stop", after which each ends at its next tick."""
        do = None
        with ThreadPoolExecutor(threads, "item") as pool:
            while (message := self._talk.receive())[0] not in ("close", "stop"):
                if message[0] == "do":
                    do = message[1]
                else:
                    pool.submit(self._one, do, *message[1:])
            if message[0] == "stop":
                self._stopped.set()

    def _one(self, do: Do, number: int, item: Any) -> None:
        def tick(count: int) -> None:
            if self._stopped.is_set():
                raise InterruptedJob
            self._talk.send("tick", number, int(count))

        try:
            error = do(item, self._work, tick)
        except InterruptedJob:
            return
        except BaseException as bug:
            error = f"{type(bug).__name__}: {bug}"
        self._talk.send("end", number, error)
