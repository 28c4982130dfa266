"""One stream's part of an epoch, without a database: judged, encoded, deduplicated; sources of rows are remembered."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from resilient_core.contract import Policies, make_contract
from resilient_core.errors import DataRefusedError
from target_resilient.batch import MissingKeyError, StreamBatch
from target_resilient.columns import column_for
from target_resilient.quarantine import Refused, quarantine_rows
from target_resilient.reader import Frame, Unreadable, read_events
from target_resilient.table import ROW_HASH, StreamSpec, TablePlan
from target_resilient.validate import Validator
from tests.target.support import line_of, record

PROPERTIES = {"id": {"type": "integer"}, "at": {"type": ["string", "null"], "format": "date-time"},
              "v": {"type": ["string", "null"]}}  # fmt: skip


def batch(
    key: tuple[str, ...] = ("id",), replication: str | None = None, *, row_hash: bool = False, **policies: Any
) -> StreamBatch:
    contract = make_contract({"type": "object", "properties": PROPERTIES})
    plan = TablePlan(
        spec=StreamSpec("s", contract, key, replication), table=("main", "s"),
        columns=tuple(column_for(name, name, schema, declared=False) for name, schema in PROPERTIES.items()),
        key=(ROW_HASH,) if row_hash else key, row_hash=row_hash, metadata=False, versioned=False, fixed_version=None,
        hard_delete=False, comparable={}, clears_deleted=False, inserted_marker=None,
    )  # fmt: skip
    return StreamBatch(plan, Validator("s", contract), replace(Policies(), **policies))


def frame(*records: Any) -> Frame:
    (found,) = read_events(io.BytesIO(b"".join(line_of(record(one)) for one in records)))
    assert isinstance(found, Frame)
    return found


def test_rows_are_csv_in_the_order_of_the_columns_and_absent_is_null() -> None:
    one = batch()
    one.add(frame({"v": 'say "x"', "id": 1, "at": "2024-01-01T00:00:00Z"}, {"id": 2}))
    assert one.rows == ['1,2024-01-01T00:00:00Z,"say ""x"""', "2,,"]


def test_bad_records_are_refused_and_the_rest_is_kept_whichever_step_finds_them() -> None:
    one = batch()
    one.add(
        frame({"id": 1}, {"id": "x"}, {"id": 2, "at": "never"}, {"at": None}, {"id": 3, "v": "a\0b"}, [], {"id": 4})
    )
    assert one.rows == ["1,,", "4,,"]
    told = [(refused.errors[0]["pointer"], refused.errors[0]["rule"]) for refused in one.refused]
    assert sorted(told) == [("", "type"), ("/at", "date-time"), ("/id", "key"), ("/id", "type"), ("/v", "nul")]
    assert (one.counts.received, one.counts.quarantined) == (7, 5)


def test_a_refused_record_is_kept_as_it_came_with_its_key() -> None:
    one = batch()
    one.add(frame({"id": 7, "at": "never"}))
    (refused,) = one.refused
    assert (refused.key, refused.record) == ("[7]", '{"id": 7, "at": "never"}')


@pytest.mark.parametrize("apart", [False, True], ids=["one frame", "two frames"])
def test_without_a_replication_key_the_last_of_a_key_wins(apart: bool) -> None:
    one = batch()
    records = [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}, {"id": 1.0, "v": "c"}]
    for part in [[found] for found in records] if apart else [records]:
        one.add(frame(*part))
    assert one.live_rows() == ['2,,"b"', '1,,"c"']
    assert one.counts.deduplicated == 1


@pytest.mark.parametrize("apart", [False, True], ids=["one frame", "two frames"])
def test_the_highest_replication_key_wins_null_is_lowest_and_ties_go_to_the_last(apart: bool) -> None:
    one = batch(replication="at")
    records = [
        {"id": 1, "at": "2024-01-01T12:00:00", "v": "naive"}, {"id": 1, "at": "2024-01-01T10:00:00Z", "v": "older"},
        {"id": 1, "at": None, "v": "null"}, {"id": 1, "at": "2024-01-01 13:00:00+0100", "v": "tie"},
    ]  # fmt: skip
    for part in [[found] for found in records] if apart else [records]:
        one.add(frame(*part))
    assert [row.rpartition(",")[2] for row in one.live_rows()] == ['"tie"']
    assert one.counts.deduplicated == 3
    assert (one.bounds.low.isoformat(), one.bounds.high.isoformat()) == (
        "2024-01-01T10:00:00+00:00", "2024-01-01T12:00:00+00:00")  # fmt: skip


