"""What users get wrong: one clear message without traceback, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from tests.e2e.orders import ENV, calm_shop, tap_command
from tests.e2e.support import DuckDBFile, Outcome, Warehouse, free_port, run, script, write_json

SCHEMA = {
    "type": "SCHEMA",
    "stream": "things",
    "key_properties": ["id"],
    "schema": {"type": "object", "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}},
}


def record(number: int) -> dict[str, Any]:
    return {"type": "RECORD", "stream": "things", "record": {"id": number, "name": f"thing {number}"}}


def state(number: int) -> dict[str, Any]:
    return {"type": "STATE", "value": {"bookmarks": {"things": {"last": number}}}}


def singer(*messages: dict[str, Any] | str) -> str:
    return "".join((m if isinstance(m, str) else json.dumps(m)) + "\n" for m in messages)


def target(directory: Path, config: dict[str, Any], *options: str, stdin: str = "") -> Outcome:
    path = write_json(directory / "target.json", {"pipeline": "things", **config})
    return run([script("target-resilient"), "--config", str(path), *options], stdin=stdin)


def tap(directory: Path, url: str, *options: str, env: dict[str, str] = ENV) -> Outcome:
    return run([*tap_command(directory, url), *options], env=env)


def things(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.query("SELECT id FROM things ORDER BY id")


def assert_clear(outcome: Outcome, code: int, *words: str) -> None:
    """The exit code, no traceback, and the words in the log."""
    assert outcome.tap_code == code, outcome.tap_log
    assert "Traceback" not in outcome.tap_log
    for word in words:
        assert word in outcome.tap_log


@pytest.fixture
def file(tmp_path: Path) -> DuckDBFile:
    return DuckDBFile(tmp_path / "warehouse.duckdb")


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with calm_shop(10) as api:
        yield api.url


def test_a_malformed_line_is_named_and_what_came_before_is_kept(tmp_path: Path, warehouse: Warehouse) -> None:
    lines = singer(SCHEMA, record(1), record(2), state(2), "{not json", record(3), state(3))
    outcome = target(tmp_path, warehouse.config, stdin=lines)
    assert_clear(outcome, 76, "line 5")
    assert outcome.state == state(2)["value"]
    assert things(warehouse) == [(1,), (2,)]


def test_a_record_before_its_schema_is_named_by_line_and_stream(tmp_path: Path, warehouse: Warehouse) -> None:
    outcome = target(tmp_path, warehouse.config, stdin=singer(record(1), SCHEMA))
    assert_clear(outcome, 76, "line 1", "things")


def test_a_record_without_its_key_is_quarantined_with_the_field_named(tmp_path: Path, warehouse: Warehouse) -> None:
    keyless = {"type": "RECORD", "stream": "things", "record": {"name": "no id"}}
    outcome = target(tmp_path, warehouse.config, stdin=singer(SCHEMA, record(1), keyless, state(1)))
    assert_clear(outcome, 0, "monitor-resilient quarantine list")
    assert things(warehouse) == [(1,)]
    ((errors, kept),) = warehouse.query("SELECT errors, record FROM _resilient.quarantine")
    assert "id" in json.dumps(as_json(errors))
    assert as_json(kept) == {"name": "no id"}


def test_a_record_without_its_key_fails_the_load_where_that_is_asked_for(tmp_path: Path, file: DuckDBFile) -> None:
    keyless = {"type": "RECORD", "stream": "things", "record": {"name": "no id"}}
    lines = singer(SCHEMA, record(1), state(1), keyless, state(2))
    outcome = target(tmp_path, {**file.config, "on_bad_record": "fail"}, stdin=lines)
    assert_clear(outcome, 65, "things", "id")


def test_an_unreachable_api_is_named(tmp_path: Path) -> None:
    source = tmp_path / "source.yaml"
    source.write_text(
        f"version: 1\nclient: {{base_url: 'http://127.0.0.1:{free_port()}', retry: {{max_attempts: 2, base: 10ms}}}}\n"
        "streams: [{name: things, path: /things, paginator: {type: single}, primary_keys: [id]}]\n"
    )
    config = write_json(tmp_path / "tap.json", {"source": str(source)})
    outcome = run([script("tap-resilient"), "--config", str(config)])
    assert_clear(outcome, 69, "127.0.0.1")


def test_a_refused_token_is_told_apart_from_a_dead_api(tmp_path: Path, shop: str) -> None:
    outcome = tap(tmp_path, shop, env={"FLAKY_TOKEN": "an-old-token"})
    assert_clear(outcome, 77)
    assert "an-old-token" not in outcome.tap_log


def test_an_unset_secret_is_named(tmp_path: Path, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLAKY_TOKEN", raising=False)
    assert_clear(tap(tmp_path, shop, env={}), 78, "FLAKY_TOKEN")


def test_an_unreachable_database_is_named(tmp_path: Path) -> None:
    url = f"postgresql://loader:s3cret-word@127.0.0.1:{free_port()}/nowhere"
    outcome = target(
        tmp_path, {"destination": url, "retry_max_elapsed": "1s"}, stdin=singer(SCHEMA, record(1), state(1))
    )
    assert_clear(outcome, 69, "127.0.0.1")
    assert outcome.lines == []
    assert "s3cret-word" not in outcome.tap_log


def test_a_wrong_database_password_is_told_and_not_shown(tmp_path: Path, scram_dsn: str) -> None:
    outcome = target(tmp_path, {"destination": scram_dsn}, stdin=singer(SCHEMA, record(1), state(1)))
    assert_clear(outcome, 77)
    assert outcome.lines == []
    assert "wrong-word" not in outcome.tap_log


def test_an_unwritable_duckdb_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    path = tmp_path / "a-file" / "warehouse.duckdb"
    outcome = target(tmp_path, {"destination": f"duckdb:///{path}"}, stdin=singer(SCHEMA, record(1), state(1)))
    assert_clear(outcome, 78, str(path.parent))
    assert outcome.lines == []


def test_a_duckdb_file_held_by_another_process_is_waited_for_then_told(tmp_path: Path, file: DuckDBFile) -> None:
    lines = singer(SCHEMA, record(1), state(1))
    assert target(tmp_path, file.config, stdin=lines).target_code == 0
    with holding(file.path):
        outcome = target(
            tmp_path, {**file.config, "retry_max_elapsed": "2s"}, stdin=singer(SCHEMA, record(2), state(2))
        )
    assert_clear(outcome, 69, str(file.path))
    assert outcome.lines == []
    assert things(file) == [(1,)]


def test_an_unknown_stream_in_the_catalog_is_named(tmp_path: Path, shop: str) -> None:
    catalog = {"streams": [{"tap_stream_id": "odrers", "stream": "odrers", "schema": {}, "metadata": []}]}
    path = write_json(tmp_path / "catalog.json", catalog)
    assert_clear(tap(tmp_path, shop, "--catalog", str(path)), 78, "odrers", "orders")


@pytest.mark.parametrize("content", ["{half", "[]", '{"bookmarks": 3}'], ids=["no JSON", "a list", "odd bookmarks"])
def test_an_invalid_state_file_is_named(tmp_path: Path, shop: str, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    outcome = tap(tmp_path, shop, "--state", str(path))
    assert_clear(outcome, 78, "state")
    assert outcome.lines == []


@pytest.mark.parametrize("command", ["tap-resilient", "target-resilient", "monitor-resilient"])
def test_a_wrong_option_is_named(command: str) -> None:
    assert_clear(run([script(command), "--no-such-option"]), 64, "--no-such-option")


@pytest.mark.parametrize("command", ["tap-resilient", "target-resilient"])
def test_all_faults_of_a_config_are_told_at_once_without_values(tmp_path: Path, command: str) -> None:
    path = write_json(tmp_path / "config.json", {"sourec": "a-value-not-to-show", "destinatoin": "another-value"})
    outcome = run([script(command), "--config", str(path)])
    assert_clear(outcome, 78, "sourec", "destinatoin")
    assert "a-value-not-to-show" not in outcome.tap_log
    assert "another-value" not in outcome.tap_log


@pytest.mark.parametrize("command", ["tap-resilient", "target-resilient"])
def test_a_missing_config_file_is_named(command: str) -> None:
    assert_clear(run([script(command), "--config", "no/such/file.json"]), 78, "no/such/file.json")


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Another process that has the DuckDB file open for writing until the block ends."""
    code = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()


@pytest.fixture
def scram_dsn(postgres: str) -> str:
    """A DSN with a wrong password, for a role that needs the right one."""
    admin = psycopg2.connect(postgres)
    admin.autocommit = True
    with admin.cursor() as cursor:
        cursor.execute("SHOW hba_file")
        hba = Path(cursor.fetchone()[0])
        rules = "local all locked_out scram-sha-256\nhost all locked_out 127.0.0.1/32 scram-sha-256\n"
        hba.write_text(rules + hba.read_text().replace(rules, ""))
        cursor.execute("DROP ROLE IF EXISTS locked_out")
        cursor.execute("CREATE ROLE locked_out LOGIN PASSWORD 'right-word'")
        cursor.execute("SELECT pg_reload_conf()")
    admin.close()
    return psycopg2.extensions.make_dsn(postgres, user="locked_out", password="wrong-word")


def as_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
