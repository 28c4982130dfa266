"""The command as a user calls it: a process of its own, its exit code, its two outputs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor_resilient.cli import cli
from resilient_core.command import exit_code_of
from tests.monitor.support import DAY, HOUR, Receiver, Warehouse

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """A call that has ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def configured(warehouse: Warehouse, tmp_path: Path) -> Callable[[dict[str, Any] | None], str]:
    def write(config: dict[str, Any] | None) -> str:
        path = tmp_path / "monitor.yaml"
        path.write_text(yaml.safe_dump({"destination": warehouse.url, **(config or {})}))
        return str(path)

    return write


@pytest.fixture
def run(
    configured: Callable[[dict[str, Any] | None], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Run:
    """Calls the command in this process; keyword arguments are environment variables."""

    def call(*args: str, config: dict[str, Any] | None = None, **environ: str) -> Done:
        monkeypatch.chdir(tmp_path)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        caplog.clear()
        code = exit_code_of(cli, ["--config", configured(config), *args], logging.getLogger("monitor-resilient"))
        return Done(code, capsys.readouterr().out, caplog.text)

    return call


@pytest.fixture
def run_process(configured: Callable[[dict[str, Any] | None], str], tmp_path: Path) -> Run:
    """Calls the command in a process of its own."""

    def call(*args: str, config: dict[str, Any] | None = None) -> Done:
        command = [sys.executable, "-c", "from monitor_resilient.cli import main; main()", "--config",
                   configured(config), *args]  # fmt: skip
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=False, timeout=60)
        return Done(done.returncode, done.stdout, done.stderr)

    return call


def now() -> datetime:
    return datetime.now(timezone.utc)


ZERO_ROWS = {"checks": [{"type": "zero_rows", "stream": "orders"}]}


def test_check_prints_a_table_and_exits_1_on_a_failure(run_process: Run, warehouse: Warehouse) -> None:
    warehouse.load(now() - HOUR, {"orders": 0})
    done = run_process("check", config=ZERO_ROWS)
    assert done.returncode == 1
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["check", "stream", "state"],
        ["zero_rows", "orders", "fail"],
    ]
    assert "Traceback" not in done.stderr


def test_check_as_json_has_the_threshold_too(run: Run, warehouse: Warehouse) -> None:
    warehouse.load(now() - HOUR, {"orders": 3})
    done = run("check", "--format", "json", config=ZERO_ROWS)
    assert (done.returncode, json.loads(done.stdout)) == (
        0,
        [
            {
                "check": "zero_rows",
                "type": "zero_rows",
                "stream": "orders",
                "state": "ok",
                "severity": "ok",
                "value": "3 rows",
                "threshold": "1 row",
                "message": "the last load brought 3 rows",
            }
        ],
    )


def test_settings_come_from_the_environment_as_meltano_passes_them(run: Run, warehouse: Warehouse) -> None:
    warehouse.load(now() - HOUR, {"orders": 0})
    done = run("check", MONITOR_RESILIENT_CHECKS=json.dumps(ZERO_ROWS["checks"]))
    assert done.returncode == 1


def test_an_undelivered_alert_is_a_4(run_process: Run, warehouse: Warehouse) -> None:
    warehouse.load(now() - HOUR, {"orders": 0})
    channels = [{"type": "webhook", "url": "http://127.0.0.1:9/"}]
    done = run_process("check", config={**ZERO_ROWS, "alerts": {"channels": channels}})
    assert (done.returncode, "alert not delivered" in done.stderr) == (4, True)


def test_a_wrong_configuration_is_a_78_with_all_faults(run_process: Run) -> None:
    done = run_process("check", config={"chekcs": [], "report": {"days": "many"}})
    assert done.returncode == 78
    assert "did you mean 'checks'?" in done.stderr
    assert "report.days: must be of type integer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("args", [["chek"], ["check", "--fail-on", "everything"], ["state", "show", "nothing"],
                                  ["quarantine", "show", "abc"]])  # fmt: skip
def test_wrong_use_is_a_64(run: Run, args: list[str]) -> None:
    done = run(*args)
    assert (done.returncode, "Traceback" in done.stderr) == (64, False)


def test_help_says_the_exit_codes(run: Run) -> None:
    said = " ".join(run("check", "--help").stdout.split())
    assert "4 beats 1, and 1 beats 3" in said


def test_runs_lists_loads_newest_first(run: Run, warehouse: Warehouse) -> None:
    warehouse.load(now() - DAY, {"orders": 10}, exit_code=69, reason="source unavailable")
    warehouse.load(now() - HOUR, {"orders": 5})
    listed = json.loads(run("runs", "--format", "json").stdout)
    assert [(row["exit_code"], row["received"], row["seconds"]) for row in listed] == [(0, 5, 60.0), (69, 10, 60.0)]
    assert "source unavailable" in run("runs").stdout


