"""Pickles as PyTorch writes them, read without the machine that runs them.

A pickle is a program; Python's own reader imports what it names and calls it. Here its few harmless
instructions build texts, numbers, lists and dictionaries, and the names that it may call are three
that make a tensor and an ordered dictionary, which become descriptions. Any other name or
instruction ends the reading. Memory is bounded by the pickle's own size.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any

from v2v_jax.pretrained.names import printable


class Refused(ValueError):
    """The pickle is damaged, or would do more than describe tensors."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that the pickle refers to, such as torch.FloatStorage. Nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(frozen=True)
class Storage:
    """Where a tensor's numbers are: `key` names the part of the file, `count` are its elements."""

    type: str
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage: the element `offset + Σ index·stride`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


_MARK = object()
_MAX_OPCODES = 200_000
_MAX_AXES = 8
_DICT_NAMES = ("collections.OrderedDict",)
_TENSOR_NAMES = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER_NAMES = ("torch._utils._rebuild_parameter",)
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "SHORT_BINSTRING BINSTRING BINBYTES SHORT_BINBYTES".split()
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(file: Any) -> Any:
    """Reads one pickle at the file's position and leaves the position behind it.

    Returns:
      What it describes: dict, list, tuple, str, bytes, numbers, `Tensor`, `Name`.

    Raises:
      Refused: it is damaged, or holds anything else.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MAX_OPCODES:
                raise Refused(f"it has more than {_MAX_OPCODES} instructions")
            machine.step(opcode.name, argument)
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Refused(f"it is damaged ({type(error).__name__})") from error
    if len(machine.stack) != 1:
        raise Refused("it is damaged (its end)")
    return machine.stack[0]


class _Machine:
    """The stack and the memory of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Runs one instruction."""
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(stack) < count:
                raise Refused("it is damaged (its stack is empty)")
            stack[-count:] = [tuple(stack[-count:])]
        else:
            handler: Callable[[Any], None] | None = getattr(self, f"_do_{name.lower()}", None)
            if handler is None:
                raise Refused(f"it has the instruction {name}, which no tensors need")
            handler(argument)

    def _since_mark(self) -> list[Any]:
        for index in reversed(range(len(self.stack))):
            if self.stack[index] is _MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise Refused("it is damaged (a mark is missing)")

    def _do_proto(self, version: int) -> None:
        if version > 5:
            raise Refused(f"it is of the unknown protocol {version}")

    def _do_frame(self, size: int) -> None:
        pass

    def _do_stop(self, argument: None) -> None:
        pass

    def _do_tuple(self, argument: None) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _do_binput(self, index: int) -> None:
        self._memory[index] = self.stack[-1]

    _do_long_binput = _do_binput

    def _do_memoize(self, argument: None) -> None:
        self._memory[len(self._memory)] = self.stack[-1]

    def _do_binget(self, index: int) -> None:
        self.stack.append(self._memory[index])

    _do_long_binget = _do_binget

    def _do_append(self, argument: None) -> None:
        value = self.stack.pop()
        self._list().append(value)

    def _do_appends(self, argument: None) -> None:
        values = self._since_mark()
        self._list().extend(values)

    def _list(self) -> list[Any]:
        if type(self.stack[-1]) is not list:
            raise Refused("it is damaged (no list to append to)")
        return self.stack[-1]

    def _do_setitem(self, argument: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _do_setitems(self, argument: None) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Refused("it is damaged (no dictionary to fill)")
        for key, value in zip(items[::2], items[1::2]):
            # Hashing a deeply nested tuple would take for ever.
            if not isinstance(key, (str, int, float, bytes)):
                raise Refused("a dictionary has a key that is neither text nor number")
            target[key] = value

    def _do_global(self, argument: str) -> None:
        self.stack.append(Name(*argument.split(" ", 1)))

    def _do_stack_global(self, argument: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Refused("it is damaged (a name that is not text)")
        self.stack.append(Name(module, name))

    def _do_binpersid(self, argument: None) -> None:
        value = self.stack.pop()
        if not (isinstance(value, tuple) and len(value) in (5, 6) and value[0] == "storage"):
            raise Refused("it refers to something other than a tensor's storage")
        kind, key, count = value[1], value[2], value[4]
        if len(value) == 6 and value[5] is not None:
            raise Refused("it has a storage that is part of another")
        valid = isinstance(kind, Name) and isinstance(key, str) and type(count) is int
        if not valid or count < 0 or not str(kind).startswith("torch."):
            raise Refused("it is damaged (a storage)")
        self.stack.append(Storage(kind.name, key, count))

    def _do_reduce(self, argument: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not (isinstance(function, Name) and isinstance(arguments, tuple)):
            raise Refused("it calls something that has no name")
        self.stack.append(_call(str(function), arguments))

    def _do_build(self, argument: None) -> None:
        """Attributes of an OrderedDict (a state_dict's _metadata), which nobody needs."""
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise Refused("it sets attributes of something other than a dictionary")


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    if name in _DICT_NAMES and arguments == ():
        return {}
    if name in _PARAMETER_NAMES and arguments and isinstance(arguments[0], Tensor):
        return arguments[0]
    if name in _TENSOR_NAMES and len(arguments) >= 4:
        storage, offset, shape, stride = arguments[:4]
        axes = (offset, *shape, *stride)
        whole = all(type(n) is int and 0 <= n < 2**48 for n in axes)
        if isinstance(storage, Storage) and whole and len(shape) == len(stride) <= _MAX_AXES:
            return Tensor(storage, offset, tuple(shape), tuple(stride))
        raise Refused("it is damaged (a tensor)")
    raise Refused(f"it calls {printable(name)}, which is not run")
