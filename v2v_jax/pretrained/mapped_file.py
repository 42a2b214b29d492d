"""A file of which nothing is read but what is asked for, and never more than there is."""

from __future__ import annotations

import io
import mmap

from v2v_jax.errors import WeightsError

MAX_READ = 2**24  # bytes at once; arrays are not read but mapped


class MappedFile(io.RawIOBase):
    """A read-only file object on mapped memory, for parsers that trust what a file claims.

    An ordinary file reserves memory for as many bytes as it is asked for; here a claim beyond the
    end reserves nothing, and one beyond MAX_READ is refused.
    """

    def __init__(self, path: str) -> None:
        """Raises WeightsError if the file cannot be read or is empty."""
        super().__init__()
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is empty"
            raise WeightsError(f"The weight file {path} cannot be read: {reason}.") from error
        self.path = path
        self.memory = memoryview(self._map)

    def __len__(self) -> int:
        return len(self._map)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._map.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves the position; beyond the end is an error (ValueError)."""
        self._map.seek(offset, whence)
        return self._map.tell()

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; WeightsError if there are more than MAX_READ."""
        left = len(self._map) - self._map.tell()
        size = left if size is None or size < 0 else min(size, left)
        if size > MAX_READ:
            raise WeightsError(
                f"{self.path} is damaged: a part that is not an array claims {size} bytes."
            )
        return self._map.read(size)

    def readinto(self, buffer: bytearray) -> int:
        """Fills the buffer as far as there are bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
