"""A PostgreSQL database that many loads share, each in schemas of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a database that outlives the test."""
    _admin(postgres_server, "CREATE DATABASE shared")
    yield postgres_server.replace("/postgres?", "/shared?")
    _admin(postgres_server, "DROP DATABASE shared WITH (FORCE)")


def _admin(url: str, statement: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
