"""The project's own meltano.yml, run by Meltano from PyPI: load and check, a failing tap, a revoked token."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor_resilient.demo.flaky_api import TOKEN, FlakyApi
from tests.e2e.orders import calm_shop
from tests.e2e.support import ROOT, TOOLS, DuckDBFile
from tests.monitor.support import Receiver, receiving

RUN = ("run", "tap-resilient", "target-resilient", "monitor-resilient:check")
PIPELINE = "dev:tap-resilient-to-target-resilient"


class Meltano:
    """Meltano on the project's meltano.yml, with a database, a destination and a source of its own."""

    def __init__(self, directory: Path, url: str, alerts: str) -> None:
        self.file = DuckDBFile(directory / "orders.duckdb")
        checks = [
            {"type": "runs", "pipeline": PIPELINE, "every": "1h"},
            {"type": "completeness", "pipeline": PIPELINE},
            {"type": "zero_rows", "stream": "orders"},
        ]
        source = str(ROOT / "sample_config/sources/flaky.yaml")
        self.env = {
            "FLAKY_TOKEN": TOKEN,
            "MELTANO_DATABASE_URI": f"sqlite:///{directory}/meltano.db",
            "TAP_RESILIENT_CONFIG": json.dumps({"base_url": url}),
            "TARGET_RESILIENT_DESTINATION": self.file.config["destination"],
            "MONITOR_RESILIENT_DESTINATION": self.file.config["destination"],
            "MONITOR_RESILIENT_CHECKS": json.dumps(checks),
            "MONITOR_RESILIENT_PROBES": json.dumps([{"source": source, "config": {"base_url": url}}]),
            "MONITOR_RESILIENT_ALERTS": json.dumps({"channels": [{"type": "webhook", "url": alerts}]}),
        }

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = TOOLS / "meltano/bin/meltano"
        assert command.exists(), f"{command} is missing; run `make test`"
        everything = {"PATH": "/usr/bin:/bin", **self.env, **env}
        return subprocess.run(
            [command, *arguments], cwd=ROOT, env=everything, capture_output=True, text=True, check=False, timeout=120
        )

    def state(self) -> dict[str, Any]:
        shown = self("state", "get", PIPELINE)
        return json.loads(shown.stdout)


@pytest.fixture
def api() -> Iterator[FlakyApi]:
    with calm_shop(1_000) as api:
        yield api


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def meltano(tmp_path: Path, api: FlakyApi, receiver: Receiver) -> Meltano:
    return Meltano(tmp_path, api.url, receiver.url)


def test_meltano_loads_and_checks_and_goes_on_from_its_state(meltano: Meltano, api: FlakyApi) -> None:
    first = meltano(*RUN)
    assert first.returncode == 0, first.stderr
    assert meltano.file.query("SELECT count(*) FROM tap_resilient.orders") == [(1_000,)]
    again = meltano(*RUN)
    assert again.returncode == 0, again.stderr
    loads = meltano.file.query("SELECT pipeline, received, unchanged FROM _resilient.loads ORDER BY started_at")
    assert loads == [(PIPELINE, 1_000, 0), (PIPELINE, 1, 1)]


def test_a_failing_tap_fails_the_load_keeps_the_state_and_the_scheduled_check_alarms(
    meltano: Meltano, api: FlakyApi, receiver: Receiver
) -> None:
    assert meltano(*RUN).returncode == 0
    state = meltano.state()
    api.token = "rotated-token"
    failed = meltano(*RUN)
    assert failed.returncode == 1
    assert "credentials refused" in failed.stderr
    assert meltano.state()["singer_state"]["bookmarks"] == state["singer_state"]["bookmarks"]
    checked = meltano("invoke", "monitor-resilient:check")
    assert checked.returncode == 1
    assert len(receiver.got) >= 1


def test_a_revoked_token_is_told_by_the_probe_once_and_its_end_too(
    meltano: Meltano, api: FlakyApi, receiver: Receiver
) -> None:
    assert meltano(*RUN).returncode == 0
    api.token = "rotated-token"
    assert meltano("invoke", "tap-resilient").returncode == 77
    for _ in range(2):
        probed = meltano("invoke", "monitor-resilient:probe")
        assert probed.returncode == 1
        assert "auth_failed" in probed.stdout + probed.stderr
    assert len(receiver.got) == 1
    assert meltano("invoke", "monitor-resilient:probe", FLAKY_TOKEN="rotated-token").returncode == 0
    assert len(receiver.got) == 2
