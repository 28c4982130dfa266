"""Values and names that break loaders: accepted exactly or quarantined with a reason, alike on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from resilient_core.errors import ConfigError, NotSingerError, ResilientError
from tests.target.support import Outcome, backend, line_of, load, plain, quarantined, raw_record, record, rows, schema

PEERS = Path(__file__).parents[3] / "shared" / "peer_cases"
needs_peers = pytest.mark.skipif(not PEERS.is_dir(), reason="the peers' files (../shared/peer_cases) are not here")

ANY = schema({"id": {"type": "integer"}, "v": {}}, ["id"])


@pytest.fixture
def destination(request: pytest.FixtureRequest, tmp_path: Path, destination: str) -> Iterator[str]:
    """As everywhere, but DuckDB's file is held open meanwhile: opening it again is cheap then."""
    held = duckdb.connect(destination.removeprefix("duckdb:///")) if destination.startswith("duckdb") else None
    yield destination
    if held is not None:
        held.close()


def verdicts(destination: str) -> dict[int, list[tuple[str, str]]]:
    """Record's id (first number in its text) → (pointer, rule) of each violation."""
    found = {}
    for text, errors in quarantined(destination):
        number = int("".join(c for c in text[: text.find(",")] if c.isdigit()))
        found[number] = [(error["pointer"], error["rule"]) for error in errors]
    return found


def decoded(value: Any, destination: str) -> Any:
    return json.loads(value) if isinstance(value, str) and destination.startswith("duckdb") else value


# values ---------------------------------------------------------------------------------------------------------------

DEEP = "[" * 3000 + "]" * 3000
VALUES: list[tuple[str, dict[str, Any], list[tuple[str, str]] | None]] = [
    # JSON text, schema of the field, violations (None: accepted)
    ('"a\\u0000b"', {"type": "string"}, [("/v", "nul")]),
    ('"a\\u0000b"', {}, [("/v", "nul")]),
    ('{"k": ["\\u0000"]}', {"type": "object"}, [("/v", "nul")]),
    ('"\\ud800"', {"type": "string"}, [("/v", "surrogate")]),
    ('["ok", {"k": "\\udfff"}]', {}, [("/v/1/k", "surrogate")]),
    ("NaN", {"type": "number"}, [("/v", "finite")]),
    ("Infinity", {"type": "number"}, [("/v", "finite")]),
    ("[1, -Infinity]", {}, [("/v/1", "finite")]),
    ("-0.0", {"type": "number"}, None),
    ("1e400", {"type": "number"}, [("/v", "precision")]),
    ("1e400", {"type": "integer"}, [("/v", "type")]),
    ("1e400", {}, None),
    ("1e99999999999999999999", {}, [("/v", "digits")]),
    ("1e-400", {"type": "number"}, [("/v", "precision")]),
    ("9" * 5000, {"type": "integer"}, [("/v", "digits")]),
    ("9" * 4000, {"type": "integer"}, [("/v", "range")]),
    ("9" * 4000, {}, None),
    ("9007199254740993", {"type": "number"}, [("/v", "precision")]),
    ("0.1000000000000000055511151231257827", {"type": "number"}, [("/v", "precision")]),
    ("9223372036854775808", {"type": "integer"}, [("/v", "range")]),
    ("9223372036854775808", {"type": "integer", "maximum": 10**30}, None),
    ("1.0", {"type": "integer"}, None),
    ("true", {"type": "integer"}, [("/v", "type")]),
    (DEEP, {}, [("", "depth")]),
    ("[" * 900 + "]" * 900, {"type": "string"}, [("", "unreadable")]),
    ("[" * 400 + "]" * 400, {}, None),
    ("[" * 200 + "]" * 200, {}, None),
    ('{"a": 1, "a": 2}', {}, None),
    ('"0000-01-01T00:00:00Z"', {"type": "string", "format": "date-time"}, [("/v", "date-time")]),
    ('"10000-01-01T00:00:00Z"', {"type": "string", "format": "date-time"}, [("/v", "date-time")]),
    ('"2024-01-01T24:00:00Z"', {"type": "string", "format": "date-time"}, [("/v", "date-time")]),
    ('"2016-12-31T23:59:60Z"', {"type": "string", "format": "date-time"}, [("/v", "date-time")]),
    ('"24:00:00"', {"type": "string", "format": "time"}, [("/v", "time")]),
    ('"23:59:60"', {"type": "string", "format": "time"}, [("/v", "time")]),
    ('"0000-01-01"', {"type": "string", "format": "date"}, [("/v", "date-time")]),
    ('"2024-02-30"', {"type": "string", "format": "date"}, [("/v", "date-time")]),
    ('""', {"type": "string"}, None),
    ('"\\\\N"', {"type": "string"}, None),
    ('"\\\\."', {"type": "string"}, None),
    ('"NULL"', {"type": "string"}, None),
    ('"\\r\\n\\t\\b\\f\\u0001\\u007f\\u2028"', {"type": "string"}, None),
    ('"\\ud83d\\ude00"', {"type": "string"}, None),
]


