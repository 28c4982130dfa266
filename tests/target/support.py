"""Runs whole loads in this process, on a list of lines, and reads the tables back."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from target_resilient.backends import Backend, open_backend
from target_resilient.config import config_faults, parse_options
from target_resilient.destination import parse_destination
from target_resilient.load import Load
from target_resilient.mapping import Mapping
from target_resilient.reader import read_events

SETTINGS = {"max_quarantine_ratio": "1", "retry_max_elapsed": "0ms"}


@dataclass
class Outcome:
    """What a load wrote to stdout, and what stopped it."""

    states: list[Any] = field(default_factory=list)
    error: BaseException | None = None


def load(destination: str, data: bytes | Iterable[Any], **config: Any) -> Outcome:
    """Load lines (bytes as they are, a file, or messages to be encoded) and return what came of it."""
    source: Any = data
    if not hasattr(data, "read"):
        source = io.BytesIO(data if isinstance(data, bytes) else b"".join(line_of(message) for message in data))
    settings = {"destination": destination, **SETTINGS, **config}
    assert config_faults(settings) == []
    options = parse_options(settings, takeover=False, dry_run=False)
    maps = {"stream_maps", "flattening_enabled"} & set(settings)
    mapping = Mapping(settings, logging.getLogger("test")) if maps else None
    outcome = Outcome()
    opened = backend(destination, meta_schema=settings.get("meta_schema", "_resilient"))
    running = Load(options, opened, lambda state: outcome.states.append(json.loads(state)), mapping)
    try:
        running.open()
        running.consume(read_events(source))
        running.finish()
    except Exception as error:
        running.abort(error)
        outcome.error = error
    return outcome


def backend(destination: str, **options: Any) -> Backend:
    return open_backend(parse_destination({"destination": destination}), **options)


def line_of(message: Any) -> bytes:
    """A message as one line; bytes and text pass as they are."""
    if isinstance(message, bytes):
        return message.rstrip(b"\n") + b"\n"
    return json.dumps(message).encode() + b"\n"


def schema(properties: dict[str, Any], key: Sequence[str] = (), stream: str = "s", **more: Any) -> dict[str, Any]:
    """A SCHEMA message."""
    body = {"type": "object", "properties": properties, **more}
    return {"type": "SCHEMA", "stream": stream, "schema": body, "key_properties": list(key)}


def record(fields: dict[str, Any], stream: str = "s", **more: Any) -> dict[str, Any]:
    """A RECORD message."""
    return {"type": "RECORD", "stream": stream, "record": fields, **more}


def raw_record(text: str | bytes, stream: str = "s") -> bytes:
    """A RECORD line whose record is this very text."""
    body = text if isinstance(text, bytes) else text.encode()
    return b'{"type":"RECORD","stream":' + json.dumps(stream).encode() + b',"record":' + body + b"}\n"


def rows(
    destination: str, table: str | tuple[str, ...], *names: str, order: str | None = None
) -> list[tuple[Any, ...]]:
    """The rows of a table: the named columns, or all that are not ours; sorted."""
    with_name = (table,) if isinstance(table, str) else table
    opened = backend(destination)
    try:
        if not names:
            whole = with_name if len(with_name) == 2 else (opened.default_schema, *with_name)
            facts = opened.describe(whole)
            assert facts is not None, f"no table {whole}"
            names = tuple(name for name in facts.columns if not name.startswith("_sdc_"))
        marks = ", ".join("{}" for _ in names)
        found = opened.fetch(f"SELECT {marks} FROM {{}}", [*((name,) for name in names), with_name])
    finally:
        opened.close()
    return sorted(found, key=repr)


def quarantined(destination: str, meta_schema: str = "_resilient") -> list[tuple[str, list[dict[str, Any]]]]:
    """(record as it came, errors) of everything in the quarantine."""
    opened = backend(destination)
    try:
        found = opened.fetch("SELECT record, errors FROM {} ORDER BY record", [(meta_schema, "quarantine")])
    finally:
        opened.close()
    return [(record, json.loads(errors) if isinstance(errors, str) else errors) for record, errors in found]


def exact(value: Any) -> Decimal:
    """A number as the decimal that its text says."""
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


def plain(value: Any) -> Any:
    """A JSON value with its numbers as exact decimals."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return exact(value) if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) else value
