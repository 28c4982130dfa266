"""Whole loads on both backends: epochs, states, guards, books."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient_core.errors import ConfigError, DataRefusedError, HeldByGuardError, NotSingerError, StoppedError
from target_resilient.gap import compare_states
from target_resilient.planner import RecordBeforeSchemaError
from tests.target.support import backend, load, quarantined, raw_record, record, rows, schema

ID = {"id": {"type": "integer"}, "v": {"type": ["string", "null"]}}
KEYED = schema(ID, ["id"])


def state(value: Any) -> dict[str, Any]:
    return {"type": "STATE", "value": value}


def books(destination: str, table: str, *names: str) -> list[tuple[Any, ...]]:
    return rows(destination, ("_resilient", table), *names)


def test_a_replay_of_a_keyed_stream_changes_nothing(destination: str) -> None:
    lines = [KEYED, record({"id": 1, "v": "a"}), record({"id": 2, "v": None}), state({"at": 2})]
    assert load(destination, lines).states == [{"at": 2}]
    assert load(destination, lines).states == [{"at": 2}]
    assert rows(destination, "s") == [(1, "a"), (2, None)]
    assert books(destination, "loads", "received", "inserted", "updated", "unchanged") == [(2, 0, 0, 2), (2, 2, 0, 0)]


def test_a_changed_row_is_updated_and_the_last_duplicate_wins(destination: str) -> None:
    load(destination, [KEYED, record({"id": 1, "v": "a"})])
    load(destination, [KEYED, record({"id": 1, "v": "b"}), record({"id": 1, "v": "c"})])
    assert rows(destination, "s") == [(1, "c")]
    assert books(destination, "ledger", "received", "updated", "deduplicated", "inserted") == [
        (1, 0, 0, 1),
        (2, 1, 1, 0),
    ]


def test_the_highest_replication_key_wins_within_a_batch_and_against_the_table(destination: str) -> None:
    dated = {**schema({"id": {"type": "integer"}, "at": {"type": ["string", "null"], "format": "date-time"},
                       "v": {"type": "string"}}, ["id"]), "bookmark_properties": ["at"]}  # fmt: skip
    newer, older = "2024-01-02T00:00:00+02:00", "2024-01-01T21:00:00Z"
    load(destination, [dated, record({"id": 1, "at": newer, "v": "new"}), record({"id": 1, "at": older, "v": "old"})])
    assert rows(destination, "s", "v") == [("new",)]
    load(destination, [dated, record({"id": 1, "at": older, "v": "older"}), record({"id": 1, "at": None, "v": "null"})])
    assert rows(destination, "s", "v") == [("new",)]
    assert (1, 0, 1) in books(destination, "ledger", "stale", "updated", "deduplicated")
    load(destination, [dated, record({"id": 1, "at": newer, "v": "tie"})])
    assert rows(destination, "s", "v") == [("tie",)]


def test_the_first_state_closes_an_epoch_and_later_ones_wait_for_the_limits(destination: str) -> None:
    lines: list[Any] = [KEYED, state({"at": 0})]
    for number in range(1, 7):
        lines += [record({"id": number}), state({"at": number})]
    assert load(destination, lines, batch_size_rows=3).states == [{"at": 0}, {"at": 3}, {"at": 6}]
    assert load(destination, lines).states == [{"at": 0}, {"at": 6}]


def test_without_a_state_in_reach_data_are_committed_with_the_state_unchanged(destination: str) -> None:
    lines = [KEYED, *(record({"id": number}) for number in range(10))]
    assert load(destination, lines, batch_size_rows=2).states == []
    assert books(destination, "ledger", "epoch", "received") == [(1, 4), (2, 4), (3, 2)]
    assert len(rows(destination, "s", "id")) == 10


def test_records_after_the_last_state_are_loaded_and_the_state_stays(destination: str) -> None:
    lines = [KEYED, record({"id": 1}), state({"at": 1}), record({"id": 2})]
    assert load(destination, lines).states == [{"at": 1}]
    assert rows(destination, "s", "id") == [(1,), (2,)]
    held = backend(destination)
    assert held.fetch("SELECT epoch FROM {}", [("_resilient", "state")]) == [(2,)]
    held.close()


def test_a_state_comes_out_as_it_came(destination: str) -> None:
    raw = b'{"type":"STATE","value":{"b": 1.10, "a": 12345678901234567890123, "\\u00e9": null}}\n'
    seen: list[bytes] = []
    from target_resilient import load as module
    from target_resilient.config import parse_options

    running = module.Load(parse_options({}, takeover=False, dry_run=False), backend(destination), seen.append)
    running.open()
    from io import BytesIO

    from target_resilient.reader import read_events

    running.consume(read_events(BytesIO(raw)))
    running.finish()
    assert seen == [b'{"b": 1.10, "a": 12345678901234567890123, "\\u00e9": null}']


def test_a_changed_schema_in_mid_stream_keeps_the_order_of_rows(destination: str) -> None:
    wider = schema({**ID, "n": {"type": "integer"}}, ["id"])
    lines = [KEYED, record({"id": 1, "v": "old"}), wider, record({"id": 1, "v": "new", "n": 1}), state(1)]
    assert load(destination, lines).error is None
    assert rows(destination, "s") == [(1, "new", 1)]


def test_a_field_beyond_the_schema_becomes_a_column(destination: str) -> None:
    lines = [KEYED, record({"id": 1}), record({"id": 2, "extra": 7, "when": None}), state(1)]
    assert load(destination, lines).error is None
    assert rows(destination, "s", "id", "extra") == [(1, None), (2, 7)]
    assert ("extra", "add column") in books(destination, "schema_log", "column_name", "change")


def test_a_field_beyond_the_schema_is_dropped_or_refused_on_request(destination: str) -> None:
    lines = [KEYED, record({"id": 1, "extra": 7})]
    load(destination, lines, on_new_column="ignore")
    assert rows(destination, "s") == [(1, None)]
    load(destination, [KEYED, record({"id": 2, "extra": 7})], on_new_column="freeze")
    assert rows(destination, "s") == [(1, None)]
    assert [errors[0]["rule"] for _, errors in quarantined(destination)] == ["new column"]


def test_a_keyless_stream_is_a_set(destination: str) -> None:
    keyless = schema({"a": {"type": "integer"}, "b": {"type": ["number", "null"]}})
    lines = [keyless, record({"a": 1, "b": 1.5}), record({"b": 1.5, "a": 1}), record({"a": 2, "b": None})]
    load(destination, lines)
    load(destination, lines)
    assert rows(destination, "s", "a", "b") == [(1, 1.5), (2, None)]
    assert books(destination, "ledger", "deduplicated", "unchanged") == [(1, 0), (1, 2)]


def test_a_keyless_stream_appends_on_request(destination: str) -> None:
    lines = [schema({"a": {"type": "integer"}}), record({"a": 1}), record({"a": 1})]
    load(destination, lines, keyless="append")
    load(destination, lines, keyless="append")
    assert rows(destination, "s", "a") == [(1,)] * 4


def test_append_only_keeps_every_version(destination: str) -> None:
    lines = [KEYED, record({"id": 1}), record({"id": 1})]
    load(destination, lines, load_method="append-only")
    assert rows(destination, "s", "id") == [(1,)] * 2


def test_a_record_before_its_schema_names_the_line(destination: str) -> None:
    outcome = load(destination, [KEYED, record({"id": 1}), record({"id": 1}, stream="other")])
    assert isinstance(outcome.error, RecordBeforeSchemaError)
    assert "line 3" in str(outcome.error)


def test_a_line_that_is_no_singer_message_names_the_line_and_not_its_text(destination: str) -> None:
    outcome = load(destination, [KEYED, record({"id": 1}), b"Traceback sesame"])
    assert isinstance(outcome.error, NotSingerError)
    assert "line 3" in str(outcome.error)
    assert "sesame" not in str(outcome.error)


def test_a_cut_off_last_line_is_incomplete_and_what_came_before_is_committed(destination: str) -> None:
    outcome = load(destination, b'%s{"type":"RECORD","stream":"s","rec' % _lines(KEYED, record({"id": 1}), state(1)))
    assert isinstance(outcome.error, DataRefusedError)
    assert outcome.states == [1]
    assert rows(destination, "s", "id") == [(1,)]
    assert books(destination, "loads", "status", "exit_code") == [("incomplete", 65)]


def test_a_last_line_without_newline_is_complete(destination: str) -> None:
    outcome = load(destination, _lines(KEYED, record({"id": 1}), state(1)).rstrip(b"\n"))
    assert (outcome.error, outcome.states) == (None, [1])


def test_too_many_refused_records_stop_the_load_after_the_quarantine_is_kept(destination: str) -> None:
    lines = [KEYED, *(record({"id": "x" if n % 2 else n}) for n in range(100)), state(1)]
    outcome = load(destination, lines, max_quarantine_ratio="0.1")
    assert isinstance(outcome.error, DataRefusedError)
    assert len(rows(destination, "s")) == 50
    assert rows(destination, ("_resilient", "quarantine"), "times_seen") == [(50,)]
    outcome = load(destination, lines[:3], max_quarantine_rows=0)
    assert isinstance(outcome.error, DataRefusedError)


def test_a_quarantined_record_seen_again_is_counted_and_not_doubled(destination: str) -> None:
    lines = [KEYED, record({"id": None, "v": "x"})]
    load(destination, lines)
    load(destination, lines)
    assert books(destination, "quarantine", "stream", "table_name", "times_seen", "key") == [
        ("s", f"{backend(destination).default_schema}.s", 2, "[null]")
    ]


def test_discarded_records_are_counted_and_not_kept(destination: str) -> None:
    load(destination, [KEYED, record({"id": "x"}), record({"id": 1})], on_bad_record="discard")
    assert quarantined(destination) == []
    assert books(destination, "loads", "received", "quarantined", "inserted") == [(2, 1, 1)]


def test_a_change_of_type_stops_the_load_where_the_contract_says_so(destination: str) -> None:
    outcome = load(destination, [KEYED, record({"id": "x"})], on_type_change="freeze")
    assert isinstance(outcome.error, DataRefusedError)
    assert "/id" in str(outcome.error)


def test_a_contract_folder_overrules_the_schema(destination: str, tmp_path: Any) -> None:
    folder = tmp_path / "contracts"
    folder.mkdir()
    (folder / "s.json").write_text(
        '{"type": "object", "required": ["v"], "properties": {"id": {"type": "integer"}, "v": {"type": "string",'
        ' "format": "email"}}, "x-contract": {"version": "1.0.0", "on_bad_record": "quarantine"}}'
    )
    lines = [KEYED, record({"id": 1, "v": "a@b.example"}), record({"id": 2, "v": "nobody"}), record({"id": 3})]
    load(destination, lines, contracts_dir=str(folder))
    assert rows(destination, "s", "id") == [(1,)]
    assert {errors[0]["pointer"] for _, errors in quarantined(destination)} == {"/v"}


def tap_state(value: Any) -> dict[str, Any]:
    return state({"bookmarks": {"s": {"replication_key": "at", "replication_key_value": value}}, "resilient": {}})


def test_a_start_ahead_of_the_data_is_held(destination: str) -> None:
    load(destination, [KEYED, record({"id": 1}), tap_state("2024-01-02T00:00:00Z")])
    ahead = [tap_state("2024-01-02T05:00:00+02:00"), KEYED, record({"id": 2})]
    outcome = load(destination, ahead)
    assert isinstance(outcome.error, HeldByGuardError)
    assert "TARGET_RESILIENT_ON_GAP=accept" in str(outcome.error)
    assert rows(destination, "s", "id") == [(1,)]
    assert load(destination, ahead, on_gap="accept").error is None


def test_a_start_at_or_behind_the_data_passes(destination: str) -> None:
    load(destination, [KEYED, record({"id": 1}), tap_state("2024-01-02T00:00:00Z")])
    assert load(destination, [tap_state("2024-01-02T01:00:00+01:00"), KEYED]).error is None
    assert load(destination, [tap_state("2024-01-01T00:00:00Z"), KEYED]).error is None


STORED_AND_START = [
    (17000000000000000, 17000000000000100, "ahead"),  # a float would see no difference
    ("9", "10", "ahead"),
    (9, "10", "ahead"),
    ("1.5", 1.50, "same"),
    ("2024-01-01T00:00:00.123456100Z", "2024-01-01T00:00:00.123456789Z", "ahead"),
    ("2024-01-01T00:00:00.123456789Z", "2024-01-01T01:00:00.123456789+01:00", "same"),
    ("2024-01-01T00:00:00Z", "a word", "different"),
    ("b", "a", "behind"),
]


@pytest.mark.parametrize(("stored", "start", "verdict"), STORED_AND_START)
def test_bookmarks_are_compared_exactly(stored: Any, start: Any, verdict: str) -> None:
    held, begun = (json.dumps(tap_state(value)["value"]) for value in (stored, start))
    assert compare_states(begun.encode(), held) == verdict


def test_partitions_are_told_apart_by_any_json() -> None:
    def partitioned(first: int, second: int) -> str:
        entries = [{"context": {"x": x}, "replication_key_value": at} for x, at in ((1.5, first), (2.5, second))]
        return json.dumps({"bookmarks": {"s": {"partitions": entries}}, "resilient": {}})

    assert compare_states(partitioned(1, 3).encode(), partitioned(1, 2)) == "ahead"
    assert compare_states(partitioned(1, 1).encode(), partitioned(1, 2)) == "behind"


def test_a_start_ahead_by_less_than_a_float_holds_is_held(destination: str) -> None:
    load(destination, [KEYED, record({"id": 1}), tap_state(17000000000000000)])
    outcome = load(destination, [tap_state(17000000000000100), KEYED, record({"id": 2})])
    assert isinstance(outcome.error, HeldByGuardError)


def test_a_state_that_is_a_mere_string_can_be_started_from(destination: str) -> None:
    load(destination, [KEYED, record({"id": 1}), state("abc")])
    assert load(destination, [state("abc"), KEYED, record({"id": 2}), state("abd")]).error is None
    assert load(destination, [state("xyz"), KEYED]).error is None
    assert rows(destination, "s", "id") == [(1,), (2,)]


def test_unreadable_records_close_epochs_and_are_judged_on_the_way(destination: str) -> None:
    lines = [KEYED, *[raw_record('{"id":NaN}')] * 1000]
    outcome = load(destination, lines, batch_size_rows=10, max_quarantine_rows=50)
    assert "20 of" not in str(outcome.error)
    assert str(outcome.error).startswith("60 of 60 records were refused")


def test_a_missing_book_is_made_again_beside_tables_of_others(destination: str) -> None:
    load(destination, [KEYED, record({"id": 1})])
    opened = backend(destination)
    opened.execute("DROP TABLE {}", [("_resilient", "quarantine")])
    opened.execute("CREATE TABLE {} (x integer)", [("_resilient", "theirs")])
    opened.close()
    assert load(destination, [KEYED, record({"id": "x"})]).error is None
    assert len(quarantined(destination)) == 1


@pytest.mark.parametrize("stream", ["_resilient-state", "_resilient-lease"])
def test_a_stream_may_not_load_into_the_books(destination: str, stream: str) -> None:
    outcome = load(destination, [schema(ID, ["id"], stream=stream), record({"id": 1}, stream=stream)])
    assert isinstance(outcome.error, ConfigError)
    assert "among the loader's own tables" in str(outcome.error)


def test_a_row_that_a_refused_one_had_replaced_is_loaded(destination: str) -> None:
    opened = backend(destination)
    opened.execute("CREATE TABLE s (id bigint PRIMARY KEY, v text CHECK (v <> 'bad'))")
    opened.close()
    values = [(1, "a"), (1, "b"), (1, "bad"), (2, "bad"), (3, "c"), (3, "d")]
    assert load(destination, [KEYED, *(record({"id": key, "v": value}) for key, value in values)]).error is None
    assert rows(destination, "s", "id", "v") == [(1, "b"), (3, "d")]
    assert len(quarantined(destination)) == 2
    assert (6, 2, 2, 2) in books(destination, "ledger", "received", "inserted", "deduplicated", "quarantined")


def test_a_second_load_of_a_pipeline_stops_at_once(destination: str) -> None:
    holder = backend(destination)
    holder.ensure_meta()
    lease = holder.acquire_lease("default", "somebody", takeover=False)
    outcome = load(destination, [KEYED])
    assert isinstance(outcome.error, StoppedError)
    assert load(destination, [KEYED, record({"id": 1})], pipeline="other").error is None
    lease.release()
    holder.close()
    assert load(destination, [KEYED]).error is None


def test_a_load_whose_pipeline_was_taken_over_writes_nothing_more(destination: str) -> None:
    taken = {}

    def messages() -> Any:
        yield KEYED
        yield record({"id": 1})
        yield state(1)
        other = backend(destination)
        taken["lease"] = other.acquire_lease("default", "thief", takeover=True)
        other.close()
        yield record({"id": 2})
        yield state(2)

    outcome = load(destination, messages_in_steps(messages()), batch_size_rows=1)
    assert isinstance(outcome.error, StoppedError)
    assert "taken over" in str(outcome.error)
    assert outcome.states == [1]
    assert rows(destination, "s", "id") == [(1,)]
    taken["lease"].release()


def messages_in_steps(messages: Any) -> Any:
    """A file whose reads give one message each."""
    from tests.target.support import line_of

    class Steps:
        def read(self, _size: int) -> bytes:
            message = next(messages, None)
            return b"" if message is None else line_of(message)

    return Steps()


def test_a_dead_load_is_booked_as_failed_by_the_next(destination: str) -> None:
    load(destination, [KEYED])
    held = backend(destination)
    held.execute("UPDATE {} SET status = 'running', finished_at = NULL", [("_resilient", "loads")])
    held.close()
    load(destination, [KEYED])
    assert books(destination, "loads", "status", "reason") == [("failed", "the process died"), ("unproven", "done")]


def test_a_load_without_rows_writes_its_books(destination: str) -> None:
    assert load(destination, [KEYED, state(1)]).states == [1]
    assert books(destination, "loads", "status", "received") == [("unproven", 0)]
    assert rows(destination, "s", "id") == []


@pytest.mark.parametrize(
    ("scans", "status"),
    [
        ({"s": {"verdict": "complete", "rows": 1}}, "complete"),
        ({"s": {"verdict": "unproven", "rows": 1}}, "unproven"),
        ({"s": {"verdict": "incomplete", "rows": 1}}, "incomplete"),
        ({}, "unproven"),
    ],
)
def test_the_tap_end_marker_decides_the_status(destination: str, scans: Any, status: str) -> None:
    load(destination, [KEYED, state({"resilient": {"version": 1, "scans": scans}})])
    assert books(destination, "loads", "status") == [(status,)]


def test_a_table_without_a_unique_index_on_the_key_is_refused_with_the_ddl(destination: str) -> None:
    held = backend(destination)
    held.execute("CREATE TABLE s (id bigint, v text)")
    held.close()
    outcome = load(destination, [KEYED, record({"id": 1})])
    assert isinstance(outcome.error, ConfigError)
    assert "CREATE UNIQUE INDEX" in str(outcome.error)


def test_a_table_made_by_others_is_used_as_it_is(destination: str) -> None:
    held = backend(destination)
    held.execute("CREATE TABLE s (id integer PRIMARY KEY, v varchar(3), note text DEFAULT 'theirs')")
    held.close()
    lines = [KEYED, record({"id": 1, "v": "abc"}), record({"id": 2**31, "v": "x"})]
    assert load(destination, lines).error is None
    assert rows(destination, "s", "id", "v", "note") == [(1, "abc", "theirs")]
    assert [errors[0]["rule"] for _, errors in quarantined(destination)] == ["range"]


def test_a_row_that_breaks_a_unique_only_beside_another_is_quarantined(destination: str) -> None:
    held = backend(destination)
    held.execute("CREATE TABLE s (id bigint PRIMARY KEY, v text UNIQUE)")
    held.close()
    values = ["a", "b", "a", "c", "b", "d"]
    outcome = load(destination, [KEYED, *(record({"id": id_, "v": v}) for id_, v in enumerate(values, 1)), state(1)])
    assert (outcome.error, outcome.states) == (None, [1])
    assert rows(destination, "s", "id", "v") == [(1, "a"), (2, "b"), (4, "c"), (6, "d")]
    assert len(quarantined(destination)) == 2


def test_two_streams_never_share_a_table(destination: str) -> None:
    outcome = load(destination, [KEYED, schema(ID, ["id"], stream="S")])
    assert isinstance(outcome.error, ConfigError)
    assert "both load into table" in str(outcome.error)


def test_a_deleted_row_that_comes_back_is_no_longer_deleted(destination: str) -> None:
    marked = schema({**ID, "_sdc_deleted_at": {"type": ["string", "null"], "format": "date-time"}}, ["id"])
    load(destination, [marked, record({"id": 1, "_sdc_deleted_at": "2024-01-01T00:00:00Z"})])
    load(destination, [KEYED, record({"id": 1})])
    assert rows(destination, "s", "id", "_sdc_deleted_at") == [(1, None)]


def test_metadata_columns_come_on_request_and_never_make_a_row_count_as_changed(destination: str) -> None:
    lines = [KEYED, record({"id": 1}, time_extracted="2024-01-01T00:00:00Z")]
    load(destination, lines, add_record_metadata=True)
    first = rows(destination, "s", "_sdc_received_at", "_sdc_extracted_at")
    load(destination, lines, add_record_metadata=True)
    assert rows(destination, "s", "_sdc_received_at", "_sdc_extracted_at") == first
    assert first[0][1] is not None


def _lines(*messages: Any) -> bytes:
    from tests.target.support import line_of

    return b"".join(map(line_of, messages))