def test_state_show_gives_what_the_tap_takes(run: Run, warehouse: Warehouse) -> None:
    state = {
        "bookmarks": {"orders": {"replication_key": "at", "replication_key_value": "2026-11-24"}},
        "resilient": {"scans": {"orders": {"verdict": "complete"}}},
    }
    warehouse.insert("state", pipeline="shop", value=json.dumps(state), committed_at=now())
    assert json.loads(run("state", "show", "shop", "--format", "json").stdout) == state
    shown = run("state", "show").stdout.splitlines()[1].split()
    assert shown[:4] == ["shop", "orders", "2026-11-24", "complete"]


def test_quarantine_list_has_reasons_and_no_values_and_show_has_the_record(run: Run, warehouse: Warehouse) -> None:
    errors = [{"pointer": "/amount", "rule": "type", "expected": "number", "actual_type": "string", "message": "…"}]
    warehouse.insert("quarantine", id="ab" * 16, stream="orders", record='{"amount": "9 EUR"}',
                     errors=json.dumps(errors), first_seen_at=now(), last_seen_at=now(), times_seen=2)  # fmt: skip
    listed = run("quarantine", "list", "--format", "json").stdout
    assert json.loads(listed)[0]["pointer"] == "/amount"
    assert "9 EUR" not in listed
    assert json.loads(run("quarantine", "show", "abab").stdout)["record"] == {"amount": "9 EUR"}


def test_a_refused_line_that_is_no_json_is_shown_as_it_came(run: Run, warehouse: Warehouse) -> None:
    warehouse.insert("quarantine", id="cd" * 16, stream="orders", record='{"amount": NaN', errors="[]",
                     first_seen_at=now(), last_seen_at=now(), times_seen=1)  # fmt: skip
    assert json.loads(run("quarantine", "show", "cd").stdout)["record"] == '{"amount": NaN'


def test_an_empty_listing_says_so(run: Run) -> None:
    assert run("runs").stdout == "nothing to list\n"
    assert run("quarantine", "list", "--format", "json").stdout == "[]\n"


def test_metrics_go_to_standard_output_or_a_file(run: Run, warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load(now() - HOUR, {"orders": 3})
    run("check", config=ZERO_ROWS)
    said = run("metrics").stdout
    assert 'resilient_check_state{check="zero_rows",stream="orders",state="ok"} 1\n' in said
    assert 'resilient_load_received_rows{pipeline="shop"} 3\n' in said
    assert run("metrics", "--output", "m.prom").returncode == 0
    assert (tmp_path / "m.prom").read_text().count("# TYPE") == 6


def test_check_writes_metrics_where_asked_and_does_not_fail_for_them(
    run: Run, warehouse: Warehouse, tmp_path: Path
) -> None:
    warehouse.load(now() - HOUR, {"orders": 3})
    assert run("check", config={**ZERO_ROWS, "metrics": {"path": "m.prom"}}).returncode == 0
    assert "zero_rows" in (tmp_path / "m.prom").read_text()
    done = run("check", config={**ZERO_ROWS, "metrics": {"path": "/dev/null/m.prom"}})
    assert (done.returncode, "metrics not written" in done.stderr) == (0, True)


def test_report_says_where_it_is(run: Run, warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.load(now() - HOUR, {"orders": 3})
    assert run("report", "--output", "r.html").stdout == f"report: {tmp_path}/r.html\n"
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_alerts_test_reaches_every_channel(run: Run, receiver: Receiver) -> None:
    channels = {"alerts": {"channels": [{"type": "webhook", "url": receiver.url}]}}
    assert run("alerts", "test", config=channels).returncode == 0
    assert [alert["event"] for alert in receiver.got] == ["firing", "resolved"]
    assert run("alerts", "test").returncode == 78


def test_alerts_list_shows_what_stands(run: Run, warehouse: Warehouse) -> None:
    warehouse.load(now() - HOUR, {"orders": 0})
    run("check", config=ZERO_ROWS)
    listed = json.loads(run("alerts", "list", "--format", "json").stdout)
    assert [(row["check"], row["state"], row["phase"]) for row in listed] == [("zero_rows", "fail", "firing")]


def test_a_missing_destination_is_a_69_for_listings_and_unknown_for_check(run: Run, tmp_path: Path) -> None:
    away = {"destination": f"duckdb:///{tmp_path}/none.duckdb", **ZERO_ROWS}
    assert run("runs", config=away).returncode == 69
    done = run("check", config=away)
    assert (done.returncode, "does not exist" in done.stdout) == (3, True)
