"""A load is killed at every named checkpoint: run again it ends as if nothing had been, and never lied in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from target_resilient import checkpoints
from tests.target.crashes import Place
from tests.target.proxy import Link, Proxy
from tests.target.scenarios import GROUP, LONG, SCENARIOS, Scenario
from tests.target.zygote import Zygote

KILLED = -9
EPOCHS = 3


def passings(point: str, scenario: Scenario) -> Sequence[int]:
    """At which passings of a point a load is killed."""
    if scenario.name == "reconciled":  # until all keys come it is like `keyed`
        return range(4, 7) if point in {"epoch.booked", "epoch.committed"} else [1] * point.startswith(("del", "close"))
    if point.startswith("delete"):
        return [1] * scenario.closes
    if point.startswith("ddl"):
        return [1] if scenario.before else [1, 2]
    return range(1, EPOCHS + 1) if point.startswith("epoch") else [1]


CELLS = [
    pytest.param(point, nth, name, id=f"{name}-{point}-{nth}")
    for name, scenario in SCENARIOS.items()
    for point in checkpoints.NAMES
    for nth in passings(point, scenario)
]


@pytest.mark.parametrize("backend", ["duckdb", "postgres"])
@pytest.mark.parametrize(("point", "nth", "name"), CELLS)
def test_a_load_killed_anywhere_and_run_again_ends_equal(
    backend: str, point: str, nth: int, name: str, shared_postgres: str, tmp_path: Path, children: Zygote
) -> None:
    url = shared_postgres if backend == "postgres" else None
    place = Place(tmp_path / "printed", SCENARIOS[name], url)
    kill_and_judge(place, children, point, nth)
    older = ([0, *place.printed])[-2] if place.printed else None
    other = place.twin(tmp_path / "older") if older is not None else None
    run_again(place, children, place.printed[-1] if place.printed else 0)
    if older is not None:
        if other is None:
            other = Place(tmp_path / "older", SCENARIOS[name], url)
            kill_and_judge(other, children, point, nth)
        run_again(other, children, older)


def kill_and_judge(place: Place, children: Zygote, point: str, nth: int) -> None:
    """Kill a load; what it printed is in the database, and the table is that of a whole number of epochs."""
    place.load_before(children)
    assert place.load(children, 0, point=point, nth=nth, act="kill") == KILLED, place.log()
    place.judge()


def run_again(place: Place, children: Zygote, bookmark: int) -> None:
    """Run the load again from a bookmark; its end is the end of a load that nobody killed."""
    assert place.load(children, bookmark) == 0, place.log()
    assert place.table() == place.scenario.tables[-1]
    assert all(value == (key * 10 if at > 2 * GROUP else None) for key, at, value in place.late_column())
    assert (LONG,) in place.query("SELECT original_name FROM {}", "meta", "schema_log")
    assert place.query("SELECT 1 FROM {}", "meta", "quarantine") == []
    assert place.printed[-1] == place.stored() == place.scenario.events[-1]["at"]


COMMITS = [pytest.param(name, nth, id=f"{name}-{nth}") for name in SCENARIOS for nth in range(1, EPOCHS + 1)]
COMMITS.append(pytest.param("full", 5, id="full-closing"))


@pytest.mark.parametrize(("name", "nth"), COMMITS)
def test_a_load_killed_after_it_sent_commit_and_run_again_ends_equal(
    name: str, nth: int, shared_postgres: str, through: Proxy, tmp_path: Path, children: Zygote
) -> None:
    def kill(link: Link, number: int, forward: Callable[[], None]) -> None:
        forward()
        if number == nth:
            os.kill(link.pid, signal.SIGKILL)

    through.on_commit = kill
    place = Place(tmp_path, SCENARIOS[name], shared_postgres)
    place.load_before(children)
    place.settings["destination"] = through.url(shared_postgres)
    assert place.load(children, 0) == KILLED, place.log()
    place.judge()
    del place.settings["destination"]
    run_again(place, children, place.printed[-1] if place.printed else 0)


@pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "is-lost"])
@pytest.mark.parametrize(("name", "nth"), COMMITS)
def test_a_load_cut_off_while_it_waits_for_commit_finds_out_by_itself(
    name: str, nth: int, arrives: bool, shared_postgres: str, through: Proxy, tmp_path: Path, children: Zygote
) -> None:
    def cut(link: Link, number: int, forward: Callable[[], None]) -> None:
        if number != nth:
            forward()
        elif arrives:
            link.cut_client()  # first, or the answer may come through
            forward()
        else:
            link.cut()

    through.on_commit = cut
    place = Place(tmp_path, SCENARIOS[name], shared_postgres)
    place.load_before(children)
    place.settings["destination"] = through.url(shared_postgres)
    run_again(place, children, 0)
    assert "during COMMIT" in place.log()
    assert sum(place.ledger("received")) == len(place.scenario.events)
