"""Which column a schema asks for, and that what an encoder lets through is what both databases give back."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from target_resilient.backends import Backend, ColumnFacts
from target_resilient.columns import (
    Column,
    RefusedValueError,
    column_for,
    column_seen,
    encode,
    key_values,
    order_values,
    parse_timestamp,
)
from target_resilient.sql import columns, join, sql
from tests.target.support import backend, exact, plain

UTC = timezone.utc
BIG = 2**63


# which column ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "integer"}, "bigint"),
        ({"type": ["null", "integer"]}, "bigint"),
        ({"type": "integer", "maximum": 10**30}, "numeric"),
        ({"type": "number"}, "double"),
        ({"type": ["integer", "number"]}, "double"),
        ({"type": "number", "multipleOf": 0.01}, "numeric"),
        ({"type": "boolean"}, "boolean"),
        ({"type": "string"}, "text"),
        ({"type": "string", "format": "date-time"}, "timestamptz"),
        ({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}, "timestamptz"),
        ({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "string"}]}, "text"),
        ({"type": "string", "format": "date"}, "date"),
        ({"type": "string", "format": "time"}, "time"),
        ({"type": "string", "format": "singer.decimal"}, "numeric"),
        ({"type": "string", "format": "email"}, "text"),
        ({"type": ["string", "integer"]}, "text"),
        ({"type": ["string", "array"]}, "json"),
        ({"type": "object"}, "json"),
        ({"anyOf": [{"type": "string"}, {}]}, "json"),
        ({"type": "null"}, "json"),
        ({}, "json"),
        (True, "json"),
    ],
    ids=str,
)
def test_the_schema_chooses_the_column(schema: Any, kind: str) -> None:
    assert column_for("a", "a", schema, declared=False).kind == kind


def test_a_foreign_uuid_is_text_and_a_contract_s_is_uuid() -> None:
    schema = {"type": "string", "format": "uuid"}
    assert column_for("a", "a", schema, declared=False).kind == "text"
    assert column_for("a", "a", schema, declared=True).kind == "uuid"


def test_multiple_of_gives_the_scale() -> None:
    assert column_for("a", "a", {"type": "number", "multipleOf": 0.001}, declared=True).scale == 3
    assert column_for("a", "a", {"type": "number", "multipleOf": 5}, declared=True).scale == 0


@pytest.mark.parametrize(
    ("values", "kind"),
    [([1, 2], "bigint"), ([1, 2.5], "double"), (["a", None], "text"), ([True], "boolean"), ([1, "a"], "json"),
     ([[1]], "json"), ([Decimal("0.1")], "numeric")],
    ids=str,
)  # fmt: skip
def test_values_seen_choose_the_column_that_no_schema_names(values: Sequence[Any], kind: str) -> None:
    column = column_seen("a", "a", values)
    assert column is not None
    assert column.kind == kind


def test_nulls_alone_choose_no_column() -> None:
    assert column_seen("a", "a", [None, None]) is None


def test_the_database_s_own_type_decides_what_fits() -> None:
    found = Column("a", "a", "bigint").as_found(ColumnFacts("A", "bigint", "integer", low=-(2**31), high=2**31 - 1))
    refused: dict[int, str] = {}
    encode(found, [2**31 - 1, 2**31], refused)
    assert (found.name, refused) == ("A", {1: "range"})


# round trip through both databases ------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text("\",\n\r\\ \t;'N", max_size=8)
instants = st.datetimes(
    datetime(1, 1, 2),
    datetime(9999, 12, 30),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
    | texts.filter(lambda text: "\0" not in text),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts.filter(lambda text: "\0" not in text), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


# kind -> (values, what the database must give back)
KINDS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "bigint": (st.integers(-BIG - 5, BIG + 5) | st.floats(-1e20, 1e20) | st.booleans() | st.just("1"), int),
    "double": (st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**25), 10**25), float),
    "numeric": (
        st.decimals(allow_nan=False, allow_infinity=False, places=20)
        | st.decimals(allow_nan=False, allow_infinity=False)
        | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["1.50", "1e3", "abc", "NaN", "-0", "1E+999999999", "1E-999999999", ""]),
        exact,
    ),
    "text": (texts, str),
    "boolean": (st.booleans() | st.just(1), bool),
    "timestamptz": (
        instants.map(datetime.isoformat) | instants.map(lambda i: i.astimezone(UTC).isoformat().replace("+00:00", "Z"))
        | st.sampled_from(["2024-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "24:00:00",
                           "2016-12-31T23:59:60Z", "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00",
                           "2024-01-01 10:00:00", "2024-01-01T10:00:00+0000", "2024-01-01T00:00:00.123456789Z"]),
        parse_timestamp,
    ),
    "date": (st.dates().map(date.isoformat) | st.sampled_from(["2024-01-01T00:00:00Z", "2024-13-01", "0000-01-01"]),
             lambda text: date.fromisoformat(text[:10])),
    "time": (st.times().map(time.isoformat) | st.sampled_from(["24:00:00", "23:59:60", "10:00:00Z", "10:00:00+02:00"]),
             lambda text: time.fromisoformat(text.rstrip("Z"))),
    "uuid": (st.uuids().map(str) | st.uuids().map(lambda u: u.hex.upper()) | st.just("zz"), uuid.UUID),
    "json": (json_values, plain),
}  # fmt: skip


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory, postgres_server: str) -> Iterator[list[Backend]]:
    """One database of each kind with a table of a key and one column of every kind."""
    opened = [
        backend(f"duckdb:///{tmp_path_factory.mktemp('columns')}/test.duckdb"),
        backend(postgres_server),
    ]
    for one in opened:
        for kind in KINDS:
            shape = "(38, 18)" if kind == "numeric" else ""
            one.execute(f"CREATE TABLE {{}} (n bigint, a {one.types[kind]}{shape})", [(f"column_{kind}",)])
    yield opened
    for one in opened:
        for kind in KINDS:
            one.execute("DROP TABLE {}", [(f"column_{kind}",)])
        one.close()


def given_back(one: Backend, kind: str, fields: list[str]) -> list[Any]:
    """The values that the database reads from CSV fields."""
    text = "CAST({} AS text)" if kind in {"json", "timestamptz"} else "{}"
    lines = [f"{number},{field}" for number, field in enumerate(fields)]
    with one.transaction() as session:
        name, arrived = session.stage((one.default_schema, f"column_{kind}"), ["n", "a"], lines)
        found = session.rows(join("", [sql(f"SELECT {text} FROM {{}} ORDER BY n", "a", name)]))
    assert arrived == len(fields)
    return [row[0] for row in found]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_encoder_lets_through_comes_back_equal_from_both_databases(kind: str, backends: list[Backend]) -> None:
    strategy, expected = KINDS[kind]
    column = Column("a", "a", kind)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.none() | strategy, min_size=1, max_size=40))
    def check(values: list[Any]) -> None:
        refused: dict[int, str] = {}
        fields = encode(column, values, refused)
        assert len(fields) == len(values)
        kept = [row for row in range(len(values)) if row not in refused]
        if not kept:
            return
        for one in backends:
            back = given_back(one, kind, [fields[row] for row in kept])
            for row, found in zip(kept, back, strict=True):
                if values[row] is None:
                    assert found is None
                else:
                    assert comparable(kind, found) == expected(values[row]), one.default_schema

    check()


def comparable(kind: str, found: Any) -> Any:
    if kind == "json":
        return plain(json.loads(found, parse_float=Decimal))
    if kind == "uuid":
        return uuid.UUID(str(found))
    if kind == "timestamptz":
        return parse_timestamp(found)
    return found


def test_a_single_nullable_column_keeps_its_nulls(backends: list[Backend]) -> None:
    for one in backends:
        with one.transaction() as session:
            name, arrived = session.stage((one.default_schema, "column_text"), ["a"], ["", '"x"', '""', ""])
            assert arrived == 4
            assert session.rows(sql("SELECT count(*), count(a) FROM {}", name)) == [(4, 2)]


# fast path = slow path ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_at_once_is_encoded_as_value_by_value(kind: str) -> None:
    """A second value of another type forces the slow path; the first must come out the same."""
    strategy, _ = KINDS[kind]
    column = Column("a", "a", kind)
    odd = [0] if kind == "text" else ["\0"] if kind == "json" else [object]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(strategy, min_size=1, max_size=5))
    def check(values: list[Any]) -> None:
        at_once: dict[int, str] = {}
        together = encode(column, values, at_once)
        for row, value in enumerate(values):
            alone: dict[int, str] = {}
            field = encode(column, [value, *odd], alone)[0]
            assert (0 in alone) == (row in at_once)
            if row not in at_once:
                assert key_of(column, value, field) == key_of(column, value, together[row])

    check()


def key_of(column: Column, value: Any, field: str) -> Any:
    return key_values(column, [value], [field])[0]


@pytest.mark.parametrize(
    ("kind", "values", "rule"),
    [
        ("bigint", [2**63, -(2**63) - 1, 1e19], "range"),
        ("bigint", [1.5, True, "1", Decimal("1e400"), [1]], "type"),
        ("double", [2**53 + 1, 10**400, Decimal("0.1000000000000000000001"), Decimal("1e400")], "precision"),
        ("double", ["1", False, {}], "type"),
        ("numeric", [10**20, Decimal("1e400"), "1E+999999999"], "range"),
        ("numeric", [Decimal("1e-19"), "0." + "1" * 19, "12345678901234567890.1234567890123456789"], "precision"),
        ("numeric", ["", "abc", "NaN", "Infinity", "-Infinity"], "decimal"),
        ("numeric", [True, [], {}], "type"),
        ("text", ["a\0b", "\0"], "nul"),
        ("json", ["a\0b", {"k": ["\0"]}, {"\0": 1}], "nul"),
        ("boolean", [1, 0, "true"], "type"),
        ("timestamptz", ["0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "2024-01-01T24:00:00Z",
                         "2016-12-31T23:59:60Z", "2024-02-30T00:00:00Z", "0001-01-01T00:00:00+05:00", "", "x"],
         "date-time"),
        ("timestamptz", [1704067200, True, {}], "type"),
        ("time", ["24:00:00", "23:59:60", "x", ""], "time"),
        ("time", ["10:00:00+02:00"], "time with an offset other than UTC"),
        ("uuid", ["", "x"], "uuid"),
    ],
    ids=lambda case: str(case)[:40],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused_by_name(kind: str, values: list[Any], rule: str) -> None:
    for value in values:
        refused: dict[int, str] = {}
        encode(Column("a", "a", kind), [value, value], refused)
        assert refused == {0: rule, 1: rule}, value


def test_a_backslash_before_u0000_is_no_nul() -> None:
    refused: dict[int, str] = {}
    fields = encode(Column("a", "a", "json"), ["\\u0000", "x"], refused)
    assert refused == {}
    assert json.loads(fields[0][1:-1].replace('""', '"')) == "\\u0000"


# equality and order as the database sees them -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("timestamptz", "2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00"),
        ("timestamptz", "2024-01-01T00:00:00", "2024-01-01T00:00:00Z"),
        ("timestamptz", "2024-01-01T00:00:00.000Z", "2024-01-01 00:00:00+0000"),
        ("timestamptz", "2024-01-01", "2024-01-01T00:00:00Z"),
        ("timestamptz", "2024-01-01T00:00:00.0000004Z", "2024-01-01T00:00:00Z"),
        ("bigint", 1, 1.0),
        ("double", 1, 1.0),
        ("double", 0.0, -0.0),
        ("numeric", "1.50", Decimal("1.5")),
        ("numeric", 1, "1e0"),
        ("numeric", 0, "-0.00"),
        ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
        ("date", "2024-01-01", "2024-01-01T00:00:00Z"),
        ("time", "10:00:00", "10:00:00Z"),
        ("json", 1, 1.0),
    ],
)
def test_two_spellings_of_one_value_are_one_key_in_one_frame_and_across_frames(kind: str, one: Any, other: Any) -> None:
    column = Column("a", "a", kind)

    def keys(*values: Any) -> list[Any]:
        return list(key_values(column, values, encode(column, values, {})))

    assert len({*keys(one, other)}) == 1
    assert len({*keys(one), *keys(other)}) == 1


def test_different_values_stay_different_keys() -> None:
    column = Column("a", "a", "text")
    values = ["a", "A", "a ", "ä", "a\u0308"]
    assert len(set(key_values(column, values, encode(column, values, {})))) == len(values)


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("timestamptz", "2024-01-01T00:00:00", "2024-01-01T00:00:00-01:00"),
        ("bigint", 9, 10),
        ("bigint", 9.0, 10),
        ("double", 9, 9.5),
        ("numeric", "9", Decimal(10)),
        ("date", "2024-01-01", "2024-01-02T00:00:00Z"),
        ("text", "a", "a "),
        ("time", "09:00:00", "10:00:00"),
    ],
)
def test_replication_keys_order_as_values_and_null_is_apart(kind: str, low: Any, high: Any) -> None:
    column = Column("a", "a", kind)
    values = [high, None, low]
    found = order_values(column, values, encode(column, values, {}))
    assert found[1] is None
    assert found[2] < found[0]
    across = [order_values(column, [value], encode(column, [value], {}))[0] for value in (low, high)]
    assert across[0] < across[1]


@pytest.mark.parametrize(
    "texts",
    [
        ["2024-01-01T10:00:00Z", "2024-01-01T10:00:00.123456Z"],
        ["2024-01-01T10:00:00+02:00", "2024-01-01T10:00:00.5-03:30"],
        ["2024-01-01T10:00:00", "2024-01-01T10:00:00.123456"],
        ["2024-01-01T10:00:00+0000", "2024-01-01T10:00:00-0330"],
        ["2024-01-01T10:00:00.1234567", "2024-01-01T10:00:00.1234567Z"],
        ["2024-01-01T10:00:00", "2024-01-01T10:00:00Z", "2024-01-01T10:00:00+01:00"],
        ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"],
    ],
    ids=lambda texts: texts[0],
)
def test_a_column_of_one_form_of_date_times_is_the_same_instants_on_every_path(texts: list[str]) -> None:
    column = Column("a", "a", "timestamptz")
    refused: dict[int, str] = {}
    fields = encode(column, texts, refused)
    assert refused == {}
    assert [parse_timestamp(field) for field in fields] == [parse_timestamp(text) for text in texts]
    assert list(key_values(column, texts, fields)) == [parse_timestamp(text) for text in texts]


def test_naive_times_are_refused_in_a_whole_column_too() -> None:
    refused: dict[int, str] = {}
    encode(Column("a", "a", "timestamptz", naive="refuse"), ["2024-01-01T10:00:00"] * 2, refused)
    assert refused == {0: "date-time without zone", 1: "date-time without zone"}


def test_naive_times_are_utc_or_refused() -> None:
    assert parse_timestamp("2024-01-01 10:00") == datetime(2024, 1, 1, 10, tzinfo=UTC)
    with pytest.raises(RefusedValueError, match="without zone"):
        parse_timestamp("2024-01-01 10:00", "refuse")


@pytest.mark.parametrize("text", ["2019-12-18T13:19:44+00:00+00:00", "2019-12-18T13:19:44ZZ"])
def test_an_offset_that_a_tap_wrote_twice_is_read_once(text: str) -> None:
    assert parse_timestamp(text) == datetime(2019, 12, 18, 13, 19, 44, tzinfo=UTC)


def test_two_different_offsets_are_refused() -> None:
    with pytest.raises(RefusedValueError):
        parse_timestamp("2019-12-18T13:19:44+00:00+01:00")


def test_every_kind_is_encoded_and_typed_on_both_backends(backends: list[Backend]) -> None:
    for one, kind in itertools.product(backends, KINDS):
        assert kind in one.types
        facts = one.describe((one.default_schema, f"column_{kind}"))
        assert facts is not None
        assert facts.columns["a"].kind == kind
    assert columns(["a", "b"]).template == "{}, {}"
