"""Finds slices of whole records in large bodies made of lines: JSON lines, and CSV with its quoted line ends."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from tap_resilient.decoders import csv_header, csv_reader, csv_row, decode
from tap_resilient.exchange import BadAnswerError
from tap_resilient.spool import MAX_RECORD_BYTES, SLICE_BYTES, Slice, Spool, too_large


def index_jsonl(spool: Spool) -> list[Slice]:
    """Where the records are. Raises BadAnswerError for a line that is no JSON object."""
    return list(_jsonl_slices(spool))


def index_csv(spool: Spool) -> tuple[list[str], list[Slice]]:
    """The names of the columns, and where the records are. Raises BadAnswerError or csv.Error for broken rows."""
    lines = _CountedLines(spool)
    reader = csv_reader(lines)
    header = csv_header(reader)
    return header, list(_csv_slices(lines, header, reader))


def _jsonl_slices(spool: Spool) -> Iterator[Slice]:
    offset = 0
    for lines in _whole_lines(spool):
        rows = decode("jsonl", lines)
        if not all(type(row) is dict for row in rows):
            raise BadAnswerError("the answer has lines that hold no objects")
        yield Slice(offset, len(lines), len(rows))
        offset += len(lines)


def _whole_lines(spool: Spool) -> Iterator[bytes]:
    """The bytes in portions that end where a line ends; twice as much is read where no line does."""
    offset, wanted = 0, SLICE_BYTES
    while portion := spool.read(offset, wanted):
        end = portion.rfind(b"\n") + 1 if offset + len(portion) < len(spool) else len(portion)
        if end:
            yield portion[:end]
        elif wanted > MAX_RECORD_BYTES:
            raise too_large("one record")
        offset, wanted = offset + end, SLICE_BYTES if end else wanted * 2


def _csv_slices(lines: _CountedLines, header: Sequence[str], rows: Iterator[list[str]]) -> Iterator[Slice]:
    number, begun, before = 0, lines.row_ends(), 0
    for row in rows:
        if row:
            number += 1
            csv_row(header, row, number)
        if (end := lines.row_ends()) - begun > SLICE_BYTES:
            yield Slice(begun, end - begun, number - before)
            begun, before = end, number
    yield Slice(begun, lines.row_ends() - begun, number - before)


class _CountedLines(Iterator[str]):
    """The lines of a CSV file. Its reader takes no line before it needs it: a row ends where the last line did."""

    def __init__(self, spool: Spool) -> None:
        self._lines = _text_lines(spool)
        self._row_began = 0
        self._at = 0

    def __next__(self) -> str:
        line = next(self._lines)
        self._at += len(line) if line.isascii() else len(line.encode())
        if self._at - self._row_began > MAX_RECORD_BYTES:
            raise too_large("one record")
        return line

    def row_ends(self) -> int:
        """The offset behind the row that was read last; the next one begins there."""
        self._row_began = self._at
        return self._at


def _text_lines(spool: Spool) -> Iterator[str]:
    spool.file.seek(0)
    text = io.TextIOWrapper(spool.file, encoding="utf-8", newline="")
    try:
        while line := text.readline(MAX_RECORD_BYTES + 1):
            yield line
    finally:
        text.detach()  # or it would close the spool
