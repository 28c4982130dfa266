"""The canary against a real server that answers as the test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from monitor_resilient import probe as probing
from monitor_resilient.config import Probe
from monitor_resilient.database import Database
from monitor_resilient.probe import probe_destination, probe_source, streams_of
from resilient_core.errors import ConfigError
from resilient_core.secrets import Resolver
from tap_resilient.client_config import Timeouts
from target_resilient.destination import parse_destination
from tests.monitor.support import Warehouse


@dataclass
class Api:
    """Answers `status` to the token that it wants, 401 to others; keeps the paths that were asked for."""

    url: str = ""
    token: str = "good"
    status: int = 200
    body: str = "{}"
    delay: float = 0.0
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.asked.append(self.path)
            time.sleep(api.delay)
            known = self.headers.get("Authorization") == f"Bearer {api.token}"
            payload = api.body.encode()
            self.send_response(api.status if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api()) as found:
        yield found


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("good")
    return path


def source(tmp_path: Path, url: str, token_file: Path, **stream: Any) -> Probe:
    tree = {
        "client": {"base_url": url, "auth": {"type": "bearer", "token": f"ref+file://{token_file}"}},
        "streams": [{"name": "orders", "path": "/orders", **stream}],
    }
    path = tmp_path / "shop.yaml"
    path.write_text(json.dumps(tree))
    return Probe("shop", str(path), {})


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, "{}", "ok"),
        (403, "{}", "auth_failed"),
        (429, "{}", "degraded"),
        (500, "{}", "degraded"),
        (503, "{}", "degraded"),
        (404, "{}", "unknown"),
        (200, "<html>log in</html>", "degraded"),
    ],
)
def test_the_answer_says_how_the_credentials_are(
    api: Api, tmp_path: Path, token_file: Path, status: int, body: str, state: str
) -> None:
    api.status, api.body = status, body
    found = probe_source(source(tmp_path, api.url, token_file, probe={"path": "/me"}), Resolver())
    assert found.outcome.state == state, found.outcome.message
    assert api.asked == ["/me"]


def test_a_refused_token_is_fetched_again_once(api: Api, tmp_path: Path, token_file: Path) -> None:
    api.token = "rotated"
    probe, resolver = source(tmp_path, api.url, token_file), Resolver()
    assert probe_source(probe, resolver).outcome.state == "auth_failed"
    token_file.write_text("rotated")
    assert probe_source(probe, resolver).outcome.state == "ok"


def test_a_revoked_token_is_asked_with_once_and_told_without_its_value(
    api: Api, tmp_path: Path, token_file: Path
) -> None:
    token_file.write_text("revoked-token")
    found = probe_source(source(tmp_path, api.url, token_file), Resolver())
    assert found.outcome.state == "auth_failed"
    assert "revoked-token" not in found.outcome.message
    assert len(api.asked) == 1


def test_nobody_there_is_unknown(tmp_path: Path, token_file: Path) -> None:
    found = probe_source(source(tmp_path, "http://127.0.0.1:9", token_file), Resolver())
    assert (found.outcome.state, "refused" in found.outcome.message) == ("unknown", True)


def test_a_silent_server_is_degraded(
    api: Api, tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.delay = 0.5
    monkeypatch.setattr(probing, "PATIENCE", Timeouts(connect=0.1, read=0.1, total=0.2))
    assert probe_source(source(tmp_path, api.url, token_file), Resolver()).outcome.state == "degraded"


def test_without_a_probe_one_record_of_the_first_page_is_asked_for(api: Api, tmp_path: Path, token_file: Path) -> None:
    paginator = {"type": "offset", "offset_param": "skip", "limit_param": "take", "page_size": 500}
    probe_source(source(tmp_path, api.url, token_file, paginator=paginator), Resolver())
    assert api.asked == ["/orders?skip=0&take=1"]


def test_streams_that_need_variables_cannot_be_probed_without_a_path(
    api: Api, tmp_path: Path, token_file: Path
) -> None:
    probe = source(
        tmp_path, api.url, token_file, partitions=[{"region": "eu"}], params={"region": "{partition.region}"}
    )
    assert probe_source(probe, Resolver()).outcome.state == "unknown"
    assert api.asked == []


def test_a_missing_secret_is_unknown(api: Api, tmp_path: Path) -> None:
    found = probe_source(source(tmp_path, api.url, tmp_path / "none"), Resolver())
    assert found.outcome.state == "unknown"


def test_a_wrong_source_file_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        probe_source(Probe("shop", str(tmp_path / "none.yaml"), {}), Resolver())


def test_a_probe_knows_its_streams(tmp_path: Path, token_file: Path) -> None:
    assert streams_of(source(tmp_path, "http://127.0.0.1:9", token_file)) == {"orders"}


def test_a_destination_that_answers_is_ok(any_warehouse: Warehouse) -> None:
    assert probe_destination(any_warehouse.database).outcome.state == "ok"


def test_a_destination_that_does_not_exist_is_unknown(tmp_path: Path) -> None:
    destination = parse_destination({"destination": f"duckdb:///{tmp_path}/none.duckdb"})
    assert probe_destination(lambda: Database(destination)).outcome.state == "unknown"


def test_a_destination_that_nobody_serves_is_unknown() -> None:
    destination = parse_destination({"destination": "postgresql://me@127.0.0.1:9/none"})
    assert probe_destination(lambda: Database(destination, patience=0)).outcome.state == "unknown"
