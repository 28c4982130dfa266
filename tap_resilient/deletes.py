"""How deleted records are found: they say so themselves (`soft`), or all keys are read anew (`reconcile`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resilient_core.errors import Fault
from resilient_core.settings import Setting
from tap_resilient.blocks import read_block
from tap_resilient.paths import Path
from tap_resilient.selector import Row, parse_path

DELETED_AT = "_sdc_deleted_at"
DELETED_AT_SCHEMA = {"type": ["string", "null"], "format": "date-time"}

SETTINGS = (
    Setting(
        "mode",
        "options",
        "soft: records say themselves that they are deleted; reconcile: all keys are read anew, what is not among them"
        " is deleted",
        "none",
        ("none", "soft", "reconcile"),
    ),
    Setting("field", "string", "JMESPath of the deletion time (or a flag) in the record"),
    Setting("when", "string", "JMESPath predicate over the record that is true of deleted ones"),
    Setting("every", "duration", "reconcile: the time between two readings of all keys", "7d"),
    Setting("max_delete_ratio", "ratio", "reconcile: the target removes no larger share; its own limit holds, too"),
)


@dataclass(frozen=True)
class Reconcile:
    """Read all keys anew every `every` seconds. `max_delete_ratio` None leaves the limit to the target."""

    every: float
    max_delete_ratio: float | None = None


@dataclass(frozen=True)
class SoftDeletes:
    """Marks deleted records: with the time in `field` where it is one, else with the time of the scan."""

    field: Path | None = None
    when: Path | None = None

    def mark(self, rows: list[Row], scanned_at: str) -> list[Row]:
        """The rows, the deleted ones with `_sdc_deleted_at`."""
        return [{**row, DELETED_AT: at} if (at := self._deleted_at(row, scanned_at)) else row for row in rows]

    def _deleted_at(self, row: Row, scanned_at: str) -> str | None:
        if self.when:
            return scanned_at if self.when.holds(row) else None
        found = self.field.get(row) if self.field else None
        if isinstance(found, str) and found:
            return found
        return scanned_at if found else None


def parse_deletes(value: Any, where: str) -> tuple[SoftDeletes | Reconcile | None, list[Fault]]:
    """What a `deletes:` block asks for, with every fault found; None for none."""
    block, faults = read_block(SETTINGS, value, where)
    field, field_faults = parse_path(block["field"], f"{where}.field")
    when, when_faults = parse_path(block["when"], f"{where}.when")
    faults += field_faults + when_faults
    if block["mode"] == "reconcile":
        return Reconcile(block["every"], block["max_delete_ratio"]), faults
    if block["mode"] != "soft":
        return None, faults
    if bool(block["field"]) == bool(block["when"]):
        faults.append(Fault(where, "mode soft needs field or when, one of them"))
    return SoftDeletes(field, when), faults
