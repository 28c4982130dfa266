"""The lease of a load on PostgreSQL: it harms nobody, outlives timeouts, and is taken again when its session ends."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from resilient_core.errors import StoppedError
from target_resilient.backends import lease_name
from target_resilient.backends.postgres import _lock_key
from tests.target.crashes import STOPPED, Place, beside, held
from tests.target.midload import PATIENT, Do, assert_all_is_well, at, run
from tests.target.proxy import Proxy
from tests.target.scenarios import GROUP, SCENARIOS
from tests.target.zygote import Zygote


@pytest.fixture
def place(shared_postgres: str, tmp_path: Path) -> Place:
    return Place(tmp_path, SCENARIOS["keyed"], shared_postgres)


def holders(place: Place) -> str:
    """The sessions that hold the lease of a place, as a part of a query."""
    key = _lock_key(lease_name(f"meta_{place.number}", "p"))
    return (
        "pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
        f" AND ((classid::bigint << 32) | objid::bigint) = {key})"
    )


def end_lease(place: Place) -> None:
    """What an administrator does to a session that idles in a transaction."""
    assert place.query(f"SELECT pg_terminate_backend(pid) FROM {holders(place)}", "meta") == [(True,)]


def codes_at(point: str, nth: int, place: Place, children: Zygote) -> list[int]:
    """The exit code of a second load that starts while the first passes a checkpoint."""
    found: list[int] = []
    at(point, nth, lambda: found.append(beside(place).load(children, 0)))
    return found


def test_a_lease_delays_no_vacuum_and_outlives_timeouts_for_idle_sessions(place: Place, children: Zygote) -> None:
    limits = {"idle_in_transaction_session_timeout": "150", "transaction_timeout": "150", "idle_session_timeout": "150"}
    limits["default_transaction_isolation"] = "repeatable%5C%20read"
    options = "%20".join(f"-c%20{name}%3D{value}" for name, value in limits.items())
    seen: list[Any] = []

    def look() -> None:
        run(str(place.url), "SELECT pg_sleep(0.4)")
        seen.append(place.query(f"SELECT state, backend_xid, backend_xmin FROM {holders(place)}", "meta"))
        seen.append(beside(place).load(children, 0))

    at("start.lease", 1, look)
    outcome = place.load_here(0, destination=f"{place.url}&options={options}", **PATIENT)
    assert seen == [[("idle in transaction", None, None)], STOPPED]
    assert_all_is_well(place, outcome)


def test_a_lost_lease_is_taken_again_before_the_next_epoch(place: Place, children: Zygote) -> None:
    second: list[list[int]] = []

    def lose() -> None:
        end_lease(place)
        second.append(codes_at("epoch.begun", 1, place, children))

    at("epoch.committed", 2, lose)
    assert_all_is_well(place, place.load_here(0))
    assert second == [[STOPPED]]


@pytest.mark.parametrize("stands", [True, False], ids=["another-is-at-work", "another-came-and-went"])
def test_a_load_that_lost_its_pipeline_with_its_lease_writes_nothing_more(
    stands: bool, place: Place, children: Zygote
) -> None:
    other = beside(place)
    with ExitStack() as stack:

        def lose() -> None:
            end_lease(place)
            if stands:
                stack.enter_context(held(other, children, "epoch.committed", 1))
            else:
                assert other.load(children, 0) == 0, other.log()

        at("epoch.committed", 2, lose)
        outcome = place.load_here(0)
        assert isinstance(outcome.error, StoppedError)
        assert "was taken over by another load" in str(outcome.error)
        assert place.printed == [GROUP, 2 * GROUP]
        epochs = "SELECT count(*) FROM {} GROUP BY load_id ORDER BY min(committed_at)"
        assert place.query(epochs, "meta", "ledger") == [(2,), (1 if stands else 4,)]


def test_a_lease_whose_session_the_server_believes_alive_is_taken_again(
    shared_postgres: str, place: Place, through: Proxy, children: Zygote, retries: Any
) -> None:
    at("epoch.committed", 2, through.strand_all)
    outcome = place.load_here(0, destination=through.url(shared_postgres), **PATIENT)
    assert_all_is_well(place, outcome)
    assert place.load(children, 16) == 0, place.log()


def test_a_lost_lease_waits_for_a_free_connection(shared_postgres: str, place: Place, retries: dict[int, Do]) -> None:
    role = f"leasing_{place.number}"
    run(shared_postgres, f"CREATE ROLE {role} LOGIN", f"GRANT ALL ON DATABASE shared TO {role}")

    def lose() -> None:
        run(shared_postgres, f"ALTER ROLE {role} CONNECTION LIMIT 1")
        end_lease(place)

    at("epoch.committed", 2, lose)
    mended: list[bool] = []
    retries[2] = lambda: mended.append(run(shared_postgres, f"ALTER ROLE {role} CONNECTION LIMIT 10") is None)
    outcome = place.load_here(0, destination=shared_postgres.replace("postgres:@", f"{role}:@"), **PATIENT)
    assert_all_is_well(place, outcome)
    assert mended == [True]
