"""Stream maps and flattening of the SDK, on their slow path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.target.support import load, quarantined, record, rows, schema

ANNOUNCED = schema({"id": {"type": "integer"}, "v": {"type": ["string", "null"]}, "n": {"type": "object", "properties":
                   {"a": {"type": "integer"}}}}, ["id"])  # fmt: skip


@pytest.fixture
def destination(tmp_path: Path) -> str:
    return f"duckdb:///{tmp_path}/test.duckdb"


def mapped(destination: str, maps: dict[str, Any], *records: Any) -> Any:
    return load(destination, [ANNOUNCED, *map(record, records)], stream_maps=maps)


def test_fields_are_renamed_computed_and_dropped(destination: str) -> None:
    maps = {"s": {"upper": "v.upper()", "v": None, "n": None}}
    assert mapped(destination, maps, {"id": 1, "v": "a", "n": {"a": 1}}).error is None
    assert rows(destination, "s", "id", "upper") == [(1, "A")]


def test_a_stream_is_renamed_and_filtered(destination: str) -> None:
    maps = {"s": {"__alias__": "t", "__filter__": "id > 1"}}
    assert mapped(destination, maps, {"id": 1}, {"id": 2}, {"id": 3}).error is None
    assert rows(destination, "t", "id") == [(2,), (3,)]


def test_flattening_makes_a_column_of_a_nested_field(destination: str) -> None:
    lines = [ANNOUNCED, record({"id": 1, "n": {"a": 7}})]
    assert load(destination, lines, flattening_enabled=True, flattening_max_depth=1).error is None
    assert rows(destination, "s", "id", "n__a") == [(1, 7)]


def test_what_a_map_makes_is_judged_and_quarantined_as_it_was_made(destination: str) -> None:
    mapped(destination, {"s": {"w": "v + v"}}, {"id": 1, "v": "a\0"})
    ((text, errors),) = quarantined(destination)
    assert '"w":"a\\u0000a\\u0000"' in text
    assert {error["rule"] for error in errors} == {"nul"}
