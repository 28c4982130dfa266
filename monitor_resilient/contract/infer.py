"""Drafts a contract from records. Conservative: what is seen too seldom to be a rule is none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from uuid import UUID

from resilient_core.contract import POLICIES

ENOUGH = 100
"""Records that make "always there" or "one of these" a rule."""

FEW_VALUES = 10
MANY_KEYS = 100
"""Different keys that make an object a map, whose keys are data."""

_WORD = re.compile(r"[A-Za-z][\w.-]{0,39}")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass
class Seen:
    """What was seen in one place of the records."""

    count: int = 0
    types: Counter[str] = field(default_factory=Counter)
    strings: Counter[str] = field(default_factory=Counter)
    string_count: int = 0
    formats: set[str] = field(default_factory=lambda: set(_FORMATS))
    objects: int = 0
    properties: dict[str, Seen] = field(default_factory=dict)
    items: Seen | None = None

    def add(self, value: Any) -> None:
        """Take in one value."""
        self.count += 1
        kind = _type_of(value)
        self.types[kind] += 1
        if kind == "string":
            self._add_string(value)
        elif kind == "object":
            self._add_object(value)
        elif kind == "array":
            self.items = self.items or Seen()
            for item in value:
                self.items.add(item)

    def _add_string(self, value: str) -> None:
        self.string_count += 1
        self.formats = {name for name in self.formats if _FORMATS[name](value)}
        if len(self.strings) <= FEW_VALUES:
            self.strings[value] += 1

    def _add_object(self, value: Mapping[str, Any]) -> None:
        self.objects += 1
        for name, item in value.items():
            if name in self.properties or len(self.properties) <= MANY_KEYS:
                self.properties.setdefault(name, Seen()).add(item)

    @property
    def is_map(self) -> bool:
        """Whether the object's keys are data and not fields."""
        return len(self.properties) > MANY_KEYS


def look(records: Iterable[Mapping[str, Any]]) -> Seen:
    """What is in the records."""
    seen = Seen()
    for record in records:
        seen.add(record)
    return seen


def doubts(seen: Seen, pointer: str = "") -> Iterator[str]:
    """Types that fewer than 1 of 100 values have: more often bad data than a rule."""
    some = seen.count - seen.types["null"]
    for kind, times in seen.types.items():
        if kind != "null" and not (kind == "integer" and seen.types["number"]) and times * ENOUGH < some:
            yield f"{pointer or 'the record'}: {kind} in {times:,} of {some:,}; bad data, or part of the contract?"
    for name, found in () if seen.is_map else seen.properties.items():
        yield from doubts(found, f"{pointer}/{name}")


def draft(seen: Seen, keys: Sequence[str], *, day: date, title: str) -> dict[str, Any]:
    """A contract that accepts all that was seen; version 0.1.0, for a person to review."""
    schema = {name: value for name, value in _object(seen).items() if name != "type"}
    schema["required"] = sorted({*schema.get("required", []), *(key for key in keys if key in seen.properties)})
    about = {
        "version": "0.1.0",
        "owner": "",
        "description": f"Drafted from {seen.count:,} records on {day.isoformat()}. Review it, then make it 1.0.0.",
    }
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": title, "type": "object"}
    policies = {name: values[0] for name, values in POLICIES.items()}
    return {**head, "x-contract": {**about, **policies}, "properties": {}, **schema}


def _schema(seen: Seen) -> dict[str, Any]:
    types = set(seen.types) - ({"integer"} if "number" in seen.types else set())
    ordered = sorted(types, key=lambda name: (name == "null", name))
    schema: dict[str, Any] = {"type": ordered[0] if len(ordered) == 1 else ordered}
    if "string" in types:
        schema |= _strings(seen)
    if "object" in types:
        schema |= {name: value for name, value in _object(seen).items() if name != "type"}
    if seen.items and seen.items.count:
        schema["items"] = _schema(seen.items)
    return schema


def _object(seen: Seen) -> dict[str, Any]:
    if seen.is_map:
        return {"type": "object"}
    schema: dict[str, Any] = {"type": "object"}
    if seen.properties:
        schema["properties"] = {name: _schema(found) for name, found in seen.properties.items()}
    always = sorted(name for name, found in seen.properties.items() if found.count == seen.objects)
    if seen.objects >= ENOUGH and always:
        schema["required"] = always
    return schema


def _strings(seen: Seen) -> dict[str, Any]:
    """A format that all strings have, or the few words that they are."""
    if seen.string_count < ENOUGH:
        return {}
    if seen.formats:
        return {"format": next(name for name in _FORMATS if name in seen.formats)}
    few = 2 <= len(seen.strings) <= FEW_VALUES
    if (
        few
        and set(seen.types) == {"string"}
        and all(_WORD.fullmatch(word) and n > 1 for word, n in seen.strings.items())
    ):
        return {"enum": sorted(seen.strings)}
    return {}


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return next((name for kind, name in names.items() if isinstance(value, kind)), "null")


def _parses(pattern: re.Pattern[str], parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        if not pattern.fullmatch(text):
            return False
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return test


def _instant(text: str) -> datetime:
    """Python 3.10 reads neither Z nor fractions of any length."""
    return datetime.fromisoformat(text[:19])


_FORMATS: dict[str, Callable[[str], bool]] = {
    "date-time": _parses(_INSTANT, _instant),
    "date": _parses(_DATE, date.fromisoformat),
    "uuid": _parses(_UUID, UUID),
    "email": _parses(_EMAIL, str),
}
