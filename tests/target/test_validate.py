"""Strict with a contract, lenient for a foreign schema; a violation says where, which rule and what was expected."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_core.contract import make_contract
from resilient_core.errors import ConfigError, NotSingerError
from target_resilient.validate import MAX_VIOLATIONS, Validator, lenient, pointer


def validator(properties: dict[str, Any], *, declared: bool = True, **more: Any) -> Validator:
    contract = {"x-contract": {"version": "1"}} if declared else {}
    return Validator("s", make_contract({"type": "object", "properties": properties, **more, **contract}))


def rules(found: Validator, record: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["pointer"], one["rule"]) for one in found.check([record]).get(0, [])]


def test_only_bad_rows_are_named_with_pointer_rule_expected_and_actual_type() -> None:
    found = validator({"a": {"items": {"type": "integer"}}}).check([{"a": [1]}, {"a": [1, "x"]}])
    assert set(found) == {1}
    (violation,) = found[1]
    assert violation["pointer"] == "/a/1"
    assert violation["rule"] == "type"
    assert violation["expected"] == ["integer"] or violation["expected"] == "integer"
    assert violation["actual_type"] == "string"


def test_a_missing_field_is_pointed_at() -> None:
    assert rules(validator({"a": {}}, required=["a"]), {}) == [("/a", "required")]


def test_all_violations_of_a_record_are_told_up_to_a_limit() -> None:
    many = validator({f"f{n}": {"type": "integer"} for n in range(50)})
    assert len(rules(many, {f"f{n}": "x" for n in range(3)})) == 3
    assert len(rules(many, {f"f{n}": "x" for n in range(50)})) == MAX_VIOLATIONS


def test_pointers_escape_slash_and_tilde() -> None:
    assert pointer(["a/b", "c~d", 0]) == "/a~1b/c~0d/0"


@pytest.mark.parametrize(
    ("schema", "value", "foreign", "contract"),
    [
        ({"format": "date-time"}, "2024-01-01 00:00:00", True, False),
        ({"format": "email"}, "nobody", True, False),
        ({"maxLength": 2}, "long", True, False),
        ({"minLength": 9}, "short", True, False),
        ({"pattern": "^a"}, "b", True, False),
        ({"contentEncoding": "base64"}, "%%%", True, False),
        ({"type": "object"}, [1, 2], True, False),
        ({"type": ["null", "array"]}, '["text"]', True, False),
        ({"type": "integer"}, "x", False, False),
        ({"enum": ["a"]}, "b", False, False),
        ({"maximum": 1}, 2, False, False),
        ({"items": {"type": "integer"}}, ["x"], False, False),
        ({"properties": {"k": {"type": "integer"}}}, {"k": "x"}, False, False),
        ({"enum": [{"type": "object"}]}, {"type": "object"}, True, True),
        ({"const": {"maxLength": 1}}, {"maxLength": 1}, True, True),
    ],
    ids=str,
)
def test_foreign_schemas_are_judged_leniently_and_contracts_strictly(
    schema: dict[str, Any], value: Any, foreign: bool, contract: bool
) -> None:
    assert (rules(validator({"v": schema}, declared=False), {"v": value}) == []) == foreign
    assert (rules(validator({"v": schema}), {"v": value}) == []) == contract


def test_the_record_itself_must_be_an_object_even_for_a_foreign_schema() -> None:
    assert lenient({"type": "object", "properties": {}})["type"] == "object"


@pytest.mark.parametrize(
    ("schema", "translated"),
    [
        ({"maximum": 5, "exclusiveMaximum": True}, {"exclusiveMaximum": 5}),
        ({"maximum": 5, "exclusiveMaximum": False}, {"maximum": 5}),
        ({"minimum": 5, "exclusiveMinimum": True}, {"exclusiveMinimum": 5}),
        ({"exclusiveMinimum": True}, {}),
        ({"exclusiveMaximum": 5}, {"exclusiveMaximum": 5}),
    ],
    ids=str,
)
def test_draft_4_booleans_are_translated(schema: dict[str, Any], translated: dict[str, Any]) -> None:
    assert lenient(schema) == translated
    assert lenient({"properties": {"a": {"anyOf": [schema]}}}) == {"properties": {"a": {"anyOf": [translated]}}}


def test_a_field_that_is_called_like_a_keyword_is_no_keyword() -> None:
    schema = {"properties": {"pattern": {"type": "integer"}, "maxLength": {}, "exclusiveMaximum": {}}}
    assert lenient(schema) == schema


def test_a_number_beyond_float_is_judged_exactly() -> None:
    assert rules(validator({"v": {"maximum": 10**30}}), {"v": 10**31}) == [("/v", "maximum")]
    assert rules(validator({"v": {"maximum": 10**30}}), {"v": 10**30}) == []


def test_a_record_that_the_validator_cannot_look_at_is_refused_and_the_next_is_judged() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    found = validator({"v": {"type": "string"}}).check([{"v": deep}, {"v": "x"}])
    assert [(row, errors[0]["rule"]) for row, errors in found.items()] == [(0, "unreadable")]


@pytest.mark.parametrize("ref", ["http://127.0.0.1:9/schema", "file:///etc/hostname", "#/definitions/nowhere"])
def test_a_reference_is_never_fetched(ref: str) -> None:
    with pytest.raises(NotSingerError, match="no valid JSON Schema"):
        validator({"v": {"$ref": ref}})


def test_a_contract_in_a_schema_message_is_checked_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Validator("s", make_contract({"properties": {"a": {"type": "nonsense"}},
                                      "x-contract": {"on_bad_record": "maybe", "ownr": "me"}}))  # fmt: skip
    assert len(caught.value.faults) == 3
