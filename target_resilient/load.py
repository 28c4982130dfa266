"""A load from its first message to its last: streams are planned, frames gathered into epochs, epochs handed over."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from singer_sdk.exceptions import RecordsWithoutSchemaException

from resilient_core.contract import Contract, Policies, make_contract, read_contract, resolve_policies
from resilient_core.errors import (
    ConfigError,
    DataRefusedError,
    HeldByGuardError,
    NotSingerError,
    ResilientError,
    StoppedError,
    exit_meaning,
)
from resilient_core.redaction import redactor
from resilient_core.telemetry import Progress, facts, metric
from target_resilient.backends import Backend, InfrastructureError, Lease
from target_resilient.batch import StreamBatch
from target_resilient.batchfiles import batch_events
from target_resilient.columns import Column, column_seen
from target_resilient.epoch import Epoch, Owner
from target_resilient.gap import compare_states
from target_resilient.ledger import Counts
from target_resilient.loader import Committer, Loader, Patience
from target_resilient.mapping import Mapping as StreamMapping
from target_resilient.meta import COUNTS, insert_into
from target_resilient.naming import split_stream
from target_resilient.reader import Control, Event, Frame, Idle, Torn, Unreadable
from target_resilient.sql import Name, columns, join, sql
from target_resilient.table import DELETED_AT, StreamSpec, TableOptions, TablePlan, key_faults, plan_table
from target_resilient.validate import Validator

MIN_ROWS_FOR_RATIO = 100  # a ratio of fewer records says nothing
OVERRUN = 2  # without a STATE in reach, an epoch is committed at twice its limits

logger = logging.getLogger("target-resilient")


class RecordBeforeSchemaError(NotSingerError, RecordsWithoutSchemaException):
    """A RECORD of a stream that no SCHEMA has announced."""


@dataclass(frozen=True)
class LoadOptions:
    """The settings of a load, parsed. Durations in seconds, sizes in bytes."""

    pipeline: str
    default_schema: str | None
    table_template: str
    policies: Mapping[str, Any]
    contracts_dir: Path | None
    tables: TableOptions
    max_rows: int
    max_bytes: int
    max_age: float
    max_quarantine_ratio: float
    max_quarantine_rows: int | None
    on_gap: str
    retry_max_elapsed: float
    takeover: bool = False
    dry_run: bool = False


@dataclass
class Stream:
    """A stream as its last SCHEMA described it, and the table plan that follows."""

    spec: StreamSpec
    policies: Policies
    validator: Validator
    table: Name
    plan: TablePlan
    extra: list[Column]
    closed: bool
    """Whether the schema itself refuses fields that it does not name."""


class Load:
    """Owns a pipeline and its database for one run of the target."""

    def __init__(
        self,
        options: LoadOptions,
        backend: Backend,
        acknowledge: Callable[[bytes], None],
        mapping: StreamMapping | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._backend = backend
        self._acknowledge = acknowledge
        self._mapping = mapping
        self._clock = clock
        self._stop = threading.Event()
        self._streams: dict[str, Stream] = {}
        self._load_id = str(uuid.uuid4())
        self._lease: Lease | None = None
        self._committer: Committer | None = None
        self._loader: Loader | None = None
        self._epoch = Epoch(1)
        self._epoch_since = clock()
        self._seen_record = False
        self._seen_state = False
        self._last_state: bytes | None = None
        self._received: dict[str, list[int]] = {}
        self._torn: int | None = None
        self._deferred_versions: set[str] = set()
        self._progress = Progress(logger, "loading")
        self._started = clock()

    # the life of a load ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Own the pipeline and book the start of the load. Raises StoppedError while another load owns it."""
        if self._options.dry_run:
            return
        holder = f"{socket.gethostname()}:{os.getpid()}"
        self._retrying(self._backend.ensure_meta)
        self._retrying(lambda: self._own(holder))
        assert self._lease is not None  # noqa: S101 _own sets it or raises
        owner = Owner(self._options.pipeline, self._load_id, self._lease.fence, self._backend.meta_schema)
        self._retrying(self._book_start)
        self._committer = Committer(
            self._backend, owner, self._acknowledge, max_elapsed=self._options.retry_max_elapsed, stop=self._stop
        )
        self._loader = Loader(self._committer.commit)

    def consume(self, events: Iterable[Event]) -> None:
        """Take in every message; epochs are committed on the way."""
        for event in events:
            self._take(event)

    def finish(self) -> None:
        """Commit what is left and book the end. Raises DataRefusedError when too much was refused or input was torn."""
        self._cut()
        self._drain()
        self._check_refused()
        if self._torn is not None:
            raise DataRefusedError(
                f"line {self._torn} is cut off, so the tap died; what came before it is committed, run again"
            )
        self._book_end(self._status(), 0, "done")
        self._report()
        self._close()

    def abort(self, error: BaseException) -> None:
        """End a load that failed: wait for the commit under way, book the reason, give the pipeline back."""
        self._stop.set()
        if self._loader is not None:
            self._loader.close()
        code = error.code if isinstance(error, ResilientError) else 70
        status = (
            "stopped" if isinstance(error, StoppedError) or code > 128 else "incomplete" if self._torn else "failed"
        )
        if self._lease is not None:
            try:
                self._book_end(status, code, redactor.redact(f"{exit_meaning(code)}: {error}"[:500]))
            except (InfrastructureError, ResilientError):
                logger.warning("%s", "the end of this load could not be booked; the next load will mark it as failed")
        self._close()

    def _close(self) -> None:
        self._progress.close()
        if self._loader is not None:
            self._loader.close()
        if self._lease is not None:
            self._lease.release()
        self._lease = None
        self._backend.close()

    # messages --------------------------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        if isinstance(event, Frame):
            self._on_frame(event)
        elif isinstance(event, Control):
            _HANDLERS[event.message.type](self, event)
        elif isinstance(event, Unreadable):
            self._seen_record = True
            self._batch(self._stream(event.stream, event.line)).add_unreadable(event)
        elif isinstance(event, Idle):
            self._on_idle()
        elif isinstance(event, Torn):
            self._torn = event.line

    def _on_frame(self, frame: Frame) -> None:
        self._seen_record = True
        if self._mapping is not None:
            for mapped in self._mapping.frames(frame):
                self._load_frame(mapped)
            return
        self._load_frame(frame)

    def _load_frame(self, frame: Frame) -> None:
        stream = self._stream(frame.stream, frame)
        for part in self._parts(frame):
            self._evolve(stream, part)
            self._batch(stream).add(part)
            self._cut_if(self._over(OVERRUN))
        self._progress.show(sum(counts[0] for counts in self._received.values()) + self._epoch.rows)

    def _parts(self, frame: Frame) -> Iterator[Frame]:
        """The frame, cut where an epoch reaches its hard limit of rows."""
        rest: Frame | None = frame
        while rest is not None:
            room = max(1, OVERRUN * self._options.max_rows - self._epoch.rows)
            part, rest = rest.split(room)
            yield part

    def _stream(self, name: str, where: Frame | int) -> Stream:
        stream = self._streams.get(name)
        if stream is None:
            line = where if isinstance(where, int) else where.line(0)
            raise RecordBeforeSchemaError(
                f"line {line}: RECORD of stream '{name}' before its SCHEMA; the tap must announce each stream first"
            )
        return stream

    def _batch(self, stream: Stream) -> StreamBatch:
        name = stream.spec.stream
        if name not in self._epoch.batches:
            self._start_age()
            self._epoch.batches[name] = StreamBatch(stream.plan, stream.validator, stream.policies)
        return self._epoch.batches[name]

    def _on_schema(self, control: Control) -> None:
        message = control.message
        schema = json.loads(bytes(message.schema))
        if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
            raise NotSingerError(f"line {control.line}: SCHEMA of stream '{message.stream}' has no `properties`")
        bookmarks = message.bookmark_properties or []
        key = tuple(message.key_properties or ())
        if self._mapping is not None:
            for name, mapped, mapped_key in self._mapping.schemas(message.stream, schema, key):
                self._describe(name, mapped, mapped_key, bookmarks)
            return
        self._describe(message.stream, schema, key, bookmarks)

    def _describe(self, name: str, schema: dict[str, Any], key: tuple[str, ...], bookmarks: list[str]) -> None:
        contract = self._contract(name, schema)
        replication = bookmarks[0] if len(bookmarks) == 1 and bookmarks[0] in contract.schema["properties"] else None
        spec = StreamSpec(name, contract, key, replication)
        known = self._streams.get(name)
        if known is not None and known.spec == spec:
            return
        if faults := key_faults(spec):
            raise ConfigError(faults)
        if name in self._epoch.batches:
            self._cut()
        policies = resolve_policies(self._options.policies, contract.meta)
        table = self._table(name)
        validator = Validator(name, contract)
        closed = contract.schema.get("additionalProperties") is False
        plan = self._plan(spec, table, [])
        self._streams[name] = Stream(spec, policies, validator, table, plan, [], closed)

    def _contract(self, name: str, schema: dict[str, Any]) -> Contract:
        folder = self._options.contracts_dir
        path = folder / f"{name}.json" if folder else None
        return read_contract(path) if path and path.exists() else make_contract(schema)

    def _table(self, name: str) -> Name:
        options = self._options
        table = split_stream(name, options.default_schema, self._backend.default_schema, options.table_template)
        taken = {tuple(p.casefold() for p in s.table): s.spec.stream for s in self._streams.values()}
        other = taken.get(tuple(part.casefold() for part in table))
        if other not in (None, name):
            raise ConfigError(
                f"streams '{other}' and '{name}' would both load into table {'.'.join(table)};"
                " set table_name_template or default_target_schema apart, or map one to another name"
            )
        return table

    def _plan(self, spec: StreamSpec, table: Name, extra: list[Column]) -> TablePlan:
        """Plan the table and make the database agree, with nothing of ours under way."""
        self._drain()
        found: list[TablePlan] = []
        self._retrying(lambda: found.append(self._agree_on(spec, table, extra)))
        return found[0]

    def _agree_on(self, spec: StreamSpec, table: Name, extra: list[Column]) -> TablePlan:
        plan, changes = plan_table(self._backend, spec, table, extra, self._options.tables)
        if self._options.dry_run:
            for change in changes:
                logger.info(facts("would run", ddl=describe_ddl(change.statement)))
            return plan
        if changes:
            schema = sql("CREATE SCHEMA IF NOT EXISTS {}", table[0])
            missing = table[0] != self._backend.default_schema
            self._backend.apply_ddl([*([schema] if missing else []), *(change.statement for change in changes)])
            self._book_changes(spec, plan, changes)
            plan, _ = plan_table(self._backend, spec, table, extra, self._options.tables)
        return plan

    def _evolve(self, stream: Stream, frame: Frame) -> None:
        """Add columns for fields that no schema names, where the contract's policy allows it."""
        if stream.policies.on_new_column != "evolve" or stream.closed:
            return
        records = [record for record in frame.records if isinstance(record, dict)]
        names = set().union(*records) - stream.plan.known
        fresh = [c for name in sorted(names) if (c := self._column_seen(name, records))]
        if not fresh:
            return
        if stream.spec.stream in self._epoch.batches:
            self._cut()
        stream.extra += fresh
        stream.plan = self._plan(stream.spec, stream.table, stream.extra)
        logger.warning(facts("new columns", stream=stream.spec.stream, columns=",".join(c.key for c in fresh)))

    def _column_seen(self, name: str, records: list[dict[str, Any]]) -> Column | None:
        if name == DELETED_AT:
            return Column(name, name, "timestamptz", naive=self._options.tables.naive_datetimes)
        if name.startswith("_sdc_"):
            return None
        return column_seen(name, name, (record.get(name) for record in records))

    def _on_state(self, control: Control) -> None:
        state = bytes(control.message.value)
        if not self._seen_record and not self._seen_state:
            self._check_gap(state)
        if self._epoch.empty:
            self._start_age()
        self._epoch.state = self._last_state = state
        first, self._seen_state = not self._seen_state, True
        self._cut_if(first or self._over(1))

    def _on_activate_version(self, control: Control) -> None:
        stream = control.message.stream
        if stream not in self._deferred_versions:
            self._deferred_versions.add(stream)
            logger.info(facts("ACTIVATE_VERSION deletes nothing yet", stream=stream))

    def _on_batch(self, control: Control) -> None:
        for event in batch_events(control):
            self._take(event)

    def _on_idle(self) -> None:
        self._cut_if(not self._epoch.empty and self._too_old())

    # epochs ----------------------------------------------------------------------------------------------------------

    def _start_age(self) -> None:
        if self._epoch.empty:
            self._epoch_since = self._clock()

    def _too_old(self) -> bool:
        return self._clock() - self._epoch_since >= self._options.max_age

    def _over(self, times: int) -> bool:
        """Whether the epoch is past its limits of rows or bytes, or (at a STATE) of age."""
        epoch, options = self._epoch, self._options
        full = epoch.rows >= times * options.max_rows or epoch.bytes >= times * options.max_bytes
        return full or (times == 1 and self._too_old())

    def _cut_if(self, due: bool) -> None:
        if due:
            self._cut()

    def _cut(self) -> None:
        """Close the epoch and hand it to the loader."""
        epoch = self._epoch
        if epoch.empty:
            return
        for name, batch in epoch.batches.items():
            seen = self._received.setdefault(name, [0, 0])
            seen[0] += batch.counts.received
            seen[1] += batch.counts.quarantined
        self._epoch = Epoch(epoch.number + 1)
        if self._loader is not None:
            self._loader.submit(epoch)
        self._check_refused()

    def _drain(self) -> None:
        if self._loader is not None:
            self._loader.drain()

    def _check_refused(self) -> None:
        """Stop when more was refused than allowed; the quarantine itself is committed first."""
        options = self._options
        received = sum(counts[0] for counts in self._received.values())
        refused = sum(counts[1] for counts in self._received.values())
        too_many = options.max_quarantine_rows is not None and refused > options.max_quarantine_rows
        ratio = refused / received if received >= MIN_ROWS_FOR_RATIO else 0.0
        if too_many or ratio > options.max_quarantine_ratio:
            self._drain()
            raise DataRefusedError(
                f"{refused} of {received} records were refused, more than max_quarantine_ratio"
                f" ({options.max_quarantine_ratio:g}) or max_quarantine_rows allow; they are kept in"
                f" {self._backend.meta_schema}.quarantine with field and reason"
            )

    # guards ----------------------------------------------------------------------------------------------------------

    def _check_gap(self, state: bytes) -> None:
        if self._options.dry_run:
            return
        rows: list[Any] = []
        table: Name = (self._backend.meta_schema, "state")
        self._retrying(lambda: rows.extend(
            self._backend.fetch("SELECT value FROM {} WHERE pipeline = %s", [table], [self._options.pipeline])
        ))  # fmt: skip
        stored = rows[0][0] if rows else None
        verdict = compare_states(state, stored if stored is None or isinstance(stored, str) else json.dumps(stored))
        if verdict == "ahead" and self._options.on_gap != "accept":
            text = (
                "the run starts from a state that is ahead of what this database holds for pipeline"
                f" '{self._options.pipeline}': rows between them would be lost; give the tap the stored state"
                " (monitor-resilient state show), or approve once with TARGET_RESILIENT_ON_GAP=accept"
            )
            if self._options.on_gap == "fail":
                raise HeldByGuardError(text)
            logger.warning("%s", text)
        elif verdict == "behind":
            logger.info("%s", "the run replays from a state behind the stored one; unchanged rows stay untouched")
        elif verdict == "different":
            logger.warning("%s", "the starting state is not the one that this pipeline committed last")

    # books -----------------------------------------------------------------------------------------------------------

    def _own(self, holder: str) -> None:
        self._lease = self._backend.acquire_lease(self._options.pipeline, holder, takeover=self._options.takeover)

    def _book_start(self) -> None:
        names = ["load_id", "pipeline", "status", "started_at", *COUNTS]
        values = [self._load_id, self._options.pipeline, "running", _now(), *[0] * len(COUNTS)]
        loads: Name = (self._backend.meta_schema, "loads")
        with self._backend.transaction() as session:
            session.run(
                sql("UPDATE {} SET status = 'failed', finished_at = %s, reason = 'the process died'"
                    " WHERE pipeline = %s AND status = 'running'", loads),
                [_now(), self._options.pipeline],
            )  # fmt: skip
            session.run(insert_into(self._backend.meta_schema, "loads", names), values)

    def _book_end(self, status: str, code: int, reason: str) -> None:
        if self._options.dry_run:
            return
        names = ["status", "finished_at", "exit_code", "reason"]
        loads: Name = (self._backend.meta_schema, "loads")
        update = join("", [sql("UPDATE {} SET ", loads), columns(names, "{} = %s"), sql(" WHERE load_id = %s")])
        values = [status, _now(), code, reason, self._load_id]
        self._backend.execute(update.template, update.names, values)

    def _book_changes(self, spec: StreamSpec, plan: TablePlan, changes: Iterable[Any]) -> None:
        names = ["load_id", "stream", "table_name", "column_name", "original_name", "change", "ddl",
                 "contract_fingerprint", "at"]  # fmt: skip
        table, now = ".".join(plan.table), _now()
        rows = [
            [self._load_id, spec.stream, table, name, original, c.change, describe_ddl(c.statement),
             spec.contract.fingerprint, now]
            for c in changes
            for name, original in ([(c.column_name, c.original_name)] if c.column_name else
                                   [(column.name, column.key) for column in plan.columns])
        ]  # fmt: skip
        with self._backend.transaction() as session:
            session.run_many(insert_into(self._backend.meta_schema, "schema_log", names), rows)

    def _status(self) -> str:
        """`complete` needs the tap's end marker with every scan complete."""
        state = json.loads(self._last_state) if self._last_state else {}
        marker = state.get("resilient") if isinstance(state, dict) else None
        scans = marker.get("scans") if isinstance(marker, dict) else None
        verdicts = {scan.get("verdict") for scan in scans.values()} if isinstance(scans, dict) else set()
        if verdicts and verdicts <= {"complete"}:
            return "complete"
        return "incomplete" if "incomplete" in verdicts else "unproven"

    def _report(self) -> None:
        totals = self._committer.totals if self._committer else {}
        seconds = self._clock() - self._started
        for stream, counts in totals.items():
            metric(logger, "counter", "record_count", counts.received, {"stream": stream})
        total = Counts()
        for counts in totals.values():
            total.add(counts)
        fields = dict(zip(COUNTS, total.values()))  # noqa: B905 one name a count
        logger.info(facts("loaded", status=self._status(), **fields, seconds=seconds,
                          rows_per_second=int(total.received / max(seconds, 1e-9))))  # fmt: skip

    def _retrying(self, action: Callable[[], object]) -> None:
        """Run `action` again while the infrastructure fails."""
        patience = Patience(self._options.retry_max_elapsed, stop=self._stop)
        while True:
            try:
                action()
            except InfrastructureError as error:
                patience.wait(error)
            else:
                return


def describe_ddl(statement: Any) -> str:
    """A statement as text, for people and the schema log; never executed."""
    from target_resilient.sql import quoted

    return str(statement.template.format(*(quoted(name) for name in statement.names)))


def _now() -> datetime:
    return datetime.now(timezone.utc)


_HANDLERS: dict[str, Callable[[Load, Control], None]] = {
    "SCHEMA": Load._on_schema,
    "STATE": Load._on_state,
    "ACTIVATE_VERSION": Load._on_activate_version,
    "BATCH": Load._on_batch,
}
