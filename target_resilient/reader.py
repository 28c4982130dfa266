"""Bytes in, frames out: Singer lines are decoded a chunk at a time; runs of RECORDs of one stream become one Frame."""

from __future__ import annotations

import itertools
import json
import re
import select
import sys
import time
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Protocol

import msgspec

from resilient_core.errors import NotSingerError

CHUNK_BYTES = 1 << 20
GATHER_SECONDS = 0.05  # wait this long in all for a fuller chunk: decoding pays off by the chunk
MAX_DIGITS = 4300  # of an integer, CPython's own limit; of a decimal, within what every database holds
_F_SETPIPE_SZ = 1031  # Linux fcntl(2): a pipe holds 64 KiB by default


class Readable(Protocol):
    """What can be read from: a binary file, a text file, a pipe."""

    def read(self, size: int, /) -> bytes | str:
        """Up to `size` bytes or characters; empty at the end."""


class Envelope(msgspec.Struct):
    """A Singer message; the record is decoded, state and schema stay raw."""

    type: str
    stream: str = ""
    record: Any = msgspec.UNSET
    schema: msgspec.Raw = msgspec.Raw()
    value: msgspec.Raw = msgspec.Raw()
    key_properties: list[str] | None = None
    bookmark_properties: list[str] | None = None
    version: int | None = None
    time_extracted: str | None = None
    encoding: dict[str, Any] | None = None
    manifest: list[str] | None = None


class _RawEnvelope(msgspec.Struct):
    record: msgspec.Raw = msgspec.Raw(b"null")


@dataclass
class Chunk:
    """Whole lines as they were read, kept so that a refused record can be quarantined as it came."""

    data: bytes
    first_line: int

    @cached_property
    def lines(self) -> list[tuple[int, bytes]]:
        """(line number, line) of the lines that are not blank."""
        numbered = enumerate(self.data.split(b"\n"), self.first_line)
        return [(number, line) for number, line in numbered if line.strip()]

    @cached_property
    def count(self) -> int:
        """How many lines there are, about (blank ones too)."""
        return self.data.count(b"\n")


@dataclass
class Frame:
    """Consecutive RECORDs of one stream. `offset` is the first one's place among the chunk's lines."""

    stream: str
    messages: list[Envelope]
    chunk: Chunk
    offset: int

    @cached_property
    def records(self) -> list[Any]:
        """The decoded records; gone after `forget`."""
        return [message.record for message in self.messages]

    @cached_property
    def size(self) -> int:
        """Bytes of input that this frame stands for, about."""
        return len(self.chunk.data) * len(self.messages) // max(1, self.chunk.count)

    def split(self, rows: int) -> tuple[Frame, Frame | None]:
        """The first `rows` records and the rest, None where nothing is left."""
        if len(self.messages) <= rows:
            return self, None
        rest = Frame(self.stream, self.messages[rows:], self.chunk, self.offset + rows)
        return Frame(self.stream, self.messages[:rows], self.chunk, self.offset), rest

    def forget(self) -> None:
        """Drop the decoded records, which take several times the room of their text."""
        self.messages = []
        self.__dict__.pop("records", None)

    def record(self, row: int) -> Any:
        """One record, decoded again if it was forgotten."""
        return self.records[row] if self.messages else decoder.decode(self.chunk.lines[self.offset + row][1]).record

    def line(self, row: int) -> int:
        """The input line of a record."""
        return self.chunk.lines[self.offset + row][0]

    def raw(self, row: int) -> str:
        """A record's JSON text as it came."""
        return raw_record(self.chunk.lines[self.offset + row][1])


