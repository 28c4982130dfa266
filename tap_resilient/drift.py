"""Notices fields that the contract does not name."""

from __future__ import annotations

from collections.abc import Collection

from tap_resilient.selector import Row


class FieldWatch:
    """Knows the fields of a contract and every set of fields that came so far."""

    def __init__(self, known: Collection[str]) -> None:
        self._known = set(known)
        self._shapes: set[tuple[str, ...]] = set()

    def learn(self, rows: list[Row]) -> list[str]:
        """The fields of `rows` that are neither in the contract nor came before."""
        shapes = {tuple(row) for row in rows} - self._shapes
        self._shapes |= shapes
        new = sorted({name for shape in shapes for name in shape} - self._known)
        self._known.update(new)
        return new
