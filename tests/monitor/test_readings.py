"""What is read from `_resilient` and from tables, alike on DuckDB and PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from monitor_resilient.checks import evaluate_all, parse_checks
from monitor_resilient.database import Database
from resilient_core.errors import UnavailableError
from target_resilient.destination import parse_destination
from tests.monitor.support import DAY, HOUR, NOW, Warehouse


def states(warehouse: Warehouse, *blocks: dict[str, object]) -> list[str]:
    checks, faults = parse_checks(list(blocks))
    assert faults == []
    with warehouse.readings() as readings:
        return [finding.outcome.state for finding in evaluate_all(checks, readings)]


def test_loads_come_newest_first_with_what_is_unfinished(any_warehouse: Warehouse) -> None:
    any_warehouse.load(NOW - DAY, {"orders": 10}, quarantined=2)
    any_warehouse.load(NOW - HOUR, exit_code=None)
    any_warehouse.load(NOW - HOUR, pipeline="other")
    with any_warehouse.readings() as readings:
        newest, oldest = readings.loads("shop")
    assert (newest.finished_at, newest.exit_code, newest.received) == (None, None, 0)
    assert (oldest.finished_at, oldest.exit_code, oldest.received, oldest.quarantined) == (NOW - DAY, 0, 10, 2)


def test_rows_of_failed_loads_count_for_the_success_after_them(any_warehouse: Warehouse) -> None:
    any_warehouse.load(NOW - 3 * DAY, {"orders": 10})
    any_warehouse.load(NOW - 2 * DAY, {"orders": 7}, exit_code=75)
    any_warehouse.load(NOW - 2 * DAY + HOUR, {"orders": 2}, exit_code=None)
    any_warehouse.load(NOW - DAY, {"orders": 1})
    with any_warehouse.readings() as readings:
        assert [(run.finished_at, run.received) for run in readings.runs_of("orders")] == [
            (NOW - 3 * DAY, 10),
            (NOW - DAY, 10),
        ]


def test_a_load_without_the_stream_counts_as_no_rows(any_warehouse: Warehouse) -> None:
    any_warehouse.load(NOW - 2 * DAY, {"orders": 10})
    any_warehouse.load(NOW - DAY)
    any_warehouse.load(NOW - DAY, {"other": 1}, pipeline="other")
    with any_warehouse.readings() as readings:
        assert [run.received for run in readings.runs_of("orders")] == [10, 0]


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date", "text"])
def test_freshness_reads_time_columns_of_every_type(any_warehouse: Warehouse, kind: str) -> None:
    any_warehouse.execute(f"CREATE TABLE orders (updated_at {kind})")
    any_warehouse.execute("INSERT INTO orders VALUES ('2026-11-23T00:00:00'), ('2026-11-22T00:00:00'), (NULL)")
    with any_warehouse.readings() as readings:
        newest = readings.newest(readings.table_of("orders"), "updated_at")
    assert newest is not None
    assert newest.isoformat() == "2026-11-23T00:00:00+00:00"


def test_a_row_from_2099_does_not_look_fresh(any_warehouse: Warehouse) -> None:
    any_warehouse.execute("CREATE TABLE orders (updated_at timestamptz)")
    any_warehouse.execute("INSERT INTO orders VALUES ('2099-01-01T00:00:00Z'), ('2026-11-01T00:00:00Z')")
    block = {"type": "freshness", "stream": "orders", "column": "updated_at", "error_after": "2d"}
    assert states(any_warehouse, block) == ["fail"]


def test_freshness_finds_the_renamed_column_of_the_renamed_table(any_warehouse: Warehouse) -> None:
    any_warehouse.execute("CREATE TABLE shop_orders (updated_at_1 timestamptz)")
    any_warehouse.execute("INSERT INTO shop_orders VALUES ('2026-11-24T02:00:00Z')")
    any_warehouse.insert("schema_log", load_id="a", stream="orders", change="create table", at=NOW,
                         table_name=f"{any_warehouse.default_schema}.shop_orders", column_name="updated_at_1",
                         original_name="Updated At")  # fmt: skip
    block = {"type": "freshness", "stream": "orders", "column": "Updated At", "error_after": "2h"}
    assert states(any_warehouse, block) == ["ok"]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "freshness", "stream": "nothing", "column": "at", "error_after": "2d"},
        {"type": "freshness", "stream": "orders", "column": "no_such", "error_after": "2d"},
        {"type": "freshness", "stream": "orders", "column": "word", "error_after": "2d"},
        {"type": "volume", "stream": "nothing"},
        {"type": "zero_rows", "stream": "nothing"},
        {"type": "rejects", "stream": "nothing"},
        {"type": "completeness", "pipeline": "nothing"},
        {"type": "bookmark", "stream": "nothing", "stalled_after": "1d"},
        {"type": "drift", "stream": "nothing"},
    ],
    ids=lambda block: "-".join(map(str, block.values())),
)
def test_what_cannot_be_evaluated_is_unknown(any_warehouse: Warehouse, block: dict[str, object]) -> None:
    any_warehouse.execute("CREATE TABLE orders (word text)")
    any_warehouse.execute("INSERT INTO orders VALUES ('no time at all')")
    assert states(any_warehouse, block) == ["unknown"]


def test_a_pipeline_that_never_ran_fails(any_warehouse: Warehouse) -> None:
    assert states(any_warehouse, {"type": "runs", "pipeline": "shop", "every": "1h"}) == ["fail"]


def test_completeness_reads_the_verdicts_of_the_committed_state(any_warehouse: Warehouse) -> None:
    marker = {"resilient": {"version": 1, "scans": {"orders": {"verdict": "unproven", "rows": 3}}}}
    any_warehouse.insert("state", pipeline="shop", value=json.dumps(marker), committed_at=NOW)
    any_warehouse.load(NOW - DAY, {"orders": 3}, status="unproven")
    any_warehouse.load(NOW, exit_code=None, status="running")
    assert states(any_warehouse, {"type": "completeness", "pipeline": "shop"}) == ["warn"]


def test_the_load_of_a_foreign_tap_is_unproven(any_warehouse: Warehouse) -> None:
    any_warehouse.insert("state", pipeline="shop", value=json.dumps({"bookmarks": {}}), committed_at=NOW)
    any_warehouse.load(NOW, {"orders": 3}, status="unproven")
    assert states(any_warehouse, {"type": "completeness", "pipeline": "shop"}) == ["warn"]


def test_a_bookmark_stands_since_it_was_first_reached(any_warehouse: Warehouse) -> None:
    any_warehouse.load(NOW - 4 * DAY, {"orders": 1}, bookmark="2026-11-19")
    any_warehouse.load(NOW - 3 * DAY, {"orders": 1}, bookmark="2026-11-20")
    any_warehouse.load(NOW - DAY, {"orders": 1}, bookmark="2026-11-20")
    with any_warehouse.readings() as readings:
        assert readings.bookmark_moved_at("orders") == NOW - 3 * DAY


def test_columns_made_with_the_table_are_no_drift_and_later_ones_are(any_warehouse: Warehouse) -> None:
    def log(load_id: str, column: str | None, change: str, days_ago: int) -> None:
        any_warehouse.insert("schema_log", load_id=load_id, stream="orders", table_name="main.orders",
                             column_name=column, change=change, at=NOW - days_ago * DAY)  # fmt: skip

    log("first", None, "create table", 9)
    log("first", "order_id", "add column", 9)
    log("second", "channel", "add column", 0)
    any_warehouse.load(NOW, {"orders": 1})
    with any_warehouse.readings() as readings:
        assert [change.column for change in readings.changes("orders", within=30 * DAY)] == ["channel"]
    assert states(any_warehouse, {"type": "drift", "stream": "orders"}) == ["warn"]


def test_an_empty_database_has_nothing_to_list(destination: str) -> None:
    if destination.startswith("duckdb"):
        return
    warehouse = Warehouse(destination)
    warehouse.execute("DROP SCHEMA _resilient CASCADE")
    with warehouse.readings() as readings:
        assert (readings.loads(), readings.streams(), readings.runs_of("orders")) == ([], [], [])


def test_a_missing_duckdb_file_is_unavailable_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.duckdb"
    database = Database(parse_destination({"destination": f"duckdb:///{path}"}))
    with pytest.raises(UnavailableError, match="does not exist"):
        database.fetch("SELECT 1")
    assert not path.exists()


def test_a_file_that_a_load_holds_is_waited_for(warehouse: Warehouse) -> None:
    hold = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(0.5)"
    command = [sys.executable, "-c", hold, warehouse.destination.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UnavailableError, match="locked"):
            Database(warehouse.destination, patience=0).fetch("SELECT 1")
        assert Database(warehouse.destination).fetch("SELECT 1") == [(1,)]
