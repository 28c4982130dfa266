"""Soft deletes: records that say that they are gone get `_sdc_deleted_at`, which the target understands."""

from __future__ import annotations

from collections.abc import Mapping
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
    Setting("mode", "options", "none, or soft: records say themselves that they are deleted", "none", ("none", "soft")),
    Setting("field", "string", "JMESPath of the deletion time (or a flag) in the record"),
    Setting("when", "string", "JMESPath predicate over the record that is true of deleted ones"),
)


@dataclass(frozen=True)
class SoftDeletes:
    """Marks deleted records: with the time in `field` where it is one, else with the time of the scan."""

    field: Path | None = None
    when: Path | None = None

    @classmethod
    def parse(cls, value: Any, where: str) -> tuple[SoftDeletes | None, list[Fault]]:
        """The `deletes:` block, with every fault found; None for none."""
        if isinstance(value, Mapping) and value.get("mode") == "reconcile":
            return None, [Fault(f"{where}.mode", "reconcile is not supported yet; supported: none, soft")]
        block, faults = read_block(SETTINGS, value, where)
        field, field_faults = parse_path(block["field"], f"{where}.field")
        when, when_faults = parse_path(block["when"], f"{where}.when")
        if block["mode"] == "soft" and bool(block["field"]) == bool(block["when"]):
            faults.append(Fault(where, "mode soft needs field or when, one of them"))
        spec = cls(field, when) if block["mode"] == "soft" else None
        return spec, faults + field_faults + when_faults

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
