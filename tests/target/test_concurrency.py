"""Loads at the same time: one a pipeline, many a table; a taken-over load writes nothing."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.target.crashes import (
    STOPPED,
    Place,
    assert_a_second_load_stops,
    assert_the_next_load_starts_at_once,
    beside,
    held,
    with_takeover,
)
from tests.target.scenarios import SCENARIOS
from tests.target.support import record, rows, schema
from tests.target.zygote import Zygote

ROUNDS, KEYS = 12, 30
FIELDS = {"id": {"type": "integer"}, "at": {"type": "integer"}, "by": {"type": "string"}}
SCHEMA = {**schema(FIELDS, ["id"]), "bookmark_properties": ["at"]}


@pytest.fixture(params=["duckdb", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    url = request.getfixturevalue("shared_postgres") if request.param == "postgres" else None
    return Place(tmp_path, SCENARIOS["keyed"], url)


def test_a_second_load_of_a_pipeline_stops_and_the_first_goes_on(place: Place, children: Zygote) -> None:
    assert_a_second_load_stops(place, children, "epoch.committed")


@pytest.mark.parametrize("point", ["epoch.begun", "epoch.fenced", "epoch.committed"])
def test_after_a_kill_the_next_load_starts_at_once(place: Place, children: Zygote, point: str) -> None:
    assert_the_next_load_starts_at_once(place, children, point)


@pytest.mark.parametrize("point", ["epoch.begun", "epoch.fenced", "epoch.booked", "epoch.committed"])
def test_a_load_that_was_taken_over_writes_nothing_more(
    point: str, shared_postgres: str, tmp_path: Path, children: Zygote
) -> None:
    place = Place(tmp_path, SCENARIOS["keyed"], shared_postgres)
    with held(place, children, point, 2) as zombie:
        heir = beside(place)
        heir.settings["batch_size_rows"] = 1000
        assert children.run(with_takeover(heir.job_of([{**SCHEMA, "stream": "t"}]))) == 0, heir.log()
        assert place.query("SELECT 1 FROM {}", "data", "t") == []
        before = place.table(), place.query("SELECT epoch FROM {}", "meta", "ledger")
    assert children.wait(zombie) == STOPPED, place.log()
    assert (place.table(), place.query("SELECT epoch FROM {}", "meta", "ledger")) == before
    assert "was taken over by another load" in place.log()


def test_a_duckdb_load_that_was_taken_over_writes_nothing_more_and_the_heir_owns_the_pipeline(
    tmp_path: Path, children: Zygote
) -> None:
    place = Place(tmp_path, SCENARIOS["keyed"], None)
    with held(place, children, "epoch.committed", 2) as zombie:
        heir, third = beside(place), beside(place)
        os.mkfifo(heir.folder / "fifo")
        standing = heir.job(8, point="epoch.committed", nth=1, act="meet", fifo=str(heir.folder / "fifo"))
        (pid,) = children.start(with_takeover(standing))
        with (heir.folder / "fifo").open("wb"):
            assert third.load(children, 0) == STOPPED
        assert children.wait(pid) == 0
    assert children.wait(zombie) == STOPPED
    assert place.table() == place.scenario.tables[-1]


@pytest.mark.parametrize("seed", range(2))
def test_two_pipelines_load_overlapping_keys_into_one_table_without_deadlock_or_lost_update(
    destination: str, seed: int, tmp_path: Path, children: Zygote
) -> None:
    sent = {by: changes(by, random.Random(f"{seed} {by}")) for by in ("a", "b")}
    pids = children.start_each(*(pipeline(destination, tmp_path / by, by, events) for by, events in sent.items()))
    codes = [children.wait(pid) for pid in pids]
    logs = "".join((tmp_path / by / "log").read_text() for by in sent)
    assert codes == [0, 0], logs
    assert "23505" not in logs
    assert "40P01" not in logs
    newest: dict[int, int] = {}
    for event in (*sent["a"], *sent["b"]):
        newest[event["id"]] = max(newest.get(event["id"], 0), event["at"])
    assert dict(rows(destination, "s", "id", "at")) == newest


def changes(by: str, chance: random.Random) -> list[dict[str, Any]]:
    """Rows with overlapping keys in random order, each newer than the pipeline's last."""
    found = []
    for turn in range(ROUNDS):
        for key in chance.sample(range(KEYS), KEYS // 2):
            found.append({"id": key, "at": (turn * KEYS + key) * 2 + (by == "a"), "by": by})
    return found


def pipeline(destination: str, folder: Path, by: str, events: list[dict[str, Any]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [SCHEMA]
    for place, event in enumerate(events, 1):
        messages.append(record(event))
        if place % (KEYS // 2) == 0:
            messages.append({"type": "STATE", "value": place})
    loading = Place(folder, SCENARIOS["keyed"], None)
    loading.settings = {"destination": destination, "pipeline": by}
    return loading.job_of(messages)