@dataclass
class MappedFrame(Frame):
    """A frame that a stream map made: its records are no longer what the lines say, so they are kept."""

    rows: list[int]

    def split(self, rows: int) -> tuple[Frame, Frame | None]:
        """The first `rows` records and the rest, None where nothing is left."""
        if len(self.messages) <= rows:
            return self, None
        first, rest = self.rows[:rows], self.rows[rows:]
        head = MappedFrame(self.stream, self.messages[:rows], self.chunk, self.offset, first)
        return head, MappedFrame(self.stream, self.messages[rows:], self.chunk, self.offset, rest)

    def line(self, row: int) -> int:
        """The input line that a record was mapped from."""
        return self.chunk.lines[self.offset + self.rows[row]][0]

    def raw(self, row: int) -> str:
        """A mapped record as JSON text."""
        return _encoder.encode(self.messages[row].record).decode()

    def forget(self) -> None:
        """Nothing: a mapped record cannot be decoded again."""


@dataclass(frozen=True)
class Control:
    """A message that is not a RECORD, and its place among the chunk's lines."""

    message: Envelope
    chunk: Chunk
    place: int

    @property
    def line(self) -> int:
        """The input line of the message."""
        return self.chunk.lines[self.place][0]


@dataclass(frozen=True)
class Unreadable:
    """A RECORD that strict JSON refuses (NaN, a lone surrogate, too deep, no UTF-8): to be quarantined."""

    stream: str
    raw: str
    faults: tuple[Fault, ...]
    line: int


@dataclass(frozen=True)
class Idle:
    """Nothing has come for a while."""


@dataclass(frozen=True)
class Torn:
    """The input ended in the middle of a line."""

    line: int


Event = Frame | Control | Unreadable | Idle | Torn
Fault = tuple[tuple[Any, ...], str]
"""(path within the record, rule) of what makes a line unreadable; the path is empty for the line as a whole."""


def exact_float(text: str) -> float | Decimal:
    """A float where its shortest round trip says the same as the text, else the exact Decimal.

    Raises ValueError for a number beyond 4,300 digits or 1e±4300, which no database holds exactly.
    """
    number = float(text)
    if repr(number) == text:
        return number
    try:
        exact = Decimal(text)
    except ArithmeticError:
        raise ValueError("digits") from None
    if number - number == 0 and Decimal(repr(number)) == exact:
        return number
    if len(text) > MAX_DIGITS or (exact and abs(exact.adjusted()) > MAX_DIGITS):
        raise ValueError("digits")
    return exact


decoder = msgspec.json.Decoder(Envelope, float_hook=exact_float)
_plain_decoder = msgspec.json.Decoder(Envelope)
_SHAPE = bytes.maketrans(b"0123456789.eE+-", b"00000000000eess")
_INEXACT = (b"0" * 17, b"0" * 16 + b"e", b"0e000", b"0es000")
"""Shapes that may be a number which a float does not hold: 15 significant digits always survive (IEEE 754, DBL_DIG)."""
_encoder = msgspec.json.Encoder(decimal_format="number")
_raw_decoder = msgspec.json.Decoder(_RawEnvelope)


def read_events(source: Readable, idle_seconds: float = 1.0) -> Iterator[Event]:
    """Every message of a binary or text stream, in order. Raises NotSingerError (76) naming the line."""
    line = 1
    for data in _chunks(source, idle_seconds):
        if data is None:
            yield Idle()
            continue
        chunk = Chunk(data.removeprefix(BOM_UTF8) if line == 1 else data, line)
        yield from _decode(chunk)
        line += chunk.count


