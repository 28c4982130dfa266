"""Infers a permissive schema from records as they come: the types seen, plus null; instants only when all are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tap_resilient.selector import Row, json_type

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class InferredSchema:
    """Grows with the records. Nested objects and arrays are taken whole, so that nothing in them can be refused.

    A string field is a `date-time` if every string of the page that first showed it is one, with its zone.
    """

    def __init__(self, keys: Sequence[str], known: Mapping[str, Any] | None = None) -> None:
        self._keys = frozenset(keys)
        self._properties: dict[str, Any] = dict((known or {}).get("properties", {}))
        for key in keys:
            self._properties.setdefault(key, {})
        self._seen: set[tuple[Any, ...]] = set()

    @property
    def knows_fields(self) -> bool:
        """Whether any field's type is known."""
        return any(self._properties.values())

    @property
    def schema(self) -> dict[str, Any]:
        """The schema as it is now."""
        return {"type": "object", "properties": self._properties}

    def learn(self, rows: list[Row]) -> list[str]:
        """Take in a page; the names of the fields that are new or were seen with a new type."""
        shapes = {(*row, *map(type, row.values())): row for row in rows}
        fresh = [row for shape, row in shapes.items() if shape not in self._seen]
        self._seen.update(shapes)
        names = dict.fromkeys(name for row in fresh for name in row)
        return [name for name in names if self._widen(name, rows)]

    def _widen(self, name: str, rows: list[Row]) -> bool:
        before = self._properties.get(name) or {}
        values = [row[name] for row in rows if name in row]
        widened = self._described(name, before, values)
        if widened == before:
            return False
        self._properties = {**self._properties, name: widened}
        return True

    def _described(self, name: str, before: Mapping[str, Any], values: list[Any]) -> dict[str, Any]:
        old = before.get("type", [])
        types = {*([old] if isinstance(old, str) else old), *map(json_type, values)} - {"null"}
        if "number" in types:
            types.discard("integer")
        nullable = [] if name in self._keys else ["null"]
        described: dict[str, Any] = {"type": [*sorted(types), *nullable]} if types else {}
        is_new = not before.get("type")
        if types == {"string"} and (before.get("format") == "date-time" or is_new) and _all_instants(values):
            described["format"] = "date-time"
        return described


def _all_instants(values: list[Any]) -> bool:
    return all(_INSTANT.fullmatch(value) for value in values if isinstance(value, str))
