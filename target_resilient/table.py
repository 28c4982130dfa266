"""The plan of a stream's table: its columns, its key, and the additive DDL that makes the database agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from resilient_core.contract import Contract
from resilient_core.errors import ConfigError, Fault
from target_resilient.backends import Backend, TableFacts
from target_resilient.columns import Column, column_for
from target_resilient.naming import storable, unique_names
from target_resilient.options import TableOptions
from target_resilient.sql import Name, Sql, columns, join, sql

MAX_COLUMNS = 1600  # PostgreSQL's MaxHeapAttributeNumber
ROW_HASH = "_sdc_row_hash"
DELETED_AT = "_sdc_deleted_at"
VERSION = Column("_sdc_table_version", "_sdc_table_version", "bigint")
METADATA: tuple[Column, ...] = (
    Column("_sdc_extracted_at", "_sdc_extracted_at", "timestamptz"),
    Column("_sdc_received_at", "_sdc_received_at", "timestamptz"),
    Column("_sdc_batched_at", "_sdc_batched_at", "timestamptz"),
    Column("_sdc_sequence", "_sdc_sequence", "bigint"),
    VERSION,
)
"""What `add_record_metadata` adds; but for the version, these columns never make a row count as changed."""


@dataclass(frozen=True)
class StreamSpec:
    """What a SCHEMA message says of a stream."""

    stream: str
    contract: Contract
    key_properties: tuple[str, ...]
    replication_key: str | None

    @property
    def reconciles(self) -> str | None:
        """The stream whose keys, all that the source has, this companion stream brings (`x-reconciles`)."""
        parent = self.contract.schema.get("x-reconciles")
        return parent if isinstance(parent, str) else None


@dataclass(frozen=True)
class SchemaChange:
    """One DDL statement, and the columns that it makes: (name, the record's field)."""

    statement: Sql
    change: str
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TablePlan:
    """How a stream's records become rows. `key` holds column names and is empty for append-only tables.

    `versioned` when rows carry the table version of the refresh that brought them, `fixed_version` when this load
    gives them its own. `inserted_marker` is an expression over the merged row `t` that tells an insert from an update,
    None without one.
    """

    spec: StreamSpec
    table: Name
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    row_hash: bool
    metadata: bool
    versioned: bool
    fixed_version: int | None
    hard_delete: bool
    comparable: Mapping[str, str]
    clears_deleted: bool
    inserted_marker: str | None

    @property
    def full_name(self) -> str:
        """`schema.table`, for logs and books."""
        return ".".join(self.table)

    @property
    def known(self) -> frozenset[str]:
        """The record fields that have a column."""
        return frozenset(column.key for column in self.columns)

    @property
    def column_names(self) -> list[str]:
        """Every column that a load writes, in the order of the CSV fields."""
        names = [column.name for column in self.columns]
        names += [ROW_HASH] if self.row_hash else []
        return names + [column.name for column in self.own_columns]

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """The columns that the loader itself fills."""
        if self.metadata:
            return METADATA
        return (VERSION,) if self.versioned else ()

    @property
    def ordered(self) -> bool:
        """Whether a lower replication key loses. In a refresh the last record wins, whatever its replication key."""
        return not self.versioned

    @property
    def removes_marked(self) -> bool:
        """Whether rows that arrive with `_sdc_deleted_at` are deleted for good."""
        return self.hard_delete and any(column.name == DELETED_AT for column in self.columns)

    @property
    def replication_column(self) -> Column | None:
        """The column of the replication key, where the stream has one."""
        key = self.spec.replication_key
        return next((column for column in self.columns if column.key == key), None) if key else None


def wanted_columns(spec: StreamSpec, extra: Sequence[Column], options: TableOptions) -> list[Column]:
    """The columns that the SCHEMA and the fields seen beyond it ask for; names are still the record's."""
    found = [
        column_for(key, key, schema, declared=spec.contract.declared, naive=options.naive_datetimes)
        for key, schema in spec.contract.schema["properties"].items()
    ]
    named = {column.key for column in found}
    return found + [c for c in extra if c.key not in named]


def plan_table(
    backend: Backend,
    spec: StreamSpec,
    table: Name,
    extra: Sequence[Column],
    options: TableOptions,
    *,
    versioned: bool,
    deletable: bool,
) -> tuple[TablePlan, list[SchemaChange]]:
    """The plan for a stream's table and the DDL that is still needed. Raises ConfigError when the key cannot work."""
    facts = backend.describe(table)
    row_hash = not spec.key_properties and options.keyless == "set" and not options.append_only
    ours = _our_names(options, row_hash=row_hash, versioned=versioned)
    wanted = [c for c in wanted_columns(spec, extra, options) if c.key not in ours]
    known = _known_names(backend, table, facts) | {name: name for name in ours}
    names = unique_names([c.key for c in wanted], known, lower=options.lower_names)
    found = [_as_database_has_it(replace(column, name=names[column.key]), facts) for column in wanted]
    by_key = {column.key: column for column in found}
    key = (ROW_HASH,) if row_hash else tuple(by_key[k].name for k in spec.key_properties if k in by_key)
    if options.append_only:
        key = ()
    soft = (versioned or deletable) and not options.hard_delete
    plan = TablePlan(
        spec=spec,
        table=table,
        columns=tuple(found),
        key=key,
        row_hash=row_hash,
        metadata=options.metadata,
        versioned=versioned or options.load_version is not None,
        fixed_version=options.load_version,
        hard_delete=options.hard_delete,
        comparable={c.name: backend.comparable(f) for c in found if facts and (f := facts.columns.get(c.name))},
        inserted_marker=None if facts and facts.partitioned else backend.inserted_marker,
        clears_deleted=DELETED_AT not in by_key and (soft or bool(facts and DELETED_AT in facts.columns)),
    )
    _check_width(plan, facts)
    if facts is None:
        return plan, [_create(backend, plan)]
    _check_key(plan, facts)
    return plan, _add_columns(backend, plan, facts)


def _our_names(options: TableOptions, *, row_hash: bool, versioned: bool) -> set[str]:
    """The columns that the loader fills itself; a field of the same name, such as another loader's, is left out."""
    names = {column.name for column in METADATA} if options.metadata else set()
    names |= {VERSION.name} if versioned or options.load_version is not None else set()
    return names | ({ROW_HASH} if row_hash else set())


def _as_database_has_it(column: Column, facts: TableFacts | None) -> Column:
    found = facts.columns.get(column.name) if facts else None
    return column.as_found(found) if found else column


def _known_names(backend: Backend, table: Name, facts: TableFacts | None) -> dict[str, str]:
    """Original → column name as given by earlier loads; a column nobody logged keeps its own name."""
    if facts is None:
        return {}
    logged = backend.fetch(
        "SELECT original_name, column_name FROM {} WHERE table_name = %s AND original_name IS NOT NULL",
        [(backend.meta_schema, "schema_log")],
        [".".join(table)],
    )
    given = {original: name for original, name in logged if name in facts.columns}
    return {name: name for name in facts.columns if name not in given.values()} | given


def _create(backend: Backend, plan: TablePlan) -> SchemaChange:
    definitions = [_definition(backend, column, column.name in plan.key) for column in _all_columns(plan)]
    if plan.key:
        definitions.append(join("", [sql("PRIMARY KEY ("), columns(plan.key), sql(")")]))
    body = join("", [sql("CREATE TABLE IF NOT EXISTS {} (", plan.table), join(", ", definitions), sql(")")])
    return SchemaChange(body, "create table", tuple((column.name, storable(column.key)) for column in plan.columns))


def _all_columns(plan: TablePlan) -> list[Column]:
    extra = [Column(ROW_HASH, ROW_HASH, "text")] if plan.row_hash else []
    deleted_at = [Column(DELETED_AT, DELETED_AT, "timestamptz")] if plan.clears_deleted else []
    return [*plan.columns, *extra, *plan.own_columns, *deleted_at]


def _add_columns(backend: Backend, plan: TablePlan, facts: TableFacts) -> list[SchemaChange]:
    return [
        SchemaChange(
            join(
                " ", [sql("ALTER TABLE {} ADD COLUMN IF NOT EXISTS", plan.table), _definition(backend, column, False)]
            ),
            "add column",
            ((column.name, storable(column.key)),),
        )
        for column in _all_columns(plan)
        if column.name not in facts.columns
    ]


def _definition(backend: Backend, column: Column, not_null: bool) -> Sql:
    precision = f"({column.digits}, {column.scale})" if column.kind == "numeric" else ""
    suffix = " NOT NULL" if not_null else ""
    return sql(f"{{}} {backend.types[column.kind]}{precision}{suffix}", column.name)


def _check_width(plan: TablePlan, facts: TableFacts | None) -> None:
    """More columns than PostgreSQL has are refused on every backend, since a pipeline may move."""
    count = len({*(facts.columns if facts else ()), *(column.name for column in _all_columns(plan))})
    if count > MAX_COLUMNS:
        raise ConfigError([
            Fault(
                f"stream '{plan.spec.stream}'",
                f"{count} columns are more than the {MAX_COLUMNS} that a table can have; set on_new_column: ignore, or"
                " let the tap select fewer fields or nest them",
            )
        ])  # fmt: skip


def _check_key(plan: TablePlan, facts: TableFacts) -> None:
    """Without a unique index on exactly the key, an upsert cannot be idempotent."""
    key = frozenset(plan.key)
    if not key or key in facts.unique_keys:
        return
    quoted = ", ".join(f'"{name}"' for name in plan.key)
    table = ".".join(f'"{part}"' for part in plan.table)
    raise ConfigError([
        Fault(
            f"stream '{plan.spec.stream}'",
            f"table {table} has no unique index on its key ({quoted}), so rows could double; run"
            f" `CREATE UNIQUE INDEX ON {table} ({quoted})`, choose another table, or load it append-only",
        )
    ])  # fmt: skip


def key_faults(spec: StreamSpec) -> list[Fault]:
    """Keys and replication keys that the schema does not describe."""
    known: Mapping[str, Any] = spec.contract.schema["properties"]
    return [
        Fault(f"stream '{spec.stream}'", f"the key '{key}' is not among the schema's properties")
        for key in spec.key_properties
        if key not in known
    ]
