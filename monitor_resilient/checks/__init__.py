"""The checks: what each is called, which settings it takes, and what it reads to judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from monitor_resilient.checks import bookmark, completeness, drift, freshness, rejects, runs, volume, zero_rows
from monitor_resilient.model import Finding, Outcome
from monitor_resilient.readings import Readings
from resilient_core.errors import Fault, ResilientError
from resilient_core.settings import Setting, unknown_name
from tap_resilient.blocks import read_block

RECENT_LOADS = 20
"""Loads among which one is sought that has ended."""


@dataclass(frozen=True)
class Check:
    """One configured check. `subject` is its stream or pipeline; `options` hold durations in seconds."""

    type: str
    name: str
    subject: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def duration(self, option: str) -> timedelta:
        """A duration that is set."""
        return timedelta(seconds=self.options[option])

    def optional_duration(self, option: str) -> timedelta | None:
        """A duration that may be absent."""
        return None if self.options[option] is None else self.duration(option)


@dataclass(frozen=True)
class CheckType:
    """How a type of check is configured and evaluated; `subject` names the setting that says what it is about."""

    subject: str
    evaluate: Callable[[Check, Readings], Outcome]
    settings: tuple[Setting, ...] = ()


def _freshness(check: Check, readings: Readings) -> Outcome:
    table = check.options["table"]
    name = readings.full_name(table) if table else readings.table_of(check.subject)
    kinds = readings.database.columns(name)
    if kinds is None:
        return Outcome("unknown", "no table of this stream is known; load it first, or name its `table`")
    column = readings.column_of(check.subject, check.options["column"])
    if column not in kinds:
        return Outcome("unknown", f"the table has no column '{column}'")
    newest = readings.newest(name, column)
    return freshness.evaluate(
        newest, readings.now, check.optional_duration("warn_after"), check.duration("error_after")
    )


def _volume(check: Check, readings: Readings) -> Outcome:
    return volume.evaluate(readings.runs_of(check.subject), bounds(check))


def _zero_rows(check: Check, readings: Readings) -> Outcome:
    return zero_rows.evaluate(readings.runs_of(check.subject), readings.now, check.optional_duration("within"))


def _runs(check: Check, readings: Readings) -> Outcome:
    last = next(iter(readings.loads(check.subject, limit=1)), None)
    return runs.evaluate(last, readings.now, check.duration("every"), check.duration("grace"))


def _rejects(check: Check, readings: Readings) -> Outcome:
    last = next((load for load in reversed(readings.loads_of(check.subject))), None)
    return rejects.evaluate(last, float(check.options["max_ratio"]))


def _completeness(check: Check, readings: Readings) -> Outcome:
    ended = (load for load in readings.loads(check.subject, limit=RECENT_LOADS) if load.finished_at)
    last = next(ended, None)
    return completeness.evaluate(readings.verdicts(check.subject), last.status if last else None)


def _bookmark(check: Check, readings: Readings) -> Outcome:
    moved_at = readings.bookmark_moved_at(check.subject)
    return bookmark.evaluate(moved_at, readings.now, check.duration("stalled_after"))


def _drift(check: Check, readings: Readings) -> Outcome:
    changes = readings.changes(check.subject, within=check.duration("within"))
    loads = len(readings.loads_of(check.subject))
    return drift.evaluate([f"{c.column} ({c.change})" for c in changes], loads)


CHECK_TYPES: dict[str, CheckType] = {
    "freshness": CheckType(
        "stream",
        _freshness,
        (
            Setting("column", "string", "Time column whose largest value counts", required=True),
            Setting("table", "string", "Table (schema.table); by default the one that the stream was loaded into"),
            Setting("warn_after", "duration", "Age that is late"),
            Setting("error_after", "duration", "Age that is too late", required=True),
        ),
    ),
    "volume": CheckType(
        "stream",
        _volume,
        (
            Setting("drop", "string", "How far below the expected rows a load may be", "90%"),
            Setting("rise", "string", "How far above the expected rows a load may be", "500%"),
        ),
    ),
    "zero_rows": CheckType(
        "stream",
        _zero_rows,
        (Setting("within", "duration", "Time in which something must arrive; by default with the last load"),),
    ),
    "runs": CheckType(
        "pipeline",
        _runs,
        (
            Setting("every", "duration", "How often a load starts", required=True),
            Setting("grace", "duration", "How late it may be", "15m"),
        ),
    ),
    "rejects": CheckType(
        "stream",
        _rejects,
        (Setting("max_ratio", "ratio", "Share of the last load's records that may be refused", 0.0),),
    ),
    "completeness": CheckType("pipeline", _completeness),
    "bookmark": CheckType(
        "stream",
        _bookmark,
        (Setting("stalled_after", "duration", "Time in which the bookmark must move", required=True),),
    ),
    "drift": CheckType(
        "stream",
        _drift,
        (Setting("within", "duration", "How long a change of columns is reported", "1d"),),
    ),
}


def parse_checks(value: Any, where: str = "checks") -> tuple[list[Check], list[Fault]]:
    """The checks of a configuration, with every fault found. None means no checks."""
    checks: list[Check] = []
    faults: list[Fault] = []
    for index, block in enumerate(value or []):
        check, found = _parse(block, f"{where}[{index}]")
        faults += found
        if check and any((c.name, c.subject) == (check.name, check.subject) for c in checks):
            faults.append(Fault(f"{where}[{index}]", "is there twice; give one of them its own `name`"))
        if check:
            checks.append(check)
    return checks, faults


def evaluate_all(checks: Sequence[Check], readings: Readings) -> list[Finding]:
    """Every check's finding. What cannot be evaluated is unknown, with the reason."""
    return [Finding(check.name, check.type, check.subject, _outcome(check, readings)) for check in checks]


