"""Finds slices of whole records in a large JSON body, and reads what stands around them.

The standard library's scanner reads one value after the other from a window that moves over the file. (ijson, measured
beside it, was no faster, and gives neither offsets nor the rest of the body in the same pass.)
"""

from __future__ import annotations

import codecs
import json
import re
from decimal import Decimal
from typing import Any

from tap_resilient.decoders import lenient_json
from tap_resilient.exchange import BadAnswerError
from tap_resilient.spool import MAX_RECORD_BYTES, SLICE_BYTES, Slice, Spool, too_large

_WHERE = "one record, or beside the records; is records.path right?"
_NO_SPACE = re.compile(r"[^ \t\n\r]")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*(?=[^ \t\n\r])")
_LONGEST_TOKEN = 16
"""Of those that the scanner reads at once, strings and numbers apart: an escaped pair of surrogates, -Infinity."""
_LONGEST_REST = len("e+")
"""How much may stand behind the integer that the scanner makes of a decimal which is cut."""
_skim = json.JSONDecoder(parse_int=float, parse_constant=Decimal)
"""Only proves that a record can be read: integers as floats, because int() refuses very long ones."""


def index_json(spool: Spool, path: tuple[str, ...]) -> tuple[Any, list[Slice]]:
    """The body with an empty list for its records at `path`, and where those are.

    Raises BadAnswerError or ValueError for what is no JSON, records that are no objects, and values beyond the limit.
    """
    index = _Index(_Window(spool))
    body = index.read(path)
    if index.window.peek():
        raise ValueError("more than one value")
    return body, index.slices


class _Window:
    """A part of the text, with the place that is read next. It grows where a value does not fit."""

    def __init__(self, spool: Spool) -> None:
        self._chunks = spool.chunks()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._offset = self._counted = 0
        self.text = ""
        self.at = 0
        self.ended = False

    def offset(self) -> int:
        """The offset of the place in the file, in bytes."""
        passed = self.text[self._counted : self.at]
        self._offset += len(passed) if passed.isascii() else len(passed.encode())
        self._counted = self.at
        return self._offset

    def more(self) -> None:
        """Read on; what lies before the place is dropped."""
        self.offset()
        chunk = next(self._chunks, b"")
        self.ended = not chunk
        self.text = self.text[self.at :] + self._decoder.decode(chunk, self.ended)
        self.at = self._counted = 0

    def peek(self) -> str:
        """The next character that is no space; none at the end."""
        while True:
            if found := _NO_SPACE.search(self.text, self.at):
                self.at = found.start()
                return found[0]
            self.at = len(self.text)
            if self.ended:
                return ""
            self.more()

    def take(self, expected: str) -> None:
        """Pass over one character, which must be the expected one."""
        if self.peek() != expected:
            raise ValueError(f"no {expected}")
        self.at += 1

    def value(self, decoder: json.JSONDecoder) -> tuple[Any, int]:
        """The value that begins at the place, and where it ends. Raises ValueError if there is none."""
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
                if end + _LONGEST_REST < len(self.text) or self.ended:  # else a number may go on
                    return value, end
            except json.JSONDecodeError as error:
                if self.ended or not self._is_cut(error):
                    raise
            self._widen()

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether it may be the window's end that the error is about: at most one token, or a string, before it."""
        return error.pos > len(self.text) - _LONGEST_TOKEN or error.msg.startswith("Unterminated string")

    def _widen(self) -> None:
        """Double what is left of the window: a value is scanned anew at most a few times."""
        left = len(self.text) - self.at
        if left > MAX_RECORD_BYTES:
            raise too_large(_WHERE)
        self.more()
        while len(self.text) < min(2 * left, MAX_RECORD_BYTES) and not self.ended:
            self.more()


class _Index:
    """Walks down the path to the records; all other values are kept as they are."""

    def __init__(self, window: _Window) -> None:
        self.window = window
        self.slices: list[Slice] = []
        self._beside = 0

    def read(self, path: tuple[str, ...]) -> Any:
        """The value at the place."""
        first = self.window.peek()
        if first == "{" and path:
            return self._object(path)
        if first == "[" and not path:
            return self._records()
        return self._kept()

    def _object(self, path: tuple[str, ...]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self.window.take("{")
        while self.window.peek() != "}":
            if members:
                self.window.take(",")
            if self.window.peek() != '"':
                raise ValueError("no name")
            name = self._kept()
            self.window.take(":")
            if name == path[0]:
                self.slices = []  # of a member that comes twice, the last one counts
            members[name] = self.read(path[1:]) if name == path[0] else self._kept()
        self.window.take("}")
        return members

    def _kept(self) -> Any:
        self.window.peek()
        value, end = self.window.value(lenient_json)
        self._beside += end - self.window.at
        if self._beside > MAX_RECORD_BYTES:
            raise too_large(_WHERE)
        self.window.at = end
        return value

    def _records(self) -> list[Any]:
        self.window.take("[")
        if self.window.peek() == "]":
            self.window.take("]")
            return []
        while self._slice():
            self.window.take(",")
            self.window.peek()
        self.window.take("]")
        return []

    def _slice(self) -> bool:
        """Pass over the records of one slice; whether another one follows."""
        window = self.window
        begin, length, rows = window.offset(), 0, 0
        while True:
            value, end = window.value(_skim)
            if type(value) is not dict:
                raise BadAnswerError("the answer has records that are no objects")
            rows, length, window.at = rows + 1, length + end - window.at, end
            comma = _COMMA.match(window.text, end)
            if comma is None or length >= SLICE_BYTES:
                break
            window.at = comma.end()
        self.slices.append(Slice(begin, window.offset() - begin, rows))
        return window.peek() == ","
