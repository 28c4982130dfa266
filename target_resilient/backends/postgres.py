"""PostgreSQL: the only module that imports psycopg2."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from psycopg2 import sql as pgsql
from psycopg2.extras import execute_values

from resilient_core.errors import ConfigError, CredentialsRefusedError, StoppedError, UnavailableError
from target_resilient.backends import (
    ColumnFacts,
    CommitUnknownError,
    DataError,
    InfrastructureError,
    MissingError,
    Row,
    Session,
    Statements,
    TableFacts,
    epoch_name,
    lease_name,
)
from target_resilient.checkpoints import reach
from target_resilient.destination import Destination
from target_resilient.meta import META_TABLES, meta_ddl
from target_resilient.sql import Name, Sql, columns, join, sql

LOCK_TIMEOUT = "10s"  # wait this long for others' locks, then try again: nothing waits for ever
LEASE_TIMEOUT = "1s"  # the server may still be burying the load that was killed a moment ago
CONNECTION_OPTIONS = {
    "connect_timeout": 10,  # seconds
    "application_name": "target-resilient",
    "keepalives_idle": 30,  # an idle lease connection must notice a dead network within a minute
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds; the same while something is unanswered
}

_COPY_BYTES = 4_000_000  # a block: each one costs a turn of the interpreter lock, which the reading thread holds for ms

# SQLSTATE classes, https://www.postgresql.org/docs/current/errcodes-appendix.html
_RETRY = ("08", "40", "53", "57", "58", "55P03", "25P03", "25P04", "25006")
_DATA = ("22", "23", "54000")
_CREDENTIALS = ("28", "42501")
_CONFIG = ("3D",)
_MISSING = ("42P01", "42703", "3F000")
# At connect time psycopg2 gives no SQLSTATE, only libpq's text.
_REFUSED_TEXT = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|role .* does not exist|no such user"
)
_NO_DATABASE_TEXT = re.compile(r"database .* does not exist|no such database")
_POOLER_TEXT = re.compile(r"unsupported startup parameter(?: in options)?: (\w+)")
_BAD_DSN_TEXT = re.compile(r"invalid (dsn|connection option|sslmode|port)|definition of service|missing \"=\"")

_KINDS = {
    "int2": "bigint",
    "int4": "bigint",
    "int8": "bigint",
    "numeric": "numeric",
    "float8": "double",
    "text": "text",
    "varchar": "text",
    "bool": "boolean",
    "timestamptz": "timestamptz",
    "timestamp": "timestamp",
    "date": "date",
    "time": "time",
    "uuid": "uuid",
    "jsonb": "json",
    "json": "json",
}
_INTEGER_BITS = {"int2": 15, "int4": 31, "int8": 63}

_END_HOLDERS = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND pid <> pg_backend_pid() AND pid = coalesce(%s, pid)
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((classid::bigint << 32) | objid::bigint) IN %s"""

# The lease idles in a transaction for as long as the load runs; a server knows the timeouts of its version.
_NO_TIMEOUTS = """
SELECT set_config(name, '0', true) FROM pg_settings
WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"""