def all_unknown(checks: Sequence[Check], reason: str) -> list[Finding]:
    """The findings when the destination cannot be read at all."""
    return [Finding(check.name, check.type, check.subject, Outcome("unknown", reason)) for check in checks]


def bounds(check: Check) -> volume.Bounds:
    """The quiet range of a volume check."""
    return volume.Bounds.of(check.options["drop"], check.options["rise"])


def _outcome(check: Check, readings: Readings) -> Outcome:
    try:
        return CHECK_TYPES[check.type].evaluate(check, readings)
    except ResilientError as error:
        return Outcome("unknown", str(error))


def _parse(block: Any, where: str) -> tuple[Check | None, list[Fault]]:
    if not isinstance(block, Mapping):
        return None, [Fault(where, "must be an object with a `type`")]
    kind = block.get("type")
    if not isinstance(kind, str) or kind not in CHECK_TYPES:
        known = ", ".join(CHECK_TYPES)
        message = unknown_name("check", kind, CHECK_TYPES) if isinstance(kind, str) else f"must be one of: {known}"
        return None, [Fault(f"{where}.type", message)]
    return _parse_as(kind, CHECK_TYPES[kind], block, where)


def _parse_as(kind: str, check_type: CheckType, block: Mapping[str, Any], where: str) -> tuple[Check, list[Fault]]:
    common = (
        Setting("type", "string", "Type of the check", required=True),
        Setting("name", "string", "Name of the check", kind),
        Setting(check_type.subject, "string", f"The {check_type.subject} to check", required=True),
    )
    options, faults = read_block((*common, *check_type.settings), block, where)
    faults += [
        fault for name in ("drop", "rise") if name in options for fault in _percentage_faults(options, name, where)
    ]
    return Check(kind, options["name"], options[check_type.subject] or "", options), faults


def _percentage_faults(options: Mapping[str, Any], name: str, where: str) -> list[Fault]:
    try:
        volume.percentage(options[name])
    except ValueError as error:
        return [Fault(f"{where}.{name}", str(error))]
    return []
