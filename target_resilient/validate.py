"""Judges the records of a batch by their schema: strict with a contract, lenient for a foreign SCHEMA."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jsonschema
import jsonschema_rs

from resilient_core.contract import Contract, contract_faults
from resilient_core.errors import ConfigError, NotSingerError

Violation = dict[str, Any]
"""{pointer, rule, expected, actual_type, message}: what is wrong, where, never the value."""

MAX_VIOLATIONS = 20  # a record, enough to see what is wrong and no more
_NEVER_FETCHED = "a contract must hold its own definitions"


class Validator:
    """A compiled schema. `$ref` is never fetched; formats count only in a declared contract."""

    def __init__(self, stream: str, contract: Contract) -> None:
        try:
            if faults := contract_faults(f"SCHEMA of stream '{stream}'", contract.schema) if contract.declared else []:
                raise ConfigError(faults)
            schema = contract.schema if contract.declared else lenient(contract.schema)
            self._validator = _draft(schema)(schema, validate_formats=contract.declared, offline=True)
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, RecursionError) as error:
            where = pointer(getattr(error, "instance_path", ()))
            raise NotSingerError(
                f"SCHEMA of stream '{stream}' is no valid JSON Schema at '{where}'; mend the tap's schema or contract"
            ) from None

    def check(self, records: Sequence[Any]) -> dict[int, list[Violation]]:
        """Row → its violations; empty when every record is valid."""
        is_valid = self._validator.is_valid
        bad: dict[int, list[Violation]] = {}
        for row, record in enumerate(records):
            try:
                if is_valid(record):
                    continue
                bad[row] = self._explain(record)
            except ValueError:  # jsonschema-rs cannot look at it at all
                bad[row] = [violation("", "unreadable", None, record)]
        return bad

    def _explain(self, record: Any) -> list[Violation]:
        found = []
        for error, _ in zip(self._validator.iter_errors(record), range(MAX_VIOLATIONS)):  # noqa: B905 cut on purpose
            rule = error.kind.name
            path = list(error.instance_path)
            if rule == "required":
                path.append(error.kind.property)
            found.append(violation(pointer(path), rule, _expected(self._validator, error), _at(record, path)))
        return found


def violation(where: str, rule: str, expected: Any, value: Any) -> Violation:
    """One violation; `value` gives only its JSON type."""
    actual = json_type(value)
    wanted = f", expected {expected}" if expected is not None else ""
    return {
        "pointer": where,
        "rule": rule,
        "expected": expected,
        "actual_type": actual,
        "message": f"{where or 'record'} breaks `{rule}`{wanted}; it is of type {actual}",
    }


def pointer(path: Iterable[Any]) -> str:
    """RFC 6901 JSON pointer of a path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


class Absent:
    """Stands for a field that is not there."""


def json_type(value: Any) -> str:
    """The JSON type of a value, or `absent`."""
    names: tuple[tuple[Any, str], ...] = (
        (Absent, "absent"), (type(None), "null"), (bool, "boolean"), (int, "integer"), (str, "string"),
        (dict, "object"), (list, "array"),
    )  # fmt: skip
    return next((name for kind, name in names if isinstance(value, kind)), "number")


def lenient(schema: Any) -> Any:
    """A foreign schema as taps mean it: the columns judge what they can hold, the schema only what they cannot see.

    Draft-4 booleans are translated. Rules about the text of a string only annotate, since taps copy them from a
    source that counts in bytes or spells hex its own way. Below the record itself `object` and `array` mean "some
    JSON", which is how taps announce JSON columns, and a JSON column holds every value.
    """
    if not isinstance(schema, dict):
        return schema
    out = {key: _lenient_keyword(key, value) for key, value in schema.items() if key not in _TEXT_RULES}
    for limit, exclusive in (("maximum", "exclusiveMaximum"), ("minimum", "exclusiveMinimum")):
        flag = out.get(exclusive)
        if isinstance(flag, bool):
            del out[exclusive]
            if flag and limit in out:
                out[exclusive] = out.pop(limit)
    return out


def _lenient_keyword(keyword: str, value: Any) -> Any:
    """The value of one keyword, where it is a schema or holds some; anything else (enum, const) as it is."""
    if keyword in _HOLDS_NAMED and isinstance(value, dict):
        return {name: _some_json(lenient(schema)) for name, schema in value.items()}
    if keyword in _HOLDS_LIST and isinstance(value, list):
        return [_some_json(lenient(schema)) for schema in value]
    return _some_json(lenient(value)) if keyword in _HOLDS_ONE else value


def _some_json(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    types = schema.get("type")
    found = types if isinstance(types, list) else [types]
    return {k: v for k, v in schema.items() if k != "type"} if "object" in found or "array" in found else schema


def _draft(schema: Any) -> Any:
    """The validator class that `$schema` names, else draft 7."""
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if not isinstance(named, str):
        return jsonschema_rs.Draft7Validator
    return _DRAFTS.get(
        jsonschema.validators.validator_for(schema, jsonschema.Draft7Validator), jsonschema_rs.Draft7Validator
    )


def _expected(validator: Any, error: Any) -> Any:
    """What the schema asked for, from the schema itself (never from the record)."""
    kind = error.kind
    for name in ("types", "limit", "format", "pattern", "options", "expected_value", "multiple_of"):
        value = getattr(kind, name, None)
        if value is not None:
            return value
    return None


def _at(record: Any, path: Sequence[Any]) -> Any:
    for part in path:
        try:
            record = record[part]
        except (KeyError, IndexError, TypeError):
            return Absent()
    return record


_TEXT_RULES = ("minLength", "maxLength", "pattern", "contentEncoding", "contentMediaType")
_HOLDS_NAMED = {"properties", "patternProperties", "definitions", "$defs", "dependentSchemas"}
_HOLDS_LIST = {"allOf", "anyOf", "oneOf", "prefixItems", "items"}
_HOLDS_ONE = {"items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else"}
_DRAFTS: dict[Any, Any] = {
    jsonschema.Draft4Validator: jsonschema_rs.Draft4Validator,
    jsonschema.Draft6Validator: jsonschema_rs.Draft6Validator,
    jsonschema.Draft7Validator: jsonschema_rs.Draft7Validator,
    jsonschema.Draft201909Validator: jsonschema_rs.Draft201909Validator,
    jsonschema.Draft202012Validator: jsonschema_rs.Draft202012Validator,
}
