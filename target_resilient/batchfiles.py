"""BATCH messages: the files that they name are read as if each line had been a RECORD, and judged the same way."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from resilient_core.errors import NotSingerError
from target_resilient.reader import CHUNK_BYTES, Control, Event, read_events


def batch_events(control: Control) -> Iterator[Event]:
    """The records of all files of a manifest. Raises NotSingerError for an unknown format or a file that is missing."""
    message = control.message
    encoding = message.encoding or {}
    compression = encoding.get("compression") or "none"
    if encoding.get("format") != "jsonl" or compression not in {"gzip", "none"}:
        raise NotSingerError(
            f"line {control.line}: BATCH of stream '{message.stream}' has an unknown encoding;"
            " known: jsonl, plain or gzip"
        )
    for uri in message.manifest or []:
        path = Path(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri)
        try:
            with gzip.open(path) if compression == "gzip" else path.open("rb") as file:
                yield from read_events(_Records(file, message.stream))
        except (OSError, EOFError) as error:
            raise NotSingerError(
                f"line {control.line}: BATCH file {path} cannot be read: {type(error).__name__}"
            ) from None


class _Records:
    """A file of records, seen as a file of RECORD messages."""

    def __init__(self, file: io.BufferedIOBase, stream: str) -> None:
        self._file = file
        self._head = b'{"type":"RECORD","stream":' + msgspec.json.encode(stream) + b',"record":'

    def read(self, _size: int) -> bytes:
        lines = self._file.readlines(CHUNK_BYTES)
        return b"".join(self._head + line.strip() + b"}\n" for line in lines if line.strip())
