"""What the report shows, gathered from the destination as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from monitor_resilient.alerts.lifecycle import Episode
from monitor_resilient.check_log import History
from monitor_resilient.checks import Check, bounds, evaluate_all
from monitor_resilient.checks.volume import Bounds, Point, judge
from monitor_resilient.database import TIMESTAMP
from monitor_resilient.model import ColumnChange, Finding, Load, Outcome
from monitor_resilient.readings import Readings, parsed
from monitor_resilient.words import in_words

MANY_LOADS = 5000
_REASON = ("pointer", "rule", "expected", "actual_type")


@dataclass(frozen=True)
class Reject:
    """How often one rule refused one field of a stream."""

    stream: str
    pointer: str
    rule: str
    expected: str
    actual_type: str
    records: int = 0


@dataclass(frozen=True)
class Age:
    """The age of a stream's newest row in hours, and what is allowed. None means not known, or not set."""

    stream: str
    hours: float | None
    warn_hours: float | None
    error_hours: float


@dataclass(frozen=True)
class Facts:
    """All that the report shows."""

    now: datetime
    days: int
    destination: str
    findings: Sequence[Finding]
    volumes: dict[str, list[Point]]
    ages: Sequence[Age]
    rejects: Sequence[Reject]
    changes: Sequence[ColumnChange]
    loads: Sequence[Load]
    episodes: Sequence[Episode]

    @property
    def since(self) -> datetime:
        """The start of the time that the report shows."""
        return self.now - timedelta(days=self.days)


def gather(readings: Readings, checks: Sequence[Check], history: History, days: int) -> Facts:
    """Read everything. Checks are evaluated anew; probes are as they were last."""
    now = readings.now
    since = now - timedelta(days=days)
    probes = [_probe(episodes[-1]) for (check, _), episodes in sorted(history.items()) if check == "probe"]
    return Facts(
        now,
        days,
        readings.database.destination.describe(),
        [*evaluate_all(checks, readings), *probes],
        _volumes(readings, checks, since),
        [_age(check, readings) for check in checks if check.type == "freshness"],
        rejects(readings, since),
        readings.changes(within=now - since),
        [load for load in readings.loads(limit=MANY_LOADS) if load.started_at >= since],
        [episode for episodes in history.values() for episode in episodes if episode.at >= since],
    )


def rejects(readings: Readings, since: datetime) -> list[Reject]:
    """Refused records by field and reason, the most frequent first. Each reason of a record counts."""
    query = (
        "SELECT stream, CAST(errors AS text), sum(times_seen) FROM {} WHERE last_seen_at >= "  # noqa: S608
        + TIMESTAMP
        + " GROUP BY stream, CAST(errors AS text)"
    )
    counted: Counter[Reject] = Counter()
    for stream, errors, times in readings.meta(query, ["quarantine"], [since.isoformat()]):
        for error in parsed(errors) or []:
            pointer, rule, expected, actual = (in_words(error.get(name)) for name in _REASON)
            counted[Reject(stream, pointer, rule, expected, actual)] += int(times)
    return [replace(reject, records=records) for reject, records in counted.most_common()]


def _volumes(readings: Readings, checks: Sequence[Check], since: datetime) -> dict[str, list[Point]]:
    limits = {check.subject: bounds(check) for check in checks if check.type == "volume"}
    judged = {name: judge(readings.runs_of(name), limits.get(name, Bounds())) for name in readings.streams()}
    return {name: [p for p in points if p.run.finished_at >= since] for name, points in judged.items()}


def _age(check: Check, readings: Readings) -> Age:
    table = check.options["table"]
    name = readings.full_name(table) if table else readings.table_of(check.subject)
    column = readings.column_of(check.subject, check.options["column"])
    known = readings.database.columns(name) or {}
    newest = readings.newest(name, column) if column in known else None
    hours = None if newest is None else max((readings.now - newest).total_seconds() / 3600, 0.0)
    warn = check.optional_duration("warn_after")
    return Age(check.subject, hours, _hours(warn) if warn else None, _hours(check.duration("error_after")))


def _hours(duration: timedelta) -> float:
    return duration.total_seconds() / 3600


def _probe(episode: Episode) -> Finding:
    message = f"since {episode.since:%Y-%m-%d %H:%M} UTC, last tried {episode.at:%Y-%m-%d %H:%M} UTC"
    return Finding("probe", "probe", episode.subject, Outcome(episode.state, message, episode.value))
