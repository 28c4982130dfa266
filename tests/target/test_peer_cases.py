"""Singer files of other projects: every batch size, once and twice, on both databases, give the rows that they should.

Deleted rows stay with their mark, as is our default. An empty refresh wipes nothing. What the peers load by options of
their own is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest

from resilient_core.errors import NotSingerError
from target_resilient.config import config_faults
from target_resilient.planner import RecordBeforeSchemaError
from tests.target.support import Outcome, backend, load, quarantined

PEERS = Path(__file__).parents[3] / "shared" / "peer_cases"
pytestmark = pytest.mark.skipif(not PEERS.is_dir(), reason="the peers' files (../shared/peer_cases) are not here")

SDK = PEERS / "meltano__sdk" / "target_test_streams"
LABS = PEERS / "MeltanoLabs__target-postgres" / "data_files"
WISE = PEERS / "transferwise__pipelinewise-target-postgres" / "resources"
BATCHES = ((1, 2), (None, 5), (2, 1), (5, None))  # batch_size_rows of the first load and of the second


@dataclass(frozen=True)
class Case:
    """Files loaded one after the other, and what the tables must show: rows, of these marked as deleted, refused."""

    files: tuple[Path, ...]
    rows: dict[str, int]
    values: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    """`table.column,column` → rows that must be there."""
    marked: dict[str, int] = field(default_factory=dict)
    refused: tuple[tuple[str, str], ...] = ()
    hard_delete: bool = False

    def __str__(self) -> str:
        return "+".join(f"{path.parent.parent.name[:2]}-{path.stem}" for path in self.files)


def twice(name: str, *args: Any, labs: str = "", **kwargs: Any) -> list[Case]:
    """A case that the SDK and MeltanoLabs both have."""
    return [Case((SDK / f"{name}.singer",), *args, **kwargs), Case((LABS / f"{labs or name}.singer",), *args, **kwargs)]


CASES = [
    Case((SDK / "array_data.singer",), {"test_array_data": 4},
         {"test_array_data.id,fruits": [(1, ["apple", "orange", "pear"])]}),
    Case((LABS / "array_data.singer",), {"test_carts": 4}),
    *twice("camelcase", {"TestCamelcase": 2}),
    *twice("camelcase_complex_schema", {"ForecastingTypeToCategory": 0}),
    *twice("duplicate_records", {"test_duplicate_records": 2},
           {"test_duplicate_records.id,metric": [(1, 100), (2, 20)]}),
    Case((SDK / "encoded_string_data.singer",),
         {"test_strings": 10, "test_strings_in_objects": 10, "test_strings_in_arrays": 5},
         refused=(("/info", "nul"), ("/info", "nul"), ("/strings", "nul"))),
    Case((LABS / "encoded_strings.singer",),
         {"test_strings": 11, "test_strings_in_objects": 11, "test_strings_in_arrays": 6}),
    *twice("multiple_state_messages", {"test_multiple_state_messages_a": 6, "test_multiple_state_messages_b": 6}),
    Case((SDK / "no_primary_keys.singer", SDK / "no_primary_keys_append.singer"), {"test_no_pk": 8}),
    Case((LABS / "test_no_pk.singer", LABS / "test_no_pk_append.singer"), {"test_no_pk": 8}),
    *twice("optional_attributes", {"test_optional_attributes": 4},
           {"test_optional_attributes.id,optional": [(2, None), (4, None)]}),
    Case((SDK / "pk_updates.singer",), {"example_stream": 2}),
    Case((SDK / "record_missing_fields.singer",), {"record_missing_fields": 2},
         {"record_missing_fields.id,optional": [(2, None)]}),
    *twice("record_missing_key_property", {"test_record_missing_key_property": 0}, refused=(("/id", "key"),)),
    *twice("record_missing_required_property", {"test_record_missing_required_property": 0},
           refused=(("/id", "required"),)),
    *twice("schema_no_properties", {"test_object_schema_with_properties": 2, "test_object_schema_no_properties": 2}),
    *twice("schema_updates", {"test_schema_updates": 6},
           {"test_schema_updates.id,a1,a2,a3,a4,a5,a6": [
               (1, 101.0, "string1", None, None, None, None),
               (6, 106.0, "string6", True, {"id": 4, "value": 444}, ["banana", "orange"], 341)]}),
    *twice("special_chars_in_attributes", {"test:SpecialChars!in?attributes": 1},
           {"test:SpecialChars!in?attributes.d":
               [({"env": "prod", "agent:type": "desktop", "agent:os:version": "10.13.1"},)]}),
    *(Case((folder / "user_location_data.singer", folder / "user_location_upsert_data.singer"),
           {"test_users": 8, "test_locations": 5, "test_user_in_location": 5},
           {"test_users.id,name": [(1, "Johny"), (13, "Mary")],
            "test_locations.id,name": [(1, "Philly"), (8, "Boston")]})
      for folder in (SDK, LABS)),
    Case((LABS / "base16_content_encoding_not_interpreted.singer",), {"test_base_16_encoding_not_interpreted": 7},
         {"test_base_16_encoding_not_interpreted.id,contract_address":
             [("empty_0x_str", "0x"), ("test_handle_upper_and_lowercase_hex", "0xa1")]}),
    Case((LABS / "base16_content_encoding_interpreted.singer",), {"test_base_16_encoding_interpreted": 7}),
    Case((LABS / "commits.singer",), {"commits": 30}),
    Case((LABS / "jsonb_data.singer",), {"test_jsonb_data": 2},
         {"test_jsonb_data.id,event_data": [(1, None), (2, {"test": {"test_name": "test_value"}})]}),
    Case((LABS / "large_int.singer",), {"test_large_int": 2}, {"test_large_int.id": [(99999999999999999,)]}),
    Case((LABS / "large_numeric_primary_key.singer",), {"test_large_numeric_primary_key": 1},
         {"test_large_numeric_primary_key.id": [(34639314995,)]}),
    Case((LABS / "missing_value.singer",), {"test_missing_value": 5}, {"test_missing_value.id,name": [(5, None)]}),
    Case((LABS / "multiple_schema_messages.singer",), {"test_multiple_schema_messages": 6}),
    Case((LABS / "new_array_column.singer",), {"test_new_array_column": 1},
         {"test_new_array_column.id,arr": [(1, None)]}),
    Case((LABS / "reserved_keywords.singer",), {"reserved_keywords": 1}),
    Case((LABS / "tap_aapl.singer",), {"aapl": 1}),  # a line of 1.8 MB
    Case((LABS / "tap_countries.singer",), {"continents": 7, "countries": 250}),
    Case((LABS / "test_activate_version_hard.singer",), {"test_activate_version_hard": 7}, hard_delete=True),
    Case((LABS / "test_activate_version_soft.singer", LABS / "test_activate_version_soft_with_delete.singer"),
         {"test_activate_version_soft": 7}, marked={"test_activate_version_soft": 1}),
    Case((LABS / "test_activate_version_deletes_data_properly.singer",
          LABS / "test_activate_version_deletes_data_properly_2.singer"),
         {"test_activate_version_deletes_data_properly": 7}),
    Case((LABS / "test_activate_version_uppercase_stream_name.singer",), {"Account": 7}),
    Case((LABS / "test_no_type.singer",), {"test_no_type": 15}),
    Case((LABS / "uppercase_stream_name_with_column_alter.singer",), {"Uppercase_stream_name_with_column_alter": 2},
         {"Uppercase_stream_name_with_column_alter.Id,clientNumber": [("1", "1"), ("2", "2")]}),
    Case((WISE / "messages-with-multiple-streams.json",),
         {"test_table_one": 1, "test_table_two": 2, "test_table_three": 3, "test_table_four": 3},
         marked={"test_table_two": 1, "test_table_three": 1, "test_table_four": 1}),
    Case((WISE / "messages-with-multiple-streams.json",),
         {"test_table_one": 1, "test_table_two": 1, "test_table_three": 2, "test_table_four": 2}, hard_delete=True),
    Case((WISE / "messages-with-multiple-streams.json", WISE / "messages-with-multiple-streams-modified-column.json"),
         {"test_table_one": 1, "test_table_two": 3, "test_table_three": 4, "test_table_four": 3},
         {"test_table_three.c_pk,c_time_renamed": [(1, None)]}),
    Case((WISE / "messages-with-nested-schema.json",), {"test_table_nested_schema": 1},
         {"test_table_nested_schema.c_array,c_object": [([1, 2, 3], {"key_1": "value_1"})]}),
    Case((WISE / "messages-with-non-db-friendly-columns.json",), {"test_table_non_db_friendly_columns": 5},
         {"test_table_non_db_friendly_columns.camelcaseColumn,minus-column": [("Dummy row 1", "Dummy row 1")]}),
    Case((WISE / "messages-with-reserved-name-as-table-name.json",), {"order": 4}, marked={"order": 2}),
    Case((WISE / "messages-with-reserved-name-as-table-name.json",), {"order": 2}, hard_delete=True),
    Case((WISE / "messages-with-space-in-table-name.json",), {"table with space and UPPERCase": 4},
         marked={"table with space and UPPERCase": 2}),
    Case((WISE / "messages-with-unicode-characters.json",), {"test_table_unicode": 6}),
    Case((WISE / "messages-with-long-texts.json",), {"test_table_long_texts": 5}),
    Case((WISE / "messages-with-invalid-records.json",), {"test_table_invalid_record": 7},
         refused=(("/c_pk", "type"),)),
    Case((WISE / "messages-pg-logical-streams.json",),
         {"logical1_edgydata": 19, "logical1_table1": 4, "logical1_table2": 20, "logical2_table1": 3},
         marked={"logical1_edgydata": 0, "logical1_table1": 0, "logical1_table2": 12, "logical2_table1": 0}),
    Case((WISE / "messages-pg-logical-streams-no-records.json",),
         {"logical1_edgydata": 0, "logical1_table1": 0, "logical1_table2": 0, "logical2_table1": 0}),
    Case((WISE / "logical-streams.json",), {"logical1_table2": 20}),
]  # fmt: skip


@pytest.fixture
def databases(postgres_server: str, tmp_path: Path) -> Iterator[list[str]]:
    """A database of each kind; each case has schemas of its own, and the server goes when the session ends.

    DuckDB's file is held open meanwhile, which makes opening it again cheap.
    """
    path = tmp_path / "test.duckdb"
    held = duckdb.connect(str(path))
    yield [f"duckdb:///{path}", postgres_server]
    held.close()


Contents = dict[str, list[dict[str, Any]]]


def contents(destination: str, schema: str) -> Contents:
    """Every table of a schema without our own columns, JSON decoded, in one order."""
    opened = backend(destination)
    try:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
        return {name: table_rows(opened, schema, name) for (name,) in opened.fetch(query, params=[schema])}
    finally:
        opened.close()


def table_rows(opened: Any, schema: str, name: str) -> list[dict[str, Any]]:
    facts = opened.describe((schema, name))
    kept = {c.name: c.kind for c in facts.columns.values() if c.name == "_sdc_deleted_at" or c.name[:5] != "_sdc_"}
    marks = ", ".join("{}" for _ in kept)
    found = opened.fetch(f"SELECT {marks} FROM {{}}", [*((column,) for column in kept), (schema, name)])
    texts = {name for name, kind in kept.items() if kind == "json" and opened.default_schema == "main"}
    decoded = [
        {column: plain(value, column, column in texts) for column, value in zip(kept, row, strict=True)}
        for row in found
    ]
    return sorted(decoded, key=lambda row: json.dumps(row, default=str, sort_keys=True))


def plain(value: Any, column: str, as_text: bool) -> Any:
    """A value as Python has it: JSON decoded; of a mark only whether there is one, since it holds the hour."""
    if column == "_sdc_deleted_at":
        return value is not None
    return json.loads(value) if as_text and value is not None else value


def load_case(case: Case, destination: str, schema: str, batch: int | None) -> list[Outcome]:
    size = {} if batch is None else {"batch_size_rows": batch}
    names = {"default_target_schema": schema, "meta_schema": f"{schema}_meta", "pipeline": schema}
    size |= {"hard_delete": case.hard_delete}
    return [load(destination, path.read_bytes(), **names, **size) for path in case.files]


def states_in(path: Path) -> list[Any]:
    messages = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    return [message["value"] for message in messages if message["type"] == "STATE"]


def batches(case: Case) -> tuple[tuple[int | None, int | None], ...]:
    """All sizes in both places, or for large files each size once."""
    large = sum(path.stat().st_size for path in case.files) > 40_000
    return BATCHES[:2] if large else BATCHES


def check_states(case: Case, outcomes: list[Outcome]) -> None:
    """No error; the states come out in order, and the last one is the file's last."""
    for path, outcome in zip(case.files, outcomes, strict=True):
        assert outcome.error is None
        written = iter(states_in(path))
        assert all(any(state == known for known in written) for state in outcome.states)
        assert outcome.states[-1:] == states_in(path)[-1:]


