"""jsonschema-rs, which judges records, against the JSON-Schema-Test-Suite and against the reference, jsonschema."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from resilient_core.contract import Contract
from resilient_core.errors import ConfigError, NotSingerError
from target_resilient.validate import Validator

SUITE = Path(__file__).parents[3] / "shared" / "peer_cases" / "json-schema-org__JSON-Schema-Test-Suite" / "tests"
pytestmark = pytest.mark.skipif(not SUITE.is_dir(), reason="the peers' files (../shared/peer_cases) are not here")

DRAFTS = {
    "draft7": ("http://json-schema.org/draft-07/schema#", jsonschema.Draft7Validator),
    "draft2020-12": ("https://json-schema.org/draft/2020-12/schema", jsonschema.Draft202012Validator),
}
REMOTE = {"refRemote", "definitions", "defs", "vocabulary", "dynamicRef", "unevaluatedProperties", "unevaluatedItems"}
"""Groups that need schemas from elsewhere: a contract must hold its own definitions."""
KNOWN_OF_THE_REFERENCE = 40
"""Of 676 verdicts on formats, how many jsonschema gives otherwise than the suite (36 when this was written)."""


def groups(draft: str, folder: str) -> Iterator[tuple[str, Any, list[dict[str, Any]]]]:
    for path in sorted((SUITE / draft / folder).glob("*.json")):
        for group in json.loads(path.read_bytes()):
            yield path.stem, group["schema"], group["tests"]


def ours(draft: str, schema: Any) -> Validator | None:
    """Our validator for a schema of the suite; None where the schema refers to others, or is no object."""
    if not isinstance(schema, dict):
        return None
    contract = {"$schema": DRAFTS[draft][0], **schema, "x-contract": {}, "properties": schema.get("properties", {})}
    try:
        return Validator("suite", Contract(contract, declared=True, fingerprint=""))
    except (NotSingerError, ConfigError):
        return None


@pytest.mark.parametrize("draft", DRAFTS)
def test_required_verdicts_are_those_of_the_suite_and_of_the_reference(draft: str) -> None:
    judged: Counter[str] = Counter()
    for name, schema, tests in groups(draft, "."):
        if name in {"format", "vocabulary"}:
            continue  # formats are judged in a contract; a vocabulary comes from elsewhere
        validator = ours(draft, schema)
        if validator is None:
            judged["not ours"] += len(tests)
            assert name in REMOTE | {"ref", "boolean_schema", "anchor", "id"} or not isinstance(schema, dict), name
            continue
        reference = DRAFTS[draft][1](validator_schema(draft, schema))
        for test in tests:
            valid = not validator.check([test["data"]])
            assert valid == test["valid"], (name, test["description"])
            judged["judged"] += 1
            try:
                agrees = reference.is_valid(test["data"]) == valid
            except Exception:  # it cannot resolve what the suite serves from elsewhere
                agrees = True
            judged["reference differs"] += not agrees
    assert judged["judged"] > 750
    assert judged["reference differs"] <= 6, judged


def validator_schema(draft: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": DRAFTS[draft][0], **schema}


def test_format_verdicts_of_draft_7_are_those_of_the_suite() -> None:
    checker = jsonschema.Draft7Validator.FORMAT_CHECKER
    judged: Counter[str] = Counter()
    for name, schema, tests in groups("draft7", "optional/format"):
        validator = ours("draft7", schema)
        assert validator is not None
        reference = jsonschema.Draft7Validator(schema, format_checker=checker)
        for test in tests:
            valid = not validator.check([test["data"]])
            assert valid == test["valid"], (name, test["description"])
            judged["judged"] += 1
            if schema["format"] in checker.checkers:
                judged["reference differs"] += reference.is_valid(test["data"]) != valid
    assert judged["judged"] > 600
    assert judged["reference differs"] <= KNOWN_OF_THE_REFERENCE, judged