_DESCRIBE = """
SELECT a.attname, t.typname, a.atttypmod, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""

_UNIQUE_KEYS = """
SELECT i.indexrelid, a.attname
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL"""


class PostgresBackend(Statements):
    """A PostgreSQL database; one connection for the work, one for the lease."""

    default_schema = "public"
    for_update = " FOR UPDATE"
    inserted_marker: str | None = (
        "(t.xmax = 0)"  # an updated row carries its lock; partitioned tables have no system columns here
    )
    types = {  # noqa: RUF012 a constant of the class
        "bigint": "bigint",
        "numeric": "numeric",
        "double": "double precision",
        "text": "text",
        "boolean": "boolean",
        "timestamptz": "timestamp with time zone",
        "date": "date",
        "time": "time without time zone",
        "uuid": "uuid",
        "json": "jsonb",
    }

    def __init__(self, destination: Destination, meta_schema: str, *, read_only: bool) -> None:
        self.meta_schema = meta_schema
        self._destination = destination
        self._read_only = read_only
        self._connection: Any = None

    @contextmanager
    def transaction(self) -> Iterator[PostgresSession]:
        """A transaction; commits at the end of the block, rolls back on any exception."""
        connection = self._connect()
        session = PostgresSession(connection)
        try:
            session.run(Sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            yield session
        except BaseException as error:
            self._roll_back(error)
            raise
        try:
            connection.commit()
        except psycopg2.Error as error:
            found = _commit_error(error)
            self._roll_back(found)
            raise found from None

    def ensure_meta(self) -> None:
        """Create the `_resilient` tables where they are missing."""
        found = self.fetch("SELECT tablename FROM pg_tables WHERE schemaname = %s", params=[self.meta_schema])
        statements = meta_ddl(self.meta_schema)
        if META_TABLES.keys() - {name for (name,) in found}:
            with self.transaction() as session:
                session.lock([f"meta {self.meta_schema}"])
                for statement in statements:
                    session.run(statement)

    def describe(self, table: Name) -> TableFacts | None:
        """The table as it is, or None where there is none."""
        with self.transaction() as session:
            found = session.rows(
                Sql("SELECT c.oid, c.relkind = 'p' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                    " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')"),
                list(table),
            )  # fmt: skip
            if not found:
                return None
            oid, partitioned = found[0]
            facts = [_column_facts(*row) for row in session.rows(Sql(_DESCRIBE), [oid])]
            unique: dict[int, set[str]] = {}
            for index, column in session.rows(Sql(_UNIQUE_KEYS), [oid]):
                unique.setdefault(index, set()).add(column)
        return TableFacts({f.name: f for f in facts}, tuple(map(frozenset, unique.values())), partitioned)

    def apply_ddl(self, statements: Sequence[Sql], book: Callable[[Session], None]) -> None:
        """Run additive DDL and what books it in one short transaction."""
        with self.transaction() as session:
            session.lock(["ddl"])
            for statement in statements:
                session.run(statement)
            book(session)

    def comparable(self, column: ColumnFacts) -> str:
        """Types without an equality operator are compared as jsonb or text."""
        if column.type_name == "json":
            return "CAST({} AS jsonb)"
        return "CAST({} AS text)" if column.kind == "other" else "{}"

    def acquire_lease(self, pipeline: str, holder: str, *, takeover: bool) -> PostgresLease:
        """Own the pipeline by an advisory lock on a connection of its own, and bump its fence."""
        lease = PostgresLease(self._open, self.meta_schema, pipeline)
        try:
            if not lease.take():
                if not takeover:
                    raise StoppedError(
                        f"another load of pipeline '{pipeline}' is at work; wait for it, give this load its own"
                        " `pipeline`, or end a hung one with --takeover"
                    )
                lease.take(takeover=True)
            lease_table: Name = (self.meta_schema, "lease")
            with self.transaction() as session:
                rows = session.rows(
                    sql("INSERT INTO {} AS l (pipeline, fence, holder, taken_at) VALUES (%s, 1, %s, now())"
                        " ON CONFLICT (pipeline) DO UPDATE SET fence = l.fence + 1, holder = excluded.holder,"
                        " taken_at = excluded.taken_at RETURNING fence", lease_table),
                    [pipeline, holder],
                )  # fmt: skip
        except BaseException:
            lease.release()
            raise
        lease.fence = rows[0][0]
        return lease

    def interrupt(self) -> None:
        """Cut the connection: the server rolls back, unless COMMIT has been sent."""
        if self._connection is not None and not self._connection.closed:
            with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the working connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        if self._connection is None or self._connection.closed:
            self._connection = self._open()
        return self._connection

    def _open(self) -> Any:
        destination = self._destination
        settings: dict[str, Any] = {**(destination.parts if not destination.dsn else {}), **CONNECTION_OPTIONS}
        if destination.password:
            settings["password"] = destination.password
        try:
            connection = psycopg2.connect(destination.dsn, **settings)
            # False would override what a server says of itself: it has been demoted, or its disk is nearly full.
            # A transaction that has waited for a lock must see what was committed meanwhile.
            connection.set_session("READ COMMITTED", readonly=self._read_only or None)
            connection.set_client_encoding("UTF8")
        except psycopg2.Error as error:
            raise _connect_error(error, destination) from None
        return connection

    def _roll_back(self, error: BaseException) -> None:
        """Roll back. After a fault the next attempt has a new session: this one may be on a server that only reads."""
        with suppress(psycopg2.Error):
            self._connection.rollback()
        if isinstance(error, InfrastructureError):
            self.close()


class PostgresLease:
    """An advisory lock in a transaction that stays open: it dies with its connection, and so with this process.

    A pooler gives the session behind an open transaction to nobody else. Without a snapshot this one delays no vacuum.
    """

    fence = 0

    def __init__(self, connect: Callable[[], Any], meta_schema: str, pipeline: str) -> None:
        self._connect = connect
        self._keys = tuple(_lock_key(name(meta_schema, pipeline)) for name in (lease_name, epoch_name))
        self._connection: Any = None
        self._pid: int | None = None

    def take(self, *, takeover: bool = False) -> bool:
        """Take the lock; False when somebody keeps it longer than the server takes to notice that a client died.

        First end the sessions of a load that hangs, the one of its lease and the one of its epoch, or else our own
        lost one, which the server may still believe alive.
        """
        self._connection = self._connect()
        try:
            with self._connection.cursor() as cursor:
                if takeover or self._pid is not None:
                    with suppress(psycopg2.errors.InsufficientPrivilege):
                        cursor.execute(_END_HOLDERS, [None if takeover else self._pid, self._keys])
                    self._connection.rollback()
                cursor.execute(_NO_TIMEOUTS)
                cursor.execute("SET LOCAL lock_timeout = %s", [LEASE_TIMEOUT])
                cursor.execute("SELECT pg_backend_pid(), pg_advisory_xact_lock(%s)", [self._keys[0]])
                self._pid = cursor.fetchone()[0]
        except psycopg2.errors.LockNotAvailable:
            self._connection.close()
            return False
        except psycopg2.Error as error:
            self._connection.close()
            raise translate(error) from None
        return True

    def keep(self) -> None:
        """Take the lock again where its connection was lost. Where another load was faster, the fence tells."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT")
        except psycopg2.Error:
            self._connection.close()
            self.take()

    def release(self) -> None:
        """Close the connection, and the lock is free; nothing is asked that a hung server would not answer."""
        if self._connection is not None:
            self._connection.close()


