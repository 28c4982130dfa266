"""The parsed settings of a load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TableOptions:
    """The settings that shape tables. `load_version` is set when each load replaces the tables' rows."""

    lower_names: bool
    metadata: bool
    keyless: str
    append_only: bool
    naive_datetimes: str
    hard_delete: bool = False
    load_version: int | None = None


@dataclass(frozen=True)
class LoadOptions:
    """The settings of a load. Durations in seconds, sizes in bytes."""

    pipeline: str
    default_schema: str | None
    table_template: str
    policies: Mapping[str, Any]
    contracts_dir: Path | None
    tables: TableOptions
    max_rows: int
    max_bytes: int
    max_age: float
    max_quarantine_ratio: float
    max_quarantine_rows: int | None
    on_gap: str
    retry_max_elapsed: float
    max_delete_ratio: float = 0.25
    trust_eof: bool = False
    takeover: bool = False
    dry_run: bool = False
