"""The command line of the tap: discovery, catalog, state, exit codes, and what users get wrong."""

import io
import json
import logging
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from resilient_core.command import exit_code_of
from tap_resilient.tap import SETTINGS, ResilientTap
from tests.tap.support import Answer, config_for, run_tap, serving

ROWS = [{"id": n, "at": f"2024-01-{n:02d}T00:00:00Z", "name": f"n{n}", "cust": {"id": n, "x": 1}} for n in range(1, 4)]
STREAM = {
    "name": "rows",
    "path": "/rows",
    "primary_keys": ["id"],
    "incremental": {"replication_key": "at", "start_param": "since"},
}


@pytest.fixture
def api():
    with serving(lambda asked: Answer([row for row in ROWS if row["at"] >= asked.params.get("since", "")])) as api:
        yield api


@pytest.fixture
def command(tmp_path, api, caplog):
    """Runs the command with files for its options; gives the exit code and the lines of stdout."""
    (tmp_path / "config.json").write_text(json.dumps(config_for(api.url, STREAM)))

    def run(*args, **files):
        options = ["--config", str(tmp_path / "config.json")]
        for name, content in files.items():
            path = tmp_path / f"{name}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            options += [f"--{name}", str(path)]
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with redirect_stdout(out):
            code = exit_code_of(
                ResilientTap.get_singer_command(), [*options, *args], logging.getLogger("tap-resilient")
            )
        out.seek(0)
        return code, out.read()

    return run


def messages(out):
    return [json.loads(line) for line in out.splitlines()]


def test_a_run_ends_with_zero_and_the_end_marker(command):
    code, out = command()
    assert code == 0
    assert messages(out)[-1]["value"]["resilient"]["scans"] == {"rows": {"verdict": "unproven", "rows": 3}}


def test_discovery_infers_from_the_first_page_and_makes_keys_automatic(command, api):
    code, out = command("--discover")
    (entry,) = json.loads(out)["streams"]
    metadata = {tuple(item["breadcrumb"]): item["metadata"] for item in entry["metadata"]}
    assert (code, len(api.log)) == (0, 1)
    assert entry["key_properties"] == ["id"]
    assert entry["schema"]["properties"]["at"] == {"type": ["string", "null"], "format": "date-time"}
    assert metadata["properties", "id"]["inclusion"] == metadata["properties", "at"]["inclusion"] == "automatic"
    assert metadata["properties", "name"]["inclusion"] == "available"


def test_a_catalog_drops_what_it_deselects_but_never_keys(command):
    catalog = json.loads(command("--discover")[1])
    for item in catalog["streams"][0]["metadata"]:
        if item["breadcrumb"]:
            item["metadata"]["selected"] = False
    code, out = command(catalog=catalog)
    records = [m["record"] for m in messages(out) if m["type"] == "RECORD"]
    schema = next(m["schema"] for m in messages(out) if m["type"] == "SCHEMA")
    assert code == 0
    assert records == [{"id": row["id"], "at": row["at"]} for row in ROWS]
    assert set(schema["properties"]) == {"id", "at"}


def test_a_deselected_stream_is_not_read(command, api):
    catalog = json.loads(command("--discover")[1])
    catalog["streams"][0]["metadata"] = [{"breadcrumb": [], "metadata": {"selected": False}}]
    api.log.clear()
    code, out = command(catalog=catalog)
    assert (code, api.log) == (0, [])
    assert messages(out)[-1]["value"]["resilient"]["scans"] == {}


def test_a_forced_full_table_ignores_the_bookmark(command, api):
    catalog = json.loads(command("--discover")[1])
    catalog["streams"][0]["replication_method"] = "FULL_TABLE"
    api.log.clear()
    state = {"bookmarks": {"rows": {"replication_key": "at", "replication_key_value": "2024-01-03T00:00:00Z"}}}
    code, out = command(catalog=catalog, state=state)
    assert (code, api.params("since")) == (0, [None])
    assert sum(m["type"] == "RECORD" for m in messages(out)) == 3


def test_the_test_option_reads_one_record_a_stream(command):
    code, out = command("--test")
    assert (code, sum(m["type"] == "RECORD" for m in messages(out))) == (0, 1)


def test_the_test_option_tells_a_dead_server_by_its_exit_code(command, api):
    api.handle = lambda asked: Answer({}, 503)
    assert command("--test")[0] == 69