class PostgresSession:
    """One connection with one open transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._stages = itertools.count()

    def rows(self, statement: Sql, params: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""
        with self._connection.cursor() as cursor:
            _run(cursor.execute, self._compose(statement, bool(params)), list(params) or None)
            return list(cursor.fetchall())

    def run(self, statement: Sql, params: Sequence[Any] = ()) -> int:
        """Execute one statement; the number of rows it affected."""
        with self._connection.cursor() as cursor:
            _run(cursor.execute, self._compose(statement, bool(params)), list(params) or None)
            return int(cursor.rowcount)

    def run_many(self, statement: Sql, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one INSERT for many rows; `VALUES (%s, …)` is widened to pages of rows."""
        if not rows:
            return
        text = self._compose(statement, True).as_string(self._connection)
        one_row = re.search(r"VALUES (\((?:%s, )*%s\))", text)
        if one_row is None:
            raise ValueError("run_many needs one VALUES list")
        with self._connection.cursor() as cursor:
            widened = text[: one_row.start(1)] + "%s" + text[one_row.end(1) :]
            _run(execute_values, cursor, widened, [list(row) for row in rows])

    def stage(self, table: Name, column_names: Sequence[str], lines: Sequence[str]) -> tuple[Name, int]:
        """COPY the lines into a temporary table that ends with the transaction."""
        stage: Name = (f"resilient_stage_{next(self._stages)}",)
        self.run(join("", [
            sql("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT ", stage), columns(column_names),
            sql(" FROM {} LIMIT 0", table),
        ]))  # fmt: skip
        # The joins of a merge must cost as much as the batch, not as much as the table: probe its index.
        self.run(Sql("SET LOCAL enable_hashjoin = off"))
        self.run(Sql("SET LOCAL enable_mergejoin = off"))
        copy = join("", [sql("COPY {} (", stage), columns(column_names), sql(") FROM STDIN (FORMAT csv)")])
        body = _Body("\n".join([*lines, ""]).encode())
        with self._connection.cursor() as cursor:
            _run(cursor.copy_expert, self._compose(copy), body, _COPY_BYTES)
            return stage, int(cursor.rowcount)

    def lock(self, resources: Sequence[str]) -> None:
        """Transaction-level advisory locks, in sorted order."""
        for resource in sorted(resources):
            self.rows(Sql("SELECT pg_advisory_xact_lock(%s)"), [_lock_key(resource)])

    def _compose(self, statement: Sql, with_params: bool = False) -> Any:
        """The statement; psycopg2 looks for placeholders in names too where there are parameters."""
        escaped = [tuple(part.replace("%", "%%") if with_params else part for part in name) for name in statement.names]
        return pgsql.SQL(statement.template).format(*(pgsql.Identifier(*name) for name in escaped))


