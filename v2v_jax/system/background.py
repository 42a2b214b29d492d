"""Iterators that work ahead in a thread of their own, a bounded number of items."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_PATIENCE = 0.1  # seconds after which a thread that waits for a place looks whether it is wanted


class _End:
    """The last thing in the queue: the iterator ended, or `error` ended it."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


def in_background(items: Iterable[T], depth: int) -> Iterator[T]:
    """Yields `items`, which another thread draws; it is at most `depth` + 1 items ahead.

    An exception of `items` is raised here, after the items before it. When this generator is
    closed or collected, the thread ends after the item that it is at, and closes `items`.

    Args:
      items: drawn by the thread, from the first `next` on.
      depth: items that wait in between, at least 1.
    """
    places: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_draw, args=(items, places, stop), daemon=True)
    thread.start()
    try:
        while not isinstance(item := places.get(), _End):
            yield item
            del item  # or it would be kept while the next one is waited for
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()


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