def check_rows(case: Case, found: Contents) -> None:
    assert {table: len(rows) for table, rows in found.items()} == case.rows
    for place, expected in case.values.items():
        table, _, names = place.rpartition(".")
        shown = [tuple(row[name] for name in names.split(",")) for row in found[table]]
        for row in expected:
            assert row in shown
    for table, marked in case.marked.items():
        assert sum(row["_sdc_deleted_at"] for row in found[table]) == marked


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_peer_s_file_gives_its_rows_at_every_batch_size_once_and_twice(case: Case, databases: list[str]) -> None:
    seen: list[Contents] = []
    for destination in databases:
        for number, (first, second) in enumerate(batches(case)):
            schema = f"peer{CASES.index(case)}_{number}"
            check_states(case, load_case(case, destination, schema, first))
            once = contents(destination, schema)
            check_rows(case, once)
            check_states(case, load_case(case, destination, schema, second))
            assert contents(destination, schema) == once
            refused = quarantined(destination, f"{schema}_meta")
            reasons = sorted({(e["pointer"], e["rule"]) for _, errors in refused for e in errors})
            assert (reasons, len(refused)) == (sorted(set(case.refused)), len(case.refused))
            seen.append(once)
    assert all(found == seen[0] for found in seen)


@pytest.mark.parametrize("path", [SDK / "invalid_schema.singer", LABS / "invalid_schema.singer"], ids=str)
def test_a_schema_without_properties_fails_before_any_ddl(path: Path, destination: str) -> None:
    outcome = load(destination, path.read_bytes(), default_target_schema="peer")
    assert isinstance(outcome.error, NotSingerError)
    assert "has no `properties`" in str(outcome.error)
    assert contents(destination, "peer") == {}


