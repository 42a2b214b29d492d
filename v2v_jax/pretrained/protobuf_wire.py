"""Protocol Buffers' wire format, read in place: nothing is copied, and a message is a slice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10  # bytes


class Malformed(ValueError):
    """Bytes that are no message."""


class Field(NamedTuple):
    """One field of a message: an integer for VARINT, else the bytes it occupies."""

    number: int
    wire_type: int
    value: int | memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in order; those of groups, which nobody uses, are malformed.

    Raises:
      Malformed: a field is cut short or claims more bytes than there are.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise Malformed("a field has the number 0")
        if wire_type == VARINT:
            value, position = _varint(message, position)
            yield Field(number, wire_type, value)
            continue
        if wire_type == BYTES:
            size, position = _varint(message, position)
        elif wire_type in (FIXED32, FIXED64):
            size = 4 if wire_type == FIXED32 else 8
        else:
            raise Malformed(f"field {number} has the unknown wire type {wire_type}")
        if size > len(message) - position:
            left = len(message) - position
            raise Malformed(f"field {number} claims {size} bytes where {left} are left")
        yield Field(number, wire_type, message[position : position + size])
        position += size


def varints(packed: memoryview) -> Iterator[int]:
    """The integers of a packed field."""
    position = 0
    while position < len(packed):
        value, position = _varint(packed, position)
        yield value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """(value, the position behind it)."""
    value = 0
    for index, byte in enumerate(data[position : position + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise Malformed("a number is cut short")
