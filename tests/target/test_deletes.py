"""Refreshes remove what they no longer bring: only when complete, only within the limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resilient_core.errors import HeldByGuardError, NotSingerError
from target_resilient.deletes import Activation
from tests.target.support import load, record, rows, schema

KEYED = schema({"id": {"type": "integer"}}, ["id"])
ALL = range(1, 9)


def refresh(version: int, ids: Any, *, activate: str = "after") -> list[Any]:
    activation = {"type": "ACTIVATE_VERSION", "stream": "s", "version": version}
    records = [record({"id": number}, version=version) for number in ids]
    before, after = [activation] * (activate == "before"), [activation] * (activate == "after")
    return [KEYED, *before, *records, *after]


def living(destination: str) -> list[int]:
    return [number for number, deleted in rows(destination, "s", "id", "_sdc_deleted_at") if deleted is None]


def test_a_row_that_a_refresh_no_longer_brings_is_marked_once_and_comes_back(destination: str) -> None:
    load(destination, refresh(1, ALL))
    assert load(destination, refresh(2, [1, 2, 3, 4, 5, 6, 7])).error is None
    assert living(destination) == [1, 2, 3, 4, 5, 6, 7]
    marked = [deleted for number, deleted in rows(destination, "s", "id", "_sdc_deleted_at") if number == 8]
    load(destination, refresh(3, [1, 2, 3, 4, 5, 6, 7]))
    assert marked == [deleted for number, deleted in rows(destination, "s", "id", "_sdc_deleted_at") if number == 8]
    assert (1,) in rows(destination, ("_resilient", "loads"), "deleted")
    load(destination, refresh(4, ALL))
    assert living(destination) == list(ALL)


def test_hard_delete_removes_the_row(destination: str) -> None:
    load(destination, refresh(1, ALL), hard_delete=True)
    load(destination, refresh(2, [1, 2, 3, 4, 5, 6, 7]), hard_delete=True)
    assert rows(destination, "s", "id") == [(number,) for number in range(1, 8)]


def test_a_refresh_beyond_the_limit_is_held_and_removes_nothing(destination: str) -> None:
    load(destination, refresh(1, ALL))
    outcome = load(destination, refresh(2, [1, 2]))
    assert isinstance(outcome.error, HeldByGuardError)
    assert "TARGET_RESILIENT_MAX_DELETE_RATIO=1" in str(outcome.error)
    assert living(destination) == list(ALL)
    assert load(destination, refresh(3, [1, 2]), max_delete_ratio="1").error is None
    assert living(destination) == [1, 2]


def test_an_empty_refresh_never_wipes_a_table(destination: str) -> None:
    load(destination, refresh(1, ALL), hard_delete=True)
    outcome = load(destination, [KEYED, *refresh(2, [], activate="before")[1:]], hard_delete=True, trust_eof=True)
    assert isinstance(outcome.error, HeldByGuardError)
    assert rows(destination, "s", "id") == [(number,) for number in ALL]


def test_an_activation_before_the_rows_removes_nothing_without_trust(destination: str) -> None:
    load(destination, refresh(1, ALL))
    few = refresh(2, [1, 2, 3, 4, 5, 6, 7], activate="before")
    assert load(destination, few).error is None
    assert living(destination) == list(ALL)
    load(destination, few, trust_eof=True)
    assert living(destination) == [1, 2, 3, 4, 5, 6, 7]


def test_a_cut_off_refresh_removes_nothing(destination: str) -> None:
    from tests.target.support import line_of

    load(destination, refresh(1, ALL))
    torn = b"".join(map(line_of, refresh(2, [1, 2, 3, 4, 5, 6, 7], activate="before"))) + b'{"type":'
    load(destination, torn, trust_eof=True)
    assert living(destination) == list(ALL)


def test_a_refresh_with_refused_records_removes_nothing(destination: str) -> None:
    load(destination, refresh(1, ALL))
    lines = refresh(2, [1, 2, 3, 4, 5, 6, 7])
    lines.insert(1, record({"id": "x"}, version=2))
    load(destination, lines)
    assert living(destination) == list(ALL)


def test_a_row_without_a_version_goes_with_a_hard_refresh(destination: str) -> None:
    load(destination, refresh(1, ALL), hard_delete=True)
    from tests.target.support import backend

    held = backend(destination)
    held.execute("INSERT INTO s (id) VALUES (99)")
    held.close()
    load(destination, refresh(1, ALL), hard_delete=True)
    assert rows(destination, "s", "id") == [(number,) for number in ALL]


def test_a_row_marked_by_the_tap_is_kept_or_removed(destination: str) -> None:
    marked = schema({"id": {"type": "integer"}, "_sdc_deleted_at": {"type": ["string", "null"], "format": "date-time"}},
                    ["id"])  # fmt: skip
    lines = [marked, record({"id": 1}), record({"id": 2, "_sdc_deleted_at": "2024-01-01T00:00:00Z"})]
    load(destination, lines)
    assert living(destination) == [1]
    assert len(rows(destination, "s", "id")) == 2
    load(destination, lines, hard_delete=True)
    assert rows(destination, "s", "id") == [(1,)]


def complete(*streams: str) -> dict[str, Any]:
    scans = {stream: {"verdict": "complete", "rows": 1} for stream in streams}
    return {"type": "STATE", "value": {"resilient": {"version": 1, "scans": scans}}}


def test_overwrite_replaces_the_rows_after_a_complete_load(destination: str) -> None:
    load(destination, [KEYED, *(record({"id": number}) for number in ALL), complete("s")], load_method="overwrite")
    fewer = [record({"id": number}) for number in range(2, 10)]
    assert load(destination, [KEYED, *fewer, complete("s")], load_method="overwrite").error is None
    assert rows(destination, "s", "id") == [(number,) for number in range(2, 10)]


@pytest.mark.parametrize("lines", [[], [record({"id": 1})]], ids=["empty", "partial"])
def test_overwrite_removes_nothing_without_proof(destination: str, lines: list[Any]) -> None:
    load(destination, [KEYED, *(record({"id": number}) for number in ALL), complete("s")], load_method="overwrite")
    assert load(destination, [KEYED, *lines], load_method="overwrite").error is None
    assert rows(destination, "s", "id") == [(number,) for number in ALL]


def test_an_activation_counts_as_proof_only_after_the_last_row() -> None:
    activation = Activation()
    activation.activate(1)
    activation.record({1})
    assert not activation.after_rows
    activation.activate(1)
    assert activation.after_rows
    activation.activate(2)
    assert (activation.version, activation.after_rows) == (2, False)


def test_a_row_of_an_older_version_that_came_with_the_first_load_goes(destination: str) -> None:
    older = record({"id": 99}, version=1)
    lines = refresh(2, ALL)
    assert load(destination, [lines[0], lines[1], older, *lines[2:]], hard_delete=True).error is None
    assert rows(destination, "s", "id") == [(number,) for number in ALL]


def keys(*ids: int, limit: float = 1, verdict: str = "complete") -> list[Any]:
    """A load that brings no row of `s`, and all keys that the source has."""
    companion = {**schema({"id": {"type": "integer"}}, ["id"], stream="s__keys", required=["id"])}
    companion["schema"] |= {"x-reconciles": "s", "x-max-delete-ratio": limit}
    scans = {"s": {"verdict": "complete", "rows": 0}, "s__keys": {"verdict": verdict, "rows": len(ids)}}
    end = {"type": "STATE", "value": {"resilient": {"version": 1, "scans": scans}}}
    return [KEYED, companion, *(record({"id": number}, stream="s__keys") for number in ids), end]


def test_what_is_not_among_all_keys_is_marked_and_comes_back(destination: str) -> None:
    load(destination, [KEYED, *(record({"id": number}) for number in ALL)])
    outcome = load(destination, keys(1, 2, 3, 4, 5, 6, 7))
    assert (outcome.error, len(outcome.states)) == (None, 1)
    assert living(destination) == [1, 2, 3, 4, 5, 6, 7]
    assert (1,) in rows(destination, ("_resilient", "loads"), "deleted")
    load(destination, keys(2, 3, 4, 5, 6, 7, 8))
    assert living(destination) == [2, 3, 4, 5, 6, 7]
    assert load(destination, [KEYED, record({"id": 8})]).error is None
    assert living(destination) == [2, 3, 4, 5, 6, 7, 8]


def test_reconciliation_removes_for_good_on_request(destination: str) -> None:
    load(destination, [KEYED, *(record({"id": number}) for number in ALL)])
    assert load(destination, keys(1, 2, 3, 4, 5, 6, 7), hard_delete=True).error is None
    assert rows(destination, "s", "id") == [(number,) for number in range(1, 8)]


def test_reconciliation_removes_nothing_without_all_keys(destination: str) -> None:
    load(destination, [KEYED, *(record({"id": number}) for number in ALL)])
    assert load(destination, keys(1, verdict="incomplete")).error is None
    assert living(destination) == list(ALL)


def test_reconciliation_keeps_to_the_smaller_limit_and_holds_the_state(destination: str) -> None:
    load(destination, [KEYED, *(record({"id": number}) for number in ALL)])
    outcome = load(destination, keys(1, 2, 3, 4, 5, 6, 7, limit=0.1))
    assert isinstance(outcome.error, HeldByGuardError)
    assert outcome.states == []
    assert living(destination) == list(ALL)
    assert load(destination, keys(1, 2, 3, 4, 5, 6, 7, limit=0.1), max_delete_ratio="1").error is None
    assert living(destination) == [1, 2, 3, 4, 5, 6, 7]


# what proves nothing -------------------------------------------------------------------------------------------------


def activation(version: int) -> dict[str, Any]:
    return {"type": "ACTIVATE_VERSION", "stream": "s", "version": version}


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_rows_without_the_activated_version_prove_nothing(destination: str, hard: bool, first: bool) -> None:
    unversioned = [record({"id": number}) for number in ALL]
    lines = [KEYED, activation(5), *unversioned] if first else [KEYED, *unversioned, activation(5)]
    assert load(destination, lines, trust_eof=True, hard_delete=hard).error is None
    assert rows(destination, "s", "id") == [(number,) for number in ALL]
    if not hard:
        assert living(destination) == list(ALL)


def test_batches_without_a_version_prove_nothing(destination: str, tmp_path: Path) -> None:
    file = tmp_path / "batch.jsonl"
    file.write_text("".join(json.dumps({"id": number}) + "\n" for number in ALL))
    encoding = {"format": "jsonl", "compression": "none"}
    batch = {"type": "BATCH", "stream": "s", "encoding": encoding, "manifest": [file.as_uri()]}
    assert load(destination, [KEYED, activation(5), batch], trust_eof=True, hard_delete=True).error is None
    assert rows(destination, "s", "id") == [(number,) for number in ALL]


def test_a_version_beyond_a_bigint_is_refused(destination: str) -> None:
    outcome = load(destination, refresh(10**20, ALL), hard_delete=True)
    assert isinstance(outcome.error, NotSingerError)
    alone = load(destination, [KEYED, activation(10**20)], trust_eof=True, max_delete_ratio="1")
    assert isinstance(alone.error, NotSingerError)


def test_the_limit_of_a_reconciliation_holds_beside_rows_that_come_and_go(destination: str) -> None:
    load(destination, [KEYED, *(record({"id": number}) for number in ALL)], hard_delete=True)
    properties = {"id": {"type": "integer"}, "_sdc_deleted_at": {"type": ["string", "null"], "format": "date-time"}}
    gone = [record({"id": n, "_sdc_deleted_at": "2024-01-01T00:00:00Z"}) for n in range(20, 32)]
    outcome = load(destination, [schema(properties, ["id"]), *gone, *keys()[1:]], hard_delete=True)
    assert isinstance(outcome.error, HeldByGuardError)
    assert rows(destination, "s", "id") == [(number,) for number in ALL]


def test_rows_of_a_newer_version_stay(destination: str) -> None:
    load(destination, refresh(1, ALL))
    newer = [record({"id": number}, version=3) for number in (7, 8, 9)]
    assert load(destination, [*refresh(2, ALL), *newer]).error is None
    assert living(destination) == list(range(1, 10))


@pytest.mark.parametrize("hard", [True, False])
def test_the_limit_holds_where_the_refresh_brings_deleted_rows(destination: str, hard: bool) -> None:
    properties = {"id": {"type": "integer"}, "_sdc_deleted_at": {"type": ["string", "null"], "format": "date-time"}}
    marked = schema(properties, ["id"])
    load(destination, [marked, *refresh(1, ALL)[1:]], hard_delete=hard)
    gone = [record({"id": n, "_sdc_deleted_at": "2024-01-01T00:00:00Z"}, version=2) for n in range(20, 32)]
    outcome = load(destination, [marked, *gone, activation(2)], hard_delete=hard)
    assert isinstance(outcome.error, HeldByGuardError)
    assert living(destination) == list(ALL)


def test_the_limit_holds_where_the_refresh_brings_new_rows_and_deleted_ones_again(destination: str) -> None:
    properties = {"id": {"type": "integer"}, "_sdc_deleted_at": {"type": ["string", "null"], "format": "date-time"}}

    def marked(version: int) -> list[Any]:
        return [record({"id": n, "_sdc_deleted_at": "2024-01-01T00:00:00Z"}, version=version) for n in range(20, 70)]

    first = [schema(properties, ["id"]), *marked(1), *refresh(1, ALL)[1:]]
    assert load(destination, first).error is None
    new = [record({"id": n}, version=2) for n in range(100, 140)]
    outcome = load(destination, [first[0], *marked(2), *new, activation(2)])
    assert isinstance(outcome.error, HeldByGuardError)
    assert set(ALL) <= set(living(destination))


def test_pipelines_with_streams_of_one_name_keep_their_keys_apart(destination: str) -> None:
    for pipeline, ids in (("a", ALL), ("b", range(101, 109))):
        apart = {"pipeline": pipeline, "default_target_schema": pipeline}
        assert load(destination, [KEYED, *(record({"id": number}) for number in ids)], **apart).error is None
        assert load(destination, keys(*ids), **apart).error is None
    logged = {name for (name,) in rows(destination, ("_resilient", "schema_log"), "table_name")}
    assert len({name for name in logged if "s__keys" in name}) == 2


def test_an_overwrite_from_any_bookmark_removes_nothing(destination: str) -> None:
    load(destination, [KEYED, *(record({"id": number}) for number in ALL)], load_method="overwrite")
    start = {"type": "STATE", "value": {"bookmarks": {"s": {"at": 99}}}}
    later = [start, KEYED, *(record({"id": number}) for number in range(5, 10))]
    assert load(destination, later, load_method="overwrite", trust_eof=True, max_delete_ratio="1").error is None
    assert rows(destination, "s", "id") == [(number,) for number in range(1, 10)]
