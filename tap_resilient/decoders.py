"""Decodes bodies: json, jsonl, csv, xml. What cannot be decoded is a failed request, never an empty page.

Integers are exact at any size, and a decimal that a float cannot hold exactly is a `decimal.Decimal`. What strict JSON
forbids but servers send (NaN, Infinity, lone surrogates) is passed on as it is, to be judged record by record: NaN and
Infinity as Decimal, because writers turn a float NaN into null.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from typing import Any
from xml.parsers import expat

import msgspec

from resilient_core.errors import Fault
from resilient_core.settings import unknown_name
from tap_resilient.bodies import Body
from tap_resilient.exchange import BadAnswerError
from tap_resilient.spool import Spool

MAX_XML_DEPTH = 200

_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,99}\sencoding\s*=\s*[\"']([\w.:-]+)")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\x00\x00", "utf-32-le"), (b"\x00\x00\xfe\xff", "utf-32-be"))
_BOMS_16 = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_SHAPE = bytes.maketrans(b"0123456789.eE+-", b"00000000000eess")
_INEXACT = (b"0" * 17, b"0" * 16 + b"e", b"0e000", b"0es000")
"""Shapes that may be a number which a float does not hold: 15 significant digits always survive (IEEE 754, DBL_DIG).

A translated body is searched ten times faster than a regular expression searches the body itself.
"""
_MOST_INT_DIGITS = 4300  # of int(), against quadratic time


def decode(name: str, body: Body | bytes, content_type: str = "") -> Any:
    """The body decoded by the decoder `name`. Raises BadAnswerError if it is not what that decoder expects."""
    whole = body.read() if isinstance(body, Spool) else body
    with refusing(name, len(whole)):
        refuse_html(name, whole)
        return DECODERS[name](_utf8(whole, content_type))


@contextmanager
def refusing(name: str, size: int) -> Iterator[None]:
    """Makes a BadAnswerError of whatever a decoder raises over a body of `size` bytes."""
    try:
        yield
    except RecursionError:
        raise BadAnswerError(f"the {name} answer is nested too deeply") from None
    except (ValueError, csv.Error, expat.ExpatError, msgspec.DecodeError):
        raise BadAnswerError(f"the answer is not valid {name} ({size} bytes)") from None


def refuse_html(name: str, head: bytes | bytearray) -> None:
    """Raises BadAnswerError if a body that begins with `head` is a web page."""
    if _HTML.match(head) and name != "xml":
        raise BadAnswerError(f"the answer is an HTML page, not {name}")


def decoder_faults(name: str, where: str) -> list[Fault]:
    """The fault of an unknown decoder name, if it is one."""
    return [] if name in DECODERS else [Fault(where, unknown_name("decoder", name, DECODERS))]


def exact_number(text: str) -> float | Decimal:
    """The decimal in `text` as a float if that holds it exactly in its shortest form, else as a Decimal.

    A number with an exponent beyond those of Decimal (10^18) is NaN, for its record to be refused.
    """
    try:
        number, exact = float(text), Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")
    return number if Decimal(repr(number)) == exact else exact


_fast = msgspec.json.Decoder()
_exact = msgspec.json.Decoder(float_hook=exact_number)


def _json(body: bytes | bytearray) -> Any:
    if not body.strip():
        raise BadAnswerError("the answer is empty where JSON was expected")
    try:
        return _numbers(body).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _lenient(body)


def _jsonl(body: bytes | bytearray) -> list[Any]:
    try:
        return _numbers(body).decode_lines(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [_lenient(line) for line in bytes(body).split(b"\n") if line.strip()]


def _numbers(body: bytes | bytearray) -> msgspec.json.Decoder[Any]:
    shape = body.translate(_SHAPE)
    return _exact if any(mark in shape for mark in _INEXACT) else _fast


def _lenient(body: bytes | bytearray) -> Any:
    return lenient_json.decode(body.decode())


def _exact_integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= _MOST_INT_DIGITS else Decimal(text)


lenient_json = json.JSONDecoder(parse_float=exact_number, parse_int=_exact_integer, parse_constant=Decimal)
"""Slow, exact, and open to what strict JSON forbids."""


def _csv(body: bytes | bytearray) -> list[dict[str, str]]:
    rows = csv_text(body)
    return csv_rows(csv_header(rows), rows)


def csv_text(body: bytes | bytearray) -> Iterator[list[str]]:
    """The rows of a CSV text."""
    return csv_reader(io.StringIO(body.decode(), newline=""))


def csv_reader(lines: Iterable[str]) -> Iterator[list[str]]:
    """The rows of `lines`; a blank line is an empty one."""
    csv.field_size_limit(sys.maxsize)
    return csv.reader(lines, strict=True)


def csv_header(rows: Iterator[list[str]]) -> list[str]:
    """The names of the columns, from the first row. Raises BadAnswerError if one comes twice."""
    header = next(rows, [])
    if len(set(header)) < len(header):
        raise BadAnswerError("the CSV header names a column twice")
    return header


def csv_rows(header: Sequence[str], rows: Iterable[list[str]]) -> list[dict[str, str]]:
    """The rows by their columns, without blank ones. Raises BadAnswerError as `csv_row`."""
    return [csv_row(header, row, number) for number, row in enumerate(filter(None, rows), 1)]


def csv_row(header: Sequence[str], row: Sequence[str], number: int) -> dict[str, str]:
    """Row `number` (from 1) by its columns. Raises BadAnswerError if it has more or fewer fields than the header."""
    if len(row) != len(header):
        raise BadAnswerError(f"CSV row {number} has {len(row)} fields, the header {len(header)}: cut or broken")
    return dict(zip(header, row, strict=True))


def _xml(body: bytes | bytearray) -> dict[str, Any]:
    builder = _XmlBuilder()
    builder.parser.Parse(bytes(body), True)
    if {name.lower() for name in builder.root} == {"html"}:
        raise BadAnswerError("the answer is an HTML page, not xml")
    return builder.root


class _XmlBuilder:
    """Elements as objects: attributes `@name`, text `#text` (or the bare text), repeated elements as lists."""

    def __init__(self) -> None:
        self.root: dict[str, Any] = {}
        self._open: list[tuple[str, dict[str, Any], list[str]]] = [("", self.root, [])]
        self.parser = expat.ParserCreate("utf-8")
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _doctype(self, *_: Any) -> None:
        raise BadAnswerError("the XML answer has a DOCTYPE, which may expand without bound; it is refused")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > MAX_XML_DEPTH:
            raise BadAnswerError("the xml answer is nested too deeply")
        self._open.append((name, {f"@{key}": value for key, value in attributes.items()}, []))

    def _text(self, text: str) -> None:
        self._open[-1][2].append(text)

    def _end(self, name: str) -> None:
        _, element, texts = self._open.pop()
        text = "".join(texts).strip()
        value: Any = {**element, "#text": text} if element and text else element or text or None
        parent = self._open[-1][1]
        if name not in parent:
            parent[name] = value
        elif isinstance(parent[name], list):
            parent[name].append(value)
        else:
            parent[name] = [parent[name], value]


DECODERS: dict[str, Callable[[bytes | bytearray], Any]] = {"json": _json, "jsonl": _jsonl, "csv": _csv, "xml": _xml}
"""Decoders by name. Each takes UTF-8 and raises ValueError or BadAnswerError for what it cannot read."""


def _utf8(body: bytes | bytearray, content_type: str) -> bytes | bytearray:
    mark, charset = encoding(body, content_type)
    rest = body[mark:] if mark else body
    return rest if charset == "utf-8" else rest.decode(charset).encode()


def encoding(head: bytes | bytearray, content_type: str) -> tuple[int, str]:
    """The length of the BOM that a body begins with, and its charset: by that BOM, Content-Type, XML, else UTF-8."""
    for mark, name in (*_BOMS, *_BOMS_16):
        if head.startswith(mark):
            return len(mark), name
    declared = _XML_ENCODING.match(head)
    found = _CHARSET.search(content_type)
    charset = found[1].lower() if found else declared[1].decode().lower() if declared else "utf-8"
    if charset in {"utf-8", "utf8", "us-ascii", "ascii"}:
        return 0, "utf-8"
    try:
        return 0, codecs.lookup(charset).name
    except LookupError:
        raise BadAnswerError("the answer has an unknown charset") from None
