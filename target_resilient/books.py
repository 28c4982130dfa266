"""The books of a load: its row in `loads`, the changes in `schema_log`, and the stored state it is held against."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from target_resilient.backends import Backend, Session
from target_resilient.meta import COUNTS, insert_into
from target_resilient.sql import Name, as_text, columns, join, sql
from target_resilient.table import SchemaChange, TablePlan

_SCHEMA_LOG = (
    *("load_id", "stream", "table_name", "column_name", "original_name", "change", "ddl"),
    *("contract_fingerprint", "at"),
)


@dataclass(frozen=True)
class Books:
    """Writes what a load does, each entry in a transaction of its own."""

    backend: Backend
    pipeline: str
    load_id: str

    def start(self) -> None:
        """Book the start; loads of this pipeline that are still `running` died, since their lease is ours now."""
        names = ("load_id", "pipeline", "status", "started_at", *COUNTS)
        values = [self.load_id, self.pipeline, "running", _now(), *[0] * len(COUNTS)]
        died = sql(
            "UPDATE {} SET status = 'failed', finished_at = %s, reason = 'the process died'"
            " WHERE pipeline = %s AND status = 'running'",
            self._table("loads"),
        )
        again = " ON CONFLICT (load_id) DO UPDATE SET status = 'running', finished_at = NULL, reason = NULL"
        with self.backend.transaction() as session:
            session.run(died, [_now(), self.pipeline])
            session.run(insert_into(self.backend.meta_schema, "loads", names) + again, values)

    def end(self, status: str, code: int, reason: str) -> None:
        """Book the end."""
        update = join("", [
            sql("UPDATE {} SET ", self._table("loads")),
            columns(("status", "finished_at", "exit_code", "reason"), "{} = %s"),
            sql(" WHERE load_id = %s"),
        ])  # fmt: skip
        with self.backend.transaction() as session:
            session.run(update, [status, _now(), code, reason, self.load_id])

    def changes(self, plan: TablePlan, changes: Iterable[SchemaChange], session: Session) -> None:
        """Book DDL in its own transaction, one row a column, with the names as the tap knows them."""
        head, tail = [self.load_id, plan.spec.stream, plan.full_name], [plan.spec.contract.fingerprint, _now()]
        rows = [
            [*head, name, original, change.change, as_text(change.statement), *tail]
            for change in changes
            for name, original in change.names
        ]
        session.run_many(insert_into(self.backend.meta_schema, "schema_log", _SCHEMA_LOG), rows)

    def stored_state(self) -> str | None:
        """The state that this pipeline committed last, as JSON text; None where there is none."""
        query = "SELECT CAST(value AS text) FROM {} WHERE pipeline = %s"
        rows = self.backend.fetch(query, [self._table("state")], [self.pipeline])
        return rows[0][0] if rows else None

    def _table(self, name: str) -> Name:
        return (self.backend.meta_schema, name)


def _now() -> Any:
    return datetime.now(timezone.utc)
