"""Writes Singer messages: schemas raw, records a page at a time, everything through one buffered binary write."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import msgspec

from resilient_core.command import stdout_lost
from resilient_core.errors import TerminatedError
from tap_resilient.selector import Row

ROWS_PER_WRITE = 1000


class _Record(msgspec.Struct, tag_field="type", tag="RECORD"):
    stream: str
    record: Any
    time_extracted: str


class Messages:
    """The tap's stdout. A signal that arrives in the middle of a write ends the process after it: no torn lines."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder(decimal_format="number")
        self._writing = False
        self._signal: int | None = None

    def schema(self, stream: str, schema: Mapping[str, Any], keys: Sequence[str], bookmark: str | None) -> None:
        """A SCHEMA line with the schema as it is, extensions and all."""
        message = {"type": "SCHEMA", "stream": stream, "schema": schema, "key_properties": list(keys)}
        self._write(self._line({**message, "bookmark_properties": [bookmark]} if bookmark else message))

    def records(self, stream: str, rows: list[Row], time_extracted: str) -> None:
        """RECORD lines for `rows`."""
        for start in range(0, len(rows), ROWS_PER_WRITE):
            lines = [_Record(stream, row, time_extracted) for row in rows[start : start + ROWS_PER_WRITE]]
            self._write(self._encoded(lines))

    def state(self, value: Mapping[str, Any]) -> None:
        """A STATE line."""
        self._write(self._line({"type": "STATE", "value": value}))

    def terminate(self, signum: int, _frame: FrameType | None = None) -> None:
        """Signal handler: ends the process by TerminatedError, between two writes."""
        if self._writing:
            self._signal = signum
        else:
            raise TerminatedError(signum)

    def _encoded(self, lines: list[_Record]) -> bytes:
        try:
            return self._encoder.encode_lines(lines)
        except UnicodeEncodeError:
            return b"".join(self._line(msgspec.to_builtins(line)) for line in lines)

    def _line(self, message: Any) -> bytes:
        try:
            return self._encoder.encode(message) + b"\n"
        except UnicodeEncodeError:  # lone surrogates, which only ASCII escapes can carry
            return json.dumps(message, default=str).encode() + b"\n"

    def _write(self, data: bytes) -> None:
        self._writing = True
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError as error:
            raise stdout_lost(error, "mend what stdout goes to, and run again from the last state") from None
        finally:
            self._writing = False
        if self._signal is not None:
            raise TerminatedError(self._signal)
