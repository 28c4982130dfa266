"""DuckDB: the only module that imports duckdb. The file is opened for each transaction, so that others can read."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import duckdb

from resilient_core.errors import ConfigError, StoppedError, UnavailableError
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
    lease_name,
)
from target_resilient.checkpoints import reach
from target_resilient.destination import Destination
from target_resilient.meta import meta_ddl
from target_resilient.sql import Name, Sql, columns, join, quoted, sql

_KINDS = {
    "TINYINT": "bigint",
    "SMALLINT": "bigint",
    "INTEGER": "bigint",
    "BIGINT": "bigint",
    "HUGEINT": "bigint",
    "DOUBLE": "double",
    "VARCHAR": "text",
    "BOOLEAN": "boolean",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    "TIMESTAMP": "timestamp",
    "DATE": "date",
    "TIME": "time",
    "UUID": "uuid",
    "JSON": "json",
}
_INTEGER_BITS = {"TINYINT": 7, "SMALLINT": 15, "INTEGER": 31, "BIGINT": 63, "HUGEINT": 127}
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_VALUES = re.compile(r"VALUES (\((?:\?, )*\?\))")
_PAGE_ROWS = 100
_MIN_LINE_BYTES = 2_000_000  # read_csv's own default for max_line_size

_IN_TABLE = (
    "WHERE database_name = current_database() AND lower(schema_name) = lower(%s) AND lower(table_name) = lower(%s)"
)
_DESCRIBE = f"SELECT column_name, data_type FROM duckdb_columns() {_IN_TABLE} ORDER BY column_index"  # noqa: S608
_UNIQUE_KEYS = (
    f"SELECT constraint_column_names FROM duckdb_constraints() {_IN_TABLE}"  # noqa: S608
    " AND constraint_type IN ('PRIMARY KEY', 'UNIQUE')"
)
_READ_CSV = (
    " FROM read_csv(%s, columns = %s, auto_detect = false, header = false, delim = ',',"
    " quote = '\"', escape = '\"', nullstr = '', allow_quoted_nulls = false, new_line = '\\n', parallel = false,"
    " max_line_size = %s, buffer_size = %s)"
)

_DATA_ERRORS = (duckdb.ConversionException, duckdb.ConstraintException, duckdb.OutOfRangeException,
                duckdb.InvalidInputException, duckdb.TypeMismatchException)  # fmt: skip


class DuckDBBackend(Statements):
    """A DuckDB file. One process writes at a time; others wait for its lock between transactions."""

    default_schema = "main"
    for_update = ""
    inserted_marker: str | None = None
    types = {  # noqa: RUF012 a constant of the class
        "bigint": "BIGINT",
        "numeric": "DECIMAL",
        "double": "DOUBLE",
        "text": "VARCHAR",
        "boolean": "BOOLEAN",
        "timestamptz": "TIMESTAMPTZ",
        "date": "DATE",
        "time": "TIME",
        "uuid": "UUID",
        "json": "JSON",
    }

    def __init__(self, destination: Destination, meta_schema: str, *, read_only: bool) -> None:
        self.meta_schema = meta_schema
        self._path = destination.path
        self._read_only = read_only
        self._connection: Any = None

    @contextmanager
    def transaction(self) -> Iterator[DuckDBSession]:
        """Open the file for one transaction; commits at the end of the block, rolls back on any exception."""
        connection = self._connection = self._open()
        try:
            _run(connection.execute, "BEGIN")
            yield DuckDBSession(connection)
            _commit(connection)
        except BaseException:
            with suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            raise
        finally:
            self._connection = None
            connection.close()

    def ensure_meta(self) -> None:
        """Create the `_resilient` tables where they are missing."""
        with self.transaction() as session:
            for statement in meta_ddl(self.meta_schema):
                session.run(statement)

    def describe(self, table: Name) -> TableFacts | None:
        """The table as it is, or None where there is none. DuckDB's names are case-insensitive."""
        if self._read_only and not Path(self._path).exists():
            return None
        with self.transaction() as session:
            found = session.rows(Sql(_DESCRIBE), list(table))
            if not found:
                return None
            constraints = session.rows(Sql(_UNIQUE_KEYS), list(table))
        facts = [_column_facts(*row) for row in found]
        return TableFacts({f.name: f for f in facts}, tuple(frozenset(row[0]) for row in constraints))

    def apply_ddl(self, statements: Sequence[Sql], book: Callable[[Session], None]) -> None:
        """Run additive DDL and what books it in one short transaction."""
        with self.transaction() as session:
            for statement in statements:
                session.run(statement)
            book(session)

    def comparable(self, column: ColumnFacts) -> str:
        """Every DuckDB type compares; JSON compares as text, and we write it canonically."""
        return "{}"

    def acquire_lease(self, pipeline: str, holder: str, *, takeover: bool) -> DuckDBLease:
        """Own the pipeline by an OS lock on a file beside the database, and bump its fence."""
        digest = hashlib.sha256(lease_name(self.meta_schema, pipeline).encode()).hexdigest()[:12]
        lock_path = Path(f"{self._path}.{digest}.lock")
        file = _open_lock_file(lock_path)
        try:
            owned = _try_lock(file)
            if not owned and not takeover:
                raise StoppedError(
                    f"another load of pipeline '{pipeline}' is at work; wait for it, give this load its own"
                    " `pipeline`, or end a hung one with --takeover"
                )
            if not owned:
                file = _replace_lock_file(file, lock_path)
            with self.transaction() as session:
                lease_table: Name = (self.meta_schema, "lease")
                session.run(
                    sql("INSERT INTO {} AS l VALUES (%s, 1, %s, now()) ON CONFLICT (pipeline) DO UPDATE"
                        " SET fence = l.fence + 1, holder = excluded.holder, taken_at = excluded.taken_at",
                        lease_table),
                    [pipeline, holder],
                )  # fmt: skip
                rows = session.rows(sql("SELECT fence FROM {} WHERE pipeline = %s", lease_table), [pipeline])
        except BaseException:
            file.close()
            raise
        return DuckDBLease(file, rows[0][0])

    def interrupt(self) -> None:
        """Break off the statement that another thread runs, and with it its transaction."""
        if (connection := self._connection) is not None:
            with suppress(duckdb.Error):
                connection.interrupt()

    def close(self) -> None:
        """Nothing stays open between transactions."""

    def _open(self) -> Any:
        try:
            connection = duckdb.connect(self._path, read_only=self._read_only)
            connection.execute("SET TimeZone = 'UTC'")
        except duckdb.Error as error:
            raise _open_error(error, self._path) from None
        return connection


