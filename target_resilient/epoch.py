"""An epoch: all streams' records up to a STATE, complete in memory before the database is touched, committed whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from resilient_core.errors import HeldByGuardError, ResilientError, StoppedError
from target_resilient.backends import Backend, MissingError, Row, Session, epoch_name
from target_resilient.batch import StreamBatch
from target_resilient.checkpoints import reach
from target_resilient.ledger import Counts
from target_resilient.merge import count_present, merge, merge_counted, remove_marked
from target_resilient.meta import COUNTS, insert_into
from target_resilient.quarantine import quarantine_rows, upsert
from target_resilient.sql import Name, columns, join, sql

LEDGER_COLUMNS = (
    *("load_id", "pipeline", "epoch", "stream", *COUNTS, "bytes", "bookmark_min", "bookmark_max"),
    *("contract_fingerprint", "committed_at"),
)


@dataclass(frozen=True)
class Owner:
    """Who commits: the pipeline, this load, the fence that its lease gave it, and where the books are kept."""

    pipeline: str
    load_id: str
    fence: int
    meta_schema: str


@dataclass
class Epoch:
    """What is committed together. `state` is the last STATE within it as it came; None leaves the stored one.

    `outcome` is what became of the records, by stream, as of the last attempt to commit.
    """

    number: int
    batches: dict[str, StreamBatch] = field(default_factory=dict)
    state: bytes | None = None
    outcome: dict[str, Counts] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Records received so far, refused ones too."""
        return sum(batch.counts.received for batch in self.batches.values())

    @property
    def bytes(self) -> int:
        """Bytes of input so far, about."""
        return sum(batch.bytes for batch in self.batches.values())

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.batches and self.state is None


def commit_epoch(backend: Backend, epoch: Epoch, owner: Owner) -> None:
    """Commit an epoch whole, data and ledger and state in one transaction.

    Raises InfrastructureError, CommitUnknownError or DataError, with nothing committed (or, for the second, unknown);
    StoppedError when another load has taken the pipeline over; HeldByGuardError when the database is an older copy.
    """
    with backend.transaction() as session:
        reach("epoch.begun")
        staged = {stream: stage(session, batch) for stream, batch in epoch.batches.items()}
        reach("epoch.copied")
        hold_fence(session, backend, owner)
        follow_on(session, owner, epoch.number - 1)
        reach("epoch.fenced")
        session.lock([batch.plan.full_name for batch in epoch.batches.values()])
        epoch.outcome = {
            stream: upsert_batch(session, epoch.batches[stream], *found) for stream, found in staged.items()
        }
        reach("epoch.merged")
        book_epoch(session, epoch, owner, datetime.now(timezone.utc))
        reach("epoch.booked")


def stage(session: Session, batch: StreamBatch) -> tuple[Name, int]:
    """COPY a batch into its temporary table; its name and the number of rows sent."""
    lines = batch.live_rows()
    name, arrived = session.stage(batch.plan.table, batch.plan.column_names, lines)
    _agree("COPY", arrived, len(lines), batch)
    return name, arrived


def hold_fence(session: Session, backend: Backend, owner: Owner) -> None:
    """Take the pipeline's row until the commit.

    Raises StoppedError when it is no longer ours, HeldByGuardError when this is another database or an older copy.
    """
    session.lock([epoch_name(backend.meta_schema, owner.pipeline)])
    query = sql("SELECT fence FROM {} WHERE pipeline = %s", (backend.meta_schema, "lease")) + backend.for_update
    try:
        rows = session.rows(query, [owner.pipeline])
    except MissingError:
        rows = []
    if not rows or rows[0][0] < owner.fence:
        raise _older_copy(owner)
    if rows[0][0] > owner.fence:
        raise StoppedError(f"pipeline '{owner.pipeline}' was taken over by another load; this one wrote nothing more")


def follow_on(session: Session, owner: Owner, before: int) -> None:
    """See that the epoch before is there. Raises HeldByGuardError after a failover to a copy that lacks it."""
    if before > 0 and committed_last(session, owner) != [(owner.load_id, before)]:
        raise _older_copy(owner)


def committed_last(session: Session, owner: Owner) -> list[Row]:
    """(load, epoch) of the last commit of the pipeline."""
    query = sql("SELECT load_id, epoch FROM {} WHERE pipeline = %s", (owner.meta_schema, "state"))
    return session.rows(query, [owner.pipeline])


def _older_copy(owner: Owner) -> HeldByGuardError:
    return HeldByGuardError(
        f"the database lacks what this load of pipeline '{owner.pipeline}' has committed: it is another one or an older"
        " copy (a failover, a restored backup?); nothing more was written. Bring the right one back, or run again from"
        " the state that this one holds (monitor-resilient state show)"
    )