def test_parts_of_a_composite_key_are_never_joined() -> None:
    one = batch(key=("at", "v"))
    one.add(frame({"id": 1, "at": "2024-01-01", "v": "b,c"}, {"id": 2, "at": "2024-01-01", "v": "b"}))
    assert len(one.live_rows()) == 2


def test_a_keyless_row_is_keyed_by_a_hash_of_what_is_not_null_in_any_order() -> None:
    one = batch(key=(), row_hash=True)
    one.add(
        frame(
            {"id": 1, "v": "a"}, {"v": "a", "id": 1, "at": None}, {"id": 1, "v": "b"}, {"id": 1, "_sdc_x": 1, "v": "b"}
        )
    )
    assert len(one.live_rows()) == 2
    assert one.counts.deduplicated == 2


def test_a_row_that_the_database_refuses_later_is_found_again_by_its_place() -> None:
    one = batch()
    one.add(frame({"id": 1}, {"id": "x"}, {"id": 2}))
    one.add(frame({"id": 3}, {"id": 4, "v": "z"}))
    one.drop(3, {"rule": "SQLSTATE 22001", "message": "refused"})
    assert one.rows == ["1,,", "2,,", "3,,", None]
    assert one.refused[-1].record == '{"id": 4, "v": "z"}'
    assert one.counts.quarantined == 2


def test_an_unreadable_record_is_refused_with_all_its_faults() -> None:
    one = batch()
    one.add_unreadable(Unreadable("s", '{"v": NaN}', ((("v",), "finite"), (("w", 0), "surrogate")), 9))
    assert [(found["pointer"], found["rule"]) for found in one.refused[0].errors] == [
        ("/v", "finite"), ("/w/0", "surrogate")]  # fmt: skip


def test_fail_names_the_line_and_what_to_do() -> None:
    with pytest.raises(DataRefusedError, match=r"stream 's', line 2: /id breaks `type`.*on_bad_record: quarantine"):
        batch(on_bad_record="fail").add(frame({"id": 1}, {"id": "x"}))
    with pytest.raises(MissingKeyError):
        batch(on_bad_record="fail").add(frame({"v": "a"}))


def test_discard_counts_and_keeps_nothing() -> None:
    one = batch(on_bad_record="discard")
    one.add(frame({"id": 1}, {"id": "x"}))
    assert (one.counts.quarantined, one.refused, one.rows) == (1, [], ["1,,"])


def test_a_frozen_type_change_stops_and_another_violation_does_not() -> None:
    one = batch(on_type_change="freeze")
    one.add(frame({"id": 1, "at": "never"}))
    with pytest.raises(DataRefusedError, match="on_type_change"):
        one.add(frame({"id": "x"}))


def test_frozen_columns_refuse_new_fields_but_no_metadata_of_the_tap() -> None:
    one = batch(on_new_column="freeze")
    one.add(frame({"id": 1, "new/field": 1}, {"id": 2, "_sdc_batched_at": "x"}))
    assert [(found["pointer"], found["rule"]) for found in one.refused[0].errors] == [("/new~1field", "new column")]
    assert one.rows == ["2,,"]


def refused(text: str, stream: str = "s", fingerprint: str = "f") -> Refused:
    return Refused(stream, "main.s", None, text, [], fingerprint)


def test_a_quarantine_id_tells_stream_contract_and_record_apart_and_is_stable() -> None:
    ids = {refused("a").id, refused("b").id, refused("a", stream="t").id, refused("a", fingerprint="g").id}
    assert len(ids) == 4
    assert refused("a").id == refused("a").id
    assert len(refused("a\ud800").id) == 32


def test_a_record_that_was_refused_twice_is_one_row_seen_twice() -> None:
    rows = quarantine_rows([refused("a"), refused("b"), refused("a")], "p", "l", "now")
    assert [(row[6], row[-1]) for row in rows] == [("a", 2), ("b", 1)]
