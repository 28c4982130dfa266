"""monitor.yaml and the environment: all faults at once, never a value."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from monitor_resilient.config import load_config
from resilient_core.errors import ConfigError
from resilient_core.secrets import Resolver


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "monitor.yaml"
    path.write_text(text)
    return str(path)


def faults(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(written(tmp_path, text), environ)
    return [str(fault) for fault in raised.value.faults]


def test_everything_has_a_default() -> None:
    config = load_config(None, {})
    assert (config.checks, config.probes, config.alerts.channels, config.metrics_path) == ((), (), (), None)
    assert config.destination(Resolver()).path == "resilient.duckdb"


def test_all_faults_of_all_parts_come_at_once_without_values(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        """
        destnation: postgresql://me:hunter22@db/x
        password: prefix-ref+env://PASSWORD
        checks: [{type: freshness, stream: orders, column: at, error_after: 36}]
        probes: [{sorce: a.yaml}, {source: b.yaml}, {source: other/b.yaml}]
        alerts: {channels: [{type: webhook}], severities: [loud], repeat_every: often}
        report: {days: 0}
        metrics: {path: 7}
        """,
    )
    assert [fault.split(";")[0] for fault in found] == [
        "destnation: unknown setting",
        "password: a secret reference must be the whole value",
        "checks[0].error_after: must be a duration with a unit, such as 500ms, 10s, 5m, 1h or 7d",
        "probes[0].sorce: unknown setting",
        "probes[0].source: is required",
        "probes[2].name: is the name of an earlier probe",
        "alerts.repeat_every: must be a duration with a unit, such as 500ms, 10s, 5m, 1h or 7d",
        "alerts.severities: must be some of: warn, fail, unknown",
        "alerts.channels[0].url: is required",
        "report.days: must be at least 1",
        "metrics.path: must be of type string, not integer",
    ]
    assert not [fault for fault in found if "hunter22" in fault]


def test_every_setting_is_overridable_by_the_environment_objects_as_json(tmp_path: Path) -> None:
    path = written(tmp_path, "destination: duckdb:///a.duckdb\nreport: {days: 7}\n")
    environ = {
        "MONITOR_RESILIENT_DESTINATION": "duckdb:///b.duckdb",
        "MONITOR_RESILIENT_META_SCHEMA": "meta",
        "MONITOR_RESILIENT_CHECKS": json.dumps([{"type": "zero_rows", "stream": "orders"}]),
        "MONITOR_RESILIENT_PROBES": json.dumps([{"source": "shop.yaml"}]),
        "MONITOR_RESILIENT_ALERTS": json.dumps({"repeat_every": "2h", "pending_for": "5m", "severities": ["fail"]}),
        "MONITOR_RESILIENT_REPORT": json.dumps({"path": "r.html", "days": 3}),
        "MONITOR_RESILIENT_METRICS": json.dumps({"path": "m.prom"}),
    }
    config = load_config(path, environ)
    assert config.destination(Resolver()).path == "b.duckdb"
    assert (config.meta_schema, config.report_days, str(config.metrics_path)) == ("meta", 3, "m.prom")
    assert [check.name for check in config.checks] == ["zero_rows"]
    assert [probe.name for probe in config.probes] == ["shop"]
    assert config.alerts.rules.repeat_every == timedelta(hours=2)


def test_an_override_that_is_no_json_is_a_fault_with_its_variable(tmp_path: Path) -> None:
    assert faults(tmp_path, "", MONITOR_RESILIENT_CHECKS="freshness") == [
        "MONITOR_RESILIENT_CHECKS: must be a JSON array"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "is not valid YAML (line"), ("- a", "must hold one mapping"), ("\x00", "is not valid YAML")],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, words: str) -> None:
    assert words in faults(tmp_path, text)[0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(str(tmp_path / "none.yaml"), {})


def test_an_empty_file_is_an_empty_configuration(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, ""), {}).checks == ()


def test_the_destination_may_be_a_secret_and_only_its_own_references_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE_URL", "duckdb:///secret.duckdb")
    text = "destination: ref+env://WAREHOUSE_URL\nalerts: {channels: [{type: webhook, url: ref+env://NOT_SET}]}\n"
    config = load_config(written(tmp_path, text), {})
    assert config.destination(Resolver()).path == "secret.duckdb"


def test_a_literal_webhook_and_password_do_not_show_in_repr(tmp_path: Path) -> None:
    text = "alerts: {channels: [{type: webhook, url: 'https://hooks.example.com/T0/secret'}]}\n"
    channels = load_config(written(tmp_path, text), {}).alerts.open_channels(Resolver())
    assert "secret" not in repr(channels)
