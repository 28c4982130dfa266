"""The Prometheus textfile: well-formed, atomic, and never a reason to fail."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from monitor_resilient.metrics import findings_text, loads_text, write_atomically, write_metrics
from monitor_resilient.model import Finding, Load, Outcome
from tests.monitor.support import HOUR, NOW

FINDINGS = [
    Finding("freshness", "freshness", 'or"ders\\\n', Outcome("fail", "…")),
    Finding("probe", "probe", "shop", Outcome("auth_failed", "…")),
]


def test_one_sample_a_check_is_1_and_the_others_are_0() -> None:
    lines = findings_text(FINDINGS, NOW).splitlines()
    ones = [line for line in lines if line.startswith("resilient_check_state") and line.endswith(" 1")]
    assert ones == [
        'resilient_check_state{check="freshness",stream="or\\"ders\\\\\\n",state="fail"} 1',
        'resilient_check_state{check="probe",stream="shop",state="auth_failed"} 1',
    ]
    assert f'resilient_check_evaluated_timestamp_seconds{{check="probe",stream="shop"}} {NOW.timestamp():.0f}' in lines


def test_every_family_has_help_and_type() -> None:
    load = Load("a", "shop", "done", NOW - HOUR, NOW, 65, None, 10, 3)
    lines = (findings_text(FINDINGS, NOW) + loads_text([load])).splitlines()
    names = {line.split("{")[0] for line in lines if not line.startswith("#")}
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == names
    assert 'resilient_load_exit_code{pipeline="shop"} 65' in lines


def test_only_the_newest_load_of_a_pipeline_counts() -> None:
    loads = [Load(str(n), "shop", "done", NOW - n * HOUR, None, None, None, n, 0) for n in (1, 2)]
    assert 'resilient_load_received_rows{pipeline="shop"} 1\n' in loads_text(loads)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "node" / "resilient.prom"
    write_atomically(path, "first\n")
    write_atomically(path, "second\n")
    assert (path.read_text(), [p.name for p in path.parent.iterdir()]) == ("second\n", ["resilient.prom"])
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "m.prom").mkdir()
    write_metrics(tmp_path / "m.prom", FINDINGS, NOW, logging.getLogger("test"))
    assert "metrics not written" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == ["m.prom"]
