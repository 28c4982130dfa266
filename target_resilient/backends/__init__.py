"""Databases that target-resilient loads into; each is one module behind the `Backend` protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from resilient_core.errors import UnavailableError
from target_resilient.destination import Destination
from target_resilient.sql import Name, Sql

Row = tuple[Any, ...]


class InfrastructureError(Exception):
    """The database, the disk or the network failed (SQLSTATE 08 40 53 55P03 57 58, a lost connection): retry."""


class CommitUnknownError(InfrastructureError):
    """The connection was lost during COMMIT; whether it took effect must be asked after reconnecting."""


class MissingError(UnavailableError):
    """A table, column or schema that was there is gone (SQLSTATE 42P01, 42703, 3F000)."""


class DataError(Exception):
    """The database refused a value (SQLSTATE 22, 23, 54000). Holds the SQLSTATE and column, never the value."""

    def __init__(self, sqlstate: str, column: str | None = None) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate
        self.column = column


@dataclass(frozen=True)
class ColumnFacts:
    """A column as the database has it. `kind` is one of columns.KINDS; bounds are None where there are none."""

    name: str
    kind: str
    type_name: str
    precision: int | None = None
    scale: int | None = None
    max_length: int | None = None
    low: int | None = None
    high: int | None = None


@dataclass(frozen=True)
class TableFacts:
    """A table as the database has it: columns by name, and the column sets that are unique and not partial."""

    columns: dict[str, ColumnFacts] = field(default_factory=dict)
    unique_keys: tuple[frozenset[str], ...] = ()
    partitioned: bool = False


class Session(Protocol):
    """One connection with one open transaction."""

    def rows(self, statement: Sql, params: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""

    def run(self, statement: Sql, params: Sequence[Any] = ()) -> int:
        """Execute one statement; the number of rows it affected."""

    def run_many(self, statement: Sql, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one statement for each row of parameters."""

    def stage(self, table: Name, column_names: Sequence[str], lines: Sequence[str]) -> tuple[Name, int]:
        """Copy CSV lines into a temporary table shaped like `table`; its name and the rows that arrived."""

    def lock(self, resources: Sequence[str]) -> None:
        """Take transaction-level locks on the named resources, in sorted order, so that writers never deadlock."""


class Lease(Protocol):
    """Ownership of a pipeline that ends with this process."""

    fence: int

    def keep(self) -> None:
        """Take it again where it was lost. Raises InfrastructureError where that cannot be done yet."""

    def release(self) -> None:
        """Give the pipeline back."""


class Backend(Protocol):
    """What target and monitor need of a database."""

    meta_schema: str
    default_schema: str
    types: dict[str, str]
    for_update: str
    inserted_marker: str | None

    def fetch(self, template: str, names: Sequence[Name] = (), params: Sequence[Any] = ()) -> list[Row]:
        """All rows of one query; `{}` in the template are identifiers from `names`, values go by `%s`."""

    def execute(self, template: str, names: Sequence[Name] = (), params: Sequence[Any] = ()) -> int:
        """One statement in its own transaction; the number of rows it affected."""

    def transaction(self) -> AbstractContextManager[Session]:
        """A transaction that commits at the end of the block and rolls back on any exception."""

    def ensure_meta(self) -> None:
        """Create the `_resilient` tables where they are missing."""

    def describe(self, table: Name) -> TableFacts | None:
        """The table as it is, or None where there is none."""

    def apply_ddl(self, statements: Sequence[Sql], book: Callable[[Session], None]) -> None:
        """Run additive DDL and what books it in one short transaction."""

    def comparable(self, column: ColumnFacts) -> str:
        """A template with one `{}` that makes the column comparable by IS DISTINCT FROM."""

    def acquire_lease(self, pipeline: str, holder: str, *, takeover: bool) -> Lease:
        """Own the pipeline and bump its fence. Raises StoppedError (75) while another load owns it."""

    def interrupt(self) -> None:
        """Break off the statement that another thread runs, and with it its transaction."""

    def close(self) -> None:
        """Close what is open; safe to call twice."""


class Statements:
    """Single statements, each in a transaction of its own; for backends that can open one."""

    def transaction(self) -> AbstractContextManager[Session]:
        """A transaction that commits at the end of the block and rolls back on any exception."""
        raise NotImplementedError

    def fetch(self, template: str, names: Sequence[Name] = (), params: Sequence[Any] = ()) -> list[Row]:
        """All rows of one query."""
        with self.transaction() as session:
            return session.rows(Sql(template, tuple(names)), params)

    def execute(self, template: str, names: Sequence[Name] = (), params: Sequence[Any] = ()) -> int:
        """One statement in its own transaction; the number of rows it affected."""
        with self.transaction() as session:
            return session.run(Sql(template, tuple(names)), params)


def lease_name(meta_schema: str, pipeline: str) -> str:
    """The resource that whoever owns a pipeline holds for as long as it lives."""
    return f"{meta_schema}/{pipeline}"


def epoch_name(meta_schema: str, pipeline: str) -> str:
    """The resource that is held while an epoch of a pipeline is being committed."""
    return f"epoch {meta_schema}/{pipeline}"


def open_backend(destination: Destination, *, meta_schema: str = "_resilient", read_only: bool = False) -> Backend:
    """The backend for a destination. Nothing is connected before the first use."""
    return BACKENDS[destination.kind](destination, meta_schema, read_only)


def _postgres(destination: Destination, meta_schema: str, read_only: bool) -> Backend:
    from target_resilient.backends.postgres import PostgresBackend

    return PostgresBackend(destination, meta_schema, read_only=read_only)


def _duckdb(destination: Destination, meta_schema: str, read_only: bool) -> Backend:
    from target_resilient.backends.duckdb import DuckDBBackend

    return DuckDBBackend(destination, meta_schema, read_only=read_only)


BACKENDS: dict[str, Callable[[Destination, str, bool], Backend]] = {"duckdb": _duckdb, "postgres": _postgres}


@contextmanager
def closing_backend(destination: Destination, **options: Any) -> Iterator[Backend]:
    """`open_backend` for a `with` block."""
    backend = open_backend(destination, **options)
    try:
        yield backend
    finally:
        backend.close()
