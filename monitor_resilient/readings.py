"""What the checks, the report and the listings read from the destination, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from monitor_resilient.database import TIMESTAMP, Database, moment, seconds
from monitor_resilient.model import ColumnChange, Load, StreamRun
from resilient_core.errors import UnavailableError
from target_resilient.sql import Name

MEMORY = timedelta(days=70)
CLOCK_SKEW = timedelta(minutes=5)

_LOADS = (
    f"SELECT load_id, pipeline, status, {seconds('started_at')}, {seconds('finished_at')}, exit_code, reason,"  # noqa: S608
    " coalesce(received, 0), coalesce(quarantined, 0) FROM {}"
)
# A killed load has no end; its rows count from its last commit.
_LOADS_OF_STREAM = (
    "SELECT l.load_id,"
    " CAST(extract(epoch FROM coalesce(l.finished_at, max(g.committed_at), l.started_at)) AS double precision)"
    " AS ended, l.exit_code, coalesce(sum(g.received), 0), coalesce(sum(g.quarantined), 0)"
    " FROM {} l LEFT JOIN {} g ON g.load_id = l.load_id AND g.stream = %s"
    " WHERE l.pipeline IN (SELECT pipeline FROM {} WHERE stream = %s) AND l.started_at >= CAST(%s AS timestamptz)"
    " AND (l.finished_at IS NOT NULL OR g.load_id IS NOT NULL)"
    " GROUP BY l.load_id, l.finished_at, l.started_at, l.exit_code ORDER BY ended, l.load_id"
)


class Readings:
    """Queries over `_resilient` and the destination's tables. Raises UnavailableError where they cannot be read."""

    def __init__(self, database: Database, now: datetime) -> None:
        self.database = database
        self.now = now
        self._known: dict[str, bool] = {}

    def loads(self, pipeline: str | None = None, *, limit: int = 1000) -> list[Load]:
        """The newest loads first; None means those of all pipelines."""
        where = (" WHERE pipeline = %s", [pipeline]) if pipeline else ("", [])
        rows = self.meta(_LOADS + f"{where[0]} ORDER BY started_at DESC LIMIT {limit:d}", ["loads"], where[1])
        return [_load(row) for row in rows]

    def loads_of(self, stream: str) -> list[StreamRun]:
        """The loads of the last 70 days that could bring `stream`, oldest first; one that brought nothing counts 0."""
        since = (self.now - MEMORY).isoformat()
        rows = self.meta(_LOADS_OF_STREAM, ["loads", "ledger", "ledger"], [stream, stream, since])
        return [
            StreamRun(load_id, cast("datetime", moment(ended)), int(received), int(quarantined), code)
            for load_id, ended, code, received, quarantined in rows
        ]

    def runs_of(self, stream: str) -> list[StreamRun]:
        """The successful runs of `stream`, oldest first."""
        return successes(self.loads_of(stream))

    def newest(self, table: Name, column: str) -> datetime | None:
        """The largest value of a time column that is not in the future: a row from 2099 must not look fresh."""
        instant = "CAST({} AS timestamptz)"
        until = (self.now + CLOCK_SKEW).isoformat()
        query = f"SELECT {seconds(f'max({instant})')} FROM {{}} WHERE {instant} <= {TIMESTAMP}"  # noqa: S608
        return moment(self.database.fetch(query, [(column,), table, (column,)], [until])[0][0])

    def verdicts(self, pipeline: str) -> dict[str, str] | None:
        """Stream → completeness verdict of the last scans; empty for a foreign tap.

        None when the last state is of a tap-resilient that ended without its end marker.
        """
        rows = self.meta("SELECT value FROM {} WHERE pipeline = %s", ["state"], [pipeline])
        return _verdicts(parsed(rows[0][0])) if rows else {}

    def bookmark_moved_at(self, stream: str) -> datetime | None:
        """When the bookmark of `stream` first reached its present value."""
        query = (
            f"SELECT {seconds('min(committed_at)')} FROM {{}} WHERE stream = %s AND bookmark_max ="  # noqa: S608
            " (SELECT bookmark_max FROM {} WHERE stream = %s AND bookmark_max IS NOT NULL"
            " ORDER BY committed_at DESC LIMIT 1)"
        )
        rows = self.meta(query, ["ledger", "ledger"], [stream, stream])
        return moment(rows[0][0]) if rows else None

    def changes(self, stream: str | None = None, *, within: timedelta) -> list[ColumnChange]:
        """The columns that loads changed `within` that time in tables which were there before; None means all."""
        query = f"SELECT stream, table_name, column_name, change, load_id, {seconds('at')} FROM {{}} ORDER BY 6"  # noqa: S608
        made_by: dict[str, str] = {}
        changes: list[ColumnChange] = []
        for found, table, column, change, load_id, at in self.meta(query, ["schema_log"]):
            when = cast("datetime", moment(at))
            recent = when >= self.now - within and stream in (None, found)
            if made_by.setdefault(table, load_id) != load_id and recent:
                changes.append(ColumnChange(found, column or table, change, when))
        return changes

    def streams(self) -> list[str]:
        """All streams that were ever loaded."""
        return [row[0] for row in self.meta("SELECT DISTINCT stream FROM {} ORDER BY stream", ["ledger"])]

    def table_of(self, stream: str) -> Name:
        """The table that `stream` was last loaded into; else the one of its name in the default schema."""
        query = "SELECT table_name FROM {} s WHERE stream = %s ORDER BY s.at DESC LIMIT 1"
        rows = self.meta(query, ["schema_log"], [stream])
        return self.full_name(rows[0][0] if rows else stream)

    def column_of(self, stream: str, name: str) -> str:
        """The column that holds the field `name` of `stream`."""
        query = "SELECT column_name FROM {} s WHERE stream = %s AND original_name = %s ORDER BY s.at DESC LIMIT 1"
        rows = self.meta(query, ["schema_log"], [stream, name])
        return str(rows[0][0]) if rows else name

    def full_name(self, text: str) -> Name:
        """`schema.table`, or a table in the default schema."""
        schema, _, table = text.rpartition(".")
        return (schema or self.database.default_schema, table)

    def meta(self, template: str, tables: Sequence[str], params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query over `_resilient`; none where no load has made its tables yet."""
        if not all(self._exists(table) for table in tables):
            return []
        return self.database.fetch(template, [self.database.meta(table) for table in tables], params)

    def _exists(self, table: str) -> bool:
        if table not in self._known:
            self._known[table] = self.database.columns(self.database.meta(table)) is not None
        return self._known[table]


def successes(loads: Sequence[StreamRun]) -> list[StreamRun]:
    """The successful loads; what failed ones committed counts for the success after them."""
    runs: list[StreamRun] = []
    received = quarantined = 0
    for load in loads:
        received += load.received
        quarantined += load.quarantined
        if load.exit_code == 0:
            runs.append(replace(load, received=received, quarantined=quarantined))
            received = quarantined = 0
    return runs


def parsed(value: Any) -> Any:
    """A JSON column: PostgreSQL's driver gives it parsed, DuckDB's as text. Raises UnavailableError if it is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise UnavailableError("a JSON column of the meta schema holds no JSON") from None


def _verdicts(state: Any) -> dict[str, str] | None:
    marker = state.get("resilient") if isinstance(state, Mapping) else None
    if not isinstance(marker, Mapping):
        return {}
    scans = marker.get("scans")
    if not isinstance(scans, Mapping):
        return None
    return {stream: str(scan.get("verdict")) for stream, scan in scans.items() if isinstance(scan, Mapping)}


def _load(row: tuple[Any, ...]) -> Load:
    load_id, pipeline, status, started, finished, exit_code, reason, received, quarantined = row
    started_at = cast("datetime", moment(started))
    return Load(load_id, pipeline, status, started_at, moment(finished), exit_code, reason, received, quarantined)
