"""The destination as the monitor uses it: short patience with a locked file, times as UTC datetimes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from resilient_core.errors import UnavailableError
from target_resilient.backends import DataError, InfrastructureError, Session, open_backend
from target_resilient.destination import Destination
from target_resilient.sql import Name

PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1

T = TypeVar("T")


class Database:
    """A destination to read, and to write the check log to.

    A locked file or a lost connection is tried again for 10 s; then UnavailableError is raised.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        meta_schema: str = "_resilient",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.destination = destination
        self.meta_schema = meta_schema
        self._clock = clock
        self._sleep = sleep
        self._patience = patience
        self._reader = open_backend(destination, meta_schema=meta_schema, read_only=True)
        self._writer = open_backend(destination, meta_schema=meta_schema)

    @property
    def default_schema(self) -> str:
        """Where a table without a schema is looked for."""
        return self._reader.default_schema

    def fetch(self, template: str, names: Sequence[Name] = (), params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one query; identifiers go by `{}`, values by `%s`."""
        return self._patiently(lambda: self._reader.fetch(template, names, params))

    def transact(self, work: Callable[[Session], T]) -> T:
        """Run `work` in one transaction that writes."""

        def attempt() -> T:
            with self._writer.transaction() as session:
                return work(session)

        return self._patiently(attempt)

    def columns(self, table: Name) -> dict[str, str] | None:
        """Column → kind of a table, or None where there is no such table."""
        facts = self._patiently(lambda: self._reader.describe(table))
        return None if facts is None else {name: column.kind for name, column in facts.columns.items()}

    def ensure_meta(self) -> None:
        """Create the `_resilient` tables where they are missing."""
        self._patiently(self._writer.ensure_meta)

    def meta(self, table: str) -> Name:
        """The full name of a `_resilient` table."""
        return (self.meta_schema, table)

    def close(self) -> None:
        """Close what is open."""
        self._reader.close()
        self._writer.close()

    def _patiently(self, attempt: Callable[[], T]) -> T:
        self._must_exist()
        give_up = self._clock() + self._patience
        while True:
            try:
                return attempt()
            except DataError as error:
                raise UnavailableError(f"the destination cannot evaluate this: {error}") from None
            except InfrastructureError as error:
                if self._clock() >= give_up:
                    raise UnavailableError(f"{self.destination.describe()}: {error}") from None
                self._sleep(_PAUSE_SECONDS)

    def _must_exist(self) -> None:
        """The monitor never makes a DuckDB file: an empty one would look like a destination."""
        path = self.destination.path
        if self.destination.kind == "duckdb" and not Path(path).exists():
            raise UnavailableError(f"DuckDB file {path} does not exist; no load has made it yet, or it has moved")


def seconds(expression: str) -> str:
    """SQL for an instant as seconds since 1970: the same on both databases, and read without time zone packages.

    A bare column name is quoted: `at` is a keyword to DuckDB.
    """
    quoted = f'"{expression}"' if expression.isidentifier() else expression
    return f"CAST(extract(epoch FROM {quoted}) AS double precision)"


def moment(epoch_seconds: float | None) -> datetime | None:
    """The instant that `seconds` gave."""
    return None if epoch_seconds is None else datetime.fromtimestamp(epoch_seconds, timezone.utc)


TIMESTAMP = "CAST(%s AS timestamptz)"
"""A placeholder for an instant; its parameter is `datetime.isoformat()`."""
