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
from target_resilient.sql import Sql, sql
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
    """Remove the rows of a table that are not of `version`. `inserted` rows came with this very load."""

    plan: TablePlan
    version: int
    hard: bool
    inserted: int


def commit_removals(
    backend: Backend, epoch: Epoch, owner: Owner, *, removals: Sequence[Removal], max_ratio: float
) -> None:
    """The closing epoch: all removals in one transaction, with the fence, the ledger and the state.

    Raises HeldByGuardError (79), with nothing removed, when a table would lose more than `max_ratio` of its rows.
    """
    with backend.transaction() as session:
        reach("delete.begun")
        hold_fence(session, backend, owner)
        follow_on(session, epoch, owner)
        session.lock([removal.plan.full_name for removal in removals])
        now = datetime.now(timezone.utc)
        for removal in removals:
            _guard(session, removal, max_ratio)
            removed = session.run(*_removal(removal, now))
            epoch.outcome[removal.plan.spec.stream] = Counts(deleted=removed)
        reach("delete.removed")
        book_epoch(session, epoch, owner, now)


def _guard(session: Session, removal: Removal, max_ratio: float) -> None:
    living, leaving = session.rows(_count(removal), [removal.version])[0]
    before = living - removal.inserted
    if before > 0 and leaving > max_ratio * before:
        raise HeldByGuardError(
            f"stream '{removal.plan.spec.stream}': the refresh would remove {leaving} of {before} rows of table"
            f" {removal.plan.full_name}, more than max_delete_ratio ({max_ratio:g}); nothing was removed. Look whether"
            " the source still has them, or approve once with TARGET_RESILIENT_MAX_DELETE_RATIO=1"
        )


def _count(removal: Removal) -> Sql:
    """(rows that live, of these the ones of another version)."""
    other = sql("{} IS DISTINCT FROM %s", VERSION.name)
    count = sql("SELECT count(*), count(CASE WHEN ") + other + sql(" THEN 1 END) FROM {}", removal.plan.table)
    return count if removal.hard else count + sql(" WHERE {} IS NULL", DELETED_AT)


def _removal(removal: Removal, now: datetime) -> tuple[Sql, list[Any]]:
    other = sql(" WHERE {} IS DISTINCT FROM %s", VERSION.name)
    if removal.hard:
        return sql("DELETE FROM {}", removal.plan.table) + other, [removal.version]
    mark = sql("UPDATE {} SET {} = %s", removal.plan.table, DELETED_AT) + other
    return mark + sql(" AND {} IS NULL", DELETED_AT), [now, removal.version]
