"""check from end to end: a real database, a real webhook receiver, and a clock that the test turns."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from monitor_resilient.alerts.lifecycle import Episode
from monitor_resilient.check_log import Memory, read_log, write_log
from monitor_resilient.config import MonitorConfig, load_config
from monitor_resilient.listings import alerts
from monitor_resilient.watch import Watch, Watched
from resilient_core.secrets import Resolver
from tests.monitor.support import DAY, HOUR, NOW, Receiver, Warehouse

LOGGER = logging.getLogger("test")


@pytest.fixture
def config_of(tmp_path: Path) -> Any:
    import yaml

    def make(url: str, receiver: Receiver | None = None, **settings: Any) -> MonitorConfig:
        channels = [{"type": "webhook", "url": receiver.url}] if receiver else []
        tree = {
            "destination": url,
            "checks": [{"type": "zero_rows", "stream": "orders"}],
            "alerts": {"channels": channels, "spool": str(tmp_path / "spool.json")},
            **settings,
        }
        path = tmp_path / "monitor.yaml"
        path.write_text(yaml.safe_dump(tree))
        return load_config(str(path), {})

    return make


def check(config: MonitorConfig, now: datetime = NOW) -> Watched:
    return Watch(config, Resolver(), now, LOGGER).check()


def test_an_alarm_is_told_once_and_its_end_too(any_warehouse: Warehouse, receiver: Receiver, config_of: Any) -> None:
    config = config_of(any_warehouse.url, receiver)
    any_warehouse.load(NOW - HOUR, {"orders": 0})
    assert [check(config, NOW + n * HOUR).exit_code() for n in range(3)] == [1, 1, 1]
    any_warehouse.load(NOW, {"orders": 5})
    assert [check(config, NOW + n * HOUR).exit_code() for n in range(3, 5)] == [0, 0]
    assert receiver.titles == ["FIRING fail: zero_rows of orders", "RESOLVED fail: zero_rows of orders"]


def test_the_check_log_holds_one_row_an_episode(any_warehouse: Warehouse, config_of: Any) -> None:
    config = config_of(any_warehouse.url)
    any_warehouse.load(NOW - HOUR, {"orders": 0})
    for hour in range(3):
        check(config, NOW + hour * HOUR)
    any_warehouse.load(NOW, {"orders": 5})
    check(config, NOW + 3 * HOUR)
    episodes = read_log(any_warehouse.database(), NOW)["zero_rows", "orders"]
    assert [(e.state, e.since, e.at, e.value) for e in episodes] == [
        ("fail", NOW, NOW + 2 * HOUR, "0 rows"),
        ("ok", NOW + 3 * HOUR, NOW + 3 * HOUR, "5 rows"),
    ]


def test_an_undelivered_alert_is_a_4_and_is_sent_again(
    warehouse: Warehouse, receiver: Receiver, config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor_resilient.alerts.channels.ATTEMPTS", 1)
    config = config_of(warehouse.url, receiver)
    warehouse.load(NOW - HOUR, {"orders": 0})
    receiver.statuses = [500, 200]
    assert [check(config, NOW + n * HOUR).exit_code() for n in range(3)] == [4, 1, 1]
    assert len(receiver.got) == 2


def test_one_dead_channel_does_not_silence_the_other_nor_repeat_it(
    warehouse: Warehouse, receiver: Receiver, config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor_resilient.alerts.channels.ATTEMPTS", 1)
    channels = [{"type": "webhook", "url": "http://127.0.0.1:9/"}, {"type": "webhook", "url": receiver.url}]
    config = config_of(warehouse.url, alerts={"channels": channels})
    warehouse.load(NOW - HOUR, {"orders": 0})
    assert [check(config, NOW + n * HOUR).exit_code() for n in range(2)] == [4, 1]
    assert len(receiver.got) == 1


def test_a_webhook_whose_secret_is_missing_is_a_4(warehouse: Warehouse, config_of: Any) -> None:
    channels = [{"type": "webhook", "url": "ref+env://NO_SUCH_VARIABLE_HERE"}]
    config = config_of(warehouse.url, alerts={"channels": channels})
    warehouse.load(NOW - HOUR, {"orders": 0})
    assert check(config).exit_code() == 4


def test_unknown_is_a_3_and_is_told(warehouse: Warehouse, receiver: Receiver, config_of: Any) -> None:
    config = config_of(warehouse.url, receiver)
    assert check(config).exit_code() == 3
    assert receiver.titles == ["FIRING unknown: zero_rows of orders"]


def test_a_dead_database_alarms_once_and_its_end_is_told(receiver: Receiver, config_of: Any, tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/late.duckdb"
    config = config_of(url, receiver)
    assert [check(config, NOW + n * HOUR).exit_code() for n in range(3)] == [3, 3, 3]
    assert config.alerts.spool.exists()
    Warehouse(url).load(NOW, {"orders": 1})
    assert check(config, NOW + 4 * HOUR).exit_code() == 0
    assert receiver.titles == ["FIRING unknown: zero_rows of orders", "RESOLVED unknown: zero_rows of orders"]
    assert not config.alerts.spool.exists()
    assert [e.state for e in read_log(Warehouse(url).database(), NOW)["zero_rows", "orders"]] == ["unknown", "ok"]


def test_freshness_is_silent_while_the_credentials_of_its_source_are_refused(
    warehouse: Warehouse, receiver: Receiver, config_of: Any, tmp_path: Path
) -> None:
    source = tmp_path / "shop.yaml"
    source.write_text("client: {base_url: http://127.0.0.1:9}\nstreams: [{name: orders, path: /orders}]\n")
    config = config_of(warehouse.url, receiver, probes=[{"source": str(source)}])
    warehouse.load(NOW - HOUR, {"orders": 0})
    write_log(warehouse.database(), [Episode("probe", "shop", "auth_failed", NOW, NOW, notified_at=NOW)])
    assert check(config).exit_code() == 1
    assert receiver.got == []
    write_log(warehouse.database(), [Episode("probe", "shop", "ok", NOW + HOUR, NOW + HOUR)])
    assert check(config, NOW + HOUR).exit_code() == 1
    assert receiver.titles == ["FIRING fail: zero_rows of orders"]


def test_two_alerts_of_one_check_for_two_streams_are_two(
    warehouse: Warehouse, receiver: Receiver, config_of: Any
) -> None:
    checks = [{"type": "zero_rows", "stream": name} for name in ("orders", "charges")]
    config = config_of(warehouse.url, receiver, checks=checks)
    warehouse.load(NOW - HOUR, {"orders": 0, "charges": 0})
    check(config)
    assert len({alert["fingerprint"] for alert in receiver.got}) == 2


def test_a_locked_file_does_not_lose_what_was_found(warehouse: Warehouse, tmp_path: Path) -> None:
    episode = Episode("c", "s", "fail", NOW, NOW, notified_at=NOW)
    spool = tmp_path / "spool.json"
    Memory(None, spool, LOGGER).write([episode])
    memory = Memory(warehouse.database(), spool, LOGGER)
    assert memory.read(NOW) == {("c", "s"): [episode]}
    memory.write([])
    assert not spool.exists()
    assert read_log(warehouse.database(), NOW + DAY) == {("c", "s"): [episode]}


def test_a_damaged_spool_is_ignored(tmp_path: Path) -> None:
    spool = tmp_path / "spool.json"
    spool.write_text('[{"check": 1}]')
    assert Memory(None, spool, LOGGER).read(NOW) == {}


def test_alerts_list_shows_what_stands(warehouse: Warehouse, receiver: Receiver, config_of: Any) -> None:
    config = config_of(warehouse.url, receiver)
    warehouse.load(NOW - HOUR, {"orders": 0})
    check(config)
    watch = Watch(config, Resolver(), NOW, LOGGER)
    assert [(row["check"], row["phase"]) for row in alerts(watch, everything=False)] == [("zero_rows", "firing")]
    warehouse.load(NOW, {"orders": 1})
    check(config, NOW + HOUR)
    assert alerts(watch, everything=False) == []
    assert [row["state"] for row in alerts(watch, everything=True)] == ["fail", "ok"]


@pytest.mark.parametrize(
    ("states", "undelivered", "code"),
    [
        ([], 0, 0),
        (["ok", "learning", "warn", "degraded"], 0, 0),
        (["ok", "unknown"], 0, 3),
        (["unknown", "fail"], 0, 1),
        (["auth_failed"], 0, 1),
        (["fail", "unknown"], 1, 4),
        (["ok"], 1, 4),
    ],
)
def test_4_beats_1_and_1_beats_3(states: list[str], undelivered: int, code: int) -> None:
    from monitor_resilient.model import Finding, Outcome

    findings = [Finding("c", "c", "s", Outcome(state, "")) for state in states]
    assert Watched(findings, undelivered).exit_code() == code


def test_fail_on_warn_makes_a_warning_a_1() -> None:
    from monitor_resilient.model import Finding, Outcome

    watched = Watched([Finding("c", "c", "s", Outcome("warn", ""))])
    assert (watched.exit_code(), watched.exit_code(fail_on_warn=True)) == (0, 1)