@pytest.mark.parametrize("path", [SDK / "record_before_schema.singer", LABS / "record_before_schema.singer"], ids=str)
def test_a_record_before_its_schema_writes_nothing(path: Path, destination: str) -> None:
    outcome = load(destination, path.read_bytes(), default_target_schema="peer")
    assert isinstance(outcome.error, RecordBeforeSchemaError)
    assert contents(destination, "peer") == {}


def test_messages_out_of_order_fail_and_name_the_line(destination: str) -> None:
    outcome = load(destination, (WISE / "invalid-message-order.json").read_bytes(), default_target_schema="peer")
    assert isinstance(outcome.error, RecordBeforeSchemaError)
    assert "line 3" in str(outcome.error)


def test_a_malformed_line_fails_and_is_not_echoed(destination: str) -> None:
    outcome = load(destination, (WISE / "invalid-json.json").read_bytes(), default_target_schema="peer")
    assert isinstance(outcome.error, NotSingerError)
    assert "line 3" in str(outcome.error)
    assert "THIS IS A TEST INPUT" not in str(outcome.error)


def test_the_unicode_strings_and_long_texts_are_exact(destination: str) -> None:
    for name in ("messages-with-unicode-characters.json", "messages-with-long-texts.json"):
        path = WISE / name
        load(destination, path.read_bytes(), default_target_schema="peer")
        messages = [json.loads(line) for line in path.read_bytes().splitlines()]
        expected = {m["record"]["c_pk"]: m["record"]["c_varchar"] for m in messages if m["type"] == "RECORD"}
        table = "test_table_unicode" if "unicode" in name else "test_table_long_texts"
        assert {row["c_pk"]: row["c_varchar"] for row in contents(destination, "peer")[table]} == expected


