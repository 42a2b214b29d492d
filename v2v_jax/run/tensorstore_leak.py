"""Keeps training out of the way of a leak of tensorstore, which each checkpoint of orbax meets.

tensorstore (as late as 0.1.86) never frees the keys and values of a dict that it makes of JSON: it
counts one reference too many to each. orbax 0.12 asks it for such dicts again and again, and no
option of either library changes that:

    for a folder's address as tensorstore writes it out: once an array, although all arrays of a
    part of a checkpoint lie in one folder
    for all counters of its disk drivers: twice a part, to log how fast the disk was

Here each folder's answer is remembered, and the counters are not asked for. What a checkpoint
leaves behind, and the report for tensorstore's authors, are in docs/records/reliability.md.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

import tensorstore as ts

_COUNTERS = "get_tensorstore_raw_bytes"  # orbax has it since 0.12.4
_REMEMBERED = 8  # addresses; a checkpoint has four


@functools.cache
def avoid() -> None:
    """Has this process ask tensorstore for less; what is written and read stays the same.

    Where a version of orbax or tensorstore has not what is replaced here, nothing is.
    """
    with contextlib.suppress(AttributeError, TypeError):
        ts.KvStore.Spec.to_json = remembering(ts.KvStore.Spec.to_json)
    with contextlib.suppress(ImportError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        if hasattr(tensorstore_utils, _COUNTERS):
            setattr(tensorstore_utils, _COUNTERS, lambda *_, **__: 0)  # so there is nothing to log


def remembering(to_json: Callable[..., Any]) -> Callable[..., Any]:
    """`KvStore.Spec.to_json`, asked once a specification; each caller has its own copy."""
    known: dict[str, Any] = {}
    lock = threading.Lock()

    @functools.wraps(to_json)
    def remembered(spec: ts.KvStore.Spec, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return to_json(spec, *args, **kwargs)
        text = repr(spec)  # the same JSON, as text, which is freed
        with lock:
            if text not in known:
                if len(known) == _REMEMBERED:
                    del known[next(iter(known))]  # the oldest
                known[text] = to_json(spec)
            return copy.deepcopy(known[text])

    return remembered
