"""The database fails in the middle of a load: retried to success or stopped with the right error, never a row lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from resilient_core.errors import HeldByGuardError, TerminatedError, UnavailableError
from target_resilient import checkpoints, load
from target_resilient.backends import CommitUnknownError, InfrastructureError
from target_resilient.backends import duckdb as duckdb_module
from target_resilient.backends import postgres as postgres_module
from tests.target.crashes import Place
from tests.target.midload import ALL, END_SESSIONS, PATIENT, Do, assert_all_is_well, assert_clean_stop, at, run
from tests.target.proxy import Proxy
from tests.target.scenarios import GROUP, SCENARIOS
from tests.target.server import Server
from tests.target.support import backend, quarantined


@pytest.fixture
def postgres_place(shared_postgres: str, tmp_path: Path) -> Place:
    return Place(tmp_path, SCENARIOS["keyed"], shared_postgres)


@pytest.fixture
def duckdb_place(tmp_path: Path) -> Place:
    return Place(tmp_path, SCENARIOS["keyed"], None)


@pytest.fixture(params=["duckdb", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue(f"{request.param}_place")


# connections ---------------------------------------------------------------------------------------------------------

IN_LOAD = [name for name in checkpoints.NAMES if not name.startswith("delete")]


@pytest.mark.parametrize("point", IN_LOAD)
def test_every_connection_cut_at_a_checkpoint(
    point: str, shared_postgres: str, postgres_place: Place, through: Proxy, retries: Any
) -> None:
    at(point, 2 if point.startswith("epoch") else 1, through.cut_all)
    outcome = postgres_place.load_here(0, destination=through.url(shared_postgres), **PATIENT)
    assert_all_is_well(postgres_place, outcome)


def test_a_cut_in_the_closing_epoch_removes_once(
    shared_postgres: str, tmp_path: Path, through: Proxy, retries: Any
) -> None:
    place = Place(tmp_path, SCENARIOS["full"], shared_postgres)
    assert load_before(place) is None
    at("delete.removed", 1, through.cut_all)
    assert place.load_here(0, destination=through.url(shared_postgres), **PATIENT).error is None
    assert place.table() == place.scenario.tables[-1]
    assert place.ledger("deleted").count(2) == 1


def load_before(place: Place) -> BaseException | None:
    from tests.target.scenarios import lines
    from tests.target.support import SETTINGS
    from tests.target.support import load as load_lines

    config = {**SETTINGS, **place._config()}
    return load_lines(config.pop("destination"), lines(place.scenario.first_load()), **config).error


@pytest.mark.parametrize("point", ["ddl.before", "epoch.copied", "epoch.booked", "epoch.committed"])
def test_postgresql_restarted_immediate(point: str, own_server: Server, tmp_path: Path, retries: Any) -> None:
    place = Place(tmp_path, SCENARIOS["keyed"], own_server.url)
    at(point, 2, own_server.restart)
    assert_all_is_well(place, place.load_here(0, **PATIENT))


@pytest.mark.parametrize("point", ["epoch.merged", "epoch.committed"])
def test_every_session_terminated_by_an_administrator(
    point: str, shared_postgres: str, postgres_place: Place, retries: Any
) -> None:
    at(point, 2, lambda: run(shared_postgres, END_SESSIONS))
    assert_all_is_well(postgres_place, postgres_place.load_here(0, **PATIENT))


def test_a_server_that_refuses_connections_for_a_while(
    shared_postgres: str, postgres_place: Place, through: Proxy, retries: dict[int, Do]
) -> None:
    at("epoch.booked", 2, through.go_away)
    retries[3] = lambda: setattr(through, "refusing", False)
    outcome = postgres_place.load_here(0, destination=through.url(shared_postgres), **PATIENT)
    assert_all_is_well(postgres_place, outcome)


def test_a_server_that_does_not_come_back(
    shared_postgres: str, postgres_place: Place, through: Proxy, retries: dict[int, Do]
) -> None:
    at("epoch.booked", 2, through.go_away)
    outcome = postgres_place.load_here(0, destination=through.url(shared_postgres), **PATIENT)
    assert_clean_stop(postgres_place, outcome, UnavailableError)


def test_a_primary_that_is_demoted_for_a_while(own_server: Server, tmp_path: Path, retries: dict[int, Do]) -> None:
    place = Place(tmp_path, SCENARIOS["keyed"], own_server.url)
    at("epoch.booked", 2, own_server.demote)
    retries[3] = own_server.promote
    assert_all_is_well(place, place.load_here(0, **PATIENT))


def test_sessions_that_are_read_only_for_a_while(
    shared_postgres: str, postgres_place: Place, retries: dict[int, Do]
) -> None:
    role = f"reader_{postgres_place.number}"
    run(shared_postgres, f"CREATE ROLE {role} LOGIN IN ROLE postgres")
    setting = f"ALTER ROLE {role} {{}} default_transaction_read_only"
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    at("epoch.booked", 2, lambda: run(shared_postgres, setting.format("SET") + " = on", end))
    lifted: list[None] = []
    retries[3] = lambda: lifted.append(run(shared_postgres, setting.format("RESET")))
    url = shared_postgres.replace("postgres:@", f"{role}:@")
    assert_all_is_well(postgres_place, postgres_place.load_here(0, destination=url, **PATIENT))
    assert lifted, "the load wrote although the server said read-only"


def test_too_many_connections(shared_postgres: str, postgres_place: Place, retries: dict[int, Do]) -> None:
    role = f"limited_{postgres_place.number}"
    run(shared_postgres, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1", f"GRANT ALL ON DATABASE shared TO {role}")
    retries[2] = lambda: run(shared_postgres, f"ALTER ROLE {role} CONNECTION LIMIT 10")
    url = shared_postgres.replace("postgres:@", f"{role}:@")
    assert_all_is_well(postgres_place, postgres_place.load_here(0, destination=url, **PATIENT))


# what the server answers ---------------------------------------------------------------------------------------------

WEATHER = {
    "08006": "connection failure",
    "25006": "read-only transaction",
    "40001": "serialization failure",
    "40P01": "deadlock",
    "53100": "disk full",
    "53200": "out of memory",
    "55P03": "lock not available",
    "57014": "statement timeout",
    "57P03": "cannot connect now",
    "58030": "i/o error",
}


@pytest.mark.parametrize("sqlstate", WEATHER, ids=[f"{code}-{name}" for code, name in WEATHER.items()])
@pytest.mark.parametrize("lasts", [True, False], ids=["lasts", "passes"])
def test_a_fault_of_the_infrastructure_is_retried_and_quarantines_nothing(
    sqlstate: str, lasts: bool, shared_postgres: str, postgres_place: Place, retries: dict[int, Do]
) -> None:
    table = f"data_{postgres_place.number}.s"
    break_it = raising(table, sqlstate)
    mend = f"DROP TRIGGER broken ON {table}"
    at("epoch.committed", 1, lambda: run(shared_postgres, *break_it))
    if not lasts:
        retries[2] = lambda: run(shared_postgres, mend)
    outcome = postgres_place.load_here(0, **PATIENT)
    assert postgres_place.query("SELECT 1 FROM {}", "meta", "quarantine") == []
    if lasts:
        assert sqlstate in str(outcome.error)
        assert_clean_stop(postgres_place, outcome, UnavailableError, lambda: run(shared_postgres, mend))
    else:
        assert_all_is_well(postgres_place, outcome)


def raising(table: str, sqlstate: str, when: str = "TRUE") -> list[str]:
    function = f"{table.partition('.')[0]}.raise_it"
    return [
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'secret value' USING ERRCODE = '{sqlstate}'; END $$",
        f"CREATE TRIGGER broken BEFORE INSERT ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {function}()",
    ]


def test_a_row_that_the_database_refuses_is_quarantined_alone(shared_postgres: str, postgres_place: Place) -> None:
    broken = raising(f"data_{postgres_place.number}.s", "23514", "NEW.id = 9")
    at("epoch.committed", 1, lambda: run(shared_postgres, *broken))
    assert postgres_place.load_here(0).error is None
    assert postgres_place.table() == [row for row in postgres_place.scenario.tables[-1] if row[0] != 9]
    kept = quarantined(shared_postgres, f"meta_{postgres_place.number}")
    assert [errors[0]["rule"] for _, errors in kept] == ["SQLSTATE 23514"] * 2
    assert "secret" not in str([errors for _, errors in kept])


def test_a_connection_lost_while_a_refused_row_is_sought(
    shared_postgres: str, postgres_place: Place, through: Proxy, retries: Any
) -> None:
    broken = raising(f"data_{postgres_place.number}.s", "23514", "NEW.id = 9")
    passed: list[str] = []

    def hook(name: str) -> None:
        if name == "epoch.committed" and name not in passed:
            run(shared_postgres, *broken)
        if name == "epoch.copying" and passed[-1] == "epoch.fenced" and "cut" not in passed:  # the merge was refused
            passed.append("cut")
            through.cut_all()
        passed.append(name)

    checkpoints.hook = hook
    outcome = postgres_place.load_here(0, destination=through.url(shared_postgres), **PATIENT)
    assert outcome.error is None
    assert "cut" in passed
    assert postgres_place.table() == [row for row in postgres_place.scenario.tables[-1] if row[0] != 9]
    assert len(quarantined(shared_postgres, f"meta_{postgres_place.number}")) == 2


def test_a_transaction_that_idles_too_long_is_begun_again(
    shared_postgres: str, postgres_place: Place, retries: Any
) -> None:
    at("epoch.copied", 2, lambda: run(shared_postgres, "SELECT pg_sleep(0.4)"))
    url = f"{shared_postgres}&options=-c%20idle_in_transaction_session_timeout%3D200"
    assert_all_is_well(postgres_place, postgres_place.load_here(0, destination=url, **PATIENT))


@pytest.mark.parametrize("timeout", ["lock_timeout", "statement_timeout"])
def test_a_table_that_somebody_locks_for_a_while(
    timeout: str, shared_postgres: str, postgres_place: Place, retries: dict[int, Do], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "LOCK_TIMEOUT", "100ms" if timeout == "lock_timeout" else "10s")
    url = f"{shared_postgres}&options=-c%20statement_timeout%3D300" if timeout == "statement_timeout" else None
    with locker(shared_postgres) as cursor:
        at("epoch.begun", 2, lambda: cursor.execute(f"LOCK TABLE data_{postgres_place.number}.s"))
        retries[2] = cursor.connection.rollback
        outcome = postgres_place.load_here(0, **PATIENT, **({"destination": url} if url else {}))
    assert_all_is_well(postgres_place, outcome)


@contextmanager
def locker(url: str) -> Iterator[Any]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        yield cursor


def test_a_load_told_to_end_does_not_wait_for_a_lock(
    shared_postgres: str, postgres_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "GRACE_SECONDS", 0.3)

    def ended(_self: load.Load) -> None:
        raise TerminatedError(signal.SIGTERM)

    monkeypatch.setattr(load.Load, "finish", ended)
    with locker(shared_postgres) as cursor:
        at("epoch.begun", 2, lambda: cursor.execute(f"LOCK TABLE data_{postgres_place.number}.s"))
        outcome = postgres_place.load_here(0, messages=2 * GROUP + 3)
        cursor.connection.rollback()
    assert isinstance(outcome.error, TerminatedError)
    assert postgres_place.printed == [GROUP]
    assert postgres_place.table() == postgres_place.scenario.tables[1]


def test_a_commit_that_cannot_be_broken_off_is_left_behind(
    duckdb_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "GRACE_SECONDS", 0.05)
    arrived, go_on, verdicts = threading.Event(), threading.Event(), []

    def ended(_self: load.Load) -> None:
        arrived.wait()
        raise TerminatedError(signal.SIGTERM)

    def hang() -> None:
        arrived.set()
        go_on.wait()

    monkeypatch.setattr(load.Load, "finish", ended)
    abort = load.Load.abort

    def judged(self: load.Load, error: BaseException) -> bool:
        verdicts.append(abort(self, error))
        go_on.set()
        self._loader_ended(None)
        self._close()
        return verdicts[-1]

    monkeypatch.setattr(load.Load, "abort", judged)
    at("epoch.booked", 4, hang)
    duckdb_place.load_here(0)
    assert verdicts == [False]


# somebody else -------------------------------------------------------------------------------------------------------


def test_a_column_that_somebody_adds(place: Place) -> None:
    at("epoch.committed", 1, lambda: execute(place, "ALTER TABLE {} ADD COLUMN theirs text"))
    assert_all_is_well(place, place.load_here(0))


def test_a_table_that_somebody_drops(place: Place) -> None:
    at("epoch.committed", 1, lambda: execute(place, "DROP TABLE {}"))
    outcome = place.load_here(0)
    assert isinstance(outcome.error, UnavailableError)
    assert "somebody dropped or changed a table" in str(outcome.error)
    assert place.printed == [GROUP]
    checkpoints.hook = None
    assert place.load_here(0).error is None
    assert place.table() == place.scenario.tables[-1]


def execute(place: Place, statement: str) -> None:
    schema = f"data_{place.number}" if place.url else "main"
    opened = backend(place._config()["destination"])
    opened.execute(statement, [(schema, "s")])
    opened.close()


def test_a_failover_to_an_empty_copy(
    shared_postgres: str, own_server: Server, postgres_place: Place, through: Proxy, retries: Any
) -> None:
    right = through.upstream

    def fail_over() -> None:
        through.upstream = f"{own_server.url.partition('host=')[2]}/.s.PGSQL.5432"
        through.cut_all()

    at("epoch.committed", 2, fail_over)
    outcome = postgres_place.load_here(0, destination=through.url(shared_postgres), **PATIENT)
    assert "an older copy" in str(outcome.error)
    through.upstream = right
    assert_clean_stop(postgres_place, outcome, HeldByGuardError)


def test_a_failover_to_a_copy_that_lacks_the_last_epoch(shared_postgres: str, postgres_place: Place) -> None:
    meta = f"meta_{postgres_place.number}"
    at("epoch.committed", 2, lambda: run(shared_postgres, f"UPDATE {meta}.state SET epoch = epoch - 1"))
    outcome = postgres_place.load_here(0)
    assert isinstance(outcome.error, HeldByGuardError)
    assert postgres_place.printed == [GROUP, 2 * GROUP]


def test_a_failover_to_a_copy_that_lacks_the_last_epoch_and_its_column(place: Place) -> None:
    meta = f"meta_{place.number}" if place.url else "_resilient"

    def lose() -> None:
        execute(place, "ALTER TABLE {} DROP COLUMN v")
        opened = backend(place._config()["destination"])
        opened.execute("UPDATE {} SET epoch = epoch - 1", [(meta, "state")])
        opened.close()

    at("epoch.committed", 3, lose)
    outcome = place.load_here(0)
    assert isinstance(outcome.error, HeldByGuardError), outcome.error
    assert place.printed == ALL[:3]


@pytest.mark.parametrize("by", ["nothing", "older copy"])
def test_a_duckdb_file_that_is_replaced(by: str, duckdb_place: Place) -> None:
    path, copy = duckdb_place.folder / "x.duckdb", duckdb_place.folder / "copy"
    assert duckdb_place.load_here(0).error is None
    shutil.copy(path, copy)
    at("epoch.committed", 1, partial(path.unlink) if by == "nothing" else partial(shutil.copy, copy, path))
    outcome = duckdb_place.load_here(0)
    assert isinstance(outcome.error, HeldByGuardError)
    assert "an older copy" in str(outcome.error)


# DuckDB --------------------------------------------------------------------------------------------------------------


def test_a_duckdb_file_that_another_process_holds_for_a_while(duckdb_place: Place, retries: dict[int, Do]) -> None:
    with holder(duckdb_place.folder / "x.duckdb") as (hold, let_go):
        at("epoch.committed", 1, hold)
        retries[3] = let_go
        assert_all_is_well(duckdb_place, duckdb_place.load_here(0, **PATIENT))


def test_a_duckdb_file_that_another_process_keeps(duckdb_place: Place, retries: Any) -> None:
    with holder(duckdb_place.folder / "x.duckdb") as (hold, let_go):
        at("epoch.committed", 1, hold)
        outcome = duckdb_place.load_here(0, **PATIENT)
        let_go()
        assert "is locked by another process" in str(outcome.error)
        assert_clean_stop(duckdb_place, outcome, UnavailableError)


@contextmanager
def holder(path: Path) -> Iterator[tuple[Do, Do]]:
    """(open a DuckDB file in another process, close it there)."""
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    found: list[subprocess.Popen[bytes]] = []

    def hold() -> None:
        command = [sys.executable, "-c", code, str(path)]
        found.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert found[0].stdout is not None
        found[0].stdout.readline()

    def let_go() -> None:
        found[0].communicate()

    yield hold, let_go


@pytest.mark.parametrize("took", [True, False], ids=["took-effect", "did-not"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_duckdb_commit_that_ends_with_an_error(
    took: bool, nth: int, duckdb_place: Place, retries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, armed = duckdb_module._commit, []
    at("epoch.booked", nth, lambda: armed.append(True))

    def broken(connection: Any) -> None:
        if armed:
            armed.pop()
            (commit(connection) if took else connection.execute("ROLLBACK"))
            raise CommitUnknownError("DuckDB IOException")
        commit(connection)

    monkeypatch.setattr(duckdb_module, "_commit", broken)
    assert_all_is_well(duckdb_place, duckdb_place.load_here(0, **PATIENT))


@pytest.mark.parametrize("point", ["ddl.before", "epoch.begun", "epoch.copied", "epoch.merged", "epoch.booked"])
def test_a_fault_raised_at_a_checkpoint_is_retried(point: str, place: Place, retries: Any) -> None:
    def broken() -> None:
        raise InfrastructureError("the disk is full")

    at(point, 2, broken)
    assert_all_is_well(place, place.load_here(0, **PATIENT))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk")
def test_a_duckdb_file_on_a_full_disk(duckdb_place: Place, retries: dict[int, Do]) -> None:
    disk = duckdb_place.folder
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this container may not mount")
    try:
        at("epoch.committed", 1, lambda: fill(disk / "filler"))
        retries[3] = (disk / "filler").unlink
        outcome = duckdb_place.load_here(0, **PATIENT)
        assert_all_is_well(duckdb_place, outcome)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
