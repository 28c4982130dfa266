"""A stream: request → records → fields → check → emit → bookmark, for every window of every partition."""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from singer_sdk.mapper import SameRecordTransform, StreamMap
from singer_sdk.singerlib import Catalog
from singer_sdk.streams import Stream

from resilient_core.errors import (
    ConfigError,
    CredentialsRefusedError,
    ResilientError,
    StoppedError,
    TerminatedError,
    UnavailableError,
)
from resilient_core.telemetry import facts
from tap_resilient.bookmarks import Bookmarks
from tap_resilient.client import ActionRequested
from tap_resilient.deletes import DELETED_AT, DELETED_AT_SCHEMA, Reconcile, SoftDeletes
from tap_resilient.drift import FieldWatch
from tap_resilient.fetcher import Fetcher, Ground
from tap_resilient.fields import QualityEvent, QualityLog, Shield
from tap_resilient.infer import InferredSchema
from tap_resilient.job_scan import JobScan
from tap_resilient.jobs import JobBook, JobPlace
from tap_resilient.keeper import Keeper
from tap_resilient.key_stream import KeyStream
from tap_resilient.outcome import Outcome, snapshot
from tap_resilient.scan import Scan
from tap_resilient.selection import FieldSelection
from tap_resilient.selector import Row
from tap_resilient.source import StreamSpec
from tap_resilient.templates import Scope
from tap_resilient.watermark import Watermark, Window, params_of

if TYPE_CHECKING:
    from tap_resilient.tap import ResilientTap

NOTHING: Mapping[str, Any] = {}

Unit = tuple[Scope, Mapping[str, Any]]
"""A partition, or a parent record: its values for the templates, and its name in the state."""

ABORTING = (ConfigError, CredentialsRefusedError, StoppedError, TerminatedError)
"""Errors that end the whole run: no other stream could do better."""


