"""Records of answers that are too large for memory: first all is proven readable, then it is handed over in slices.

Nothing is emitted from an answer before it has been read to its end, so that a cut, undecodable or wrongly shaped one
is a failed request, large or small. The first reading notes where the slices are; the second decodes them one by one.
What can be streamed: JSON with its records at a plain path, JSON lines, CSV.
"""

from __future__ import annotations

import bisect
import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, TypeAlias

from tap_resilient.bodies import Body
from tap_resilient.decoders import csv_rows, csv_text, decode, encoding, refuse_html, refusing
from tap_resilient.exchange import Request
from tap_resilient.json_index import index_json
from tap_resilient.line_index import index_csv, index_jsonl
from tap_resilient.spool import Slice, Spool

Row: TypeAlias = "dict[str, Any]"

_HEAD_BYTES = 1000


class StreamedRows(Sequence[Row]):
    """The records of one answer, in slices of about 256 kB that are read when they are asked for."""

    def __init__(self, spool: Spool, slices: Sequence[Slice], decode: Callable[[bytes], list[Row]]) -> None:
        self._spool = spool
        self._slices = slices
        self._decode = decode
        self._ends = list(accumulate(one.rows for one in slices))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        number = bisect.bisect_right(self._ends, place)
        return self._read(self._slices[number])[place - self._ends[number]]

    def slices(self) -> Iterator[list[Row]]:
        """All records, slice by slice."""
        return map(self._read, self._slices)

    def _read(self, one: Slice) -> list[Row]:
        return self._decode(self._spool.read(one.offset, one.size))


@dataclass(frozen=True)
class Opened:
    """A decoded body. If it is streamed, `records` holds its rows, and stands empty in `body`."""

    body: Any
    records: StreamedRows | None = None


def slices_of(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows in portions that memory can hold: those of an ordinary answer in one."""
    return rows.slices() if isinstance(rows, StreamedRows) else iter([list(rows)])


def open_body(request: Request, body: Body, content_type: str) -> Opened:
    """The body, decoded whole, or streamed if it is large and can be. Raises BadAnswerError for one that is not valid.

    Of the records in it, only their types are judged here.
    """
    name, path = request.decoder, request.records_at
    if not isinstance(body, Spool) or path is None or name not in _OPENERS or (path and name != "json"):
        return Opened(decode(name, body, content_type))
    with refusing(name, len(body)):
        refuse_html(name, body.read(0, _HEAD_BYTES))
        return _OPENERS[name](_as_utf8(body, content_type), path)


def _as_utf8(spool: Spool, content_type: str) -> Spool:
    """The spool, or another one with the same text in UTF-8 without a BOM."""
    mark, charset = encoding(spool.read(0, _HEAD_BYTES), content_type)
    if not mark and charset == "utf-8":
        return spool
    decoder, rewritten = codecs.getincrementaldecoder(charset)(), Spool()
    for chunk in spool.chunks(mark):
        rewritten.write(decoder.decode(chunk).encode())
    rewritten.write(decoder.decode(b"", final=True).encode())
    return rewritten


def _open_json(spool: Spool, path: tuple[str, ...]) -> Opened:
    body, slices = index_json(spool, path)
    return Opened(body, StreamedRows(spool, slices, lambda members: list(decode("json", b"[%b]" % members))))


def _open_jsonl(spool: Spool, _: tuple[str, ...]) -> Opened:
    return Opened([], StreamedRows(spool, index_jsonl(spool), partial(decode, "jsonl")))


def _open_csv(spool: Spool, _: tuple[str, ...]) -> Opened:
    header, slices = index_csv(spool)
    return Opened([], StreamedRows(spool, slices, lambda rows: csv_rows(header, csv_text(rows))))


_OPENERS: dict[str, Callable[[Spool, tuple[str, ...]], Opened]] = {
    "json": _open_json,
    "jsonl": _open_jsonl,
    "csv": _open_csv,
}
