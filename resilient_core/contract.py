"""The data contract of a stream: a JSON Schema with an `x-contract` object, and the policies that follow from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import jsonschema

from resilient_core.errors import ConfigError, Fault
from resilient_core.settings import unknown_name

OnNewColumn = Literal["evolve", "ignore", "freeze"]
OnTypeChange = Literal["quarantine", "freeze"]
OnBadRecord = Literal["quarantine", "fail", "discard"]

POLICIES: dict[str, tuple[str, ...]] = {
    "on_new_column": ("evolve", "ignore", "freeze"),
    "on_type_change": ("quarantine", "freeze"),
    "on_bad_record": ("quarantine", "fail", "discard"),
}
"""The three policies and their values, the default first."""

_X_CONTRACT_KEYS = ("version", "owner", "description", *POLICIES)


@dataclass(frozen=True)
class Policies:
    """What happens to a field that the contract does not name, to a changed type, to a bad record."""

    on_new_column: OnNewColumn = "evolve"
    on_type_change: OnTypeChange = "quarantine"
    on_bad_record: OnBadRecord = "quarantine"


@dataclass(frozen=True)
class Contract:
    """One stream's schema, raw as it was written. `declared` is False for a foreign SCHEMA without `x-contract`."""

    schema: dict[str, Any]
    declared: bool
    fingerprint: str

    @property
    def meta(self) -> dict[str, Any]:
        """The `x-contract` object; empty for a foreign schema."""
        return cast("dict[str, Any]", self.schema["x-contract"]) if self.declared else {}


def make_contract(schema: dict[str, Any]) -> Contract:
    """The contract that a schema states. The fingerprint is 16 hex digits over its canonical JSON."""
    canonical = json.dumps(schema, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Contract(schema=schema, declared=isinstance(schema.get("x-contract"), dict), fingerprint=digest)


def resolve_policies(*sources: Mapping[str, Any]) -> Policies:
    """The policies from `sources` in order of precedence (first wins); null and absent fall through to the defaults."""
    chosen = {
        name: next((source[name] for source in sources if source.get(name)), values[0])
        for name, values in POLICIES.items()
    }
    return Policies(**cast("dict[str, Any]", chosen))


def read_contract(path: Path) -> Contract:
    """The contract in a JSON file. Raises ConfigError with every fault of the file."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([Fault(str(path), f"contract cannot be read: {error.strerror}")]) from None
    except ValueError as error:
        line = getattr(error, "lineno", "?")
        raise ConfigError([Fault(str(path), f"contract is not valid JSON (line {line})")]) from None
    if faults := contract_faults(str(path), schema):
        raise ConfigError(faults)
    return make_contract(schema)


def contract_faults(where: str, schema: Any) -> list[Fault]:
    """Every fault of a schema that is meant to be a contract; an empty list means that it is sound."""
    if not isinstance(schema, dict):
        return [Fault(where, "a contract must be a JSON object")]
    faults = schema_faults(where, schema)
    if not isinstance(schema.get("properties"), dict):
        faults.append(Fault(where, "must have `properties`, one for each field"))
    meta = schema.get("x-contract", {})
    if not isinstance(meta, dict):
        return [*faults, Fault(f"{where}: x-contract", "must be an object")]
    for key, value in meta.items():
        if key not in _X_CONTRACT_KEYS:
            faults.append(Fault(f"{where}: x-contract.{key}", unknown_name("key", key, _X_CONTRACT_KEYS)))
        elif key in POLICIES and value not in POLICIES[key]:
            faults.append(Fault(f"{where}: x-contract.{key}", f"must be one of: {', '.join(POLICIES[key])}"))
    return faults


def schema_faults(where: str, schema: dict[str, Any]) -> list[Fault]:
    """Faults of a JSON Schema against its own meta-schema (draft 7 unless `$schema` says otherwise)."""
    if not isinstance(schema.get("$schema", ""), str):
        return [Fault(f"{where}: $.$schema", "must be a string")]
    validator_class = jsonschema.validators.validator_for(schema, default=jsonschema.Draft7Validator)
    validator = validator_class(validator_class.META_SCHEMA)
    return [
        Fault(f"{where}: {error.json_path}", f"breaks the meta-schema rule `{error.validator}`")
        for error in validator.iter_errors(schema)
    ]