class ResilientStream(Stream):
    """One configured stream. Subclasses carry their `spec`: the SDK links parents by class."""

    spec: StreamSpec

    def __init__(self, tap: ResilientTap) -> None:
        super().__init__(tap=tap, schema=None, name=self.spec.name)
        self._run = tap
        self._chosen: bool | None = None
        self.primary_keys = list(self.spec.primary_keys)
        self.replication_key = self.spec.incremental.replication_key if self.spec.incremental else None
        self._automatic = {*self.primary_keys, *([self.replication_key] if self.replication_key else [])}
        self._inferred = InferredSchema(self.primary_keys)
        self._selection = FieldSelection()
        self._schema_written = False
        self._sample: list[Row] | None = None
        self._keeper: Keeper | None = None
        self._jobs = JobBook(tap.bookmarked, self.spec.name, lambda: tap.checkpoint(force=True))
        self._begun = False
        self._fetcher: Fetcher | None = None
        self._upcoming: deque[Unit] = deque()
        self.failed = False
        self.outcome = Outcome(self.spec.name, tap.now_text())
        self._shield = Shield(self.spec.fields, self.outcome.quality)
        contract = self.spec.contract
        self._watch = FieldWatch(contract.schema["properties"]) if contract else None

    # Reading

    def _sync_records(self, context: Any = None, *, write_messages: bool = True) -> Generator[dict[str, Any], Any, Any]:
        """Read every partition, then conclude. Raises IncompleteScanError if the source kept something back."""
        self.read_each([(Scope(partition=partition), partition) for partition in self.spec.partitions or (NOTHING,)])
        self.finish()
        self._run.checkpoint(force=True)
        for stream in (self, *self._active_children()):
            stream.outcome.raise_if_incomplete()
        yield from ()

    def run(self) -> None:
        """Read the stream and its children (the SDK's own `sync` calls every failure unhandled)."""
        self._write_schema_message()
        for _ in self._sync_records():
            pass
        if isinstance(self.spec.deletes, Reconcile) and self.selected:
            self._reconcile(self.spec.deletes)

    def _reconcile(self, spec: Reconcile) -> None:
        """Read all keys anew if it is time to. Raises IncompleteScanError if the source kept some back."""
        keys = KeyStream(self.name, self.primary_keys, spec, self._run.bookmarked)
        if not keys.is_due(self._run.started):
            return
        self._run.messages.schema(keys.name, keys.schema(self._known_schema()), self.primary_keys, None)
        outcome = self._run.companion(keys.name)
        try:
            for partition in self.spec.partitions or (NOTHING,):
                self._emit_keys(keys, partition, outcome)
        except BaseException:
            outcome.judge("incomplete", "it failed")
            raise
        outcome.raise_if_incomplete()
        if outcome.verdict == "complete":
            keys.done(self._run.started)
        else:
            self.logger.warning(facts("deletes cannot be told", stream=self.name, reason=outcome.reason))

    def _emit_keys(self, keys: KeyStream, partition: Mapping[str, Any], outcome: Outcome) -> None:
        initial = self.spec.incremental.initial if self.spec.incremental else None
        scan = self._scan(Window(initial), Scope(partition=partition), None, partition)
        shield = Shield(self.spec.fields, QualityLog())
        for page in scan.pages():
            rows = keys.of([{**partition, **row} for row in shield.map(page)])
            outcome.rows += len(rows)
            self._run.messages.records(keys.name, rows, self._run.now_text())
            self._run.emitted(len(rows))
        outcome.judge(*scan.verdict())

    def read_each(self, units: Iterable[Unit]) -> None:
        """Read partitions, or the children of parent records, in their order; the next ones are fetched ahead."""
        self._begin()
        self._upcoming = deque(units)
        try:
            while self._upcoming and not self.failed:
                self.read(*self._upcoming.popleft())
        finally:
            self._upcoming.clear()
            self._forget_ahead()

    def read(self, scope: Scope, context: Mapping[str, Any]) -> None:
        """Read one partition, or the children of one parent record, from its bookmark on.

        `context` names it in the state, and its values are added to the records.
        """
        before = snapshot(self._run.client.stats)
        mark = self._keeper.watermark(context) if self._keeper else None
        pending = deque(self._windows(mark, context))
        try:
            while pending and not self._limit_reached:
                self._read_window(pending, scope, mark, context)
        finally:
            self.outcome.spent(before, snapshot(self._run.client.stats))
            if mark:
                self._tell_of(mark)

    def _windows(self, mark: Watermark | None, context: Mapping[str, Any]) -> Iterable[Window]:
        """What to read, the window of a job that an earlier run left first."""
        job = self._jobs.get(context) if self.spec.job else None
        if not (self._keeper and mark):
            begun = Window() if job and not {"start", "end"} & job.keys() else None
        else:
            begun = self._keeper.begun(mark, job) if job else None
        if job and begun is None:
            self._jobs.drop(context)
        return self._keeper.windows(mark, begun) if self._keeper and mark else [Window()]

    def _tell_of(self, mark: Watermark) -> None:
        """Say what keeps the bookmark back: values that are none, rows that are not sorted as configured."""
        key = self.replication_key
        if mark.unreadable:
            self.outcome.quality.counts[QualityEvent(f"/{key}", "replication value", "other")] += mark.unreadable
        if mark.out_of_order:
            self.logger.warning(facts("rows are not sorted as row_order says", stream=self.name, replication_key=key))

    def _read_window(
        self, pending: deque[Window], scope: Scope, mark: Watermark | None, context: Mapping[str, Any]
    ) -> None:
        window = pending.popleft()
        scan = self._scan(window, scope, mark, context)
        try:
            for page in scan.pages():
                self._look_ahead(scan, pending, scope, context)
                rows = self._shaped(page, context)
                self._emit(rows)
                self._read_children(rows)
                self._advance(mark, rows, context)
                if self._limit_reached:
                    return
        except ActionRequested as asked:
            pending.extendleft(reversed(_halves(window, asked)))
        else:
            self._conclude(scan, mark, context)
            if not scan.drained:
                pending.clear()  # what a later window showed would carry the bookmark past what this one lacks
                self._forget_ahead()

    def _forget_ahead(self) -> None:
        if self._fetcher:
            self._fetcher.forget()

    def _look_ahead(
        self, scan: Scan | JobScan, pending: Iterable[Window], scope: Scope, context: Mapping[str, Any]
    ) -> None:
        """Fetch the first pages of the next windows and units, the fewer the more pages this one has."""
        if self._fetcher and isinstance(scan, Scan):
            places = self._fetcher.places // max(scan.seen.pages, 1)
            grounds = islice(self._grounds_ahead(pending, scope, context), places)
            start = self.spec.paginator.start()
            self._fetcher.expect((ground, start) for ground in grounds)

    def _grounds_ahead(self, pending: Iterable[Window], scope: Scope, context: Mapping[str, Any]) -> Iterator[Ground]:
        for window in pending:
            yield self._ground(window, scope, context)
        for next_scope, next_context in self._upcoming:
            try:
                mark = self._keeper.watermark(next_context) if self._keeper else None
            except ConfigError:  # told when its turn comes
                return
            yield self._ground(next(iter(self._windows(mark, next_context))), next_scope, next_context)

    def _scan(self, window: Window, scope: Scope, mark: Watermark | None, context: Mapping[str, Any]) -> Scan | JobScan:
        fetcher = self._fetcher or self._run.fetcher(self.spec, ahead=False)
        ground = self._ground(window, scope, context)
        if self.spec.job is None:
            return Scan(fetcher, ground)
        window_facts = self._keeper.facts(window, mark) if self._keeper and mark else NOTHING
        place = JobPlace(self._jobs, context, window_facts)
        return JobScan(self.spec.job, fetcher, self._run.client, self._run.resolver, ground, place=place)

    def _ground(self, window: Window, scope: Scope, context: Mapping[str, Any]) -> Ground:
        incremental, params = self.spec.incremental, NOTHING
        if incremental and self._keeper:
            start, end = (None if v is None else incremental.kind.write(v) for v in (window.start, window.end))
            state = {"replication_key_value": self._keeper.stored(context)}
            scope = Scope(scope.parent, scope.partition, state, start, end)
            params = params_of(incremental, window)
        return Ground(scope, params)

    def _shaped(self, page: list[Row], context: Mapping[str, Any]) -> list[Row]:
        """The rows of the stable model, with the values of their partition or parent, deleted ones marked."""
        rows = self._shield.map(page)
        if context:
            rows = [{**context, **row} for row in rows]
        if isinstance(self.spec.deletes, SoftDeletes):
            rows = self.spec.deletes.mark(rows, self._run.now_text())
        limit = self.ABORT_AT_RECORD_COUNT
        return rows if limit is None else rows[: limit - self.outcome.rows]

    def _emit(self, rows: list[Row]) -> None:
        if not rows:
            return
        self._learn(rows)
        self.outcome.rows += len(rows)
        if self.selected:
            self._run.messages.records(self.name, self._selection.keep(rows), self._run.now_text())
            self._run.emitted(len(rows))

    def _read_children(self, rows: list[Row]) -> None:
        for child in self._active_children():
            units = [unit for row in rows if (unit := self._unit_of(child, row))]
            try:
                child.read_each(units)
            except ABORTING:
                raise
            except ResilientError as error:
                self._run.failed(child, error)

    def _unit_of(self, child: ResilientStream, row: Row) -> Unit | None:
        include = child.spec.parent.include if child.spec.parent else ()
        values = {name: row.get(name) for name in include}
        if missing := [name for name, value in values.items() if value is None]:
            child.outcome.judge("incomplete", f"a record of its parent has no {missing[0]}")
            return None
        return Scope(parent=values), {f"_{self.name}_{name}": value for name, value in values.items()}

    def _advance(self, mark: Watermark | None, rows: list[Row], context: Mapping[str, Any]) -> None:
        if self._keeper and mark:
            mark.passed(rows)
            if self._children_failed:
                mark.held()
            self._keeper.save(mark, context)
        self._run.checkpoint()

    def _conclude(self, scan: Scan | JobScan, mark: Watermark | None, context: Mapping[str, Any]) -> None:
        verdict, reason = scan.verdict()
        self.outcome.judge(verdict, reason)
        if scan.overlaps:
            self.logger.warning(facts("rows moved between pages", stream=self.name, repeated=scan.overlaps))
        if not (self._keeper and mark):
            return
        trusted = scan.drained and not self._children_failed
        if trusted:
            mark.drained()
        elif not scan.stopped:
            mark.held()
        self._keeper.save(mark, context)
        self._keeper.concluded(mark, drained=trusted)

    def finish(self) -> None:
        """All partitions, or all parents, have been read."""
        if self._keeper:
            self._keeper.finish()
        if self.selected and not self._schema_written:
            self._emit_schema()
        self.outcome.finished_at = self._run.now_text()
        for child in self._active_children():
            if self.outcome.verdict != "complete":
                child.outcome.judge(self.outcome.verdict, f"its parent is {self.outcome.verdict}")
            child.finish()

    def sample(self) -> list[Row]:
        """The first page, fetched once, for discovery, which creates no job."""
        if self._sample is None:
            self._sample = []
            if self.spec.job:
                return []
            scope, context = self._sample_scope()
            initial = self.spec.incremental.initial if self.spec.incremental else None
            page = next(self._scan(Window(initial), scope, None, context).pages(), []) if scope else []
            self._sample = self._shaped(page, context)
            self._inferred.learn(self._sample)
        return self._sample

    def _sample_scope(self) -> tuple[Scope | None, Mapping[str, Any]]:
        link = self.spec.parent
        if link is None:
            partition = self.spec.partitions[0] if self.spec.partitions else NOTHING
            return Scope(partition=partition), partition
        rows = self._run.stream(link.stream).sample()
        if not rows:
            return None, NOTHING
        values = {name: rows[0].get(name) for name in link.include}
        return Scope(parent=values), {f"_{link.stream}_{name}": value for name, value in values.items()}

    def _begin(self) -> None:
        """Open the bookmarks once the selection is known, and the way to the source."""
        if self._begun:
            return
        self._begun = True
        self._fetcher = self._run.fetcher(self.spec, ahead=self.ABORT_AT_RECORD_COUNT is None)
        link, incremental = self.spec.parent, self.spec.incremental
        if incremental is None or self.replication_key is None or not self.selected:
            return
        shared = (link is not None and link.global_state) or len(self.spec.partitions) > 1000
        bookmarks = Bookmarks(self._run.bookmarked, self.name, self.replication_key, one_for_all=shared)
        self._keeper = Keeper(incremental, bookmarks, self._run.started, from_start=self._wanted_whole)

    @property
    def _wanted_whole(self) -> bool:
        links = [child.spec.parent for child in self._active_children()]
        return any(link is not None and not link.incremental_dependency for link in links)

    @property
    def _children_failed(self) -> bool:
        return any(child.failed or child.outcome.verdict == "incomplete" for child in self._active_children())

    @property
    def _limit_reached(self) -> bool:
        limit = self.ABORT_AT_RECORD_COUNT
        return limit is not None and self.outcome.rows >= limit

    def _active_children(self) -> list[ResilientStream]:
        children = [child for child in self.child_streams if isinstance(child, ResilientStream)]
        return [child for child in children if child.selected or child.has_selected_descendents]

    # Schema

    def _learn(self, rows: list[Row]) -> None:
        if self._watch is not None:
            changed = self._watch.learn(rows)
        else:
            before = self._inferred.knows_fields
            changed = self._inferred.learn(rows)
            if changed or not self._schema_written:
                self._emit_schema()
            changed = changed if before else []
        if changed:
            self.outcome.new_fields += len(changed)
            self.logger.warning(facts("drift", stream=self.name, new_or_changed_fields=",".join(changed)))

    def _known_schema(self) -> dict[str, Any]:
        schema = self.spec.contract.schema if self.spec.contract else self._inferred.schema
        if not isinstance(self.spec.deletes, SoftDeletes):
            return schema
        return {**schema, "properties": {DELETED_AT: DELETED_AT_SCHEMA, **schema["properties"]}}

    def _emit_schema(self) -> None:
        self._schema_written = True
        if self.selected:
            schema = self._selection.prune(self._known_schema())
            self._run.messages.schema(self.name, schema, self.primary_keys, self.replication_key)

    # What the SDK asks

    @property
    def selected(self) -> bool:
        """Whether the stream is read. Without a catalog all are; with one, those that it has and selects."""
        if self._chosen is not None:
            return self._chosen
        if self._tap_input_catalog is None:
            return self.selected_by_default
        return self._tap_input_catalog.get_stream(self.name) is not None and bool(self.mask.get((), True))

    @selected.setter
    def selected(self, value: bool | None) -> None:
        self._chosen = value

    @property
    def schema(self) -> dict[str, Any]:
        """The contract as it was written, or what the first page shows (it is fetched if need be)."""
        if self.spec.contract is None and not self._inferred.knows_fields:
            self.sample()
        return self._known_schema()

    @property
    def stream_maps(self) -> list[StreamMap]:
        """No maps: the target maps where it is asked to."""
        return [SameRecordTransform(self.name, self.schema, self.primary_keys, flattening_options=None)]

    def apply_catalog(self, catalog: Catalog) -> None:
        """Take selection, a forced full table and, for inferred streams, the schema; keys stay the source file's."""
        keys, replication_key = self.primary_keys, self.replication_key
        super().apply_catalog(catalog)
        self.primary_keys = keys
        self.replication_key = None if self.forced_replication_method == "FULL_TABLE" else replication_key
        if entry := catalog.get_stream(self.name):
            self._inferred = InferredSchema(list(keys), entry.schema.to_dict())
            self._selection = FieldSelection.of(self.mask, self._automatic)

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """The SDK's record loop is not used: pages go out whole."""
        raise NotImplementedError

    def get_replication_key_signpost(self, context: Any = None) -> datetime.datetime | None:
        """No signpost in the state: the watermark clamps bookmarks itself."""
        return None

    def _write_schema_message(self) -> None:
        """Write the SCHEMA line if the fields are known by now; else the first page brings it."""
        if self.spec.contract is not None or self._inferred.knows_fields:
            self._emit_schema()


def _halves(window: Window, asked: ActionRequested) -> tuple[Window, Window]:
    """The window in two, as an error handler asked. Raises UnavailableError if that cannot be."""
    halves = window.halves() if asked.action == "split_window" else None
    if halves is None:
        raise UnavailableError(
            f"an error handler asks to {asked.action} at status {asked.response.status}, which is not possible here"
        )
    return halves


def stream_class(spec: StreamSpec, parent: type[ResilientStream] | None) -> type[ResilientStream]:
    """The class of a configured stream."""
    return type(spec.name, (ResilientStream,), {"spec": spec, "name": spec.name, "parent_stream_type": parent})
