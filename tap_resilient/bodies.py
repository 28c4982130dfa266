"""Reads a response body whole: decompressed, within its size, ratio and time limits, and proven not to be cut."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tap_resilient.exchange import BadAnswerError

CHUNK_BYTES = 65536
MAX_RATIO = 200
RATIO_MATTERS_FROM = 10_000_000
"""Below this size (bytes, decompressed) any ratio is fine; JSON of equal rows compresses a hundredfold."""

_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS = 31  # zlib's way to say: gzip, any window
_PIECE_BYTES = 1_000_000


def read_body(raw: Any, *, max_bytes: int, deadline: float, clock: Callable[[], float]) -> bytearray:
    """The body of the urllib3 response `raw`, decompressed (Content-Encoding, and gzip files too).

    Raises BadAnswerError if it is cut, larger than `max_bytes`, a decompression bomb, or not done at `deadline`.
    The HTTP library's own decompression is not used: it accepts a cut gzip stream and knows no limits.
    """
    encoding = raw.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        raise BadAnswerError("the answer is compressed in a way that was not asked for (Content-Encoding)")
    chunks = _chunks(raw, deadline, clock)
    body = _inflated(chunks, max_bytes) if encoding.endswith("gzip") else _plain(chunks, max_bytes)
    if body[:2] == _GZIP_MAGIC:
        return _inflated(iter([bytes(body)]), max_bytes)
    return body


def _chunks(raw: Any, deadline: float, clock: Callable[[], float]) -> Iterator[bytes]:
    """What arrives, as it arrives: read1 returns after every packet, so that a trickle cannot outlast the deadline.

    The HTTP library raises if less arrives than Content-Length or the chunks announce.
    """
    while chunk := raw.read1(CHUNK_BYTES, decode_content=False):
        yield chunk
        if clock() > deadline:
            raise BadAnswerError("the answer took longer than timeout.total")


def _plain(chunks: Iterator[bytes], max_bytes: int) -> bytearray:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return body


def _inflated(chunks: Iterator[bytes], max_bytes: int) -> bytearray:
    inflater, body, received = zlib.decompressobj(_GZIP_BITS), bytearray(), 0
    for chunk in chunks:
        received += len(chunk)
        rest = chunk
        while rest:
            if inflater.eof:  # gzip files may hold several members (RFC 1952, 2.2)
                inflater = zlib.decompressobj(_GZIP_BITS)
            body += _inflate(inflater, rest)
            _check_size(body, received, max_bytes)
            rest = inflater.unconsumed_tail or inflater.unused_data
    while received and not inflater.eof:
        if not (piece := _inflate(inflater, b"")):
            raise BadAnswerError("the answer was cut: its compressed data does not end")
        body += piece
        _check_size(body, received, max_bytes)
    return body


def _inflate(inflater: Any, data: bytes) -> bytes:
    try:
        inflated: bytes = inflater.decompress(data, _PIECE_BYTES)
    except zlib.error:
        raise BadAnswerError("the answer's compressed data is damaged") from None
    return inflated


def _check_size(body: bytearray, received: int, max_bytes: int) -> None:
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    if len(body) > max(RATIO_MATTERS_FROM, MAX_RATIO * received):
        raise BadAnswerError(f"the answer is a decompression bomb: over {MAX_RATIO} times its compressed size")


def _too_large(max_bytes: int) -> BadAnswerError:
    return BadAnswerError(f"the answer is larger than max_response_bytes ({max_bytes} bytes)")