@pytest.mark.parametrize("place", ["alone", "among good ones"])
def test_each_hostile_value_gets_its_verdict_and_its_neighbours_are_loaded(destination: str, place: str) -> None:
    """One stream a value, so that each meets the column of its own schema."""
    lines: list[Any] = []
    for number, (text, field, _) in enumerate(VALUES):
        stream = f"s{number}"
        lines.append(schema({"id": {"type": "integer"}, "v": field}, ["id"], stream))
        lines.append(raw_record(f'{{"id": {number}, "v": {text}}}', stream))
        if place != "alone":
            lines.append(record({"id": 1000}, stream))
    if place == "alone":
        lines, kinds = lines[:], {json.dumps(field) for _, field, _ in VALUES}
        assert len(kinds) > 5
    outcome = load(destination, lines)
    assert outcome.error is None
    refused = {n: sorted(violations) for n, violations in verdicts(destination).items()}
    assert refused == {n: sorted(v) for n, (_, _, v) in enumerate(VALUES) if v is not None}
    for number, (text, _, violations) in enumerate(VALUES):
        found = dict(rows(destination, f"s{number}", "id", "v"))
        assert (number in found) == (violations is None)
        assert (1000 in found) == (place != "alone")
        if violations is None:
            assert same(found[number], json.loads(text, parse_float=Decimal)), text[:50]


def same(found: Any, value: Any) -> bool:
    """Whether a column gives the value back; DuckDB gives JSON as text."""
    if plain(found) == plain(value):
        return True
    return isinstance(found, str) and plain(json.loads(found, parse_float=Decimal)) == plain(value)


def test_of_duplicate_json_keys_the_last_counts(destination: str) -> None:
    load(destination, [schema({"id": {"type": "integer"}}, ["id"]), raw_record('{"id": 1, "id": 2}')])
    assert rows(destination, "s") == [(2,)]


def test_a_long_string_is_loaded_whole(destination: str) -> None:
    text = 'ä",' * 2_000_000
    load(destination, [ANY, record({"id": 1, "v": text}), record({"id": 2, "v": "short"})])
    found = dict(rows(destination, "s"))
    assert decoded(found[1], destination) == text


def test_a_null_in_the_only_column_is_a_row(destination: str) -> None:
    lines = [schema({"v": {"type": ["string", "null"]}}), record({"v": None}), record({"v": "x"}), record({"v": None})]
    assert load(destination, lines, keyless="append").error is None
    assert rows(destination, "s") == [("x",), (None,), (None,)]


def test_a_field_that_is_called_like_one_of_ours_is_kept_apart(destination: str) -> None:
    lines = [
        schema({"_sdc_row_hash": {"type": "string"}, "v": {"type": "string"}}),
        record({"_sdc_row_hash": "x", "v": "y"}),
    ]
    outcome = load(destination, lines)
    assert outcome.error is None
    assert rows(destination, "s", "v") == [("y",)]


# names ----------------------------------------------------------------------------------------------------------------

NAMES = [
    "", " ", "a b", 'quo"te', "back\\slash", "semi;colon", "{}", "%s", "%", "100%", "dot.ted", "com,ma", "new\nline",
    "tab\t", "nul\0", "select", "user", "order", "ORDER", "Order", "ünï", "UNI", "uni",
    "😀", "مرحبا", "\u202ertl",
    "x" * 63, "x" * 64, "x" * 65, "X" * 63, "ä" * 40, "ä" * 41, "'; DROP TABLE s; --", "$1", "?", ":name",
    "__proto__", "ß", "ss",
]  # fmt: skip


