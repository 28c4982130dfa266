"""Streams as their SCHEMA described them, and their tables: tables and columns are added, nothing is altered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from singer_sdk.exceptions import RecordsWithoutSchemaException

from resilient_core.contract import Contract, Policies, make_contract, read_contract, resolve_policies
from resilient_core.errors import ConfigError, NotSingerError
from resilient_core.telemetry import facts
from target_resilient.backends import Backend
from target_resilient.books import Books
from target_resilient.checkpoints import reach
from target_resilient.columns import Column, column_seen
from target_resilient.naming import legal_name, split_stream, with_hash
from target_resilient.options import LoadOptions
from target_resilient.reader import Frame
from target_resilient.sql import Name, as_text, sql
from target_resilient.table import DELETED_AT, StreamSpec, TablePlan, key_faults, plan_table
from target_resilient.validate import Validator

logger = logging.getLogger("target-resilient")


class RecordBeforeSchemaError(NotSingerError, RecordsWithoutSchemaException):
    """A RECORD of a stream that no SCHEMA has announced."""


@dataclass
class Stream:
    """A stream as its last SCHEMA described it.

    `closed` when the schema itself refuses fields it does not name, `deletable` when a companion stream says which of
    its rows are gone.
    """

    spec: StreamSpec
    policies: Policies
    validator: Validator
    table: Name
    plan: TablePlan
    extra: list[Column]
    closed: bool
    deletable: bool


class Planner:
    """Knows every stream. `settle` ends the epoch that holds rows of a stream, before its table changes."""

    def __init__(
        self,
        options: LoadOptions,
        backend: Backend,
        books: Books,
        settle: Callable[[str], None],
        retrying: Callable[[Callable[[], object]], None],
    ) -> None:
        self._options = options
        self._backend = backend
        self._books = books
        self._settle = settle
        self._retrying = retrying
        self._streams: dict[str, Stream] = {}
        self._reconciled: set[str] = set()
        self._keys_options = replace(
            options.tables, load_version=int(time.time() * 1000), hard_delete=False, metadata=False, append_only=False
        )

    def stream(self, name: str, line: Callable[[], int]) -> Stream:
        """The stream of a record. Raises RecordBeforeSchemaError naming the line."""
        stream = self._streams.get(name)
        if stream is None:
            raise RecordBeforeSchemaError(
                f"line {line()}: RECORD of stream '{name}' before its SCHEMA; the tap must announce each stream first"
            )
        return stream

    @property
    def names(self) -> list[str]:
        """The streams that a SCHEMA announced."""
        return list(self._streams)

    def describe(self, name: str, schema: dict[str, Any], key: tuple[str, ...], bookmarks: list[str]) -> None:
        """Take in a SCHEMA; the same one again changes nothing. Raises ConfigError where key or table cannot work."""
        contract = self._contract(name, schema)
        replication = bookmarks[0] if len(bookmarks) == 1 and bookmarks[0] in contract.schema["properties"] else None
        spec = StreamSpec(name, contract, key, replication)
        known = self._streams.get(name)
        if known is not None and known.spec == spec:
            return
        if faults := key_faults(spec):
            raise ConfigError(faults)
        validator = Validator(name, contract)
        table = self._table(spec)
        if spec.reconciles is not None:
            self._make_deletable(spec.reconciles)
        deletable = name in self._reconciled
        self._streams[name] = Stream(
            spec=spec,
            policies=resolve_policies(self._options.policies, contract.meta),
            validator=validator,
            table=table,
            plan=self._plan(spec, table, [], versioned=False, deletable=deletable),
            extra=[],
            deletable=deletable,
            closed=contract.schema.get("additionalProperties") is False,
        )

    def refresh(self, stream: Stream) -> None:
        """Give the table of a stream that is refreshed whole (it has versions) the columns for that."""
        if not stream.plan.versioned:
            stream.plan = self._plan_again(stream, versioned=True)

    def evolve(self, stream: Stream, frame: Frame) -> None:
        """Add columns for fields that no schema names, where the contract's policy allows it."""
        if stream.policies.on_new_column != "evolve" or stream.closed:
            return
        records = [record for record in frame.records if isinstance(record, dict)]
        names = set().union(*records) - stream.plan.known
        fresh = [c for name in sorted(names) if (c := self._column_seen(name, records))]
        if not fresh:
            return
        stream.extra += fresh
        stream.plan = self._plan_again(stream, versioned=stream.plan.versioned)
        keys = ",".join(column.key for column in fresh)
        logger.warning(facts("fields that no schema names become columns", stream=stream.spec.stream, fields=keys))

    @property
    def companions(self) -> list[TablePlan]:
        """The tables of the streams that bring all keys of another."""
        return [stream.plan for stream in self._streams.values() if stream.spec.reconciles is not None]

    def _make_deletable(self, name: str) -> None:
        """Give a table the column that marks deleted rows."""
        self._reconciled.add(name)
        stream = self._streams.get(name)
        if stream is not None and not stream.deletable:
            stream.deletable = True
            stream.plan = self._plan_again(stream, versioned=stream.plan.versioned)

    def _column_seen(self, name: str, records: list[dict[str, Any]]) -> Column | None:
        if name == DELETED_AT:
            return Column(name, name, "timestamptz", naive=self._options.tables.naive_datetimes)
        if name.startswith("_sdc_"):
            return None
        return column_seen(name, name, (record.get(name) for record in records))

    def _contract(self, name: str, schema: dict[str, Any]) -> Contract:
        folder = self._options.contracts_dir
        file = f"{name}.json"
        path = Path(folder) / file if folder and Path(file).name == file else None  # never outside the folder
        return read_contract(path) if path and path.exists() else make_contract(schema)

    def _table(self, spec: StreamSpec) -> Name:
        name, options = spec.stream, self._options
        if spec.reconciles is not None:  # two pipelines may have streams of one name
            return (self._backend.meta_schema, with_hash(legal_name(name), f"{options.pipeline} {name}"))
        table = split_stream(name, options.default_schema, self._backend.default_schema, options.table_template)
        folded = tuple(part.casefold() for part in table)
        if folded[0] == self._backend.meta_schema.casefold():
            raise ConfigError(
                f"stream '{name}' would load into {'.'.join(table)}, among the loader's own tables; set"
                " default_target_schema or table_name_template apart, or map the stream to another name"
            )
        for other in self._streams.values():
            if other.spec.stream != name and tuple(part.casefold() for part in other.table) == folded:
                raise ConfigError(
                    f"streams '{other.spec.stream}' and '{name}' would both load into table {'.'.join(table)};"
                    " set table_name_template or default_target_schema apart, or map one to another name"
                )
        return table

    def _plan_again(self, stream: Stream, *, versioned: bool) -> TablePlan:
        return self._plan(stream.spec, stream.table, stream.extra, versioned=versioned, deletable=stream.deletable)

    def _plan(self, spec: StreamSpec, table: Name, extra: list[Column], **how: bool) -> TablePlan:
        """Plan the table and make the database agree, with nothing of ours under way."""
        self._settle(spec.stream)
        found: list[TablePlan] = []
        self._retrying(lambda: found.append(self._agree_on(spec, table, extra, **how)))
        return found[0]

    def _agree_on(self, spec: StreamSpec, table: Name, extra: list[Column], **how: bool) -> TablePlan:
        tables = self._options.tables if spec.reconciles is None else self._keys_options
        plan, changes = plan_table(self._backend, spec, table, extra, tables, **how)
        if self._options.dry_run:
            for change in changes:
                logger.info(facts("would run", ddl=as_text(change.statement)))
            return plan
        if changes:
            statements = [change.statement for change in changes]
            if table[0] != self._backend.default_schema:
                statements.insert(0, sql("CREATE SCHEMA IF NOT EXISTS {}", table[0]))
            reach("ddl.before")
            self._backend.apply_ddl(statements, partial(self._books.changes, plan, changes))
            reach("ddl.after")
            plan, _ = plan_table(self._backend, spec, table, extra, tables, **how)
        return plan