def test_values_without_a_type_survive_the_round_trip(destination: str) -> None:
    path = LABS / "test_no_type.singer"
    load(destination, path.read_bytes(), default_target_schema="peer")
    messages = [json.loads(line) for line in path.read_bytes().splitlines()]
    expected = {m["record"]["Id"]: m["record"]["NewValue"] for m in messages if m["type"] == "RECORD"}
    found = {row["Id"]: row["NewValue"] for row in contents(destination, "peer")["test_no_type"]}
    assert found == expected


def test_flattening_makes_columns_of_nested_properties(destination: str) -> None:
    path = WISE / "messages-with-nested-schema.json"
    options = {"flattening_enabled": True, "flattening_max_depth": 10}
    outcome = load(destination, path.read_bytes(), default_target_schema="peer", **options)
    assert outcome.error is None
    (row,) = contents(destination, "peer")["test_table_nested_schema"]
    assert row["c_nested_object__nested_prop_3__multi_nested_prop_1"] == "multi_value_1"


def test_a_row_that_a_refresh_marked_is_not_touched_again(destination: str) -> None:
    def mark() -> Any:
        opened = backend(destination)
        query = "SELECT _sdc_deleted_at FROM test_activate_version_soft WHERE code = 'SA'"
        ((found,),) = opened.fetch(query)
        opened.close()
        return found

    load(destination, (LABS / "test_activate_version_soft.singer").read_bytes())
    assert mark() is None
    load(destination, (LABS / "test_activate_version_soft_with_delete.singer").read_bytes())
    marked = mark()
    load(destination, (LABS / "test_activate_version_soft_with_delete.singer").read_bytes())
    assert marked is not None
    assert mark() == marked


@pytest.mark.parametrize("option", ["interpret_content_encoding", "data_flattening_max_level", "primary_key_required"])
def test_a_peer_s_own_option_is_refused_by_name(option: str) -> None:
    (fault,) = config_faults({option: True})
    assert fault.where == option
    assert "unknown setting" in fault.message
