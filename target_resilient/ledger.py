"""What a load counts: one row a stream and epoch in `ledger`, their sum in `loads`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Counts:
    """Records by what became of them; `received` = staged + `deduplicated` + `quarantined`."""

    received: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    deduplicated: int = 0
    deleted: int = 0
    quarantined: int = 0

    def add(self, other: Counts) -> None:
        """Add another's counts to these."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    def values(self) -> list[int]:
        """The counts in the order of the tables' columns."""
        return [getattr(self, item.name) for item in fields(self)]


@dataclass
class Bounds:
    """Lowest and highest replication key of a batch, in the column's own order."""

    low: Any = None
    high: Any = None

    def widen(self, values: list[Any]) -> None:
        """Take in the values that are not None."""
        known = [value for value in (*values, self.low, self.high) if value is not None]
        if known:
            self.low, self.high = min(known), max(known)
