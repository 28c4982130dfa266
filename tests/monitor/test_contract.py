"""Drafted contracts: never refuse what they were drafted from, and claim no more than was seen."""

from __future__ import annotations

import json
import logging
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor_resilient.cli import cli
from monitor_resilient.contract.infer import doubts, draft, look
from resilient_core.command import exit_code_of
from resilient_core.contract import contract_faults
from tests.monitor.test_probe import Api, serving

DAY = date(2026, 11, 24)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["2026-11-24T03:00:00Z", "2026-11-24", "a@example.com", "new", "paid"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=8,
)  # fmt: skip
RECORDS = st.lists(st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4), max_size=6)


def drafted(records: list[dict[str, Any]], *keys: str) -> dict[str, Any]:
    return draft(look(records), keys, day=DAY, title="orders")


def orders(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": n,
            "status": ("new", "paid", "shipped")[n % 3],
            "amount": n / 4,
            "whole": 5,
            "email": f"customer{n}@example.com",
            "name": ("Ann", "Bob")[n % 2] + f" {n}",
            "at": f"2026-11-{n % 28 + 1:02d}T03:00:00Z",
            "note": None if n % 2 else "x y",
            "tags": ["a", 1],
            "customer": {"id": n, "since": "2026-01-01"},
            **({"coupon": n} if n % 2 else {}),
        }
        for n in range(count)
    ]


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.integers(1, 60))
def test_a_draft_accepts_all_that_it_was_drafted_from(records: list[dict[str, Any]], times: int) -> None:
    schema = drafted(records * times)
    validator = jsonschema_rs.validator_for(schema, offline=True, validate_formats=True)
    assert [record for record in records if not validator.is_valid(record)] == []
    assert contract_faults("draft", schema) == []


def test_a_draft_of_enough_records_has_types_formats_required_and_enums() -> None:
    schema = drafted(orders(200), "id")
    assert schema["properties"] == {
        "id": {"type": "integer"},
        "status": {"type": "string", "enum": ["new", "paid", "shipped"]},
        "amount": {"type": "number"},
        "whole": {"type": "integer"},
        "email": {"type": "string", "format": "email"},
        "name": {"type": "string"},
        "at": {"type": "string", "format": "date-time"},
        "note": {"type": ["string", "null"]},
        "tags": {"type": "array", "items": {"type": ["integer", "string"]}},
        "customer": {
            "type": "object",
            "properties": {"id": {"type": "integer"}, "since": {"type": "string", "format": "date"}},
            "required": ["id", "since"],
        },
        "coupon": {"type": "integer"},
    }
    assert schema["required"] == sorted(set(schema["properties"]) - {"coupon"})
    assert schema["x-contract"] == {
        "version": "0.1.0",
        "owner": "",
        "description": "Drafted from 200 records on 2026-11-24. Review it, then make it 1.0.0.",
        "on_new_column": "evolve",
        "on_type_change": "quarantine",
        "on_bad_record": "quarantine",
    }


def test_a_draft_of_few_records_claims_types_and_keys_only() -> None:
    schema = drafted(orders(20), "id")
    assert schema["required"] == ["id"]
    assert {"enum", "format"} & {name for field in schema["properties"].values() for name in field} == set()


def test_an_object_whose_keys_are_data_gets_no_fields() -> None:
    records = [{"by_day": {f"day{n}-{m}": m for m in range(5)}} for n in range(200)]
    assert drafted(records)["properties"]["by_day"] == {"type": "object"}


def test_a_rare_type_is_a_doubt() -> None:
    records = [{"amount": 1.5, "lines": {"tax": None}}] * 300 + [{"amount": "9 EUR", "lines": {"tax": 1}}]
    assert list(doubts(look(records))) == ["/amount: string in 1 of 301; bad data, or part of the contract?"]
    assert list(doubts(look(orders(200)))) == []


def test_no_record_gives_an_open_contract() -> None:
    assert drafted([])["properties"] == {}


def call(*args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = exit_code_of(cli, ["contract", "infer", *args], logging.getLogger("monitor-resilient"))
    return code, capsys.readouterr().out


def test_live_records_come_through_the_tap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = {"client": {"auth": {"type": "bearer", "token": "good"}},
              "streams": [{"name": "orders", "path": "/orders", "primary_keys": ["id"]}]}  # fmt: skip
    with serving(Api(body=json.dumps(orders(150)))) as api:
        source["client"]["base_url"] = api.url  # type: ignore[call-overload]
        config = tmp_path / "tap.json"
        config.write_text(json.dumps(source))
        code, said = call("orders", "--tap", str(config), "--limit", "120", capsys=capsys)
    assert code == 0
    assert json.loads(said)["x-contract"]["description"].startswith("Drafted from 120 records")
    assert json.loads(said)["properties"]["status"]["enum"] == ["new", "paid", "shipped"]


def test_a_tap_that_fails_is_a_69(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tap.json"
    config.write_text("{}")
    assert call("orders", "--tap", str(config), capsys=capsys)[0] == 69


@pytest.fixture
def singer_file(tmp_path: Path) -> Path:
    schema = {"type": "SCHEMA", "stream": "orders", "schema": {}, "key_properties": ["id"]}
    records = [{"type": "RECORD", "stream": "orders", "record": record} for record in orders(5)]
    path = tmp_path / "tap.singer"
    path.write_text("\n".join(map(json.dumps, [schema, *records])))
    return path


def test_records_of_any_tap_come_from_a_file(
    singer_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "orders.json"
    args = ("orders", "--input", str(singer_file), "--output", str(output))
    assert call(*args, capsys=capsys) == (0, f"draft: {output}\n")
    assert json.loads(output.read_text())["required"] == ["id"]
    assert call(*args, capsys=capsys)[0] == 64, "a draft never replaces a contract"


def test_an_unknown_stream_names_the_known_ones(
    singer_file: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert call("order", "--input", str(singer_file), capsys=capsys)[0] == 64
    assert "there are: orders" in caplog.text


def test_what_is_no_singer_message_is_a_76_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bad.singer"
    path.write_text('{"type": "STATE", "value": {}}\nhello\n')
    assert call("orders", "--input", str(path), capsys=capsys)[0] == 76
    assert "line 2" in caplog.text


@pytest.mark.parametrize("args", [[], ["--tap", "a.json", "--input", "-"]])
def test_one_source_of_records_is_needed(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("orders", *args, capsys=capsys)[0] == 64
