"""What tests of loads share: a PostgreSQL database, each load in schemas of its own, and a hand in the load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from resilient_core.errors import UnavailableError
from target_resilient import checkpoints, loader
from tests.target.midload import Do, run
from tests.target.proxy import Proxy, proxy
from tests.target.server import Server
from tests.target.zygote import Zygote, zygote


@pytest.fixture(scope="session")
def shared_postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a database that outlives the test."""
    run(postgres_server, "CREATE DATABASE shared")
    yield postgres_server.replace("/postgres?", "/shared?")
    run(postgres_server, "DROP DATABASE shared WITH (FORCE)")


@pytest.fixture(scope="session")
def own_server(postgres_server: str) -> Iterator[Server]:
    """A second PostgreSQL server, with an empty database `shared`, which a test may restart and demote."""
    with closing(Server()) as server:
        yield server


@pytest.fixture(scope="module")
def children() -> Iterator[Zygote]:
    """Starts loads in processes of their own."""
    with zygote() as running:
        yield running


@pytest.fixture
def through(shared_postgres: str) -> Iterator[Proxy]:
    """A proxy before the shared database."""
    with proxy(shared_postgres) as running:
        yield running


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    """No hook outlives its test."""
    yield
    checkpoints.hook = None


@pytest.fixture
def retries(monkeypatch: pytest.MonkeyPatch) -> dict[int, Do]:
    """Retries do not wait; at the n-th, what stands here under n is done, and the fourth gives up."""
    at: dict[int, Do] = {}
    seen: list[str] = []

    def wait(_self: Any, error: Exception) -> None:
        seen.append(str(error))
        at.get(len(seen), lambda: None)()
        if len(seen) > 3:
            raise UnavailableError(f"{error}; gave up after {len(seen)} attempts")

    monkeypatch.setattr(loader.Patience, "wait", wait)
    return at
