"""Which fields of a stream the catalog wants; keys and replication key always go out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tap_resilient.selector import Row

FieldPath = tuple[str, ...]


@dataclass(frozen=True)
class FieldSelection:
    """The deselected fields, as paths of property names."""

    dropped: tuple[FieldPath, ...] = ()

    @classmethod
    def of(cls, mask: Mapping[tuple[str, ...], bool], automatic: Collection[str]) -> FieldSelection:
        """The selection of an SDK mask (breadcrumb → selected)."""
        paths = [crumb[1::2] for crumb, selected in mask.items() if crumb and not selected]
        return cls(tuple(path for path in paths if path[0] not in automatic))

    def keep(self, rows: list[Row]) -> list[Row]:
        """The rows without what is not selected; the same list if all is."""
        if not self.dropped:
            return rows
        return [_without(row, self.dropped) for row in rows]

    def prune(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema without what is not selected; the same object if all is."""
        for path in self.dropped:
            schema = _pruned(schema, path)
        return schema


def _without(row: Row, paths: Iterable[FieldPath]) -> Row:
    row = dict(row)
    for name, *rest in paths:
        if not rest:
            row.pop(name, None)
        elif isinstance(row.get(name), dict):
            row[name] = _without(row[name], [tuple(rest)])
    return row


def _pruned(schema: dict[str, Any], path: FieldPath) -> dict[str, Any]:
    name, *rest = path
    properties = dict(schema.get("properties", {}))
    if name not in properties:
        return schema
    if rest:
        properties[name] = _pruned(properties[name], tuple(rest))
        return {**schema, "properties": properties}
    del properties[name]
    pruned = {**schema, "properties": properties}
    if "required" in schema:
        pruned["required"] = [field for field in schema["required"] if field != name]
    return pruned
