"""Signals, a reader that goes away, closed files: real processes end in time, with their code and one clear line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from resilient_core.errors import TerminatedError
from target_resilient import load
from tests.target.crashes import Place, held
from tests.target.midload import at
from tests.target.scenarios import GROUP, SCENARIOS
from tests.target.support import line_of, record, rows, schema
from tests.target.zygote import ROOT, Zygote

TARGET = [sys.executable, "-c", "from target_resilient.target import main; main()", "--config"]
KEYED = schema({"id": {"type": "integer"}}, ["id"])
SIGNALS = [signal.SIGTERM, signal.SIGINT]
BOUND = 30.0


def state(value: Any) -> dict[str, Any]:
    return {"type": "STATE", "value": value}


@contextmanager
def target(destination: str, folder: Path, **files: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A target as a user starts it; its pipes are closed afterwards."""
    config = folder / "config.json"
    config.write_text(json.dumps({"destination": destination, "pipeline": "p", "batch_size_rows": 2}))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **files}
    process = subprocess.Popen([*TARGET, str(config)], cwd=ROOT, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def send(process: subprocess.Popen[bytes], *messages: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(b"".join(map(line_of, messages)))
    process.stdin.flush()


def next_state(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def end(process: subprocess.Popen[bytes]) -> tuple[int, bytes, str]:
    """(exit code, the rest of stdout, log) once the process is over."""
    out, log = process.communicate(timeout=BOUND)
    assert b"Traceback" not in log, log.decode()
    return process.returncode, out, log.decode()


def the_only(pattern: str, log: str) -> str:
    """The one log line that holds `pattern`."""
    (line,) = [line for line in log.splitlines() if pattern in line]
    return line


def books(destination: str) -> list[tuple[Any, ...]]:
    return rows(destination, ("_resilient", "loads"), "status", "exit_code")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_load_with_nothing_uncommitted_acknowledged(
    destination: str, number: signal.Signals, tmp_path: Path
) -> None:
    with target(destination, tmp_path) as process:
        send(process, KEYED, record({"id": 1}), state(1))
        assert next_state(process) == 1
        send(process, record({"id": 2}))
        process.send_signal(number)
        code, out, log = end(process)
    assert (code, out) == (128 + number, b"")
    assert f"ended by {number.name}" in the_only("finished", log)
    assert rows(destination, "s") == [(1,)]
    assert books(destination) == [("stopped", 128 + number)]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("backend", ["duckdb", "postgres"])
def test_a_commit_under_way_is_finished_and_acknowledged_before_a_signal_ends_the_load(
    backend: str, number: signal.Signals, shared_postgres: str, tmp_path: Path, children: Zygote
) -> None:
    place = Place(tmp_path, SCENARIOS["keyed"], shared_postgres if backend == "postgres" else None)
    code = signal_at(place, children, "epoch.booked", 2, [number])
    assert (code, place.states()) == (128 + number, [4, 8])
    assert place.table() == place.scenario.tables[2]
    assert place.load(children, 8) == 0
    assert place.table() == place.scenario.tables[-1]


@pytest.mark.parametrize("point", ["start.meta", "start.booked", "ddl.before", "ddl.after", "epoch.copied"])
def test_two_signals_anywhere_end_a_load_cleanly(
    point: str, shared_postgres: str, tmp_path: Path, children: Zygote
) -> None:
    place = Place(tmp_path, SCENARIOS["keyed"], shared_postgres)
    assert signal_at(place, children, point, 1, [signal.SIGTERM, signal.SIGTERM]) == 128 + signal.SIGTERM
    place.printed = place.states()
    place.judge()
    assert "Traceback" not in place.log()
    assert place.load(children, place.printed[-1] if place.printed else 0) == 0
    assert place.table() == place.scenario.tables[-1]


@pytest.mark.parametrize("point", ["delete.begun", "delete.removed"])
@pytest.mark.parametrize("backend", ["duckdb", "postgres"])
def test_two_signals_in_the_closing_epoch_end_a_load_cleanly(
    backend: str, point: str, shared_postgres: str, tmp_path: Path, children: Zygote
) -> None:
    place = Place(tmp_path / "folder" / "place", SCENARIOS["full"], shared_postgres if backend == "postgres" else None)
    place.load_before(children)
    assert signal_at(place, children, point, 1, SIGNALS) in {128 + number for number in SIGNALS}
    place.printed = place.states()
    place.judge()
    assert "Traceback" not in place.log()
    assert place.load(children, place.printed[-1] if place.printed else 0) == 0
    assert place.table() == place.scenario.tables[-1]


def signal_at(place: Place, children: Zygote, point: str, nth: int, numbers: list[signal.Signals]) -> int:
    """Signal a load while it stands at a checkpoint, then let it go on; its exit code."""
    with held(place, children, point, nth) as pid:
        for number in numbers:
            os.kill(pid, number)
    return children.wait(pid)


def test_a_reader_that_goes_away_ends_the_load_and_loses_nothing(destination: str, tmp_path: Path) -> None:
    with target(destination, tmp_path) as process:
        send(process, KEYED, record({"id": 1}), state(1))
        assert next_state(process) == 1
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        send(process, record({"id": 2}), record({"id": 3}), state(2))
        code, _, log = end(process)
    assert code == 128 + signal.SIGPIPE
    assert "ended by SIGPIPE" in the_only("finished", log)
    assert rows(destination, "s") == [(1,), (2,), (3,)]


def test_a_load_told_to_end_does_not_wait_for_a_server_that_hangs(
    shared_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "GRACE_SECONDS", 0.3)
    place = Place(tmp_path, SCENARIOS["keyed"], shared_postgres)
    of_load = "SELECT pid FROM pg_stat_activity WHERE application_name = 'target-resilient'"
    frozen: list[int] = []

    def freeze() -> None:
        frozen.extend(pid for (pid,) in place.query(of_load, "pg_catalog"))
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    def ended(_self: load.Load) -> None:
        raise TerminatedError(signal.SIGTERM)

    monkeypatch.setattr(load.Load, "finish", ended)
    at("epoch.copied", 2, freeze)
    try:
        outcome = place.load_here(0, messages=2 * GROUP + 3)
        assert isinstance(outcome.error, TerminatedError)
        assert len(frozen) == 2
        assert place.printed == [GROUP]
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_stdout_that_is_full_ends_the_load_and_loses_nothing(destination: str, tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full, target(destination, tmp_path, stdout=full) as process:
        send(process, KEYED, record({"id": 1}), state(1))
        _, log = process.communicate(timeout=BOUND)
    assert process.returncode == 69, log
    assert b"No space left on device" in log
    assert b"Traceback" not in log
    assert rows(destination, "s", "id") == [(1,)]


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_a_target_without_stdin_or_stdout_says_so(closed: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"destination": f"duckdb:///{tmp_path}/x.duckdb"}))
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *TARGET, str(config)]
    done = subprocess.run(shell, check=False, cwd=ROOT, capture_output=True, text=True, timeout=BOUND)
    assert done.returncode == 64
    assert "stdin and stdout must be open" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.duckdb").exists()


def test_a_tap_that_dies_in_the_middle_of_a_line_leaves_what_came_before(destination: str, tmp_path: Path) -> None:
    with target(destination, tmp_path) as process:
        send(process, KEYED, record({"id": 1}), state(1), record({"id": 2}))
        assert process.stdin is not None
        process.stdin.write(b'{"type":"RECORD","stream":"s","rec')
        code, out, log = end(process)
    assert (code, json.loads(out)) == (65, 1)
    assert "finished" in the_only("exit_code=65", log)
    assert rows(destination, "s") == [(1,), (2,)]


def test_a_target_that_is_interrupted_before_the_first_message_ends_cleanly(tmp_path: Path, children: Zygote) -> None:
    place = Place(tmp_path, SCENARIOS["keyed"], None)
    assert signal_at(place, children, "start.lease", 1, [signal.SIGINT]) == 128 + signal.SIGINT
    assert place.load(children, 0) == 0