def raw_record(line: bytes) -> str:
    """The text of a line's record, byte for byte where it is UTF-8."""
    try:
        raw = bytes(_raw_decoder.decode(line).record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = _top_level(line).get("record", line)
    return raw.decode("utf-8", "backslashreplace")


def _chunks(source: Any, idle_seconds: float) -> Iterator[bytes | None]:
    """Chunks that end at a newline (the last one maybe not); None when idle."""
    rest: list[bytes] = []
    for data in _blocks(getattr(source, "buffer", source), idle_seconds):
        if data is None:
            yield None
            continue
        head, newline, tail = data.rpartition(b"\n")
        if newline:
            yield b"".join([*rest, head, newline])
            rest = [tail] if tail else []
        else:
            rest.append(tail)
    if rest:
        yield b"".join(rest)


def _blocks(source: Any, idle_seconds: float) -> Iterator[bytes | None]:
    """Blocks of up to CHUNK_BYTES; from a pipe as they come, with None after `idle_seconds` of silence."""
    ready = _readiness(source)
    if ready is None:
        while data := source.read(CHUNK_BYTES):
            yield data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        return
    while True:
        if not ready(idle_seconds):
            yield None
            continue
        parts: list[bytes] = []
        size = 0
        until = time.monotonic() + GATHER_SECONDS
        while size < CHUNK_BYTES and (not parts or ready(max(0.0, until - time.monotonic()))):
            data = source.read1(CHUNK_BYTES - size)
            if not data:
                break
            parts.append(data)
            size += len(data)
        if parts:
            yield b"".join(parts)
        if not parts or not data:
            return


def _readiness(source: Any) -> Callable[[float], bool] | None:
    """A function that waits for input with a timeout, or None where the source cannot (a file object, Windows)."""
    try:
        descriptor = source.fileno()
    except (OSError, AttributeError, ValueError):
        return None
    if not hasattr(source, "read1") or sys.platform == "win32":
        return None
    if sys.platform == "linux":
        _widen_pipe(descriptor)
    return lambda seconds: bool(select.select([descriptor], [], [], seconds)[0])


def _widen_pipe(descriptor: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, CHUNK_BYTES)
    except OSError:
        return  # not a pipe, or the user's pipe budget is spent: the default size works too


def _decode(chunk: Chunk) -> Iterator[Event]:
    try:
        messages = _fitting_decoder(chunk.data).decode_lines(chunk.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield from _decode_each(chunk)
        return
    if len(messages) != chunk.count and len(messages) != len(chunk.lines):
        yield from _decode_each(chunk)  # a message over several lines, or several on one
        return
    yield from _frames(messages, chunk, 0)


def _fitting_decoder(data: bytes) -> msgspec.json.Decoder[Envelope]:
    """The decoder without a call for each float, where no number looks as if a float might not hold it."""
    shape = data.translate(_SHAPE)
    return decoder if any(mark in shape for mark in _INEXACT) else _plain_decoder


def _frames(messages: list[Envelope], chunk: Chunk, offset: int) -> Iterator[Event]:
    """Group consecutive RECORDs of one stream; everything else is a Control."""
    start = 0
    total = len(messages)
    while start < total:
        first = messages[start]
        if first.type != "RECORD":
            yield _checked(Control(first, chunk, offset + start))
            start += 1
            continue
        stream = first.stream
        end = start + 1
        while end < total and messages[end].stream == stream and messages[end].type == "RECORD":
            end += 1
        frame = Frame(stream, messages[start:end], chunk, offset + start)
        _check_records(frame)
        yield frame
        start = end


def _decode_each(chunk: Chunk) -> Iterator[Event]:
    """The slow path for a chunk with a line that msgspec refuses: line by line."""
    for place, (number, line) in enumerate(chunk.lines):
        try:
            message = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield _unreadable(chunk, number, line)
        else:
            yield from _frames([message], chunk, place)


def _unreadable(chunk: Chunk, number: int, line: bytes) -> Unreadable | Torn:
    """A line that strict JSON refuses: quarantined if its envelope is a RECORD, else no Singer message."""
    top = _top_level(line)
    faults = tuple(itertools.islice(_faults(line), MAX_FAULTS))
    stream = _name(top.get("stream"))
    if top.get("type") == b'"RECORD"' and "record" in top and stream:
        raw = top["record"].decode("utf-8", "backslashreplace").replace("\0", "\\x00")  # no database stores NUL
        return Unreadable(stream, raw, faults, number)
    if not chunk.data.endswith(b"\n") and number == chunk.lines[-1][0]:
        return Torn(number)
    raise NotSingerError(f"line {number} is not a Singer message: {FAULTS[faults[0][1]]}; was something else piped in?")


def _name(text: bytes | None) -> str | None:
    try:
        return msgspec.json.decode(text, type=str) if text else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


FAULTS: dict[str, str] = {
    "utf-8": "it is no UTF-8",
    "json": "it is no JSON",
    "depth": "it is nested too deep",
    "finite": "NaN and Infinity are no JSON numbers",
    "digits": "a number has too many digits or too large an exponent",
    "surrogate": "a lone surrogate is no character",
    "envelope": "a field of the message has the wrong type",
}
"""Rule → what is wrong with a line, in words."""

MAX_FAULTS = 20


def _faults(line: bytes) -> Iterator[Fault]:
    """Why strict JSON refuses a line, found by a lenient reading of it; at least one."""
    found = False
    try:
        message = json.loads(line.decode(), parse_constant=_Odd, parse_int=_odd_integer, parse_float=_odd_float)
        for found_fault in _odd_values((), message):
            found = True
            yield found_fault
    except UnicodeDecodeError:
        yield (), "utf-8"
    except RecursionError:
        yield (), "depth"
    except ValueError:
        yield (), "json"
    else:
        if not found:
            yield (), "envelope"


class _Odd(str):
    """Stands for a number that strict JSON does not have; the text is a number of JSON's grammar or a constant."""

    __slots__ = ()


def _odd_integer(text: str) -> _Odd | None:
    return _Odd(text) if len(text) > MAX_DIGITS else None


def _odd_float(text: str) -> _Odd | None:
    try:
        exact_float(text)
    except ValueError:
        return _Odd(text)
    return None


def _odd_values(path: tuple[Any, ...], value: Any) -> Iterator[Fault]:
    if isinstance(value, _Odd):
        yield path[1:], "digits" if value[-1].isdigit() else "finite"
    elif isinstance(value, str) and not value.isascii() and _has_surrogate(value):
        yield path[1:], "surrogate"
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _odd_values(path, name) if _has_surrogate(name) else _odd_values((*path, name), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _odd_values((*path, index), inner)


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _top_level(line: bytes) -> dict[str, bytes]:
    """The raw values of an object's own keys, found by counting brackets; empty where they do not balance."""
    depth = 0
    found: dict[str, bytes] = {}
    key: bytes | None = None
    start = 0
    previous = b""
    for token in _TOKEN.finditer(line):
        text = token.group()
        if depth == 0 and previous:
            return {}  # something stands after the object
        if depth == 1 and text == b":":
            key, start = previous, token.end()
        if depth == 1 and text in (b",", b"}") and key is not None:
            found[key.strip(b'"').decode("utf-8", "replace")] = line[start : token.start()].strip()
            key = None
        depth += (text in (b"{", b"[")) - (text in (b"}", b"]"))
        previous = text
    return found if depth == 0 and previous == b"}" else {}


_REQUIRED: dict[str, tuple[str, ...]] = {
    "SCHEMA": ("stream", "schema"),
    "STATE": ("value",),
    "ACTIVATE_VERSION": ("stream", "version"),
    "BATCH": ("stream", "encoding", "manifest"),
}


def _checked(control: Control) -> Control:
    message = control.message
    required = _REQUIRED.get(message.type)
    if required is None:
        raise NotSingerError(f"line {control.line} has the unknown message type '{message.type[:40]}'")
    missing = [name for name in required if getattr(message, name) in ("", None, msgspec.Raw())]
    if missing:
        raise NotSingerError(f"line {control.line}: {message.type} lacks {', '.join(missing)}")
    if "\0" in message.stream:
        raise NotSingerError(f"line {control.line}: the stream's name holds NUL, which no database stores")
    try:
        str(message.schema or message.value, "utf-8")
    except UnicodeDecodeError:
        raise NotSingerError(f"line {control.line}: {message.type} is no UTF-8") from None
    return control


def _check_records(frame: Frame) -> None:
    for row, message in enumerate(frame.messages):
        if message.record is msgspec.UNSET or not message.stream:
            lacking = "stream" if not message.stream else "record"
            raise NotSingerError(f"line {frame.line(row)}: RECORD lacks {lacking}")
