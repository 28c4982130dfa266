"""A record's value never reaches a log line, an error, a reason or the quarantine's errors."""

from __future__ import annotations

import json
import logging
from typing import Any

import duckdb
import pytest

from target_resilient.validate import Absent, violation
from tests.target.support import backend, load, quarantined, raw_record, record, schema

MARK = "s3cr3t-v4lue"
NUMBER = 8675309_8675309_8675309
ID = {"id": {"type": "integer"}}


def contract(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return schema({**ID, **properties}, ["id"], **{"x-contract": {"version": "1"}, **more})


TEXT = {"type": "string"}
PATHS: dict[str, list[Any]] = {
    "type": [contract({"v": {"type": "integer"}}), record({"id": 1, "v": MARK})],
    "nested type": [contract({"v": {"items": {"type": "integer"}}}), record({"id": 1, "v": [MARK, {"k": MARK}]})],
    "enum": [contract({"v": {"enum": ["a"]}}), record({"id": 1, "v": MARK})],
    "const": [contract({"v": {"const": "a"}}), record({"id": 1, "v": MARK})],
    "pattern": [contract({"v": {"pattern": "^a"}}), record({"id": 1, "v": MARK})],
    "maxLength": [contract({"v": {"maxLength": 1}}), record({"id": 1, "v": MARK})],
    "maximum": [contract({"v": {"maximum": 1}}), record({"id": 1, "v": NUMBER})],
    "format": [contract({"v": {**TEXT, "format": "date-time"}}), record({"id": 1, "v": MARK})],
    "required": [contract({"v": {}}, required=["v"]), record({"id": 1, "w": MARK})],
    "anyOf": [contract({"v": {"anyOf": [{"type": "integer"}, {"const": "a"}]}}), record({"id": 1, "v": MARK})],
    "not": [contract({"v": {"not": TEXT}}), record({"id": 1, "v": MARK})],
    "if then": [contract({"v": {"if": TEXT, "then": {"maxLength": 1}}}), record({"id": 1, "v": MARK})],
    "uniqueItems": [contract({"v": {"uniqueItems": True}}), record({"id": 1, "v": [MARK, MARK]})],
    "propertyNames": [contract({"v": {"propertyNames": {"maxLength": 3}}}), record({"id": 1, "v": {"long": MARK}})],
    "closed": [contract({}, additionalProperties=False), record({"id": 1, "v": MARK})],
    "freeze": [schema(ID, ["id"], **{"x-contract": {"on_new_column": "freeze"}}), record({"id": 1, "v": MARK})],
    "no object": [contract({}), raw_record(f'"{MARK}"')],
    "no key": [schema({"id": TEXT, "v": TEXT}, ["id"]), record({"v": MARK})],
    "column date-time": [schema({**ID, "v": {**TEXT, "format": "date-time"}}, ["id"]), record({"id": 1, "v": MARK})],
    "column date": [schema({**ID, "v": {**TEXT, "format": "date"}}, ["id"]), record({"id": 1, "v": MARK})],
    "column time": [schema({**ID, "v": {**TEXT, "format": "time"}}, ["id"]), record({"id": 1, "v": MARK})],
    "column uuid": [schema({**ID, "v": {**TEXT, "format": "singer.decimal"}}, ["id"]), record({"id": 1, "v": MARK})],
    "column range": [schema({**ID, "v": {"type": "integer"}}, ["id"]), record({"id": 1, "v": NUMBER})],
    "nul": [schema({**ID, "v": TEXT}, ["id"]), record({"id": 1, "v": MARK + "\0"})],
    "nan": [schema({**ID, "v": {}}, ["id"]), raw_record(f'{{"id": 1, "v": ["{MARK}", NaN]}}')],
    "surrogate": [schema({**ID, "v": {}}, ["id"]), raw_record(f'{{"id": 1, "v": "{MARK}\\ud800"}}')],
    "no utf-8": [schema({**ID, "v": {}}, ["id"]), raw_record(b'{"id": 1, "v": "' + MARK.encode() + b'\xff"}')],
    "bad json": [schema({**ID, "v": {}}, ["id"]), raw_record(f'{{"id": 1, "v": "{MARK}",}}')],
}  # fmt: skip


@pytest.mark.parametrize("policy", ["quarantine", "fail", "freeze"])
@pytest.mark.parametrize("path", PATHS)
def test_no_refusal_tells_the_value(
    path: str, policy: str, tmp_path: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    destination = f"duckdb:///{tmp_path}/test.duckdb"
    held = duckdb.connect(f"{tmp_path}/test.duckdb")  # opening it again is cheap meanwhile
    config = {"on_type_change": "freeze"} if policy == "freeze" else {"on_bad_record": policy}
    with caplog.at_level(logging.DEBUG):
        outcome = load(destination, PATHS[path], **config)
    refused = quarantined(destination)
    assert refused or outcome.error is not None
    opened = backend(destination)
    reasons = opened.fetch("SELECT reason FROM {}", [("_resilient", "loads")])
    opened.close()
    held.close()
    out, err = capsys.readouterr()
    told = [caplog.text, str(outcome.error), out, err, str(reasons), json.dumps([errors for _, errors in refused])]
    for text in told:
        assert MARK not in text
        assert str(NUMBER) not in text
    if policy == "quarantine":
        assert any(MARK in record or str(NUMBER) in record for record, _ in refused)


@pytest.mark.parametrize(
    "line",
    [f'{{"type": "RECORD", "stream": "s", "record": {{"v": "{MARK}"', f"{MARK}", f'{{"type": "{MARK * 9}"}}',
     f'{{"type": "STATE", "value": "{MARK}" x}}', f'{{"type": "SCHEMA", "stream": "s", "schema": "{MARK}"}}'],
)  # fmt: skip
def test_a_line_that_is_no_message_is_not_echoed(line: str, tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    outcome = load(f"duckdb:///{tmp_path}/test.duckdb", line.encode() + b"\n{}\n")
    assert outcome.error is not None
    assert MARK * 4 not in str(outcome.error) + caplog.text
    assert line.startswith('{"type": "' + MARK) or MARK not in str(outcome.error) + caplog.text


def test_what_the_database_refuses_is_told_without_the_value(
    destination: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A CHECK that only the database knows: PostgreSQL's detail would quote the whole row."""
    opened = backend(destination)
    opened.execute("CREATE TABLE s (id bigint PRIMARY KEY, v text CHECK (length(v) < 3))")
    opened.close()
    lines = [schema({**ID, "v": TEXT}, ["id"]), record({"id": 1, "v": MARK}), record({"id": 2, "v": "ok"})]
    with caplog.at_level(logging.DEBUG):
        outcome = load(destination, lines)
    assert outcome.error is None
    ((text, errors),) = quarantined(destination)
    assert MARK in text
    assert errors[0]["rule"].endswith(("23514", "ConstraintException"))
    assert MARK not in json.dumps(errors) + caplog.text


def test_a_violation_holds_the_type_and_not_the_value() -> None:
    types = [None, True, 1, 1.5, MARK, [MARK], {"k": MARK}, Absent()]
    found = [violation("/v", "rule", None, value) for value in types]
    assert [one["actual_type"] for one in found] == [
        "null", "boolean", "integer", "number", "string", "array", "object", "absent"]  # fmt: skip
    assert MARK not in json.dumps(found)