def test_hostile_field_names_each_get_a_column_and_keep_it(destination: str) -> None:
    properties = {"id": {"type": "integer"}} | {name: {"type": "string"} for name in NAMES}
    announced = schema(properties, ["id"])
    good = {name: f"value {number}" for number, name in enumerate(NAMES)}
    for _ in range(2):  # the second load finds the names that the first one gave
        assert load(destination, [announced, record({"id": 1, **good})]).error is None
    (row,) = rows(destination, "s")
    assert sorted(value for value in row if isinstance(value, str)) == sorted(good.values())
    assert len(row) == len(NAMES) + 1


def test_hostile_names_that_only_the_records_know_get_a_column_too(destination: str) -> None:
    good = {name: f"value {number}" for number, name in enumerate(NAMES)}
    announced = schema({"id": {"type": "integer"}}, ["id"])
    for number in (1, 2):
        assert load(destination, [announced, record({"id": number, **good})]).error is None
    found = rows(destination, "s")
    assert len(found) == 2
    for row in found:
        assert sorted(value for value in row if isinstance(value, str)) == sorted(good.values())


def test_hostile_stream_names_each_get_a_table_or_a_clear_refusal(destination: str) -> None:
    names = [name for name in NAMES if name and "\0" not in name]
    lines: list[Any] = []
    taken: set[str] = set()
    for number, name in enumerate(names):
        if name.casefold() in taken:
            continue  # two streams for one table are refused; tested below
        taken.add(name.casefold())
        lines += [schema({"id": {"type": "integer"}}, ["id"], name), record({"id": number}, name)]
        lines[-1]["version"] = 1
        lines += [{"type": "ACTIVATE_VERSION", "stream": name, "version": 1}]
    outcome = load(destination, lines)
    assert outcome.error is None
    opened = backend(destination)
    query = "SELECT count(*) FROM information_schema.tables WHERE table_schema = %s"
    ((tables,),) = opened.fetch(query, params=[opened.default_schema])
    opened.close()
    assert tables == len(taken)


@pytest.mark.parametrize(("one", "other"), [("Order", "ORDER"), ("a-Order", "a-order")])
def test_two_streams_for_one_table_are_refused(destination: str, one: str, other: str) -> None:
    outcome = load(destination, [schema({"id": {}}, [], one), schema({"id": {}}, [], other)])
    assert isinstance(outcome.error, ConfigError)
    assert "both load into table" in str(outcome.error)


@pytest.mark.parametrize("line", [schema({"id": {}}, stream="a\0b"), schema({"id": {}}, stream="\ud800"),
                                  schema({"id": {}}, stream="")], ids=["nul", "surrogate", "empty"])  # fmt: skip
def test_a_stream_name_that_no_table_can_have_is_refused(destination: str, line: Any) -> None:
    outcome = load(destination, [line])
    assert isinstance(outcome.error, NotSingerError)
    assert "line 1" in str(outcome.error)


@pytest.mark.parametrize("count", [1600, 1601])
def test_a_table_of_1600_columns_is_the_widest(destination: str, count: int) -> None:
    wide = schema({f"c{number}": {"type": "boolean"} for number in range(count)}, ["c0"])
    outcome = load(destination, [wide, record({"c0": True, "c1599": False})])
    if count == 1600:
        assert outcome.error is None
        assert rows(destination, "s", "c0", "c1", "c1599") == [(True, None, False)]
    else:
        assert isinstance(outcome.error, ConfigError)
        assert "1600" in str(outcome.error)


def test_more_new_fields_than_a_table_can_have_end_clearly(destination: str) -> None:
    lines = [ANY, record({"id": 1, **{f"c{number}": True for number in range(1700)}})]
    outcome = load(destination, lines)
    assert isinstance(outcome.error, ConfigError)
    assert "1600" in str(outcome.error)


# schemas --------------------------------------------------------------------------------------------------------------


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        found = {"anyOf": [found]}
    return found


