"""Real servers into real databases: what arrives equals what sqlite3 sees at the source, column by column."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import flights
from tests.e2e.support import ROOT, Kill, Outcome, Pipe, Warehouse, script, write_json

SOURCES = ROOT / "sample_config/sources"
NAMES = ["rowid", *flights.COLUMNS]


@pytest.fixture(scope="module")
def truth(flights_database: Path) -> dict[str, Any]:
    return flights.checksums(flights.source_rows(flights_database, "rowid, *"), NAMES)


def pipe(tmp_path: Path, source: str, url: str, warehouse: Warehouse, **target: Any) -> Pipe:
    tap = write_json(tmp_path / "tap.json", {"source": str(SOURCES / source), "config": {"base_url": url}})
    config = write_json(tmp_path / "target.json", {**warehouse.config, "pipeline": source, **target})
    return Pipe(
        tmp_path, [script("tap-resilient"), "--config", str(tap)], [script("target-resilient"), "--config", str(config)]
    )


def landed(warehouse: Warehouse) -> dict[str, Any]:
    rows = warehouse.query(f"SELECT {', '.join(NAMES)} FROM flights ORDER BY rowid")
    return flights.checksums((tuple(map(as_in_source, row)) for row in rows), NAMES)


def as_in_source(value: Any) -> Any:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ") if isinstance(value, datetime) else value


def received(warehouse: Warehouse, stream: str) -> list[tuple[Any, ...]]:
    """(received, inserted, updated, unchanged) of each load, oldest first."""
    return warehouse.query(
        "SELECT sum(received)::int, sum(inserted)::int, sum(updated)::int, sum(unchanged)::int"
        f" FROM _resilient.ledger WHERE stream = '{stream}' GROUP BY load_id ORDER BY min(committed_at)"
    )


def test_flights_land_whole_and_a_second_run_reads_only_the_boundary_row(
    tmp_path: Path, datasette: str, truth: dict[str, Any], warehouse: Warehouse
) -> None:
    flights_pipe = pipe(tmp_path, "flights_datasette.yaml", datasette, warehouse)
    flights_pipe.load()
    assert landed(warehouse) == truth
    flights_pipe.load()
    assert received(warehouse, "flights") == [(flights.ROWS, flights.ROWS, 0, 0), (1, 0, 0, 1)]
    assert landed(warehouse) == truth


def test_flights_killed_half_way_and_run_again_end_equal(
    tmp_path: Path, datasette: str, truth: dict[str, Any], warehouse: Warehouse
) -> None:
    flights_pipe = pipe(tmp_path, "flights_datasette.yaml", datasette, warehouse, batch_size_rows=20_000)
    killed = flights_pipe.run(kill=Kill("both", when=lambda: bookmark(flights_pipe) >= flights.ROWS // 2))
    assert_killed(killed)
    (half,) = warehouse.query("SELECT count(*), max(rowid) FROM flights")
    assert flights.ROWS // 2 <= half[0] < flights.ROWS
    flights_pipe.load()
    assert landed(warehouse) == truth


def test_json_server_posts_land_whole_and_a_second_run_reads_only_the_boundary_row(
    tmp_path: Path, json_server: tuple[str, list[dict[str, Any]]], warehouse: Warehouse
) -> None:
    url, posts = json_server
    posts_pipe = pipe(tmp_path, "json_server.yaml", url, warehouse)
    posts_pipe.load()
    assert posts_in(warehouse) == posts
    posts_pipe.load()
    assert received(warehouse, "posts") == [(len(posts), len(posts), 0, 0), (1, 0, 0, 1)]
    assert posts_in(warehouse) == posts


def posts_in(warehouse: Warehouse) -> list[dict[str, Any]]:
    names = ["id", "title", "score", "published", "author"]
    rows = warehouse.query(f"SELECT {', '.join(names)} FROM posts ORDER BY id")
    posts = [dict(zip(names, row, strict=True)) for row in rows]
    return [{**post, "author": as_object(post["author"])} for post in posts]


def as_object(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def bookmark(flights_pipe: Pipe) -> int:
    """The bookmark of the last STATE that the target has printed so far; 0 before the first."""
    states = flights_pipe.printed()
    bookmarks = json.loads(states[-1])["bookmarks"] if states else {}
    return int(bookmarks.get("flights", {}).get("replication_key_value") or 0)


def assert_killed(outcome: Outcome) -> None:
    assert (outcome.tap_code, outcome.target_code) == (-9, -9), outcome.tap_log + outcome.target_log
