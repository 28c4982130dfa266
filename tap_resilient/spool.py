"""A temporary file for a body that is too large to be held in memory."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from resilient_core.errors import UnavailableError
from tap_resilient.exchange import BadAnswerError

CHUNK_BYTES = 1_000_000
SLICE_BYTES = 256_000
MAX_RECORD_BYTES = 16_000_000
"""The largest record of a spooled body, and all that may stand beside the records in it."""


@dataclass(frozen=True)
class Slice:
    """A part of a spool that holds `rows` whole records."""

    offset: int
    size: int
    rows: int


class Spool:
    """Bytes in a file without a name; its room is free again when nobody holds the spool any more.

    Raises UnavailableError where the folder for temporary files (TMPDIR) has no room.
    """

    def __init__(self) -> None:
        with _explained():
            self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the spool
        weakref.finalize(self, self.file.close)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def write(self, data: bytes | bytearray) -> None:
        """Append `data`."""
        with _explained():
            self.file.write(data)
        self._size += len(data)

    def read(self, offset: int = 0, size: int = -1) -> bytes:
        """`size` bytes from `offset` on, fewer at the end; all of the rest without a size."""
        with _explained():  # seek writes what is still in the buffer
            self.file.seek(offset)
        return self.file.read(size)

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` on, a megabyte at a time."""
        while chunk := self.read(offset, CHUNK_BYTES):
            yield chunk
            offset += len(chunk)


def too_large(what: str) -> BadAnswerError:
    """What is wrong with a spooled body of which `what` is beyond the limit."""
    return BadAnswerError(f"the answer has over {MAX_RECORD_BYTES // 1_000_000} MB in {what}")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"a large answer cannot be kept in a temporary file ({error.strerror}); set TMPDIR to a folder with room"
        ) from None