def test_about_and_version(command):
    code, out = command("--about", "--format", "json")
    assert code == 0
    about = json.loads(out)
    assert set(about["settings"]["properties"]) == {setting.name for setting in SETTINGS}
    assert command("--version")[0] == 0


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"state": "{not json"}, "--state: is not valid JSON (line 1)"),
        ({"state": []}, "--state: must hold one JSON object"),
        ({"state": {"bookmarks": {"rows": 5}}}, "--state: bookmarks.rows"),
        ({"catalog": "{not json"}, "--catalog: is not valid JSON"),
        ({"catalog": {"a": 1}}, "--catalog: is not a Singer catalog"),
        ({"catalog": {"streams": [{"tap_stream_id": "rowz", "schema": {}}]}}, "did you mean 'rows'"),
    ],
)
def test_a_state_or_catalog_that_cannot_be_used_is_told_before_any_request(command, api, caplog, files, words):
    code, out = command(**files)
    assert (code, out, api.log) == (78, "", [])
    assert words in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("args", [["--nonsense"], ["--state", "/nowhere/state.json"]])
def test_wrong_usage_is_64(command, caplog, args):
    assert command(*args)[0] == 64
    assert "Traceback" not in caplog.text


def test_a_missing_config_file_is_named(caplog):
    args = ["--config", "/nowhere/config.json"]
    assert exit_code_of(ResilientTap.get_singer_command(), args, logging.getLogger("tap-resilient")) == 78
    assert "/nowhere/config.json" in caplog.text


def test_settings_come_from_the_environment_where_that_is_asked_for(monkeypatch, api):
    config = config_for(api.url, STREAM)
    for name, value in config.items():
        monkeypatch.setenv(f"TAP_RESILIENT_{name.upper()}", json.dumps(value))
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with redirect_stdout(out):
        code = exit_code_of(ResilientTap.get_singer_command(), ["--config", "ENV"], logging.getLogger("tap-resilient"))
    out.seek(0)
    assert code == 0
    assert sum(m["type"] == "RECORD" for m in messages(out.read())) == 3


def test_the_worst_exit_code_wins_and_everything_else_is_read(api):
    handle = api.handle
    answers = {"/cycle": Answer({"data": [{"id": 1}], "next": "/cycle"}), "/down": Answer({}, 500)}
    api.handle = lambda asked: answers.get(asked.path) or handle(asked)
    cycle = {"name": "cycle", "path": "/cycle", "records": {"path": "data"}}
    run = run_tap(
        config_for(
            api.url,
            {**cycle, "paginator": {"type": "next_url", "next_url_path": "next"}},
            {"name": "down", "path": "/down"},
            STREAM,
        )
    )
    assert run.code == 69
    assert run.verdicts == {"cycle": "incomplete", "down": "incomplete", "rows": "unproven"}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_with_a_whole_last_line_and_a_state_that_claims_no_end(tmp_path, signum):
    def slow(asked):
        page = int(asked.params["page"])
        if page > 3:
            time.sleep(0.1 if page < 6 else 30)
        return Answer([{"id": page * 10 + n, "at": f"2024-01-{page:02d}T00:00:00Z"} for n in range(3)])

    stream = {**STREAM, "paginator": {"type": "page"}, "incremental": {**STREAM["incremental"], "row_order": "asc"}}
    with serving(slow) as api:
        config = tmp_path / "config.json"
        config.write_text(json.dumps(config_for(api.url, stream)))
        command = [sys.executable, "-m", "tap_resilient.tap", "--config", str(config)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not (api.log and api.log[-1].params["page"] == "6"):
            time.sleep(0.02)
        time.sleep(0.1)
        process.send_signal(signum)
        out, log = process.communicate(timeout=20)
    assert process.returncode == 128 + signum, log.decode()
    assert out.endswith(b"}\n")
    last = json.loads(out.splitlines()[-1])
    assert last["value"]["bookmarks"]["rows"]["replication_key_value"] == "2024-01-05T00:00:00Z"
    assert "scans" not in last["value"]["resilient"]
    assert b"Traceback" not in log


def test_a_closed_stdout_ends_quietly(tmp_path, api):
    api.handle = lambda asked: Answer([{"id": n, "at": "2024-01-01T00:00:00Z", "x": "y" * 500} for n in range(2000)])
    (tmp_path / "config.json").write_text(json.dumps(config_for(api.url, STREAM)))
    command = (
        f"{sys.executable} -m tap_resilient.tap --config {tmp_path}/config.json | head -c 10; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_stdout_is_said(tmp_path, api):
    api.handle = lambda asked: Answer([{"id": 1, "at": "2024-01-01T00:00:00Z"}])
    (tmp_path / "config.json").write_text(json.dumps(config_for(api.url, STREAM)))
    command = [sys.executable, "-m", "tap_resilient.tap", "--config", f"{tmp_path}/config.json"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 69
    assert "stdout cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
