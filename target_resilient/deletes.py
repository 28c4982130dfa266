"""Rows that a complete refresh no longer brought: removed in the closing epoch, behind a guard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from resilient_core.errors import HeldByGuardError
from target_resilient.backends import Backend, Session
from target_resilient.checkpoints import reach
from target_resilient.epoch import Epoch, Owner, book_epoch, follow_on, hold_fence
from target_resilient.ledger import Counts
from target_resilient.sql import Sql, columns, join, sql
from target_resilient.table import DELETED_AT, VERSION, TablePlan


@dataclass
class Activation:
    """The version of a stream that a tap activated, and what it has sent since.

    SDK taps activate before they send the rows, so only an activation after the last row says that all had come.
    """

    version: int | None = None
    after_rows: bool = False
    seen: set[int | None] = field(default_factory=set)

    def record(self, versions: set[int | None]) -> None:
        """Rows of these versions came."""
        self.seen |= versions
        if self.version in versions:
            self.after_rows = False

    def activate(self, version: int) -> None:
        """The tap says that this version is the table."""
        self.version = version
        self.after_rows = version in self.seen


@dataclass(frozen=True)
class Removal:
    """Remove the rows `t` of a table of which `leaving` is true, unless they are more than `max_ratio` of it.

    `inserted` rows came with this very load. `keys` is the companion's plan in a reconciliation, None in a refresh.
    """

    plan: TablePlan
    leaving: Sql
    version: int
    inserted: int
    max_ratio: float
    keys: TablePlan | None = None


def refreshed(plan: TablePlan, version: int, inserted: int, max_ratio: float) -> Removal:
    """What a complete refresh did not bring: rows of no version, or of an older one; of any other in an overwrite."""
    leaving = "t.{} IS DISTINCT FROM %s" if plan.fixed_version is not None else "coalesce(t.{} < %s, TRUE)"
    return Removal(plan, sql(leaving, VERSION.name), version, inserted, max_ratio)


def reconciled(plan: TablePlan, keys: TablePlan, inserted: int, max_ratio: float) -> Removal:
    """What is not among all keys of the source, as the companion stream brought them."""
    version = keys.fixed_version or 0
    same = columns(plan.key, "k.{} = t.{}", " AND ")
    missing = join("", [
        sql("NOT EXISTS (SELECT 1 FROM {} AS k WHERE k.{} = %s AND ", keys.table, VERSION.name), same, sql(")"),
    ])  # fmt: skip
    return Removal(plan, missing, version, inserted, max_ratio, keys)


def commit_removals(backend: Backend, epoch: Epoch, owner: Owner, *, removals: Sequence[Removal]) -> None:
    """The closing epoch: all removals in one transaction, with the fence, the ledger and the state.

    Raises HeldByGuardError (79), with nothing removed, when a table would lose more rows than it may.
    """
    with backend.transaction() as session:
        reach("delete.begun")
        hold_fence(session, backend, owner)
        follow_on(session, owner, epoch.number - 1)
        session.lock([removal.plan.full_name for removal in removals])
        now = datetime.now(timezone.utc)
        for removal in removals:
            _guard(session, removal)
            removed = session.run(*_statement(removal, now))
            epoch.outcome[removal.plan.spec.stream] = Counts(deleted=removed)
            if removal.keys is not None:
                older = sql("DELETE FROM {} WHERE {} IS DISTINCT FROM %s", removal.keys.table, VERSION.name)
                session.run(older, [removal.version])
        reach("delete.removed")
        book_epoch(session, epoch, owner, now)


def _guard(session: Session, removal: Removal) -> None:
    rows, living, leaving = session.rows(*_count(removal))[0]
    before = max(living - removal.inserted, leaving)
    if rows > removal.inserted and leaving > removal.max_ratio * before:
        raise HeldByGuardError(
            f"stream '{removal.plan.spec.stream}': the load would remove {leaving} of {before} rows of table"
            f" {removal.plan.full_name}, more than max_delete_ratio ({removal.max_ratio:g}); nothing was removed. Look"
            " whether the source still has them, or approve once with TARGET_RESILIENT_MAX_DELETE_RATIO=1"
        )


def _count(removal: Removal) -> tuple[Sql, list[Any]]:
    """(rows, of these the ones that live, of these the ones that leave)."""
    lives = sql("TRUE") if removal.plan.hard_delete else sql("t.{} IS NULL", DELETED_AT)
    living = sql("SELECT count(*), count(CASE WHEN ") + lives
    leaving = sql(" THEN 1 END), count(CASE WHEN ") + lives + sql(" AND ") + removal.leaving
    return living + leaving + sql(" THEN 1 END) FROM {} AS t", removal.plan.table), [removal.version]


def _statement(removal: Removal, now: datetime) -> tuple[Sql, list[Any]]:
    if removal.plan.hard_delete:
        return sql("DELETE FROM {} AS t WHERE ", removal.plan.table) + removal.leaving, [removal.version]
    mark = sql("UPDATE {} AS t SET {} = %s WHERE t.{} IS NULL AND ", removal.plan.table, DELETED_AT, DELETED_AT)
    return mark + removal.leaving, [now, removal.version]