def upsert_batch(session: Session, batch: StreamBatch, staging: Name, staged: int) -> Counts:
    """Merge a staged batch into its table, with the checks that can fail."""
    counts = replace(batch.counts)
    _agree("received", counts.received, staged + counts.deduplicated + counts.quarantined, batch)
    touched, counts.inserted = merge_batch(session, batch, staging, staged)
    counts.updated = touched - counts.inserted
    if batch.plan.key:
        present, counts.stale = session.rows(count_present(batch.plan, staging))[0]
        _agree("merge", present, staged, batch)
    counts.unchanged = staged - touched - counts.stale
    if batch.plan.removes_marked:
        counts.deleted = session.run(remove_marked(batch.plan, staging))
    return counts


def merge_batch(session: Session, batch: StreamBatch, staging: Name, staged: int) -> tuple[int, int]:
    """Run the merge; (rows inserted or updated, rows inserted)."""
    plan = batch.plan
    if plan.key and plan.inserted_marker:
        touched, inserted = session.rows(merge_counted(plan, staging))[0]
        return touched, inserted
    present = session.rows(count_present(plan, staging))[0][0] if plan.key else 0
    return session.run(merge(plan, staging)), staged - present


def book_epoch(session: Session, epoch: Epoch, owner: Owner, now: datetime) -> None:
    """Quarantine, ledger and state: what the epoch says of itself, in its own transaction."""
    keep_refused(session, epoch, owner, now)
    write_ledger(session, epoch, owner, now)
    write_state(session, epoch, owner, now)


def keep_refused(session: Session, epoch: Epoch, owner: Owner, now: datetime) -> None:
    """Write the refused records to the quarantine."""
    refused = [one for batch in epoch.batches.values() for one in batch.refused]
    session.run_many(upsert(owner.meta_schema), quarantine_rows(refused, owner.pipeline, owner.load_id, now))


def write_ledger(session: Session, epoch: Epoch, owner: Owner, now: datetime) -> None:
    """One ledger row a stream, and their sum on the load's own row."""
    rows: list[list[Any]] = []
    total = Counts()
    for stream, counts in epoch.outcome.items():
        total.add(counts)
        batch = epoch.batches.get(stream)  # none in a closing epoch, which only removes
        tail = (
            [batch.bytes, _text(batch.bounds.low), _text(batch.bounds.high), batch.plan.spec.contract.fingerprint]
            if batch
            else [0, None, None, None]
        )
        rows.append([owner.load_id, owner.pipeline, epoch.number, stream, *counts.values(), *tail, now])
    session.run_many(insert_into(owner.meta_schema, "ledger", LEDGER_COLUMNS), rows)
    loads: Name = (owner.meta_schema, "loads")
    summed = join(", ", (sql("{} = {} + %s", name, name) for name in COUNTS))
    session.run(join("", [sql("UPDATE {} SET ", loads), summed, sql(" WHERE load_id = %s")]),
                [*total.values(), owner.load_id])  # fmt: skip


def write_state(session: Session, epoch: Epoch, owner: Owner, now: datetime) -> None:
    """The pipeline's state and who wrote it, also when the state itself is unchanged: a lost COMMIT asks for it."""
    names = ("pipeline", "value", "load_id", "epoch", "committed_at")
    value = epoch.state.decode() if epoch.state is not None else None
    updated = [name for name in names[1:] if value is not None or name != "value"]
    conflict = join("", [sql(" ON CONFLICT (pipeline) DO UPDATE SET "), columns(updated, "{} = excluded.{}")])
    session.run(insert_into(owner.meta_schema, "state", names) + conflict,
                [owner.pipeline, value, owner.load_id, epoch.number, now])  # fmt: skip


def took_effect(backend: Backend, epoch: Epoch, owner: Owner) -> bool:
    """After a lost COMMIT: take the fence row (this waits for the old backend), then see whether the epoch is there."""
    with backend.transaction() as session:
        hold_fence(session, backend, owner)
        return committed_last(session, owner) == [(owner.load_id, epoch.number)]


def _agree(what: str, found: int, expected: int, batch: StreamBatch) -> None:
    if found != expected:
        raise ResilientError(
            f"stream '{batch.plan.spec.stream}': {what} counts {found} rows where {expected} were expected;"
            " nothing of this epoch was committed (is there a trigger or a rule on the table?)"
        )


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.isoformat() if isinstance(value, datetime) else str(value)


Emit = Callable[[bytes], None]
"""Writes one line to stdout."""
