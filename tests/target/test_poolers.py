"""Loads through a real PgBouncer, by session and by transaction: what holds without a pooler holds with one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from resilient_core.errors import ConfigError, UnavailableError
from tests.target.crashes import (
    STOPPED,
    Place,
    assert_a_second_load_stops,
    assert_the_next_load_starts_at_once,
    beside,
    held,
    with_takeover,
)
from tests.target.midload import END_SESSIONS, PATIENT, Do, assert_all_is_well, assert_clean_stop, at, run
from tests.target.pooler import Pooler, needs_pgbouncer, pooler
from tests.target.scenarios import SCENARIOS
from tests.target.zygote import Zygote

pytestmark = needs_pgbouncer
MODES = ("session", "transaction")


@pytest.fixture(params=MODES)
def through(request: pytest.FixtureRequest, shared_postgres: str) -> Iterator[Pooler]:
    """A PgBouncer before the shared database."""
    with pooler(shared_postgres, request.param) as running:
        yield running


@pytest.fixture
def exhausted(shared_postgres: str) -> Iterator[Pooler]:
    """A PgBouncer with no more sessions than one load needs, which lets nobody wait long for one."""
    with pooler(shared_postgres, "transaction", default_pool_size=2, query_wait_timeout=1) as running:
        yield running


def pooled(through: Pooler, url: str, folder: Path, scenario: str = "keyed") -> Place:
    """A place whose loads go through the pooler."""
    return Place(folder, SCENARIOS[scenario], url, settings={"destination": through.url(url)})


@pytest.fixture
def place(through: Pooler, shared_postgres: str, tmp_path: Path) -> Place:
    return pooled(through, shared_postgres, tmp_path)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_load_through_a_pooler_equals_a_direct_one(
    scenario: str, through: Pooler, shared_postgres: str, tmp_path: Path, children: Zygote
) -> None:
    found = []
    direct = Place(tmp_path / "direct", SCENARIOS[scenario], shared_postgres)
    for place in (direct, pooled(through, shared_postgres, tmp_path / "pooled", scenario)):
        place.load_before(children)
        assert place.load(children, 0) == 0, place.log()
        counts = ("inserted", "updated", "deleted", "quarantined")
        found.append((place.table(), place.printed, [place.ledger(count) for count in counts]))
    assert found[0] == found[1]
    assert found[0][0] == direct.scenario.tables[-1]
    assert "login attempt: db=shared" in through.log()


@pytest.mark.parametrize("point", ["epoch.begun", "epoch.booked", "epoch.committed"])
def test_a_second_load_stops_at_once(place: Place, children: Zygote, point: str) -> None:
    assert_a_second_load_stops(place, children, point)


@pytest.mark.parametrize("point", ["epoch.begun", "epoch.fenced", "epoch.committed"])
def test_after_a_kill_the_next_load_starts_at_once(place: Place, children: Zygote, point: str) -> None:
    assert_the_next_load_starts_at_once(place, children, point)


@pytest.mark.parametrize("point", ["epoch.begun", "epoch.fenced", "epoch.booked", "epoch.committed"])
def test_a_load_that_was_taken_over_writes_nothing_more(place: Place, children: Zygote, point: str) -> None:
    with held(place, children, point, 2) as zombie:
        heir = beside(place)
        assert children.run(with_takeover(heir.job(0))) == 0, heir.log()
        before = place.table(), place.query("SELECT load_id, epoch FROM {}", "meta", "ledger")
    assert children.wait(zombie) == STOPPED, place.log()
    assert (place.table(), place.query("SELECT load_id, epoch FROM {}", "meta", "ledger")) == before
    assert place.table() == place.scenario.tables[-1]
    assert "was taken over by another load" in place.log()


def reset(through: Pooler, _url: str) -> None:
    through.console("KILL shared")
    through.console("RESUME shared")


EVENTS = {
    "killed-and-restarted": lambda through, _url: through.restart(),
    "told-to-reconnect": lambda through, _url: through.console("RECONNECT"),
    "told-to-drop-all": reset,
    "sessions-terminated": lambda _through, url: run(url, END_SESSIONS),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("point", ["start.lease", "ddl.before", "epoch.copied", "epoch.booked", "epoch.committed"])
def test_a_pooler_that_loses_its_sessions_in_mid_load(
    event: str, point: str, through: Pooler, place: Place, children: Zygote, retries: Any
) -> None:
    second: list[int] = []

    def strike() -> None:
        EVENTS[event](through, str(place.url))
        at("epoch.begun", 1, lambda: second.append(beside(place).load(children, 0)))

    at(point, 2 if point.startswith("epoch") else 1, strike)
    assert_all_is_well(place, place.load_here(0, **PATIENT))
    assert second == [STOPPED]


def test_a_pooler_that_is_away_for_a_while(through: Pooler, place: Place, retries: dict[int, Do]) -> None:
    at("epoch.booked", 2, through.kill)
    retries[3] = through.start
    assert_all_is_well(place, place.load_here(0, **PATIENT))


def test_a_pooler_that_does_not_come_back(through: Pooler, place: Place, retries: dict[int, Do]) -> None:
    at("epoch.booked", 2, through.kill)
    assert_clean_stop(place, place.load_here(0, **PATIENT), UnavailableError, through.start)


@pytest.mark.parametrize("lasts", [True, False], ids=["lasts", "passes"])
def test_a_pool_that_is_exhausted(
    lasts: bool, exhausted: Pooler, shared_postgres: str, tmp_path: Path, retries: dict[int, Do]
) -> None:
    place = pooled(exhausted, shared_postgres, tmp_path)
    with ExitStack() as others:

        def take() -> None:
            cursor = others.enter_context(closing(psycopg2.connect(exhausted.url(shared_postgres)))).cursor()
            cursor.execute("SELECT 1")

        at("epoch.committed", 2, take)
        if not lasts:
            retries[2] = others.close
        outcome = place.load_here(0, **PATIENT)
        if lasts:
            assert_clean_stop(place, outcome, UnavailableError, others.close)
        else:
            assert_all_is_well(place, outcome)
    assert "query_wait_timeout" in exhausted.log()


def test_a_connection_option_that_a_pooler_refuses_is_named(through: Pooler, place: Place) -> None:
    url = f"{place.settings['destination']}&options=-c%20statement_timeout%3D300"
    error = place.load_here(0, destination=url).error
    assert isinstance(error, ConfigError)
    assert "refuses the connection option 'options'" in str(error)
    assert "ignore_startup_parameters" in str(error)
