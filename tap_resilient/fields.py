"""The Shield: maps records to the stable model of `fields`, and meets every wrong type with an event, not a crash."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from resilient_core.errors import Fault
from resilient_core.settings import Setting
from tap_resilient.blocks import read_block
from tap_resilient.instants import parse_iso
from tap_resilient.paths import MISSING, Path
from tap_resilient.selector import Row, json_type, parse_path

NO_DEFAULT = object()

_INTEGER = re.compile(r"-?(0|[1-9]\d*)")
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
_EXACT = 2**53


@dataclass(frozen=True)
class QualityEvent:
    """A value that is not what was asked for: where, what was expected, what was seen. Never the value."""

    pointer: str
    expected: str
    seen: str


@dataclass
class QualityLog:
    """Counts the events of a stream's run."""

    counts: Counter[QualityEvent] = field(default_factory=Counter)

    def note(self, pointer: str, expected: str, value: Any) -> None:
        """Count one value that is not `expected`."""
        self.counts[QualityEvent(pointer, expected, json_type(value))] += 1


def _integer(value: Any) -> Any:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if isinstance(value, float | Decimal):
        return int(value) if -_EXACT <= value <= _EXACT and value == int(value) else MISSING
    return value if isinstance(value, int) and not isinstance(value, bool) else MISSING


def _number(value: Any) -> Any:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    return value if _is_number(value) else MISSING


def _string(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if _is_number(value) else value if isinstance(value, str) else MISSING


def _boolean(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    return value if isinstance(value, bool) else MISSING


def _datetime(value: Any) -> Any:
    return value if isinstance(value, str) and _parses(parse_iso, value) else MISSING


def _date(value: Any) -> Any:
    return value if isinstance(value, str) and _parses(datetime.date.fromisoformat, value) else MISSING


def _object(value: Any) -> Any:
    return value if isinstance(value, dict) else MISSING


def _array(value: Any) -> Any:
    return value if isinstance(value, list) else MISSING


TYPES: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "decimal": _number,
    "boolean": _boolean,
    "datetime": _datetime,
    "date": _date,
    "object": _object,
    "array": _array,
}
"""What a field may be asked to be: each gives the value, coerced where nothing is lost, or MISSING."""

SETTINGS = (
    Setting("from", "string", "JMESPath of the value in the record; the field's own name by default"),
    Setting("type", "options", "What the value is coerced to where nothing is lost", options=tuple(TYPES)),
    Setting("default", "any", "The value where the record has none"),
)


@dataclass(frozen=True)
class FieldSpec:
    """One field of the stable model. `type` None takes any type; `default` stands in for a missing value."""

    name: str
    source: Path
    type: str | None = None
    default: Any = NO_DEFAULT

    @classmethod
    def parse(cls, name: str, value: Any, where: str) -> tuple[FieldSpec, list[Fault]]:
        """The field of a `{from, type, default}` block, with every fault found."""
        block, faults = read_block(SETTINGS, value, where)
        path, more = parse_path(block["from"], f"{where}.from") if block["from"] else (_own_name(name), [])
        has_default = isinstance(value, Mapping) and "default" in value
        default = block["default"] if has_default else NO_DEFAULT
        return cls(name, path or _own_name(name), block["type"], default), faults + more

    @property
    def renames(self) -> str | None:
        """The record's field that this one replaces under another name; None if it leaves all others alone."""
        own = self.source.names and len(self.source.names) == 1 and self.source.names[0] != self.name
        return self.source.expression if own else None


class Shield:
    """Maps rows to the model. Fields that it does not name pass."""

    def __init__(self, fields: tuple[FieldSpec, ...], log: QualityLog) -> None:
        self._fields = fields
        self._renamed = [name for spec in fields if (name := spec.renames)]
        self._log = log

    def map(self, rows: list[Row]) -> list[Row]:
        """The rows as the model has them; the same list if there is nothing to map."""
        return [self._mapped(row) for row in rows] if self._fields else rows

    def _mapped(self, row: Row) -> Row:
        values = {spec.name: value for spec in self._fields if (value := self._value(spec, row)) is not MISSING}
        rest = {name: value for name, value in row.items() if name not in self._renamed}
        return {**rest, **values}

    def _value(self, spec: FieldSpec, row: Row) -> Any:
        found = spec.source.find(row)
        if found is MISSING:
            return MISSING if spec.default is NO_DEFAULT else spec.default
        if spec.type is None or found is None:
            return found
        coerced = TYPES[spec.type](found)
        if coerced is not MISSING:
            return coerced
        self._log.note(_pointer(spec.source), spec.type, found)
        return found


def _own_name(name: str) -> Path:
    return Path(name if name.isidentifier() else '"' + name.replace('"', '\\"') + '"')


def _pointer(path: Path) -> str:
    return "/" + "/".join(path.names) if path.names else path.expression


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _parses(parse: Callable[[str], Any], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True
