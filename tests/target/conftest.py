"""A PostgreSQL database that many loads share, each in schemas of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.target.proxy import Proxy, proxy
from tests.target.server import Server


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a database that outlives the test."""
    _admin(postgres_server, "CREATE DATABASE shared")
    yield postgres_server.replace("/postgres?", "/shared?")
    _admin(postgres_server, "DROP DATABASE shared WITH (FORCE)")


@pytest.fixture(scope="session")
def own_server(postgres_server: str) -> Iterator[Server]:
    """A second PostgreSQL server, with an empty database `shared`, which a test may restart and demote."""
    with closing(Server()) as server:
        yield server


@pytest.fixture
def through(shared_postgres: str) -> Iterator[Proxy]:
    """A proxy before the shared database."""
    with tempfile.TemporaryDirectory(prefix="proxy-") as folder, proxy(shared_postgres, Path(folder)) as running:
        yield running


def _admin(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
