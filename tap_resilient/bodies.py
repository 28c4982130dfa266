"""Reads a response body whole: decompressed, within its size, ratio and time limits, and proven not to be cut."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeAlias

from tap_resilient.exchange import BadAnswerError
from tap_resilient.spool import Spool

CHUNK_BYTES = 65536
HELD_BYTES = 5_000_000
"""Bodies up to this size (decompressed) are held in memory; larger ones go to a temporary file."""
MAX_RATIO = 200
RATIO_MATTERS_FROM = 10_000_000
"""Below this size (bytes, decompressed) any ratio is fine; JSON of equal rows compresses a hundredfold."""

Body: TypeAlias = bytearray | Spool

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS = 31  # zlib's way to say: gzip, any window
_PIECE_BYTES = 1_000_000
_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_END = struct.Struct("<4s4H2LH")  # end of central directory record (APPNOTE 4.3.16)
_ZIP_END_MAGIC = b"PK\x05\x06"
_ZIP_LOCATOR = b"PK\x06\x07"
_MAX_COMMENT = 65_535


def read_body(raw: Any, *, max_bytes: int, deadline: float, clock: Callable[[], float]) -> Body:
    """The body of the urllib3 response `raw`, decompressed: Content-Encoding, and gzip files and zips of one file, too.

    Raises BadAnswerError if it is cut, larger than `max_bytes`, a decompression bomb, or not done at `deadline`.
    The HTTP library's own decompression is not used: it accepts a cut gzip stream and knows no limits.
    """
    encoding = raw.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        raise BadAnswerError("the answer is compressed in a way that was not asked for (Content-Encoding)")
    chunks = _chunks(raw, deadline, clock)
    body = _collected(_gunzipped(_inflated(chunks) if encoding.endswith("gzip") else chunks), max_bytes)
    if _head(body, 4) == _ZIP_MAGIC:
        return _collected(_unzipped(body), max_bytes)
    return body


def _chunks(raw: Any, deadline: float, clock: Callable[[], float]) -> Iterator[bytes]:
    """What arrives, as it arrives: read1 returns after every packet, so that a trickle cannot outlast the deadline.

    The HTTP library raises if less arrives than Content-Length or the chunks announce.
    """
    while chunk := raw.read1(CHUNK_BYTES, decode_content=False):
        yield chunk
        if clock() > deadline:
            raise BadAnswerError("the answer took longer than timeout.total")


def _collected(pieces: Iterator[bytes], max_bytes: int) -> Body:
    body = bytearray()
    for piece in pieces:
        body += piece
        _check_size(body, max_bytes)
        if len(body) > HELD_BYTES:
            return _spooled(chain([body], pieces), max_bytes)
    return body


def _spooled(pieces: Iterator[bytes | bytearray], max_bytes: int) -> Spool:
    spool = Spool()
    for piece in pieces:
        spool.write(piece)
        _check_size(spool, max_bytes)
    return spool


def _check_size(body: Body, max_bytes: int) -> None:
    if len(body) > max_bytes:
        raise BadAnswerError(f"the answer is larger than max_response_bytes ({max_bytes} bytes)")


def _head(body: Body, size: int) -> bytes:
    return body.read(0, size) if isinstance(body, Spool) else bytes(body[:size])


def _gunzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks; inflated if they are a gzip file, whatever the headers say."""
    head = b""
    while len(head) < len(_GZIP_MAGIC) and (chunk := next(chunks, b"")):
        head += chunk
    whole = chain([head], chunks)
    return _inflated(whole) if head.startswith(_GZIP_MAGIC) else whole


def _inflated(chunks: Iterator[bytes]) -> Iterator[bytes]:
    inflater, received, inflated = zlib.decompressobj(_GZIP_BITS), 0, 0
    for chunk in chunks:
        received += len(chunk)
        rest = chunk
        while rest:
            if inflater.eof:  # gzip files may hold several members (RFC 1952, 2.2)
                inflater = zlib.decompressobj(_GZIP_BITS)
            piece = _inflate(inflater, rest)
            inflated += len(piece)
            _check_ratio(inflated, received)
            yield piece
            rest = inflater.unconsumed_tail or inflater.unused_data
    while received and not inflater.eof:
        if not (piece := _inflate(inflater, b"")):
            raise BadAnswerError("the answer was cut: its compressed data does not end")
        inflated += len(piece)
        _check_ratio(inflated, received)
        yield piece


def _inflate(inflater: Any, data: bytes) -> bytes:
    try:
        inflated: bytes = inflater.decompress(data, _PIECE_BYTES)
    except zlib.error:
        raise BadAnswerError("the answer's compressed data is damaged") from None
    return inflated


def _check_ratio(inflated: int, received: int) -> None:
    if inflated > max(RATIO_MATTERS_FROM, MAX_RATIO * received):
        raise BadAnswerError(f"the answer is a decompression bomb: over {MAX_RATIO} times its compressed size")


def _unzipped(body: Body) -> Iterator[bytes]:
    """The only file of a zip; the library checks its length and its CRC."""
    _check_zip(body)
    file, inflated = body.file if isinstance(body, Spool) else io.BytesIO(body), 0
    try:
        with zipfile.ZipFile(file) as archive, archive.open(archive.infolist()[0]) as member:
            while piece := member.read(_PIECE_BYTES):
                inflated += len(piece)
                _check_ratio(inflated, len(body))
                yield piece
    except (zipfile.BadZipFile, EOFError, IndexError, zlib.error):
        raise BadAnswerError("the answer's zip is damaged") from None
    except (NotImplementedError, RuntimeError):
        raise BadAnswerError("the answer's zip is encrypted, or compressed in an unusual way") from None


def _check_zip(body: Body) -> None:
    """Refuse a cut zip, and any that does not hold exactly one file, before its directory is read into memory."""
    most = _ZIP_END.size + _MAX_COMMENT
    tail = body.read(max(len(body) - most, 0)) if isinstance(body, Spool) else bytes(body[-most:])
    at = tail.rfind(_ZIP_END_MAGIC)
    if at < 0 or len(tail) < at + _ZIP_END.size:
        raise BadAnswerError("the answer was cut: its zip has no end")
    _, _, _, _, files, directory_bytes, _, _ = _ZIP_END.unpack_from(tail, at)
    if files != 1 or directory_bytes > 4 * _MAX_COMMENT or _ZIP_LOCATOR in tail:
        raise BadAnswerError("the answer is a zip that does not hold exactly one file (of up to 4 GB)")