class DuckDBLease:
    """An OS lock on a file: the system drops it when this process ends, however it ends."""

    def __init__(self, file: IO[bytes], fence: int) -> None:
        self._file = file
        self.fence = fence

    def keep(self) -> None:
        """The system keeps it."""

    def release(self) -> None:
        """Drop the lock. The file stays: removing it would race with the next owner."""
        self._file.close()


class DuckDBSession:
    """One connection with one open transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._stages = itertools.count()

    def rows(self, statement: Sql, params: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query."""
        return list(_run(self._connection.execute, _compose(statement), list(params)).fetchall())

    def run(self, statement: Sql, params: Sequence[Any] = ()) -> int:
        """Execute one statement; the number of rows it affected."""
        rows = _run(self._connection.execute, _compose(statement), list(params)).fetchall()
        counted = rows and len(rows[0]) == 1 and isinstance(rows[0][0], int)
        return int(rows[0][0]) if counted else 0

    def run_many(self, statement: Sql, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one INSERT for many rows; `VALUES (%s, …)` is widened to pages, 18 times as fast as row by row."""
        head, one_row, tail = _VALUES.split(_compose(statement))
        for start in range(0, len(rows), _PAGE_ROWS):
            page = rows[start : start + _PAGE_ROWS]
            widened = f"{head}VALUES {', '.join([one_row] * len(page))}{tail}"
            _run(self._connection.execute, widened, [value for row in page for value in row])

    def stage(self, table: Name, column_names: Sequence[str], lines: Sequence[str]) -> tuple[Name, int]:
        """Read the lines, by way of a temporary file, into a temporary table shaped like `table`."""
        stage: Name = (f"resilient_stage_{next(self._stages)}",)
        self.run(join("", [
            sql("CREATE TEMP TABLE {} AS SELECT ", stage), columns(column_names), sql(" FROM {} LIMIT 0", table),
        ]))  # fmt: skip
        names = [f"c{i}" for i in range(len(column_names))]
        if len(names) == 1:  # read_csv skips blank lines, and NULL in a table's only column is one
            lines = [f"{line}," for line in lines]
        with _csv_file(lines) as (path, longest):
            texts = dict.fromkeys([*names, "blank"] if len(names) == 1 else names, "VARCHAR")
            reach("epoch.copying")
            size = max(_MIN_LINE_BYTES, longest + 1)
            read = join("", [sql("INSERT INTO {} SELECT ", stage), columns(names), sql(_READ_CSV)])
            arrived = self.run(read, [path, texts, size, max(32_000_000, size * 2)])
        return stage, arrived

    def lock(self, resources: Sequence[str]) -> None:
        """One process writes to a DuckDB file at a time: there is nothing to lock."""


def _compose(statement: Sql) -> str:
    return statement.template.replace("%s", "?").format(*(quoted(name) for name in statement.names))


def _run(call: Any, *args: Any) -> Any:
    try:
        return call(*args)
    except _DATA_ERRORS as error:
        raise DataError(type(error).__name__) from None
    except (duckdb.IOException, duckdb.TransactionException, duckdb.OutOfMemoryException) as error:
        raise InfrastructureError(f"DuckDB {type(error).__name__}") from None
    except duckdb.Error as error:
        text = f"DuckDB refused a statement: {type(error).__name__}: {str(error).splitlines()[0]}"
        missing = isinstance(error, (duckdb.CatalogException, duckdb.BinderException))
        raise (MissingError if missing else UnavailableError)(text) from None


def _commit(connection: Any) -> None:
    try:
        _run(connection.execute, "COMMIT")
    except InfrastructureError as error:
        raise CommitUnknownError(str(error)) from None


def _open_error(error: duckdb.Error, path: str) -> Exception:
    text = str(error)
    if "lock" in text.lower():
        return InfrastructureError(f"DuckDB file {path} is locked by another process; close it there")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        return ConfigError(f"destination: the folder {folder} does not exist; create it or change `destination`")
    if Path(path).is_dir() or not os.access(Path(path) if Path(path).exists() else folder, os.W_OK):
        return ConfigError(f"destination: DuckDB file {path} cannot be written; check its path and permissions")
    if isinstance(error, duckdb.IOException) and "not a valid DuckDB" not in text:
        return InfrastructureError(f"DuckDB file {path} cannot be opened: {type(error).__name__}")
    return ConfigError(f"destination: {path} cannot be opened as a DuckDB file by DuckDB {duckdb.__version__}")


def _column_facts(name: str, type_name: str) -> ColumnFacts:
    if decimal := _DECIMAL.fullmatch(type_name):
        return ColumnFacts(name, "numeric", type_name, int(decimal[1]), int(decimal[2]))
    bits = _INTEGER_BITS.get(type_name)
    low, high = (-(2**bits), 2**bits - 1) if bits else (None, None)
    return ColumnFacts(name, _KINDS.get(type_name, "other"), type_name, low=low, high=high)


@contextmanager
def _csv_file(lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The lines in a temporary file without a name, which no crash leaves behind, and the bytes of the longest line."""
    nameless = Path("/dev/fd").is_dir()
    with tempfile.TemporaryFile() if nameless else tempfile.NamedTemporaryFile() as file:
        file.write(("\n".join(lines) + "\n").encode())
        file.flush()
        path = f"/dev/fd/{file.fileno()}" if nameless else file.name
        long = [line for line in lines if len(line) * 4 > _MIN_LINE_BYTES]  # UTF-8 takes up to 4 bytes a character
        yield path, max((len(line.encode()) for line in long), default=0)


def _open_lock_file(path: Path) -> IO[bytes]:
    try:
        return path.open("ab")
    except OSError as error:
        raise ConfigError(f"destination: {path.parent} cannot be written: {error.strerror}") from None


def _replace_lock_file(held: IO[bytes], path: Path) -> IO[bytes]:
    """Leave the locked file to the load that hangs, and own a new one in its place."""
    held.close()
    path.unlink(missing_ok=True)
    file = _open_lock_file(path)
    _try_lock(file)
    return file


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
