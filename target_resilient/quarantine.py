"""Refused records, kept with field and reason. The id hashes stream, contract and record: a replay adds nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from target_resilient.meta import insert_into
from target_resilient.sql import Sql
from target_resilient.validate import Violation

COLUMNS = (
    "id",
    "pipeline",
    "load_id",
    "stream",
    "table_name",
    "key",
    "record",
    "errors",
    "contract_fingerprint",
    "first_seen_at",
    "last_seen_at",
    "times_seen",
)


@dataclass(frozen=True)
class Refused:
    """One refused record as it came, and why."""

    stream: str
    table_name: str
    key: str | None
    record: str
    errors: list[Violation]
    fingerprint: str

    @property
    def id(self) -> str:
        """32 hex digits over stream, contract and record."""
        text = "\0".join([self.stream, self.fingerprint, self.record])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def quarantine_rows(refused: Iterable[Refused], pipeline: str, load_id: str, now: Any) -> list[list[Any]]:
    """The parameters of `upsert`, one row a different record; a record that came twice is counted twice."""
    found: dict[str, list[Any]] = {}
    for one in refused:
        if one.id in found:
            found[one.id][-1] += 1
            continue
        found[one.id] = [
            one.id, pipeline, load_id, one.stream, one.table_name, one.key,
            one.record, json.dumps(one.errors), one.fingerprint, now, now, 1,
        ]  # fmt: skip
    return list(found.values())


def upsert(meta_schema: str) -> Sql:
    """Insert a refused record, or count it once more."""
    again = (
        " ON CONFLICT (id) DO UPDATE SET last_seen_at = excluded.last_seen_at, load_id = excluded.load_id,"
        " errors = excluded.errors, times_seen = q.times_seen + excluded.times_seen"
    )
    return insert_into(meta_schema, "quarantine", COLUMNS, alias="q") + again
