"""Iterators that work ahead in a thread of their own, a bounded number of items."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_PATIENCE = 0.1  # seconds after which a thread that waits for a place looks whether it is wanted


class _End:
    """The last thing in the queue: the iterator ended, or `error` ended it."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class Ahead(Generic[T]):
    """Iterates over items that another thread draws, a bounded number of items ahead.

    An exception of `items` is raised here, after the items before it. The thread ends after the
    item that it is at, and closes `items`, once this is closed or collected.
    """

    def __init__(self, items: Iterable[T], depth: int) -> None:
        """Starts the thread.

        Args:
          items: drawn by the thread.
          depth: items that wait in between, at least 1.
        """
        self._places: queue.Queue[Any] = queue.Queue(depth)
        self._end: _End | None = None
        stop = threading.Event()
        thread = threading.Thread(target=_draw, args=(items, self._places, stop), daemon=True)
        thread.start()
        self.close = weakref.finalize(self, _close, stop, thread)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._end is None:
            item = self._places.get()
            if not isinstance(item, _End):
                return item
            self._end = item
        if self._end.error is not None:
            raise self._end.error
        raise StopIteration

    def ready(self) -> bool:
        """Whether `next` would not have to wait."""
        return self._end is not None or not self._places.empty()


def _close(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    thread.join()


def in_background(items: Iterable[T], depth: int) -> Iterator[T]:
    """`Ahead` as a generator, whose thread starts with the first `next` and ends with it."""
    ahead = Ahead(items, depth)
    try:
        yield from ahead
    finally:
        ahead.close()


def _draw(items: Iterable[Any], places: queue.Queue[Any], stop: threading.Event) -> None:
    end = _End()
    try:
        for item in items:
            if not _put(item, places, stop):
                break
            del item
    except BaseException as error:
        end = _End(error)
    finally:
        if hasattr(items, "close"):
            items.close()
    _put(end, places, stop)


def _put(item: Any, places: queue.Queue[Any], stop: threading.Event) -> bool:
    """Whether a place became free before nobody wanted the item any more."""
    while not stop.is_set():
        try:
            places.put(item, timeout=_PATIENCE)
            return True
        except queue.Full:
            continue
    return False
