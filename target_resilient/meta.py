"""The tables of the meta schema (`_resilient`): lease, state, loads, ledger, quarantine, schema_log, check_log."""

from __future__ import annotations

from collections.abc import Sequence

from target_resilient.sql import Sql, columns, join, sql

_COUNTS = "received inserted updated unchanged stale deduplicated deleted quarantined"

META_TABLES: dict[str, tuple[str, str]] = {
    "lease": ("pipeline text, fence bigint, holder text, taken_at timestamptz", "pipeline"),
    "state": ("pipeline text, value json, load_id text, epoch bigint, committed_at timestamptz", "pipeline"),
    "loads": (
        "load_id text, pipeline text, status text, started_at timestamptz, finished_at timestamptz,"
        " exit_code integer, reason text, " + ", ".join(f"{name} bigint" for name in _COUNTS.split()),
        "load_id",
    ),
    "ledger": (
        "load_id text, pipeline text, epoch bigint, stream text, "
        + ", ".join(f"{name} bigint" for name in _COUNTS.split())
        + ", bytes bigint, bookmark_min text, bookmark_max text, contract_fingerprint text, committed_at timestamptz",
        "load_id, epoch, stream",
    ),
    "quarantine": (
        "id text, pipeline text, load_id text, stream text, table_name text, key text, record text, errors json,"
        " contract_fingerprint text, first_seen_at timestamptz, last_seen_at timestamptz, times_seen bigint,"
        " replayed_at timestamptz",
        "id",
    ),
    "schema_log": (
        "load_id text, stream text, table_name text, column_name text, original_name text, change text, ddl text,"
        ' contract_fingerprint text, "at" timestamptz',
        "",
    ),
    "check_log": (
        '"check" text, stream text, state text, since timestamptz, value text, threshold text,'
        ' notified_at timestamptz, "at" timestamptz',
        "",
    ),
}
"""Table → (columns, primary key). The types are spelt alike in PostgreSQL and DuckDB."""

COUNTS: tuple[str, ...] = tuple(_COUNTS.split())


def meta_ddl(meta_schema: str) -> list[Sql]:
    """The idempotent statements that create the meta schema."""
    statements = [sql("CREATE SCHEMA IF NOT EXISTS {}", meta_schema)]
    for table, (definition, key) in META_TABLES.items():
        constraint = f", PRIMARY KEY ({key})" if key else ""
        statements.append(sql(f"CREATE TABLE IF NOT EXISTS {{}} ({definition}{constraint})", (meta_schema, table)))
    return statements


def insert_into(meta_schema: str, table: str, names: Sequence[str], *, alias: str = "m") -> Sql:
    """`INSERT INTO <meta>.<table> AS <alias> (<names>) VALUES (%s, …)`."""
    values = ", ".join(["%s"] * len(names))
    head = sql("INSERT INTO {} AS {} (", (meta_schema, table), alias)
    return join("", [head, columns(names), sql(f") VALUES ({values})")])