SCHEMAS: list[Any] = [
    [], "x", 7, None, {}, {"properties": []}, {"properties": {"a": 7}}, {"properties": {"a": {"type": 7}}},
    {"properties": {"a": {"type": ["integer", "nonsense"]}}}, {"properties": {"a": {"$ref": "#/nowhere"}}},
    {"properties": {"a": {"$ref": "http://127.0.0.1:1/x"}}}, {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    {"properties": {"a": {"pattern": "("}}}, {"properties": {"a": nested(300)}}, {"properties": {"a": nested(400)}},
    {"properties": {"a": {"multipleOf": 0}}}, {"properties": {"a": {"type": "number", "multipleOf": "x"}}},
    {"properties": {"a": {"type": "number", "multipleOf": 1e-300}}}, {"properties": {"a": {"anyOf": 7}}},
    {"properties": {"a": {"type": {"integer": 1}}}}, {"properties": {"a": {"format": 7, "type": "string"}}},
    {"properties": {"a": {"minimum": "x", "type": "integer"}}}, {"properties": {"a": {"type": [["integer"]]}}},
    {"properties": {}}, {"$schema": "nonsense", "properties": {"a": {}}}, {"$schema": 7, "properties": {"a": {}}},
    {"properties": {"a": {"type": "integer"}}, "x-contract": 7},
    {"properties": {"a": {"type": "integer"}}, "x-contract": {"on_bad_record": "nonsense"}},
]  # fmt: skip


@pytest.mark.parametrize("hostile", SCHEMAS, ids=map(str, range(len(SCHEMAS))))
@pytest.mark.parametrize("declared", [False, True], ids=["foreign", "contract"])
def test_a_hostile_schema_is_loaded_or_refused_with_one_clear_error(
    destination: str, hostile: Any, declared: bool
) -> None:
    if declared and isinstance(hostile, dict):
        hostile = {"x-contract": {"version": "1"}, **hostile}
    announced = {"type": "SCHEMA", "stream": "s", "schema": hostile, "key_properties": []}
    outcome = load(destination, [announced, record({"a": 1})])
    assert_clear(outcome)


def assert_clear(outcome: Outcome) -> None:
    """No error, or one of ours that a user can act on: never a bug (70)."""
    if outcome.error is not None:
        assert isinstance(outcome.error, ResilientError), repr(outcome.error)
        assert outcome.error.code in {65, 76, 78}, repr(outcome.error)


@pytest.mark.parametrize("message", [
    {"type": "SCHEMA", "stream": "s", "schema": {"properties": {"a": {}}}, "key_properties": ["b"]},
    {"type": "SCHEMA", "stream": "s", "schema": {"properties": {"a": {}}}, "key_properties": ["a", "a"]},
    {"type": "SCHEMA", "stream": "s", "schema": {"properties": {"a": {}}}, "key_properties": "a"},
    {"type": "SCHEMA", "stream": "s", "schema": {"properties": {"a": {}}}, "key_properties": [["a"]]},
    {"type": "SCHEMA", "stream": "s", "schema": {"properties": {"a": {}}}, "bookmark_properties": [1]},
    {"type": "SCHEMA", "stream": "s", "schema": {"properties": {"a": {}}}, "bookmark_properties": ["b"]},
    {"type": "SCHEMA", "stream": "s"}, {"type": "SCHEMA"}, {"type": "STATE"}, {"type": "STATE", "value": None},
    {"type": "STATE", "value": "\0"}, {"type": "STATE", "value": [1]}, {"type": "STATE", "value": "x"},
    {"type": "ACTIVATE_VERSION", "stream": "s", "version": 1}, {"type": "ACTIVATE_VERSION", "stream": "s"},
    {"type": "BATCH", "stream": "s", "encoding": {"format": "parquet"}, "manifest": []},
    {"type": "BATCH", "stream": "s", "encoding": {"format": "jsonl"}, "manifest": ["file:///nowhere"]},
    {"type": "RECORD"}, {"type": "RECORD", "stream": "s"}, {"type": "RECORD", "stream": "s", "record": None},
    {"type": "NONSENSE"}, {"type": None}, {}, [], 7, None, "x", b"\xff\n", b"\0\n", b"}\n", b"<html>\n",
], ids=lambda found: repr(found)[:70])  # fmt: skip
def test_a_hostile_message_is_taken_or_refused_with_one_clear_error(destination: str, message: Any) -> None:
    lines = [ANY, record({"id": 1, "v": 1}), message, record({"id": 2, "v": 1}), {"type": "STATE", "value": 1}]
    assert_clear(load(destination, lines))


def test_a_state_with_nul_and_huge_numbers_comes_out_as_it_came(destination: str) -> None:
    outcome = load(destination, [b'{"type": "STATE", "value": {"a": "\\u0000", "b": 1e400, "c": 1.10}}'])
    assert outcome.error is None
    assert outcome.states == [{"a": "\0", "b": float("inf"), "c": 1.1}]


# naughty strings ------------------------------------------------------------------------------------------------------


def naughty() -> list[str]:
    path = PEERS / "minimaxir__big-list-of-naughty-strings" / "blns.json"
    return list(dict.fromkeys(json.loads(path.read_text(encoding="utf-8"))))


@needs_peers
def test_naughty_strings_are_exact_as_values_as_keys_and_within_json(destination: str) -> None:
    strings = naughty()
    text, keyed = {"type": "string"}, schema({"k": {"type": "string"}}, ["k"], "keyed")
    lines: list[Any] = [schema({"id": {"type": "integer"}, "t": text, "j": {}}, ["id"], "values"), keyed]
    lines += [record({"id": n, "t": s, "j": {"inner": [s]}}, "values") for n, s in enumerate(strings)]
    lines += [record({"k": s}, "keyed") for s in strings]
    for size in ({}, {"batch_size_rows": 100}):
        assert load(destination, lines, **size).error is None
    assert quarantined(destination) == []
    found = {n: (t, decoded(j, destination)) for n, t, j in rows(destination, "values", "id", "t", "j")}
    assert found == {n: (s, {"inner": [s]}) for n, s in enumerate(strings)}
    assert {k for (k,) in rows(destination, "keyed")} == set(strings)


@needs_peers
def test_naughty_strings_as_field_names_each_get_a_column(destination: str) -> None:
    strings = naughty()
    parts = [strings[start : start + 150] for start in range(0, len(strings), 150)]
    lines: list[Any] = []
    for number, part in enumerate(parts):
        lines.append(schema({"id": {"type": "integer"}}, ["id"], f"s{number}"))
        lines.append(record({"id": 1, **dict.fromkeys(part, 7)}, f"s{number}"))
    assert load(destination, lines).error is None
    for number, part in enumerate(parts):
        (row,) = rows(destination, f"s{number}")
        assert row.count(7) == len(part)


@needs_peers
def test_naughty_strings_as_stream_names_each_get_a_table_or_a_clear_refusal(destination: str) -> None:
    for name in naughty()[::12]:
        outcome = load(destination, [schema({"id": {}}, stream=name), record({"id": 1}, stream=name)])
        assert_clear(outcome)
        assert (outcome.error is None) == bool(name)


# JSONTestSuite --------------------------------------------------------------------------------------------------------


@needs_peers
def test_json_test_suite_as_record_values_is_accepted_exactly_or_refused_with_a_reason(destination: str) -> None:
    folder = PEERS / "nst__JSONTestSuite" / "test_parsing"
    paths = [path for path in sorted(folder.glob("*.json")) if b"\n" not in path.read_bytes().strip()]
    accepted = [path for path in paths if path.name.startswith("y_")]
    lines: list[bytes] = [line_of(ANY)]
    for number, path in enumerate(accepted):
        lines.append(raw_record(b'{"id":%d,"v":' % number + path.read_bytes().strip() + b"}"))
    assert load(destination, b"".join(lines)).error is None
    found = dict(rows(destination, "s", "id", "v"))
    refused = verdicts(destination)
    assert len(found) + len(refused) == len(accepted)
    for number, path in enumerate(accepted):
        if number in refused:
            assert {rule for _, rule in refused[number]} <= {"nul", "finite", "surrogate"}, path.name
        else:
            assert same_json(decoded(found[number], destination), json.loads(path.read_bytes())), path.name


def same_json(found: Any, value: Any) -> bool:
    return plain(found) == plain(value)


@needs_peers
def test_json_test_suite_s_bad_texts_end_in_quarantine_or_in_one_clear_error(destination: str) -> None:
    folder = PEERS / "nst__JSONTestSuite" / "test_parsing"
    texts = {path.name: path.read_bytes() for path in sorted(folder.glob("[ni]_*.json"))}
    assert len(texts) > 200
    survivors: list[bytes] = []
    for name, text in texts.items():
        line = b'{"type":"RECORD","stream":"s","record":{"id":1,"v":' + text + b"}}\n"
        try:
            list(read(line))
        except NotSingerError:
            continue
        except Exception as error:  # pragma: no cover
            pytest.fail(f"{name}: {error!r}")
        survivors.append(line)
    assert len(survivors) > 100
    outcome = load(destination, line_of(ANY) + b"".join(survivors))
    assert outcome.error is None
    assert len(quarantined(destination)) > 100


def read(line: bytes) -> Iterator[Any]:
    import io

    from target_resilient.reader import read_events

    return read_events(io.BytesIO(line))