class _Body(io.BytesIO):
    """What COPY reads."""

    def read(self, size: int | None = -1) -> bytes:
        """The next block."""
        reach("epoch.copying")
        return super().read(size)


def _commit_error(error: psycopg2.Error) -> Exception:
    """A server that goes down may still have committed: only its books tell."""
    found = translate(error)
    return CommitUnknownError(f"during COMMIT: {found}") if isinstance(found, InfrastructureError) else found


def translate(error: psycopg2.Error) -> Exception:
    """What a database error means to a load (DESIGN: errors by SQLSTATE). Never carries the server's detail."""
    state = error.pgcode
    if state is None or state.startswith(_RETRY):
        return InfrastructureError(f"SQLSTATE {state or 'none'}: {type(error).__name__}")
    column = getattr(error.diag, "column_name", None)
    if state.startswith(_DATA):
        return DataError(state, column)
    name = f"SQLSTATE {state} ({type(error).__name__})"
    if state.startswith(_CREDENTIALS):
        primary = error.diag.message_primary or ""
        return CredentialsRefusedError(f"the database refused: {primary} [{name}]; grant the right or change the role")
    if state.startswith(_CONFIG):
        return ConfigError(f"the database refused: {name}")
    if state.startswith(_MISSING):
        return MissingError(f"{error.diag.message_primary} [{name}]")
    return UnavailableError(f"the database refused a statement: {name}: {error.diag.message_primary}")


def _run(call: Any, *args: Any) -> Any:
    try:
        return call(*args)
    except psycopg2.Error as error:
        raise translate(error) from None


def _connect_error(error: psycopg2.Error, destination: Destination) -> Exception:
    text = " ".join(str(error).split())
    if _REFUSED_TEXT.search(text):
        return CredentialsRefusedError(f"{destination.describe()} refused the credentials; check `user` and `password`")
    if _NO_DATABASE_TEXT.search(text):
        return ConfigError(f"{destination.describe()}: the database does not exist; create it or change `destination`")
    if found := _POOLER_TEXT.search(text):
        return ConfigError(
            f"the pooler at {destination.describe()} refuses the connection option '{found[1]}'; take it out of"
            " `destination`, or add it to the pooler's ignore_startup_parameters"
        )
    if isinstance(error, psycopg2.ProgrammingError) or _BAD_DSN_TEXT.search(text):
        return ConfigError("destination: libpq cannot read the DSN; check its options and its service")
    reason = "timed out" if "timeout" in text else text.rpartition(":")[2].strip().split(" Is the server")[0]
    return InfrastructureError(f"{destination.describe()} cannot be reached: {reason[:200]}")


def _column_facts(name: str, type_name: str, typmod: int, full_type: str) -> ColumnFacts:
    kind = _KINDS.get(type_name, "other")
    precision = scale = max_length = low = high = None
    if type_name == "numeric" and typmod >= 0:
        precision, scale = ((typmod - 4) >> 16) & 0xFFFF, (typmod - 4) & 0x7FF
    if type_name == "varchar" and typmod >= 0:
        max_length = typmod - 4
    if bits := _INTEGER_BITS.get(type_name):
        low, high = -(2**bits), 2**bits - 1
    return ColumnFacts(name, kind, full_type, precision, scale, max_length, low, high)


def _lock_key(resource: str) -> int:
    return int.from_bytes(hashlib.sha256(resource.encode()).digest()[:8], "big", signed=True)
