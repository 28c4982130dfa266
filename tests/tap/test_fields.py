"""The Shield: lossless coercion on request, an event for everything else, never a crash."""

from decimal import Decimal

import pytest

from tap_resilient.fields import TYPES, FieldSpec, QualityEvent, QualityLog, Shield
from tap_resilient.paths import MISSING


def shield(log=None, **fields):
    specs = [FieldSpec.parse(name, block, name)[0] for name, block in fields.items()]
    return Shield(tuple(specs), log or QualityLog())


@pytest.mark.parametrize(
    ("kind", "value", "coerced"),
    [
        ("integer", "12", 12),
        ("integer", 12.0, 12),
        ("integer", -0.0, 0),
        ("integer", Decimal("7.00"), 7),
        ("integer", 10**30, 10**30),
        ("number", "1.50", Decimal("1.50")),
        ("decimal", 1.5, 1.5),
        ("string", 12, "12"),
        ("string", True, "true"),
        ("boolean", "True", True),
        ("datetime", "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("date", "2024-01-01", "2024-01-01"),
        ("object", {}, {}),
        ("array", [], []),
    ],
)
def test_what_loses_nothing_is_coerced(kind, value, coerced):
    assert TYPES[kind](value) == coerced
    assert type(TYPES[kind](value)) is type(coerced)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", "012"),
        ("integer", "1.5"),
        ("integer", 1.5),
        ("integer", float("inf")),
        ("integer", float("nan")),
        ("integer", True),
        ("integer", 1e300),
        ("integer", []),
        ("number", "1e5x"),
        ("number", False),
        ("string", {}),
        ("string", []),
        ("boolean", 1),
        ("boolean", "yes"),
        ("datetime", "yesterday"),
        ("datetime", 5),
        ("date", "2024-02-30"),
        ("object", []),
        ("array", {}),
    ],
)
def test_what_would_lose_something_is_an_event_and_passes_on(kind, value):
    log = QualityLog()
    (row,) = shield(log, a={"type": kind}).map([{"a": value}])
    assert row["a"] is value
    ((event, count),) = log.counts.items()
    assert (event.pointer, event.expected, count) == ("/a", kind, 1)


def test_events_are_counted_by_pointer_and_seen_type():
    log = QualityLog()
    shield(log, a={"from": "x.y", "type": "integer"}).map([{"x": {"y": []}}, {"x": {"y": []}}, {"x": {"y": "z"}}])
    assert log.counts == {
        QualityEvent("/x/y", "integer", "array"): 2,
        QualityEvent("/x/y", "integer", "string"): 1,
    }


@pytest.mark.parametrize("row", [{}, {"x": None}, {"x": 5}, {"x": []}, {"x": {}}, {"x": "text"}])
def test_a_path_through_anything_else_finds_nothing_and_takes_the_default(row):
    (mapped,) = shield(a={"from": "x.y.z", "type": "integer", "default": 0}).map([row])
    assert mapped == {**row, "a": 0}


def test_without_a_default_a_missing_field_stays_missing_and_null_stays_null():
    assert shield(a={"from": "b"}).map([{}, {"b": None}]) == [{}, {"a": None}]


def test_a_renamed_field_goes_under_its_new_name_only_and_others_pass():
    assert shield(a={"from": "b"}, n={"from": "c.d"}).map([{"b": 1, "c": {"d": 2}, "e": 3}]) == [
        {"c": {"d": 2}, "e": 3, "a": 1, "n": 2}
    ]


def test_two_names_may_be_swapped():
    assert shield(a={"from": "b"}, b={"from": "a"}).map([{"a": 1, "b": 2}]) == [{"a": 2, "b": 1}]


def test_a_field_whose_name_is_no_identifier_finds_itself():
    assert shield(**{"odd name": {"type": "integer"}}).map([{"odd name": "5"}]) == [{"odd name": 5}]


def test_without_fields_the_rows_are_the_same_objects():
    rows = [{"a": 1}]
    assert shield().map(rows) is rows


def test_missing_is_not_null():
    assert TYPES["string"](None) is MISSING
